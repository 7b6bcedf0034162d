"""What a fake engine is told, what it remembers, and the command that runs one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("aiohttp")

import aiohttp

from sbs_opt.models.errors import InputError
from sbs_opt.testing.engines import EngineConfig, FakeEngine, Fault
from tests.testing.engines.bench import FAST, ask, body, served


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "tgi"}, "kind = 'tgi'"),
        ({"mode": "both"}, "mode = 'both'"),
        ({"ranks": 0}, "ranks = 0"),
        ({"chunk_tokens": 1.5}, "chunk_tokens = 1.5"),
        ({"slots": True}, "slots = True"),
        ({"context_tokens": -1}, "context_tokens = -1"),
        ({"history": 0}, "history = 0"),
        ({"speed": 0}, "speed = 0"),
        ({"speed": float("nan")}, "speed = nan"),
        ({"speed": "fast"}, "speed = 'fast'"),
        ({"model": ""}, "model = ''"),
        ({"ranks": 4, "prefill": EngineConfig(ranks=8).cost_model().prefill}, "4 entries, the instance has 8 units"),
    ],
)
def test_settings_out_of_range(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        replace(FAST, **change)


def test_faults_out_of_range() -> None:
    kind: Any = "melt"
    with pytest.raises(InputError, match="kind = 'melt'"):
        Fault(kind)
    with pytest.raises(InputError, match="count = 0"):
        Fault("slow", count=0)
    with pytest.raises(InputError, match=r"after_ms = -1"):
        Fault("slow", after_ms=-1)


def test_memory_is_bounded() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        for k in range(5):
            await ask(engine, client, body(), x_request_id=str(k))
        assert [record.number for record in engine.passes] == [3, 4]
        assert [record.number for record in engine.steps] == [3, 4]
        assert list(engine.received) == ["3", "4"]

    served(replace(FAST, history=2), scenario)


def test_starting_twice_is_a_mistake() -> None:
    async def scenario(engine: FakeEngine, _: aiohttp.ClientSession) -> None:
        with pytest.raises(InputError, match="stop it first"):
            await engine.start()

    served(FAST, scenario)


COMMAND = [sys.executable, "-m", "sbs_opt.testing.engines"]


def test_the_command_serves_until_sigterm() -> None:
    command = [*COMMAND, "--kind", "vllm", "--ranks", "2", "--speed", "100", "--model", "m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as response:
                assert json.load(response)["data"][0]["id"] == "m"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_the_command_refuses_mistakes_in_one_line() -> None:
    done = subprocess.run([*COMMAND, "--ranks", "0"], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("ranks = 0: must be a whole number of at least 1")
    assert len(done.stderr.splitlines()) == 1


def test_imports_without_aiohttp() -> None:
    program = "import sys; sys.modules['aiohttp'] = None; import sbs_opt.testing.engines as e; e.EngineConfig(ranks=2)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=20)
