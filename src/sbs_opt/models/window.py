"""The canonical window: n waiting items, m units with work on them, R resources."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
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

FIELDS: tuple[str, ...] = ("limits", "open_resource", "groups", "several_resources", "tiers", "pinned", "savings")
"""The parts of the problem beyond plain makespan; see `Window.fields_in_use`."""

_NONE_IN_USE: frozenset[str] = frozenset()

_MOST_SHARED = 8192
"""Defaults of more entries are not kept for the next window."""


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

    def __reduce__(self) -> tuple[Any, ...]:
        return Savings, (self.item, self.unit, self.value)  # through the constructor: a copy is read-only too


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
        # What is not given is not in use, and needs no look at an array.
        self._set("price", _constant((resources,), 1) if price is None else int_array("price", price))
        self._set("spread_weight", self.price if spread_weight is None else int_array("spread_weight", spread_weight))
        self._set("limit", _constant((m, resources), UNLIMITED) if limit is None else int_array("limit", limit))
        self._set("crossing", _all_cross(n) if crossing is None else bool_array("crossing", crossing))
        self._set("group", _constant((m,), 0) if group is None else int_array("group", group))
        self._set("tier", _constant((n,), 0) if tier is None else int_array("tier", tier))
        self._set("pinned", _constant((n,), FREE) if pinned is None else int_array("pinned", pinned, minimum=FREE))
        expect_shape("price", self.price, (resources,), "one per resource")
        expect_shape("spread_weight", self.spread_weight, (resources,), "one per resource")
        expect_shape("limit", self.limit, (m, resources), "units × resources")
        expect_shape("crossing", self.crossing, (n,), "one per item")
        expect_shape("group", self.group, (m,), "one per unit")
        expect_shape("tier", self.tier, (n,), "one per item")
        expect_shape("pinned", self.pinned, (n,), "one per item")
        if pinned is not None:
            _below("pinned", self.pinned, m, "there are {} units")
        self._set("open_resource", self._checked_open_resource(open_resource))
        self._set("savings", self._checked_savings(savings))
        self._check_magnitude()
        # What is not given is not in use: the properties below need not look.
        known = self.__dict__
        if limit is None:
            known["has_limits"] = False
        if group is None:
            known["one_group"] = True
        if tier is None:
            known["one_tier"] = True
        if limit is None and group is None and pinned is None and self.savings is None and resources == 1:
            known["fields_in_use"] = _NONE_IN_USE

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
        n, m = self.num_items, self.num_units
        most = (int(self.demand.max()) * n if n else 0) + int(self.load.max()) * m
        if most * max(1, sum(self.price.tolist())) < _SAFE_TOTAL:
            return
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
    def has_limits(self) -> bool:
        """Whether any limit could bind: one that all items together would exceed."""
        if not (self.limit != UNLIMITED).any():
            return False
        return bool((self.limit - self.load < self.demand.sum(axis=0)).any())

    @cached_property
    def one_group(self) -> bool:
        """Whether all units share one barrier."""
        return bool((self.group == self.group[0]).all())

    @cached_property
    def one_tier(self) -> bool:
        """Whether all items are of one tier."""
        return self.num_items == 0 or bool((self.tier == self.tier[0]).all())

    @cached_property
    def fields_in_use(self) -> frozenset[str]:
        """The names of `FIELDS` that can change the answer.

        Limits beyond what all items together add, a single group, or tiers where nothing can be left out are not in
        use.
        """
        used = (
            ("limits", self.has_limits),
            ("open_resource", self.has_limits and self.open_resource is not None),
            ("groups", not self.one_group),
            ("several_resources", self.num_resources > 1),
            ("tiers", self.has_limits and not self.one_tier),
            ("pinned", bool((self.pinned != FREE).any())),
            ("savings", self.savings is not None),
        )
        return frozenset(name for name, in_use in used if in_use)

    @cached_property
    def tiers(self) -> tuple[int, ...]:
        """The tiers present, ascending: the positions of `Objective.left_out`."""
        if self.one_tier:
            return (int(self.tier[0]),) if self.num_items else ()
        return tuple(int(t) for t in np.unique(self.tier))

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: a copy is read-only too, and has the types that the kernels are compiled for.
        return Window, tuple(getattr(self, field.name) for field in fields(self))

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


def _constant(shape: tuple[int, ...], value: int) -> IntArray:
    """Return a read-only array of one value."""
    return _shared_constant(shape, value) if math.prod(shape) <= _MOST_SHARED else _fresh_constant(shape, value)


def _fresh_constant(shape: tuple[int, ...], value: int) -> IntArray:
    array = np.full(shape, value, dtype=np.int64)
    array.flags.writeable = False
    return array


_shared_constant = lru_cache(maxsize=256)(_fresh_constant)
"""Windows of one shape share their defaults: making them takes longer than all checks together."""


def _all_cross(n: int) -> BoolArray:
    return _shared_true(n) if n <= _MOST_SHARED else _fresh_true(n)


def _fresh_true(n: int) -> BoolArray:
    array = np.ones(n, dtype=np.bool_)
    array.flags.writeable = False
    return array


_shared_true = lru_cache(maxsize=64)(_fresh_true)


def _below(name: str, array: IntArray, bound: int, why: str) -> None:
    if array.size and array.max() >= bound:
        k = int(np.argmax(array >= bound))
        raise InputError(f"{name}[{k}] = {array[k]}: out of range, " + why.format(bound))
