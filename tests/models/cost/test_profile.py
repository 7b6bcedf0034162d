"""Profiles: names, sources, and errors that say how to mend a file."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import pytest

from sbs_opt.models.cost import list_profiles, load_cost_model, load_hardware, load_model, load_source
from sbs_opt.models.errors import InputError

MODEL = (resources.files("sbs_opt.models") / "profiles" / "deepseek-v3.model.toml").read_text("utf-8")


def test_bundled_names() -> None:
    assert list_profiles() == (("h100", "h200", "h800"), ("deepseek-v3",))


def test_every_constant_names_its_source() -> None:
    def constants(table: object) -> list[dict[str, object]]:
        if isinstance(table, dict) and "value" in table:
            return [table]
        return [row for part in table.values() for row in constants(part)] if isinstance(table, dict) else []

    hardware, models = list_profiles()
    names = [f"{name}.hardware.toml" for name in hardware] + [f"{name}.model.toml" for name in models]
    for name in names:
        rows = constants(tomllib.loads((resources.files("sbs_opt.models") / "profiles" / name).read_text("utf-8")))
        assert len(rows) > 20
        assert all(str(row["source"]).strip() and str(row["unit"]).strip() for row in rows)


def test_constants_agree_with_the_published_figures() -> None:
    """DeepSeek-V3 per token and layer: 374.2 MFLOP projections, 792.7 feed-forward, 81,920 FLOP a pair."""
    model = load_model("deepseek-v3")
    projections = 2 * sum(k * n for k, n in (*model.projections, model.kv_projection))
    assert projections / 1e6 == pytest.approx(374.2, abs=0.05)
    dense = 2 * sum(k * n for k, n in model.feed_forward(model.dense_width))
    active = model.top_experts + model.shared_experts
    experts = 2 * active * sum(k * n for k, n in model.feed_forward(model.expert_width))
    assert dense / 1e6 == pytest.approx(792.7, abs=0.05)
    assert experts / 1e6 == pytest.approx(792.7, abs=0.05)
    assert model.pair_flops == 81920
    assert model.absorbed_flops == 278528


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
    text = (resources.files("sbs_opt.models") / "profiles" / "h800.hardware.toml").read_text("utf-8")
    file = tmp_path / "mine.toml"
    file.write_text("gemm = 3\n" + text.split("[gemm]")[0])
    with pytest.raises(InputError, match="gemm: expected a table"):
        load_hardware(str(file))


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(InputError, match="'h900': unknown; known: h100, h200, h800"):
        load_hardware("h900")
    with pytest.raises(InputError, match="'llama': unknown; known: deepseek-v3"):
        load_model("llama")


@pytest.mark.parametrize(
    ("field", "value"),
    [("prefill_units", 0), ("decode_units", -1), ("chunk_tokens", 1.5), ("expert_imbalance", 0.9),
     ("expert_imbalance", float("nan"))],
)  # fmt: skip
def test_arguments_out_of_range_are_named(field: str, value: float) -> None:
    arguments = {"prefill_units": 4, "decode_units": 4, "chunk_tokens": 1024} | {field: value}
    with pytest.raises(InputError, match=field):
        load_cost_model("h800", "deepseek-v3", **arguments)  # type: ignore[arg-type]
