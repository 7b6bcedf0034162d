"""Profiles: names, sources, and errors that say how to mend a file."""

from __future__ import annotations

import tomllib
from importlib import resources
from math import isnan
from pathlib import Path

import pytest

from sbs_opt.models.cost import list_profiles, load_cost_model, load_hardware, load_model, load_source
from sbs_opt.models.cost.model import GroupedAttention, LatentAttention
from sbs_opt.models.cost.profile import Evidence
from sbs_opt.models.errors import InputError

HARDWARE = (resources.files("sbs_opt.models") / "profiles" / "h800.hardware.toml").read_text("utf-8")
MODEL = (resources.files("sbs_opt.models") / "profiles" / "deepseek-v3.model.toml").read_text("utf-8")


def test_bundled_names() -> None:
    assert list_profiles() == (("h100", "h20", "h200", "h800"), ("deepseek-v3", "kimi-k2", "qwen3-235b-a22b"))


def test_every_constant_names_its_source() -> None:
    def constants(table: object) -> list[dict[str, object]]:
        if isinstance(table, dict) and "value" in table:
            return [table]
        return [row for part in table.values() for row in constants(part)] if isinstance(table, dict) else []

    hardware, models = list_profiles()
    names = [f"{name}.hardware.toml" for name in hardware] + [f"{name}.model.toml" for name in models]
    for name in names:
        rows = constants(tomllib.loads((resources.files("sbs_opt.models") / "profiles" / name).read_text("utf-8")))
        assert len(rows) >= 17
        assert all(str(row["source"]).strip() and str(row["unit"]).strip() for row in rows)


def test_a_file_is_read_like_a_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MODEL.replace('name = "deepseek-v3"', 'name = "mine"'))
    assert load_model(str(file)) == load_model("deepseek-v3")
    assert load_source("model", str(file)).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("heads = {", "haeds = {", "unknown key 'haeds'; known keys: .*heads"),
        ("heads = { value = 128", "heads = { value = -1", "heads: value = -1"),
        ("heads = { value = 128", "heads = { value = 0", "heads: value = 0, must be positive"),
        ("heads = { value = 128", "heads = { value = 1.5", "heads: value = 1.5, must be a whole number"),
        ("heads = { value = 128", "heads = { value = true", "heads: value = True"),
        ("DeepSeek-V3: num_attention_heads", "", None),
        ("layers = { value = 61", "layers = 61 # { value = 61", "a source is a must"),
        ("date =", "when =", "needs date"),
        ("name =", "name", "not TOML"),
        ('kind = "latent"', 'kind = "sparse"', "attention: kind = 'sparse', must be one of latent, grouped"),
        ('kind = "latent"', "kind = 3", "attention: kind = 3"),
        ('kind = "latent"', "", "attention: kind = None"),
        (
            'kind = "latent"',
            'kind = "grouped"',
            "attention: unknown key 'query_rank'; known keys: kind, heads, kv_heads",
        ),
        ('kind = "latent"', 'king = "latent"', "attention: kind = None"),
        ("[attention]", "[attentive]", "unknown key 'attentive'; known keys: .*attention"),
        ("hidden = {", 'width = { value = 1, unit = "", source = "me" }\nhidden = {', "unknown key 'width'"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    file = tmp_path / "mine.toml"
    assert old in MODEL
    file.write_text(MODEL.replace(old, new, 1))
    if message is None:
        load_model(str(file))  # a shorter source is still a source
        return
    with pytest.raises(InputError, match=message):
        load_model(str(file))


def test_missing_constant_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("\n".join(line for line in MODEL.splitlines() if not line.startswith("heads")))
    with pytest.raises(InputError, match="lacks 'heads'"):
        load_model(str(file))


def test_section_that_is_no_table_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("gemm = 3\n" + HARDWARE.split("[gemm]")[0])
    with pytest.raises(InputError, match="gemm: expected a table"):
        load_hardware(str(file))


def test_attention_that_is_no_table_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MODEL.split("[attention]")[0] + "attention = 3\n")
    with pytest.raises(InputError, match="attention: kind = None, must be one of latent, grouped"):
        load_model(str(file))


def test_kinds_of_attention() -> None:
    kinds = {name: type(load_model(name).attention) for name in list_profiles()[1]}
    assert kinds == {
        "deepseek-v3": LatentAttention, "kimi-k2": LatentAttention, "qwen3-235b-a22b": GroupedAttention,
    }  # fmt: skip


def test_fitted_profiles_bring_their_evidence() -> None:
    """Every fitted law says on how many rows, how well, and where; H20 was extrapolated and has none."""
    laws = {"gemm", "grouped_gemm", "prefill_attention", "decode_attention", "alltoall_normal", "alltoall_low_latency"}
    for name in ("h100", "h200", "h800"):
        evidence = dict(load_hardware(name).evidence)
        assert evidence.keys() >= laws
        for law in laws:
            row = evidence[law]
            assert row.rows >= 4
            assert 0 < row.mean_error <= row.max_error < 1
            assert row.ranges
            assert all(low <= high for _, low, high in row.ranges)
    assert load_hardware("h20").evidence == ()


def hardware_with(tmp_path: Path, evidence: str) -> str:
    """Return the path of the H800 profile with other evidence."""
    file = tmp_path / "mine.toml"
    file.write_text(HARDWARE.split("[evidence")[0] + evidence)
    return str(file)


def test_evidence_is_read(tmp_path: Path) -> None:
    text = """
[evidence.gemm]
rows = 3
mean_error = 0.5
max_error = 0.75
left_out_error = 0.6
range = { m = [1, 2], k = [3, 4.5] }
"""
    (found,) = load_hardware(hardware_with(tmp_path, text)).evidence
    assert found == ("gemm", Evidence(3, 0.5, 0.75, 0.6, (("m", 1.0, 2.0), ("k", 3.0, 4.5))))
    ((_, row),) = load_hardware(hardware_with(tmp_path, text.replace("left_out_error = 0.6\n", ""))).evidence
    assert isnan(row.left_out_error)


@pytest.mark.parametrize(
    "evidence",
    [
        "[evidence.gemm]\nmean_error = 0.1\nmax_error = 0.1\nrange = {}",
        "[evidence.gemm]\nrows = 3\nmean_error = 0.1\nmax_error = 0.1",
        '[evidence.gemm]\nrows = 3\nmean_error = "small"\nmax_error = 0.1\nrange = {}',
        "[evidence.gemm]\nrows = 3\nmean_error = 0.1\nmax_error = 0.1\nrange = { m = [1] }",
        "[evidence.gemm]\nrows = 3\nmean_error = 0.1\nmax_error = 0.1\nrange = 7",
        "[evidence]\ngemm = 3",
    ],
)
def test_evidence_that_cannot_be_read_says_what_it_needs(tmp_path: Path, evidence: str) -> None:
    with pytest.raises(InputError, match="evidence: each section needs rows, mean_error, max_error and range"):
        load_hardware(hardware_with(tmp_path, evidence))


def test_unreadable_profile_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b'name = "\xff"')
    with pytest.raises(InputError, match="cannot be read"):
        load_model(str(file))


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(InputError, match="'h900': unknown; known: h100, h20, h200, h800"):
        load_hardware("h900")
    with pytest.raises(InputError, match="'llama': unknown; known: deepseek-v3, kimi-k2, qwen3-235b-a22b"):
        load_model("llama")


@pytest.mark.parametrize(
    ("field", "value"),
    [("prefill_units", 0), ("decode_units", -1), ("chunk_tokens", 1.5), ("expert_imbalance", 0.9),
     ("expert_imbalance", float("nan")), ("expert_imbalance", []), ("draft_tokens", -1), ("draft_tokens", True)],
)  # fmt: skip
def test_arguments_out_of_range_are_named(field: str, value: object) -> None:
    arguments = {"prefill_units": 4, "decode_units": 4, "chunk_tokens": 1024} | {field: value}
    with pytest.raises(InputError, match=field):
        load_cost_model("h800", "deepseek-v3", **arguments)  # type: ignore[arg-type]
