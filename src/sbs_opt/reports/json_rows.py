"""The JSON form of results: `schema`, `command`, `version`, `seed`, `rows`, and what a reader must know of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sbs_opt._version import __version__
from sbs_opt.simulator.study import Study


def envelope(command: str, seed: int | None, rows: Sequence[Mapping[str, Any]], **context: Any) -> dict[str, Any]:
    """Return the object that every command's `--json` writes; `context` stands between the seed and the rows."""
    return {
        "schema": f"sbs-opt/{command}/1",
        "command": command,
        "version": __version__,
        "seed": seed,
        **context,
        "rows": list(rows),
    }


def compare_json(study: Study) -> dict[str, Any]:
    """Return the JSON object of a comparison, one row per policy and load; no clock, so it can be compared bytewise."""
    return envelope(
        "compare",
        study.seed,
        [cell.row() for cell in study.cells],
        trace=study.trace,
        deployment=study.deployment.name,
        notes=list(study.notes),
        notification_ns=study.notification_ns,
    )


def json_text(value: Mapping[str, Any]) -> str:
    """Return the text of a JSON object: fields in the order given, floats in full, ASCII only.

    Raises
    ------
    ValueError
        On a NaN or an infinity, which JSON does not have.
    """
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
