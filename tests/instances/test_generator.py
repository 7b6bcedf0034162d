"""The generator gives what its configuration says, and the bundled sample is what it gives."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sbs_opt.instances.sample as bundled
from sbs_opt.instances import GeneratorConfig, generate, generator_config_from_dict, read_trace
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests
from tests.instances.helpers import blocks_of, equal


def dispersion(requests: Requests, seconds: int) -> float:
    """Variance over mean of arrivals per bin: 1 for a Poisson process."""
    counts = np.bincount(requests.arrival_ns // (seconds * 10**9))[:-1]
    return float(counts.var() / counts.mean())


def test_same_seed_same_requests() -> None:
    config = GeneratorConfig(requests=200)
    assert equal(generate(config, seed=4), generate(config, seed=4))
    assert not equal(generate(config, seed=4), generate(config, seed=5))


configs = st.builds(
    GeneratorConfig,
    requests=st.integers(1, 60),
    rate_per_s=st.floats(0.01, 1e3),
    burst_ratio=st.sampled_from([1.0, 4.0, 50.0]),
    burst_share=st.sampled_from([0.0, 0.1, 0.9]),
    turns_mean=st.sampled_from([1.0, 1.5, 6.0]),
    think_s=st.sampled_from([0.0, 20.0]),
    user_tokens_sigma=st.sampled_from([0.0, 1.5, 900.0]),
    longest_tokens=st.sampled_from([1, 700, 5_000]),
    system_prompts=st.integers(0, 3),
    system_tokens=st.sampled_from([0, 5, 64, 100]),
    block_tokens=st.sampled_from([0, 16, 512]),
)


@given(configs, st.integers(0, 2**64 - 1))
def test_blocks_are_chained_and_cover_the_prompt(config: GeneratorConfig, seed: int) -> None:
    requests = generate(config, seed=seed)
    assert len(requests) == config.requests
    assert requests.output_tokens.min() >= 1
    assert requests.output_tokens.max() <= config.longest_tokens
    if not config.block_tokens:
        assert len(requests.block_id) == 0
        return
    count = -(-requests.prompt_tokens // config.block_tokens)
    assert np.diff(requests.block_offset).tolist() == count.tolist()
    before: dict[int, tuple[int, ...]] = {}
    for i in range(len(requests)):
        chain = tuple(blocks_of(requests, i))
        for k, block in enumerate(chain):
            assert before.setdefault(block, chain[:k]) == chain[:k], "an id stands for all that leads to it"


@given(configs, st.integers(0, 1000))
def test_turns_repeat_what_came_before(config: GeneratorConfig, seed: int) -> None:
    requests = generate(config, seed=seed)
    last: dict[int, int] = {}
    for i, session in enumerate(requests.session.tolist()):
        if session in last:
            j = last[session]
            # the earlier prompt and its answer, and at least one new token
            assert requests.prompt_tokens[i] > requests.prompt_tokens[j] + requests.output_tokens[j]
            if config.block_tokens:
                full = int(requests.prompt_tokens[j]) // config.block_tokens
                assert blocks_of(requests, i)[:full] == blocks_of(requests, j)[:full]
        last[session] = i


def test_sessions_share_only_system_prompts() -> None:
    requests = generate(GeneratorConfig(requests=500, system_prompts=3, system_tokens=1200, block_tokens=512), seed=2)
    first = {tuple(blocks_of(requests, i)[:2]) for i in range(500)}
    assert len(first) == 3, "1200 tokens make two full blocks of three system prompts"
    owner: dict[int, int] = {}
    for i, session in enumerate(requests.session.tolist()):
        for block in blocks_of(requests, i)[2:]:
            assert owner.setdefault(block, session) == session


def test_lengths_and_rate_are_those_asked_for() -> None:
    config = GeneratorConfig(
        requests=20_000,
        turns_mean=1,
        system_prompts=0,
        burst_ratio=1,
        rate_per_s=5,
        user_tokens_median=800,
        user_tokens_sigma=1.2,
        longest_tokens=60_000,
    )
    requests = generate(config, seed=0)
    logs = np.log(requests.prompt_tokens[requests.prompt_tokens < config.longest_tokens])
    assert np.median(requests.prompt_tokens) == pytest.approx(800, rel=0.03)
    assert logs.std() == pytest.approx(1.2, rel=0.03)
    assert np.median(requests.output_tokens) == pytest.approx(180, rel=0.03)
    assert 20_000 / (requests.span_ns / 1e9) == pytest.approx(5, rel=0.03)
    gaps = np.diff(requests.arrival_ns)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.03), "Poisson"


def test_turns_and_thinking_times() -> None:
    config = GeneratorConfig(requests=20_000, turns_mean=3, think_s=2, rate_per_s=10)
    requests = generate(config, seed=0)
    turns = np.bincount(requests.session)
    assert turns.mean() == pytest.approx(3, rel=0.03)
    assert (turns == 1).mean() == pytest.approx(1 / 3, abs=0.02), "geometric"
    by_session = np.lexsort((requests.arrival_ns, requests.session))
    gaps = np.diff(requests.arrival_ns[by_session])[np.diff(requests.session[by_session]) == 0]
    assert gaps.mean() == pytest.approx(2e9, rel=0.03)
    assert 20_000 / (requests.span_ns / 1e9) == pytest.approx(10, rel=0.08)


def test_bursts_keep_the_rate_and_add_dispersion() -> None:
    plain = GeneratorConfig(requests=20_000, turns_mean=1, burst_ratio=1)
    bursty = GeneratorConfig(requests=20_000, turns_mean=1, burst_ratio=10, burst_share=0.1, burst_s=1)
    calm, storm = generate(plain, seed=3), generate(bursty, seed=3)
    assert storm.span_ns == pytest.approx(calm.span_ns, rel=0.15)
    assert dispersion(calm, 5) == pytest.approx(1, abs=0.2)
    # two states: 1 + rate · bin · CV² of the rate, damped by correlation within the bin; far above 1 in any case
    assert dispersion(storm, 5) > 5


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40))
def test_parts_do_not_disturb_one_another(a: int, b: int) -> None:
    """Another length of answers leaves arrivals alone: each part draws from its own stream."""
    one = generate(GeneratorConfig(requests=30, output_tokens_median=a), seed=6)
    two = generate(GeneratorConfig(requests=30, output_tokens_median=b), seed=6)
    assert one.arrival_ns.tolist() == two.arrival_ns.tolist()


def test_configuration_from_toml() -> None:
    config = generator_config_from_dict(tomllib.loads("requests = 10\nrate_per_s = 2.5\nturns_mean = 1\n"))
    assert (config.requests, config.rate_per_s) == (10, 2.5)
    assert len(generate(config, seed=0)) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": 1}, "unknown key 'speed'; known keys: requests, rate_per_s, burst_ratio"),
        ({"requests": 0}, "requests = 0, must be a whole number of at least 1"),
        ({"requests": 2.5}, "requests = 2.5, must be a whole number"),
        ({"requests": True}, "requests = True, must be a whole number"),
        ({"rate_per_s": 0}, "rate_per_s = 0, must be above 0"),
        ({"rate_per_s": math.nan}, "rate_per_s = nan, must be a number of at least 0"),
        ({"burst_share": 1.0}, "burst_share = 1.0, must be below 1"),
        ({"think_s": "long"}, "think_s = 'long', must be a number"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_configuration_errors(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"generator: {message}"):
        generator_config_from_dict(change)


def test_bundled_sample_is_what_the_generator_gives() -> None:
    trace = read_trace("sample")
    assert equal(trace.requests, bundled.sample_requests())
    assert (trace.name, trace.format, len(trace.requests)) == ("sample", "sbs-jsonl", 4_000)
    assert trace.notes == bundled.NOTES
    assert trace.notes[0].startswith("generated data, no capture")


def test_page_on_formats_knows_the_sample() -> None:
    """The page went on telling of an earlier sample."""
    section = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8").split("### ")[-1]
    requests = read_trace("sample").requests
    prompt, output = requests.prompt_tokens, requests.output_tokens
    figures = (len(requests), requests.span_ns / 1e9, prompt.mean(), prompt.max(), output.mean(), output.max())
    for figure in figures:
        assert f"{figure:,.0f}" in section


def test_bundled_sample_is_small() -> None:
    assert (Path(bundled.__file__).parent / "data" / "sample.jsonl.gz").stat().st_size <= 150_000
