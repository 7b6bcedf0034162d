"""`sbs-opt calibrate`: a cost-model profile of one's own GPU or engine."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sbs_opt.cli.arguments import add_json, add_seed, naming, positive
from sbs_opt.models.errors import InputError

if TYPE_CHECKING:
    from sbs_opt.calibration.records import Records
    from sbs_opt.calibration.robust import Quality
    from sbs_opt.models.cost.profile import HardwareProfile

Row = dict[str, Any]


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "calibrate",
        help="fit a cost-model profile to measurements, to this machine's GPU, or to a log of passes",
        description="Fit a hardware profile. Give tables of measurements, or --device, or --passes.",
    )
    parser.add_argument("measurements", nargs="*", metavar="CSV", help="tables of one GPU; see docs/cost-model.md")
    parser.add_argument("--device", metavar="cuda|cpu", help="time kernels here through PyTorch (extra gpu)")
    parser.add_argument("--save", metavar="CSV", help="also write what --device timed")
    parser.add_argument("--passes", metavar="CSV", help="a log of prefill passes: pass_ns or pass_s, new_tokens, …")
    parser.add_argument("--deployment", metavar="D", help="what ran the passes: <gpu>-<model>-prefill-ep<N>")
    parser.add_argument("--overlap", choices=("none", "two-batch"), help="of the passes logged (default two-batch)")
    parser.add_argument(
        "--prompt", type=positive, metavar="P", help="prompt length, where the log lacks pairs (default 1024)"
    )
    parser.add_argument("--base", metavar="GPU", help="profile that gives what is not measured (default h800)")
    parser.add_argument("--model", metavar="M", help="gives the shapes of kernels (default deepseek-v3)")
    parser.add_argument("--name", default="own", metavar="NAME", help="of the new profile (default own)")
    parser.add_argument("-o", "--out", dest="output", required=True, metavar="TOML", help="profile to write")
    parser.add_argument("--report", metavar="HTML", help="also write plots of data against fit and errors by range")
    add_json(parser)
    add_seed(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Measure where asked to, fit, write the profile and the report."""
    sources = [bool(given.measurements), given.device is not None, given.passes is not None]
    if sum(sources) != 1:
        raise InputError("calibrate: give either tables of measurements, or --device, or --passes")
    _refuse_what_does_not_apply(given)

    from sbs_opt.cli.output import check_outputs, console, written
    from sbs_opt.reports.fit_table import fit_table
    from sbs_opt.reports.json_rows import envelope, json_text

    inputs = [*given.measurements, *([given.passes] if given.passes else [])]
    files = [given.output, *(path for path in (given.report, given.save) if path)]
    check_outputs(files, given.json, inputs)
    profile, page, rows = _from_passes(given) if given.passes else _from_kernels(given)
    result = json_text(envelope("calibrate", given.seed, rows, name=given.name, base=given.base))
    with written(given.output, profile), written(given.report, page), written(given.json, result):
        pass  # all are written by now; leaving puts them in place
    screen = console(given.json)
    screen.print(fit_table(rows))
    if given.device == "cpu":
        screen.print("small shapes on a processor: a rehearsal, the profile describes no GPU")
    screen.print(f"profile: {given.output}" + (f"\nreport: {given.report}" if given.report else ""))


def _refuse_what_does_not_apply(given: argparse.Namespace) -> None:
    """Raise where a flag is given that this kind of fit would pass over."""
    kernels_only, passes_only = ("report", "base", "model"), ("deployment", "overlap", "prompt")
    for name in kernels_only if given.passes else passes_only:
        if getattr(given, name) is not None:
            kind = "a log of passes" if given.passes else "tables of kernels"
            raise InputError(f"--{name}: says nothing to a fit on {kind}; leave it out")
    if given.save and given.device is None:
        raise InputError("--save: writes what --device timed; give --device as well")
    if given.passes and given.deployment is None:
        raise InputError("--passes: needs --deployment, what ran them; like h800-deepseek-v3-prefill-ep32")
    given.base, given.model = given.base or "h800", given.model or "deepseek-v3"


def _from_kernels(given: argparse.Namespace) -> tuple[str, str, list[Row]]:
    """Return profile, page and rows of a fit on measurements of kernels."""
    from pathlib import Path

    from sbs_opt.calibration.own_fit import fit_own
    from sbs_opt.calibration.profile_text import constants
    from sbs_opt.calibration.records import read_records
    from sbs_opt.models.cost import load_hardware, load_model
    from sbs_opt.reports.fit_page import fit_page

    model, base = load_model(given.model), load_hardware(given.base)
    paths = [_measure(given)] if given.device is not None else given.measurements
    records: list[Records] = []
    for path in paths:
        records += read_records(Path(path), shape=model.attention)
    found = fit_own(records, base, given.base, model)
    about = f"fitted on {', '.join(Path(path).name for path in paths)}; the rest is taken from profile {given.base}"
    page = fit_page(given.name, about, found.points, constants(found.profile, found.origin)) if given.report else ""
    text = _text(given.name, about, found.profile, found.origin, paths)
    return text, page, [_row(quality) for quality in found.quality]


def _measure(given: argparse.Namespace) -> str:
    """Time kernels on the device, write the table and return its path."""
    import sys
    import tempfile

    from sbs_opt.calibration.measure import measure, plan_of, small_plan, write_measurements
    from sbs_opt.models.cost import load_model

    # On a processor the shapes of a model would take hours: there it is a rehearsal with small ones.
    plan = small_plan() if given.device == "cpu" else plan_of(load_model(given.model))
    tell = sys.stderr is not None and sys.stderr.isatty()
    rows = measure(plan, given.device, progress=(lambda text: print(text, file=sys.stderr)) if tell else None)
    path = given.save or f"{tempfile.mkdtemp(prefix='sbs-opt-')}/{given.device.replace(':', '-')}.csv"
    write_measurements(rows, path)
    return str(path)


def _from_passes(given: argparse.Namespace) -> tuple[str, str, list[Row]]:
    """Return profile, no page and the row of a fit on a log of passes."""
    from sbs_opt.calibration.online_fit import fit_passes
    from sbs_opt.calibration.own_fit import sections
    from sbs_opt.calibration.pass_log import read_pass_log
    from sbs_opt.cli.cost import instance_of
    from sbs_opt.models.cost import PrefillCost, load_hardware, load_model

    phase = instance_of(given.deployment, "prefill")
    given.base = phase.hardware
    cost = PrefillCost(
        load_hardware(phase.hardware), load_model(phase.model), units=phase.units, chunk_tokens=16384,
        overlap=given.overlap != "none", expert_imbalance=1.0,
    )  # fmt: skip
    log = read_pass_log(given.passes, prompt_tokens=given.prompt or 1024)
    with naming(given.passes):
        found = fit_passes(log, cost)
    scaled = f"profile {phase.hardware}, every time × {found.scale:.4g} as its passes say"
    origin = dict.fromkeys(sections(found.hardware), scaled)
    origin |= dict.fromkeys(("device", "host", "decode_step"), f"taken from profile {phase.hardware}")
    origin["prefill_pass.layer_ns"] = f"fit: {given.passes}"
    about = f"profile {phase.hardware} scaled to the passes of a log"
    row = _row(found.quality) | {"scale": found.scale, "floor_ms": found.floor_ns / 1e6}
    return _text(given.name, about, found.hardware, origin, [given.passes]), "", [row]


def _text(name: str, about: str, profile: HardwareProfile, origin: dict[str, str], paths: list[str]) -> str:
    """Return the profile as TOML, dated today."""
    from datetime import date
    from pathlib import Path

    from sbs_opt.calibration.profile_text import to_toml
    from sbs_opt.calibration.tables import checksum
    from sbs_opt.models.cost.profile import Source

    data = tuple((Path(path).name, checksum(Path(path).parent, Path(path).name)) for path in paths)
    return to_toml(profile, Source(name, about, date.today().isoformat(), data), origin)


def _row(quality: Quality) -> Row:
    """Return the errors of a table, `left_out` null where no row could be left out."""
    row = asdict(quality)
    return row | {"left_out": None if row["left_out"] != row["left_out"] else row["left_out"]}
