"""The worst-case ratios of the literature as data: what an algorithm may lose against the optimum, and where.

All of them speak of one resource and one barrier group, without limits, tiers and pins. With hard limits feasibility
itself is bin packing, and no ratio is promised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sbs_opt.models.errors import InputError
from sbs_opt.models.placement import Placement
from sbs_opt.models.window import FREE, Savings, Window

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

NUMBERS_OF_UNITS = (2, 3, 4)
"""Of the windows that are searched; on one unit every placement is optimal."""

_MOST_ITEMS, _MOST_AMOUNT = 9, 30


@dataclass(frozen=True, slots=True)
class Example:
    """A window on which a guarantee is known to be near its limit, or on which a tempting variant fails.

    Parameters
    ----------
    window
        In the setting of its guarantee.
    optimum
        Its least bottleneck.
    reached
        The bottleneck of the algorithm as in the source, None where that is not the point.
    start
        The unit of each item to start from, where the algorithm improves a start.
    """

    window: Window
    optimum: int
    reached: int | None = None
    start: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One row of the table: `algorithm` is never above `ratio` times the optimum in `setting`.

    Parameters
    ----------
    name
        Its key in `GUARANTEES`.
    setting, algorithm, source
        In words.
    solvers
        The registered solvers that keep it.
    ratio
        From the number m of units and the number k of items on a bottleneck unit of the answer; most use m alone.
    loads, savings
        Whether the windows may have initial loads, savings.
    any_start
        Whether it holds from every start, for algorithms that improve one.
    examples
        Tight or telling windows.
    """

    name: str
    setting: str
    algorithm: str
    solvers: tuple[str, ...]
    ratio: Callable[[int, int], Fraction]
    source: str
    loads: bool = False
    savings: bool = False
    any_start: bool = False
    examples: tuple[Example, ...] = ()

    def windows(self, units: int) -> SearchStrategy[Window]:
        """Return a hypothesis strategy for small windows of the setting with so many units."""
        from sbs_opt.testing.strategies import windows

        return windows(
            max_items=_MOST_ITEMS,
            min_units=units,
            max_units=units,
            max_amount=_MOST_AMOUNT,
            max_load=_MOST_AMOUNT if self.loads else 0,
            max_placements=5**6 if self.savings else None,  # units that differ are slower to search
            fields=("savings",) if self.savings else (),
        )


def _plain(sizes: Sequence[int], loads: Sequence[int], savings: Savings | None = None) -> Window:
    return Window(demand=np.reshape(sizes, (-1, 1)), load=np.reshape(loads, (-1, 1)), savings=savings)


def _graham_list(m: int) -> Example:
    """Ones fill all units evenly before the one long item comes."""
    return Example(_plain([1] * (m * (m - 1)) + [m], [0] * m), optimum=m, reached=2 * m - 1)


def _graham_lpt(m: int) -> Example:
    sizes = [size for size in range(2 * m - 1, m, -1) for _ in range(2)] + [m] * 3
    return Example(_plain(sizes, [0] * m), optimum=3 * m, reached=4 * m - 1)


def _two_long(m: int) -> Example:
    """Two long items share a unit: no move helps, only a swap; so move-optimal is exactly at the ratio."""
    start = (0, 0, *(1 + k // m for k in range(m * (m - 1))))
    return Example(_plain([m, m] + [1] * (m * (m - 1)), [0] * m), optimum=m + 1, start=start)


_LOADED_LIST = Example(_plain([1, 1, 3], [0, 0, 2]), optimum=3, reached=4)
_LOADED_LPT = (
    Example(_plain([3, 2, 2], [0, 1]), optimum=4, reached=5),
    Example(_plain([5, 4, 3, 3], [0, 1, 2]), optimum=6, reached=8),
)
_CRITICAL_ITEMS = (
    Example(_plain([6, 5, 5, 4, 4, 4, 4], [0, 0]), optimum=16, reached=18),
    Example(_plain([5, 5, 5, 5, 4, 4, 4, 4, 4], [0, 0]), optimum=20, reached=22),
    Example(_plain([14, 14, 12, 12, 10, 10, 9, 9, 9, 9], [0, 0, 0]), optimum=36, reached=42),
)
_MULTIFIT = (
    Example(_plain([3, 3, 2, 2, 2, 2], [0, 0]), optimum=7, reached=8),
    Example(_plain([7, 5, 5, 4, 3, 3, 3, 3, 3, 3], [0, 0, 0]), optimum=13, reached=15),
)
_LIGHTEST_FIRST = Example(_plain([37, 34, 28, 22, 21], [15, 0, 9, 4]), optimum=43)
"""MULTIFIT that visits the lightest unit first ends at 58, 1.349 times the optimum."""

_ONE_PLACE_EACH = Example(
    _plain([4, 4, 4, 4], [0, 0], Savings(item=[0, 1, 2, 3], unit=[0, 0, 1, 1], value=[[3], [3], [3], [3]])), optimum=2
)
"""Blind to savings, every placement looks alike: they range from 2 to 8."""

_ROWS = (
    Guarantee(
        name="list_scheduling",
        setting="identical units, empty",
        algorithm="list scheduling in any order",
        solvers=("least_loaded",),
        ratio=lambda m, k: 2 - Fraction(1, m),
        source="Graham 1966",
        examples=(_graham_list(2), _graham_list(3)),
    ),
    Guarantee(
        name="lpt",
        setting="identical units, empty",
        algorithm="longest processing time first",
        solvers=("lpt", "auto"),
        ratio=lambda m, k: Fraction(4, 3) - Fraction(1, 3 * m),
        source="Graham 1969",
        examples=(_graham_lpt(2), _graham_lpt(3), _graham_lpt(4)),
    ),
    Guarantee(
        name="lpt_by_critical_items",
        setting="identical units, empty",
        algorithm="longest processing time first, k items on the critical unit",
        solvers=("lpt",),
        ratio=lambda m, k: 1 + Fraction(1, k) - Fraction(1, k * m),
        source="Coffman & Sethi 1976",
        examples=_CRITICAL_ITEMS,
    ),
    Guarantee(
        name="multifit",
        setting="identical units, empty",
        algorithm="MULTIFIT, iterated to integer convergence",
        solvers=("multifit",),
        ratio=lambda m, k: Fraction(13, 11),
        source="Yue 1990",
        examples=_MULTIFIT,
    ),
    Guarantee(
        name="local_optimum",
        setting="identical units, empty",
        algorithm="local optimum under moves and swaps that improve (bottleneck, number of critical units)",
        solvers=("local_search",),
        ratio=lambda m, k: 2 - Fraction(2, m + 1),
        source="Finn & Horowitz 1979; Schuurman & Vredeveld 2007",
        any_start=True,
        examples=(_two_long(2), _two_long(3), _two_long(4)),
    ),
    Guarantee(
        name="list_scheduling_with_loads",
        setting="initial loads, counted in the objective",
        algorithm="list scheduling in any order",
        solvers=("least_loaded",),
        ratio=lambda m, k: 2 - Fraction(1, m),
        source="area argument of Graham 1966",
        loads=True,
        examples=(_graham_list(3), _LOADED_LIST),
    ),
    Guarantee(
        name="lpt_with_loads",
        setting="initial loads, counted in the objective",
        algorithm="longest processing time first",
        solvers=("lpt", "auto"),
        ratio=lambda m, k: Fraction(3, 2) - Fraction(1, 2 * m),
        source="Lee 1991",
        loads=True,
        examples=_LOADED_LPT,
    ),
    Guarantee(
        name="multifit_with_loads",
        setting="initial loads, counted in the objective",
        algorithm="MULTIFIT that visits the heaviest loaded unit first, to integer convergence",
        solvers=("multifit",),
        ratio=lambda m, k: Fraction(6, 5),
        source="MULTIFIT with containing kernels",
        loads=True,
        examples=(_LIGHTEST_FIRST, *_LOADED_LPT),
    ),
    Guarantee(
        name="lp_rounding_with_savings",
        setting="initial loads and savings per unit (R‖Cmax)",
        algorithm="rounding of the linear relaxation",
        solvers=("lp_rounding",),
        ratio=lambda m, k: Fraction(2),
        source="Lenstra, Shmoys, Tardos 1990",
        loads=True,
        savings=True,
        examples=(_ONE_PLACE_EACH,),
    ),
)

GUARANTEES: Mapping[str, Guarantee] = {row.name: row for row in _ROWS}
"""The table, by name."""


def list_scheduling_error(
    window: Window, placement: Placement | npt.ArrayLike, order: npt.ArrayLike | None = None
) -> Fraction:
    """Return how far, at most, a list-scheduling answer is above the optimum: (1 − 1/m')·p.

    p is the demand of the last item that a bottleneck unit was given, m' the number of units whose initial load is
    below the water level W, the least T with Σ_u max(0, T − load_u) ≥ Σ demand. A bottleneck unit without items proves
    the answer optimal.

    Parameters
    ----------
    window
        One resource; no field in use.
    placement
        Of list scheduling: each item, in turn, on a unit with the least load. After a local search the bound is void.
    order
        int64[n], the items in the order in which they were placed; default by index. For `lpt`: longest first.

    Raises
    ------
    InputError
        The window uses some field.
    """
    if window.fields_in_use:
        raise InputError(f"the window uses {min(window.fields_in_use)}; the bound is one for plain windows")
    unit = (placement if isinstance(placement, Placement) else Placement(placement)).unit
    size, load = window.demand[:, 0], window.load[:, 0]
    after, last = load.tolist(), [0] * window.num_units
    for i in np.arange(len(size)) if order is None else np.asarray(order):
        if unit[i] != FREE:
            after[unit[i]] += int(size[i])
            last[unit[i]] = int(size[i])
    level = _water_level(sorted(load.tolist()), int(size.sum()))
    below = max(1, sum(b < level for b in load.tolist()))
    step = min(last[u] for u in range(window.num_units) if after[u] == max(after))
    return int(window.price[0]) * step * (1 - Fraction(1, below))


def _water_level(loads: list[int], work: int) -> Fraction:
    """Return how high the work stands when it is poured over units of ascending loads as a fluid."""
    for k in range(1, len(loads) + 1):
        level = Fraction(work + sum(loads[:k]), k)
        if k == len(loads) or level <= loads[k]:
            break
    return level
