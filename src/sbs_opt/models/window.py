"""The canonical window: n waiting items, m units with work on them, R resources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sbs_opt.models.checks import INT64_MAX, BoolArray, IntArray, bool_array, expect_shape, int_array
from sbs_opt.models.errors import InputError

UNLIMITED: int = INT64_MAX
"""The limit of a resource that has none."""

FREE: int = -1
"""`pinned` of an item that may go to any unit; also the unit of an item that is left out."""

_SAFE_TOTAL = 2**62


@dataclass(frozen=True, eq=False, init=False)
class Savings:
    """What a unit saves for an item, for instance by a prefix-cache hit.

    Parameters
    ----------
    item, unit
        int64[k], the pairs; a pair given twice is an error.
    value
        int64[k, R], 0 ≤ value ≤ demand of the item.
    """

    item: IntArray
    unit: IntArray
    value: IntArray

    def __init__(self, item: ArrayLike, unit: ArrayLike, value: ArrayLike) -> None:
        object.__setattr__(self, "item", int_array("savings.item", item))
        object.__setattr__(self, "unit", int_array("savings.unit", unit))
        object.__setattr__(self, "value", int_array("savings.value", value))
        if self.item.ndim != 1:
            raise InputError(f"savings.item has shape {self.item.shape}, expected one index per pair")
        expect_shape("savings.unit", self.unit, self.item.shape, "one unit per pair")

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True, eq=False, init=False)
class Window:
    """One scheduling window; every field but `demand` and `load` is optional.

    Parameters
    ----------
    demand
        int64[n, R], what item i adds to resource r of the unit that takes it.
    load
        int64[m, R], what is already committed there.
    price
        int64[R], weight of a resource in the bottleneck; default 1. Price 0: the resource only limits.
    spread_weight
        int64[R], weight of a resource in the spread; default `price`.
    limit
        int64[m, R], cap on the load after placement; default `UNLIMITED`. It binds only a unit to which an item
        adds something of that resource (demand less savings): a unit that starts above its limit is legal.
    open_resource
        The resource whose limit is a budget to start in rather than a cap, or None. A unit may take set S when
        load + ΣS ≤ limit, or when the longest item of S may cross and load + ΣS − longest < limit.
    crossing
        bool[n], which items may cross the open limit; default all.
    group
        int64[m], barrier group of each unit; default one group.
    tier
        int64[n], age or priority class, smaller is served first; default 0.
    pinned
        int64[n], the unit an item must go to, −1 = free (default).
    savings
        `Savings`, or None.

    Raises
    ------
    InputError
        Wrong shape, negative number, NaN, fraction, index out of range, a saving above the demand, or totals whose
        weighted sum could exceed 2⁶²; the message names field, index and value.
    """

    demand: IntArray
    load: IntArray
    price: IntArray
    spread_weight: IntArray
    limit: IntArray
    open_resource: int | None
    crossing: BoolArray
    group: IntArray
    tier: IntArray
    pinned: IntArray
    savings: Savings | None

    def __init__(
        self,
        demand: ArrayLike,
        load: ArrayLike,
        price: ArrayLike | None = None,
        spread_weight: ArrayLike | None = None,
        limit: ArrayLike | None = None,
        open_resource: int | None = None,
        crossing: ArrayLike | None = None,
        group: ArrayLike | None = None,
        tier: ArrayLike | None = None,
        pinned: ArrayLike | None = None,
        savings: Savings | None = None,
    ) -> None:
        self._set_sizes(demand, load)
        n, m, resources = self.num_items, self.num_units, self.num_resources
        self._set("price", int_array("price", _default(price, np.ones(resources, np.int64))))
        self._set("spread_weight", int_array("spread_weight", _default(spread_weight, self.price)))
        self._set("limit", int_array("limit", _default(limit, np.full((m, resources), UNLIMITED))))
        self._set("crossing", bool_array("crossing", _default(crossing, np.ones(n, np.bool_))))
        self._set("group", int_array("group", _default(group, np.zeros(m, np.int64))))
        self._set("tier", int_array("tier", _default(tier, np.zeros(n, np.int64))))
        self._set("pinned", int_array("pinned", _default(pinned, np.full(n, FREE)), minimum=FREE))
        expect_shape("price", self.price, (resources,), "one per resource")
        expect_shape("spread_weight", self.spread_weight, (resources,), "one per resource")
        expect_shape("limit", self.limit, (m, resources), "units × resources")
        expect_shape("crossing", self.crossing, (n,), "one per item")
        expect_shape("group", self.group, (m,), "one per unit")
        expect_shape("tier", self.tier, (n,), "one per item")
        expect_shape("pinned", self.pinned, (n,), "one per item")
        _below("pinned", self.pinned, m, "there are {} units")
        self._set("open_resource", self._checked_open_resource(open_resource))
        self._set("savings", self._checked_savings(savings))
        self._check_magnitude()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _set_sizes(self, demand_given: ArrayLike, load_given: ArrayLike) -> None:
        load = int_array("load", load_given)
        if load.ndim != 2 or load.shape[0] < 1 or load.shape[1] < 1:
            raise InputError(f"load has shape {load.shape}, expected (units, resources), at least one of each")
        demand = int_array("demand", demand_given)
        if demand.size == 0 and demand.ndim < 2:
            demand = int_array("demand", np.zeros((0, load.shape[1]), np.int64))
        if demand.ndim != 2 or demand.shape[1] != load.shape[1]:
            raise InputError(
                f"demand has shape {demand.shape}, expected (items, {load.shape[1]}): as many resources as load has"
            )
        self._set("load", load)
        self._set("demand", demand)

    def _checked_open_resource(self, value: int | None) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < self.num_resources:
            raise InputError(f"open_resource = {value!r}: must be None or an index below {self.num_resources}")
        return int(value)

    def _checked_savings(self, savings: Savings | None) -> Savings | None:
        if savings is None:
            return None
        if not isinstance(savings, Savings):
            raise InputError(f"savings = {type(savings).__name__}: pass Savings(item, unit, value)")
        if len(savings) == 0:
            return None
        expect_shape("savings.value", savings.value, (len(savings), self.num_resources), "pairs × resources")
        _below("savings.item", savings.item, self.num_items, "there are {} items")
        _below("savings.unit", savings.unit, self.num_units, "there are {} units")
        pair = savings.item * self.num_units + savings.unit
        order = np.argsort(pair, kind="stable")
        twice = np.flatnonzero(pair[order][1:] == pair[order][:-1])
        if len(twice):
            k = int(order[twice[0] + 1])
            raise InputError(
                f"savings[{k}]: item {savings.item[k]} on unit {savings.unit[k]} is given twice; add the values up"
            )
        above = savings.value > self.demand[savings.item]
        if above.any():
            k, r = (int(x) for x in np.argwhere(above)[0])
            item = int(savings.item[k])
            raise InputError(
                f"savings.value[{k}, {r}] = {savings.value[k, r]}: "
                f"exceeds the demand {self.demand[item, r]} of item {item}"
            )
        return savings

    def _check_magnitude(self) -> None:
        # float64 decides all but borderline sums; those are settled in exact integers.
        column = self.demand.sum(axis=0, dtype=np.float64) + self.load.sum(axis=0, dtype=np.float64)
        if max(float(column @ self.price), float(column.max())) < _SAFE_TOTAL * 0.99:
            return
        exact = [
            int(self.demand[:, r].astype(object).sum()) + int(self.load[:, r].astype(object).sum())
            for r in range(self.num_resources)
        ]
        weighted = sum(int(p) * total for p, total in zip(self.price, exact, strict=True))
        if max(weighted, *exact) >= _SAFE_TOTAL:
            raise InputError(
                f"demand and load sum up to {max(weighted, *exact)} (with price), the limit is 2^62: use a coarser unit"
            )

    @property
    def num_items(self) -> int:
        """Number n of waiting items."""
        return int(self.demand.shape[0])

    @property
    def num_units(self) -> int:
        """Number m of units."""
        return int(self.load.shape[0])

    @property
    def num_resources(self) -> int:
        """Number R of resources."""
        return int(self.load.shape[1])

    @cached_property
    def tiers(self) -> tuple[int, ...]:
        """The tiers present, ascending: the positions of `Objective.left_out`."""
        return tuple(int(t) for t in np.unique(self.tier))

    @cached_property
    def has_limits(self) -> bool:
        """Whether any limit is finite."""
        return bool((self.limit != UNLIMITED).any())

    def _key(self) -> tuple[Any, ...]:
        savings = self.savings
        parts = (
            self.demand,
            self.load,
            self.price,
            self.spread_weight,
            self.limit,
            self.crossing,
            self.group,
            self.tier,
            self.pinned,
        )
        extra = () if savings is None else (savings.item, savings.unit, savings.value)
        return (self.open_resource, *((a.shape, a.tobytes()) for a in (*parts, *extra)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Window) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _below(name: str, array: IntArray, bound: int, why: str) -> None:
    if array.size and array.max() >= bound:
        k = int(np.argmax(array >= bound))
        raise InputError(f"{name}[{k}] = {array[k]}: out of range, " + why.format(bound))
