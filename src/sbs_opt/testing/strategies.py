"""Hypothesis strategies for windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from math import inf
from typing import Any

from hypothesis import strategies as st

from sbs_opt.models.errors import InputError
from sbs_opt.models.window import FIELDS, FREE, UNLIMITED, Savings, Window

_MOST_TIERS, _MOST_SAVINGS = 3, 2
_RESOURCES_KEPT = st.sampled_from([None, (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])

_Record = st.SearchStrategy[dict[str, Any]]
"""Draws one unit or item; made once per shape, as making one takes longer than drawing from it."""
_PRICES = st.sampled_from([1, 0, 2, 3])


def windows(
    min_items: int = 0,
    max_items: int = 5,
    *,
    min_units: int = 1,
    max_units: int = 3,
    max_amount: int = 12,
    max_load: int | None = None,
    max_placements: int | None = None,
    fields: Iterable[str] = FIELDS,
) -> st.SearchStrategy[Window]:
    """Return a strategy for windows that use any of `fields`.

    What is found shrinks towards few items and units, small amounts, and fields that are not used.

    Parameters
    ----------
    min_items, max_items
        Range of n.
    min_units, max_units
        Range of m.
    max_amount
        Greatest demand; limits reach up to three times as far.
    max_load
        Greatest load; default `max_amount`.
    max_placements
        Keep (m + 1)^n, the work of brute force, at or below this by drawing fewer items; None = no cap.
    fields
        Parts of the problem that a window may use, of `sbs_opt.models.window.FIELDS`; default all. Without
        "several_resources" there is one resource, with price 1; an "open_resource" needs "limits".

    Raises
    ------
    InputError
        An empty range, or an unknown field.
    """
    allowed = frozenset(fields)
    unknown = sorted(allowed - set(FIELDS))
    if unknown:
        raise InputError(f"fields: unknown {unknown[0]!r}; known: {', '.join(FIELDS)}")
    if "open_resource" in allowed and "limits" not in allowed:
        raise InputError("fields: open_resource without limits; an open resource is one whose limit is a budget")
    if not 0 <= min_items <= max_items:
        raise InputError(f"min_items = {min_items}, max_items = {max_items}: must be a range from at least 0")
    if not 1 <= min_units <= max_units:
        raise InputError(f"min_units = {min_units}, max_units = {max_units}: must be a range from at least 1")
    if max_load is None:
        max_load = max_amount
    for name, value in (("max_amount", max_amount), ("max_load", max_load)):
        if value < 0:
            raise InputError(f"{name} = {value}: must be at least 0")
    most_placements = inf if max_placements is None else max_placements
    return _window((min_items, max_items), (min_units, max_units), most_placements, max_amount, max_load, allowed)


@st.composite
def _window(
    draw: st.DrawFn,
    num_items: tuple[int, int],
    num_units: tuple[int, int],
    most_placements: float,
    max_amount: int,
    max_load: int,
    allowed: frozenset[str],
) -> Window:
    # A unit or an item is drawn as one record, and with more resources than are kept: so shrinking can take one out
    # without giving the numbers behind it another meaning.
    used = frozenset(name for name in FIELDS if name in allowed - {"several_resources"} and draw(st.booleans()))
    if "limits" not in used:
        used -= {"open_resource"}
    chosen = draw(_RESOURCES_KEPT) if "several_resources" in allowed else None
    resources, kept = (1, (0,)) if chosen is None else (3, chosen)
    m = draw(st.integers(*num_units))
    units = [draw(_unit(used, resources, max_load, 3 * max_amount, num_units[1])) for _ in range(m)]
    least, most = num_items
    while most > least and (m + 1) ** most > most_placements:
        most -= 1
    items = [draw(_item(used, resources, max_amount, m)) for _ in range(draw(st.integers(least, most)))]

    def cut(row: list[int]) -> list[int]:
        return [row[r] for r in kept]

    def column(records: list[dict[str, Any]], name: str, field: str) -> list[Any] | None:
        return [record[name] for record in records] if field in used else None

    priced = "several_resources" in allowed
    demand = [cut(item["demand"]) for item in items]
    saved = [{u: cut(row) for u, row in item["savings"].items()} for item in items] if "savings" in used else []
    return Window(
        demand=demand,
        load=[cut(unit["load"]) for unit in units],
        price=draw(st.none() | _row(len(kept), _PRICES)) if priced else None,
        spread_weight=draw(st.none() | _row(len(kept), _PRICES)) if priced else None,
        limit=[cut(unit["limit"]) for unit in units] if "limits" in used else None,
        open_resource=draw(st.integers(0, len(kept) - 1)) if "open_resource" in used else None,
        crossing=column(items, "crossing", "open_resource"),
        group=column(units, "group", "groups"),
        tier=column(items, "tier", "tiers"),
        pinned=column(items, "pinned", "pinned"),
        savings=_savings(demand, saved),
    )


def _row(length: int, cells: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    return st.lists(cells, min_size=length, max_size=length)


@cache
def _unit(used: frozenset[str], resources: int, max_load: int, max_limit: int, max_group: int) -> _Record:
    columns: dict[str, st.SearchStrategy[Any]] = {"load": _row(resources, st.integers(0, max_load))}
    if "limits" in used:
        columns["limit"] = _row(resources, st.just(UNLIMITED) | st.integers(0, max_limit))
    if "groups" in used:
        columns["group"] = st.integers(0, max_group)
    return st.fixed_dictionaries(columns)


@cache
def _item(used: frozenset[str], resources: int, max_amount: int, m: int) -> _Record:
    amounts = _row(resources, st.integers(0, max_amount))
    columns: dict[str, st.SearchStrategy[Any]] = {"demand": amounts}
    if "tiers" in used:
        columns["tier"] = st.integers(0, _MOST_TIERS - 1)
    if "pinned" in used:
        columns["pinned"] = st.just(FREE) | st.integers(0, m - 1)
    if "open_resource" in used:
        columns["crossing"] = st.sampled_from([True, False])
    if "savings" in used:
        columns["savings"] = st.dictionaries(st.integers(0, m - 1), amounts, max_size=_MOST_SAVINGS)
    return st.fixed_dictionaries(columns)


def _savings(demands: Sequence[list[int]], saved: Sequence[dict[int, list[int]]]) -> Savings | None:
    """Return what the items save on each unit, at most their demand."""
    pairs = [(i, u, value) for i, by_unit in enumerate(saved) for u, value in by_unit.items()]
    if not pairs:
        return None
    value = [[min(pair) for pair in zip(wanted, demands[i], strict=True)] for i, _, wanted in pairs]
    return Savings(item=[i for i, _, _ in pairs], unit=[u for _, u, _ in pairs], value=value)
