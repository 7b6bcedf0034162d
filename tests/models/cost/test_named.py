"""Names of deployments: every bundled GPU, model, phase and number of ranks, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.cost import list_profiles
from sbs_opt.models.cost.named import DECODE_IMBALANCE, REFERENCE, Phase, parse_phase
from sbs_opt.models.errors import InputError

GPUS, MODELS = list_profiles()


@given(
    st.sampled_from(GPUS), st.sampled_from(MODELS), st.sampled_from(["prefill", "decode"]), st.integers(1, 4096)
)  # fmt: skip
def test_every_name_of_the_form_is_known(gpu: str, model: str, phase: str, units: int) -> None:
    found = parse_phase(f"{gpu}-{model}-{phase}-ep{units}")
    assert (found.hardware, found.model, found.phase, found.units) == (gpu, model, phase, units)


def test_the_names_that_are_promised() -> None:
    promised = {
        "h800-deepseek-v3-prefill-ep32", "h100-deepseek-v3-prefill-ep32", "h800-deepseek-v3-decode-ep144",
        "h100-deepseek-v3-decode-ep72",
    }  # fmt: skip
    assert promised <= set(REFERENCE)
    assert parse_phase("h100-deepseek-v3-decode-ep72") == Phase("h100", "deepseek-v3", "decode", 72)
    for name in REFERENCE:
        parse_phase(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "deployment = '': write <gpu>-<model>-prefill-ep<N>"),
        ("h800", "for example h800-deepseek-v3-prefill-ep32"),
        ("h800-deepseek-v3-prefill", "write <gpu>-<model>"),
        ("h800-deepseek-v3-prefill-ep0", "write <gpu>-<model>"),
        ("h800-deepseek-v3-prefill-ep08", "write <gpu>-<model>"),
        ("h800-deepseek-v3-prefill-ep32 ", "write <gpu>-<model>"),
        ("h800-deepseek-v3-prefill-ep32\n", "write <gpu>-<model>"),
        ("h800-deepseek-v3-training-ep32", "write <gpu>-<model>"),
        ("h801-deepseek-v3-prefill-ep32", "unknown GPU 'h801'; known: h100, h20, h200, h800"),
        ("h800-llama-prefill-ep32", "unknown model 'llama'; known: deepseek-v3, kimi-k2, qwen3-235b-a22b"),
        ("h800-deepseek-v3-prefill-ep4097", "4,097 ranks are too many; give at most 4,096"),
        ("h800-deepseek-v3-prefill-ep999999", "too many"),
        ("h800-deepseek-v3-prefill-ep1000000", "write <gpu>-<model>"),
    ],
)
def test_other_names_say_how_to_mend_them(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_phase(name)


def test_decode_imbalance_is_the_published_one() -> None:
    assert pytest.approx(0.81) == 1 / DECODE_IMBALANCE
