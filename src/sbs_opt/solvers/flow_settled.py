"""The items of a window whose unit needs no search, and what is left without them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.placement import effective_demand
from sbs_opt.models.window import FREE, UNLIMITED, Window


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """A window after the plain decisions, each of which some best placement makes too.

    An item that adds nothing to a unit goes there: it takes no room, raises nothing, and no unit saves more for it. A
    pinned item goes to its unit where no limit can bind, whatever else goes there.

    Parameters
    ----------
    window
        The window.
    matters
        bool[R], the resources that can change the objective or what is allowed.
    unit
        int64[n], the unit of each settled item, −1 for the others.
    load
        int64[m, R], with the settled items.
    active
        int64[k], the items that are not settled.
    """

    window: Window
    matters: BoolArray
    unit: IntArray
    load: IntArray
    active: IntArray

    @classmethod
    def of(cls, window: Window) -> Settled:
        """Settle what can be; O((n + m + k)·R) for k savings."""
        binds = (window.limit != UNLIMITED) & (window.limit < window.load + window.demand.sum(axis=0))
        matters: BoolArray = (window.price > 0) | (window.spread_weight > 0) | binds.any(axis=0)
        unit = np.where(window.pinned == FREE, 0, window.pinned)
        adds = (window.demand[:, matters] > 0).any(axis=1)
        bound = binds.any(axis=1)[unit] | (window.pinned == FREE)
        unit[adds & bound] = FREE
        savings = window.savings
        if savings is not None:
            whole = (savings.value == window.demand[savings.item])[:, matters].all(axis=1)
            whole &= (window.pinned[savings.item] == FREE) | (window.pinned[savings.item] == savings.unit)
            whole &= unit[savings.item] == FREE
            unit[savings.item[whole]] = savings.unit[whole]
        settled = unit != FREE
        load = window.load.copy()
        np.add.at(load, unit[settled], effective_demand(window, unit)[settled])
        return cls(window, matters, unit, load, np.flatnonzero(~settled))

    @property
    def tier_rank(self) -> IntArray:
        """What it costs to leave each item out: 1 for the newest tier, more for older ones.

        The sets of items that can be placed together are the independent sets of a matroid where placements are flows,
        and the base of greatest weight depends on the order of the weights alone (Edmonds 1971): no tier needs a weight
        beyond the sum of the newer ones.
        """
        tiers = np.array(self.window.tiers, dtype=np.int64)
        return len(tiers) - np.searchsorted(tiers, self.window.tier)
