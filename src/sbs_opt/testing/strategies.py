"""Hypothesis strategies for windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from sbs_opt.models.errors import InputError
from sbs_opt.models.window import FREE, UNLIMITED, Savings, Window
from sbs_opt.solvers.protocol import FIELDS


def windows(
    min_items: int = 0,
    max_items: int = 5,
    *,
    min_units: int = 1,
    max_units: int = 3,
    max_amount: int = 12,
    max_placements: int | None = None,
    fields: Iterable[str] = FIELDS,
) -> st.SearchStrategy[Window]:
    """Return a strategy for windows that use any of `fields`.

    Parameters
    ----------
    min_items, max_items
        Range of n.
    min_units, max_units
        Range of m.
    max_amount
        Greatest demand and load; limits reach a little beyond.
    max_placements
        Keep (m + 1)^n, the work of brute force, at or below this by drawing fewer items; None = no cap.
    fields
        Parts of the problem that a window may use, of `sbs_opt.solvers.protocol.FIELDS`; default all. Without
        "several_resources" there is one resource, with price 1.

    Raises
    ------
    InputError
        An empty range, or an unknown field.
    """
    allowed = frozenset(fields)
    unknown = sorted(allowed - set(FIELDS))
    if unknown:
        raise InputError(f"fields: unknown {unknown[0]!r}; known: {', '.join(FIELDS)}")
    if not 0 <= min_items <= max_items:
        raise InputError(f"min_items = {min_items}, max_items = {max_items}: must be a range from at least 0")
    if not 1 <= min_units <= max_units:
        raise InputError(f"min_units = {min_units}, max_units = {max_units}: must be a range from at least 1")
    if max_amount < 0:
        raise InputError(f"max_amount = {max_amount}: must be at least 0")
    return _window((min_items, max_items), (min_units, max_units), max_amount, max_placements, allowed)


@st.composite
def _window(
    draw: st.DrawFn,
    items: tuple[int, int],
    units: tuple[int, int],
    max_amount: int,
    max_placements: int | None,
    allowed: frozenset[str],
) -> Window:
    m = draw(st.integers(*units))
    most = items[1]
    while max_placements is not None and most > items[0] and (m + 1) ** most > max_placements:
        most -= 1
    n = draw(st.integers(items[0], most))
    resources = draw(st.integers(1, 3)) if "several_resources" in allowed else 1
    amounts = st.integers(0, max_amount)
    demand = draw(_table(n, resources, amounts))
    given: dict[str, Any] = {"demand": demand, "load": draw(_table(m, resources, amounts))}
    if "several_resources" in allowed:
        given["price"] = draw(st.lists(st.integers(0, 3), min_size=resources, max_size=resources))
        given["spread_weight"] = draw(st.none() | st.lists(st.integers(0, 3), min_size=resources, max_size=resources))
    if "limits" in allowed and draw(st.booleans()):
        given["limit"] = draw(_table(m, resources, st.integers(0, 3 * max_amount) | st.just(UNLIMITED)))
        if "open_resource" in allowed:
            given["open_resource"] = draw(st.none() | st.integers(0, resources - 1))
            given["crossing"] = draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
    if "groups" in allowed:
        given["group"] = draw(st.none() | st.lists(st.integers(0, m), min_size=m, max_size=m))
    if "tiers" in allowed:
        given["tier"] = draw(st.none() | st.lists(st.integers(0, 2), min_size=n, max_size=n))
    if "pinned" in allowed:
        given["pinned"] = draw(st.none() | st.lists(st.integers(FREE, m - 1), min_size=n, max_size=n))
    if "savings" in allowed and n and draw(st.booleans()):
        given["savings"] = draw(_savings(demand, m))
    return Window(**given)


def _table(rows: int, columns: int, cells: st.SearchStrategy[int]) -> st.SearchStrategy[list[list[int]]]:
    if rows == 0:
        return st.just([])
    row = st.lists(cells, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows)


@st.composite
def _savings(draw: st.DrawFn, demand: list[list[int]], m: int) -> Savings:
    pairs = draw(
        st.lists(st.tuples(st.integers(0, len(demand) - 1), st.integers(0, m - 1)), max_size=2 * m, unique=True)
    )
    value = [[draw(st.integers(0, amount)) for amount in demand[i]] for i, _ in pairs]
    return Savings(item=[i for i, _ in pairs], unit=[u for _, u in pairs], value=value)
