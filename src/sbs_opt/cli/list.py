"""`sbs-opt list`: what there is to choose from."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sbs_opt.cli.arguments import add_json

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, Any]
_SHORT_TEXT, _SHORT_COLUMNS = 20, 42


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "list",
        help="list solvers, policies, profiles, deployments or formats",
        description="List what other commands take by name.",
    )
    parser.add_argument("kind", choices=KINDS, metavar="|".join(KINDS), help="what to list")
    add_json(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print the table, write the JSON."""
    from sbs_opt.cli.output import STDOUT, console, write_json
    from sbs_opt.instances import check_writable
    from sbs_opt.reports.json_rows import envelope

    if given.json not in (None, STDOUT):
        check_writable(given.json)
    rows = KINDS[given.kind]()
    write_json(given.json, envelope("list", None, rows, kind=given.kind))
    console(given.json).print(_table([_solver_in_short(row) for row in rows] if given.kind == "solvers" else rows))


def _table(rows: list[Row]) -> Table:
    """Return a table whose long texts share one column, a line each, so that it fits a narrow terminal."""
    from rich import box
    from rich.table import Table

    room, long = _SHORT_COLUMNS, []
    for name in rows[0]:
        width = max(len(_shown(row[name])) for row in rows)
        if name != "name" and width > min(room, _SHORT_TEXT):
            long.append(name)
        else:
            room -= max(width, len(name))
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
    for name in rows[0]:
        if name not in long:
            table.add_column(name.replace("_", " "), overflow="fold", no_wrap=True)
    table.add_column(long[0] if long else "", overflow="fold")
    for row in rows:
        texts = "\n".join(f"{name.replace('_', ' ')}: " * (name != long[0]) + _shown(row[name]) for name in long)
        table.add_row(*(_shown(row[name]) for name in row if name not in long), texts)
    return table


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _solvers() -> list[Row]:
    from sbs_opt.solvers.registry import list_solvers

    warnings.filterwarnings("always", category=UserWarning)  # of packages whose solvers cannot be used
    solvers = list_solvers()
    return [
        {"name": s.name, "reference": s.reference, "capabilities": sorted(s.capabilities), "extra": s.extra}
        for s in solvers
    ]


def _solver_in_short(row: Row) -> Row:
    """Return what people read of a solver: most take every field, only what one does not take is worth a word."""
    from sbs_opt.models.window import FIELDS
    from sbs_opt.solvers.protocol import IMPROVES_START

    taken = [name for name in FIELDS if name in row["capabilities"]]
    missing = [name for name in FIELDS if name not in taken]
    said = row["reference"]
    if not taken:
        said += "; plain windows only"
    elif missing:
        kind, names = ("not with", missing) if len(missing) <= len(taken) else ("only with", taken)
        said += f"; {kind} {', '.join(names)}"
    if IMPROVES_START in row["capabilities"]:
        said += "; improves a start"
    return {"name": row["name"], "extra": row["extra"], "reference": said}


def _policies() -> list[Row]:
    from sbs_opt.scheduler.policies import POLICIES

    return [
        {
            "name": name,
            "phase": p.phase,
            "late_binding": p.late_binding,
            "summary": p.summary,
            "sees": p.sees,
            "reference": p.reference,
        }
        for name, p in POLICIES.items()
    ]


def _profiles() -> list[Row]:
    from sbs_opt.models.cost import list_profiles, load_source

    kinds = zip(("hardware", "model"), list_profiles(), strict=True)
    rows = []
    for kind, found in kinds:
        for name in found:
            source = load_source(kind, name)
            rows.append({"name": name, "kind": kind, "about": source.about, "date": source.date})
    return rows


def _deployments() -> list[Row]:
    from sbs_opt.models.catalogue import list_deployments, load_deployment
    from sbs_opt.models.cost.named import REFERENCE, parse_phase

    rows: list[Row] = []
    for name in list_deployments():
        deployment = load_deployment(name)
        phases = ((phase, deployment.of_phase(phase)) for phase in ("prefill", "decode"))
        fleet = [f"{len(found)} × {found[0].num_units} units {phase}" for phase, found in phases if found]
        rows.append(
            {
                "name": name,
                "fleet": fleet,
                "model": deployment.model,
                "hardware": deployment.hardware,
                "context_tokens": deployment.context_tokens,
            }
        )
    for name in REFERENCE:
        one = parse_phase(name)
        fleet = [f"1 × {one.units} units {one.phase}, for sbs-opt cost"]
        rows.append(
            {"name": name, "fleet": fleet, "model": one.model, "hardware": one.hardware, "context_tokens": None}
        )
    return rows


def _formats() -> list[Row]:
    from sbs_opt.instances import list_formats

    return [{"name": f.name, "shape": f.shape, "description": f.description} for f in list_formats()]


KINDS: dict[str, Callable[[], list[Row]]] = {
    "solvers": _solvers,
    "policies": _policies,
    "profiles": _profiles,
    "deployments": _deployments,
    "formats": _formats,
}
"""What can be listed, and where its rows come from."""
