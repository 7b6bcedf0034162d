"""Exact placement where flows express a window: left out, then bottleneck, then savings, then spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.errors import InternalError, PlacementError
from sbs_opt.models.objective import Objective
from sbs_opt.models.verify import verify
from sbs_opt.models.window import Window
from sbs_opt.solvers.bounds import lower_bound
from sbs_opt.solvers.flow_network import Flows, UnprovedError
from sbs_opt.solvers.flow_thresholds import Corner, ThresholdSearch
from sbs_opt.solvers.incumbent import Incumbent


class Best:
    """The best placement so far, as a whole objective."""

    def __init__(self, window: Window, first: Incumbent) -> None:
        self._window, self.unit = window, first.unit
        self.objective: Objective = first.objective

    def offer(self, unit: IntArray) -> None:
        """Keep a placement if it is better."""
        try:
            found = verify(self._window, unit)
        except PlacementError as error:
            raise InternalError(f"a placement read from a flow breaks a rule of the window: {error}") from error
        if found < self.objective:
            self.unit, self.objective = unit, found


class Peak(NamedTuple):
    """The greatest load of one priced resource in one barrier group, where placements can raise it.

    Parameters
    ----------
    units
        int64, the units of the group to which items can add something of the resource.
    resource, price
        The resource and its price.
    base
        Its greatest load in the group before items are placed.
    """

    units: IntArray
    resource: int
    price: int
    base: int


def peaks_of(window: Window, load: IntArray, grows: BoolArray) -> tuple[list[Peak], int]:
    """Return the peaks that placements can raise, and what the others cost.

    Parameters
    ----------
    window
        The window.
    load
        int64[m, R], before items are placed.
    grows
        bool[m, R], where items can add something.
    """
    peaks: list[Peak] = []
    rest = 0
    for name in np.unique(window.group):
        members = window.group == name
        for r, price in enumerate(window.price.tolist()):
            base = int(load[members, r].max())
            units = np.flatnonzero(members & grows[:, r])
            if price and len(units):
                peaks.append(Peak(units, r, price, base))
            else:
                rest += price * base
    return peaks, rest


class ExactModel(Protocol):
    """A window whose placements are the flows of a network, once the peaks are given."""

    window: Window
    peaks: list[Peak]
    rest: int

    def values(self, peak: Peak, top: int) -> IntArray:
        """Return int64, ascending: the values that the peak can have, from its base up to `top`."""
        ...

    def least_left_out(self, flows: Flows, tops: Corner | None) -> tuple[int, IntArray]:
        """Return the least cost of leaving items out with peaks up to `tops`, and the unit of each item."""
        ...

    def best(self, flows: Flows, tops: Corner) -> IntArray:
        """Return the unit of each item: least left out, then most saved, then least spread with peaks up to `tops`."""
        ...


@dataclass(slots=True)
class Claim:
    """What was proved of the incumbent; `exact` says that its whole objective is the least there is."""

    bound: int = 0
    left_out_proved: bool = False
    exact: bool = False


def solve_exact(model: ExactModel, flows: Flows, best: Best) -> Claim:
    """Improve the best placement to the optimum, or as far as flows are proved to be of least cost.

    First as little as possible is left out, whatever the peaks. Then the peaks are bisected: they are feasible when no
    more has to be left out below them. Last, below each least set of peaks, the flow of most savings and least spread.
    """
    claim = Claim()
    try:
        least, unit = model.least_left_out(flows, None)
        best.offer(unit)
        claim.left_out_proved = True
        search = _search(model, flows, best, least)
        claim.bound = model.rest + search.bound
        try:
            tops = search.run()
        except UnprovedError:
            claim.bound = model.rest + search.bound
            tops = [search.reached]
        else:
            claim.bound = model.rest + search.bound
            claim.exact = True
        for corner in tops:
            best.offer(model.best(flows, corner))
    except UnprovedError:
        claim.exact = False
    return claim


def _search(model: ExactModel, flows: Flows, best: Best, least: int) -> ThresholdSearch:
    """Set up the bisection between what is proved and what the incumbent, which leaves out the least, shows."""
    prices = [peak.price for peak in model.peaks]
    slack = best.objective.bottleneck - model.rest - sum(peak.price * peak.base for peak in model.peaks)
    values = [model.values(peak, peak.base + slack // peak.price) for peak in model.peaks]
    if len(values) == 1:
        low = lower_bound(model.window, best.objective.left_out) - model.rest
        values[0] = values[0][values[0] * prices[0] >= low]
    return ThresholdSearch(prices, values, lambda tops: model.least_left_out(flows, tops)[0] == least)
