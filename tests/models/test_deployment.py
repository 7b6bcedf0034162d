"""Deployments: the bundled fleet, TOML, and what is wrong with a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sbs_opt.models.catalogue import DEFAULT_DEPLOYMENT, cost_model_of, list_deployments, load_deployment
from sbs_opt.models.deployment import deployment_from_dict
from sbs_opt.models.errors import InputError

GOOD = """
name = "mine"
hardware = "h800"
model = "deepseek-v3"
context_tokens = 1000
[[instances]]
name = "p"
count = 2
phase = "prefill"
num_units = 4
unit = { kv_tokens = 5000, chunk_tokens = 512 }
"""


def test_the_default_fleet_is_what_its_name_says() -> None:
    fleet = load_deployment(DEFAULT_DEPLOYMENT)
    assert DEFAULT_DEPLOYMENT in list_deployments()
    assert [i.num_units for i in fleet.of_phase("prefill")] == [32, 32, 32]
    assert [i.num_units for i in fleet.of_phase("decode")] == [72, 72]
    assert cost_model_of(fleet).prefill.chunk_tokens == 16_384


def test_a_file_with_counted_instances(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    fleet = load_deployment(str(path))
    assert [i.name for i in fleet.instances] == ["p-0", "p-1"]
    assert fleet.of_phase("decode") == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("num_units = 4", "num_units = 0"), "num_units = 0"),
        (("num_units = 4", "units = 4"), "unknown key 'units'; known keys: name, num_units, phase, unit, count"),
        (("chunk_tokens", "chunk"), "unknown key 'chunk'"),
        (("context_tokens = 1000", "context = 1000"), "unknown key 'context'"),
        (('phase = "prefill"', 'phase = "both"'), "phase = 'both'"),
        (('phase = "prefill"', 'phase = "decode"'), "slots = 0"),
        (("num_units = 4", "num_units = 4097"), "num_units = 4097, must be a whole number from 1 to 4,096"),
        (("count = 2", "count = 4097"), "count = 4097"),
        (("kv_tokens = 5000", f"kv_tokens = {2**40 + 1}"), f"kv_tokens = {2**40 + 1}"),
        (("chunk_tokens = 512", f"chunk_tokens = {2**40 + 1}"), f"chunk_tokens = {2**40 + 1}"),
        (("chunk_tokens = 512", 'chunk_tokens = "512"'), "chunk_tokens = '512'"),
        (("chunk_tokens = 512", "chunk_tokens = 512, slots = 65537"), "slots = 65537"),
        (("context_tokens = 1000", f"context_tokens = {2**40 + 1}"), f"context_tokens = {2**40 + 1}"),
        (("context_tokens = 1000", "context_tokens = true"), "context_tokens = True"),
        (("context_tokens = 1000", f"context_tokens = 1{'0' * 5000}"), "is not TOML"),
        (('hardware = "h800"', "hardware = 3"), "deployment: hardware = 3, must be text"),
        (('name = "mine"', "name = 3"), "deployment: name = 3, must be text"),
        (('name = "p"', "name = 7"), "instances: name = 7, must be text"),
        (('name = "mine"\n', ""), "deployment: needs a name = …"),
        (('hardware = "h800"\n', ""), "deployment: needs a hardware = …"),
        (('name = "p"\n', ""), "instances: needs a name = …"),
        (("num_units = 4\n", ""), "instance p: needs a num_units = …"),
        (("kv_tokens = 5000, ", ""), "instance p, unit: needs a kv_tokens = …"),
        (("unit = {", "spare = {"), "unknown key 'spare'"),
        (('phase = "prefill"', 'phase = ["prefill"]'), "phase = ['prefill']"),
        (("[[instances]]", "[[instances"), "is not TOML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(InputError, match=r"mine\.toml") as error:
        load_deployment(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_bounds_themselves_are_legal(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    largest = GOOD.replace("5000", str(2**40)).replace("512", str(2**40)).replace("1000", str(2**40))
    path.write_text(largest.replace("num_units = 4", "num_units = 4096"))
    unit = load_deployment(str(path)).instances[0].unit
    assert (unit.kv_tokens, unit.chunk_tokens) == (2**40, 2**40)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=DEFAULT_DEPLOYMENT):
        load_deployment("h900")
    with pytest.raises(InputError, match="cannot read"):
        load_deployment(str(tmp_path / "absent.toml"))


def test_unequal_instances_are_refused() -> None:
    row = {"phase": "prefill", "num_units": 2, "unit": {"kv_tokens": 10, "chunk_tokens": 5}}
    rows = [{**row, "name": "a"}, {**row, "name": "b", "num_units": 3}]
    with pytest.raises(InputError, match="must be equal"):
        deployment_from_dict(
            {"name": "x", "hardware": "h800", "model": "deepseek-v3", "context_tokens": 10, "instances": rows}
        )
