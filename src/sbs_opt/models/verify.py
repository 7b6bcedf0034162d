"""The independent judge of a placement: recomputes the objective and checks every rule, with no code of any solver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InternalError
from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement
from sbs_opt.models.verify_plainly import verify_plainly

if TYPE_CHECKING:
    from sbs_opt.models.window import Window

_EMPTY = np.zeros(0, dtype=np.int64)
_EMPTY_TABLE = np.zeros((0, 1), dtype=np.int64)
for _array in (_EMPTY, _EMPTY_TABLE):  # read-only like all else, or the kernel would be compiled once more
    _array.flags.writeable = False


def verify(window: Window, placement: Placement | Any) -> Objective:
    """Check every rule of the window and return the objective.

    Parameters
    ----------
    window
        The window.
    placement
        A `Placement`, or the unit of each item as an array-like, −1 = left out.

    Returns
    -------
    Objective
        Recomputed in exact integers. O((n + m)·R + k) for k savings.

    Raises
    ------
    PlacementError
        When the placement breaks a rule; the message names item, unit and resource.
    """
    if not isinstance(placement, Placement):
        placement = Placement(placement)
    if len(placement.unit) != window.num_items:
        return verify_plainly(window, placement)
    from sbs_opt.models import verify_kernel  # compiled code is loaded by the first placement, not by the import

    if not window.fields_in_use and window.one_tier:
        left_out, bottleneck, spread = verify_kernel.judge_plain(
            placement.unit, window.demand, window.load, window.price, window.spread_weight
        )
        if spread >= 0:
            return Objective((left_out,) if window.num_items else (), bottleneck, 0, spread)
        # A rule is broken, or the spread exceeds 64 bits: the general way tells them apart.
    return _verify_any(window, placement)


def _verify_any(window: Window, placement: Placement) -> Objective:
    from sbs_opt.models import verify_kernel

    savings = window.savings
    group, num_groups = _numbered(window.group, window.one_group)
    tier, num_tiers = _numbered(window.tier, window.one_tier)
    obeyed, left_out, bottleneck, saved, load = verify_kernel.judge(
        placement.unit,
        window.demand,
        window.load,
        window.price,
        window.limit,
        -1 if window.open_resource is None else window.open_resource,
        window.crossing,
        group,
        num_groups,
        tier,
        num_tiers,
        window.pinned,
        _EMPTY if savings is None else savings.item,
        _EMPTY if savings is None else savings.unit,
        _EMPTY_TABLE if savings is None else savings.value,
    )
    if not obeyed:
        verify_plainly(window, placement)  # says which rule
        raise InternalError("the two judges of a placement disagree")
    return Objective(tuple(left_out.tolist()), bottleneck, saved, _spread(load, window.spread_weight))


def _numbered(names: IntArray, one: bool) -> tuple[IntArray, int]:
    """Return the names as 0, 1, … in ascending order, and how many there are."""
    if one:
        numbers, count = (names if not len(names) or names[0] == 0 else np.zeros_like(names)), min(1, len(names))
    else:
        distinct, numbers = np.unique(names, return_inverse=True)
        count = len(distinct)
    numbers.flags.writeable = False
    return numbers, count


def _spread(load: IntArray, weight: IntArray) -> int:
    """Return Σ weight·load² in Python integers where it could exceed 64 bits."""
    top = int(load.max())
    if top * top * load.shape[0] * sum(weight.tolist()) < 2**62:
        return int(((load * load).sum(axis=0) * weight).sum())
    return sum(w * sum(x * x for x in column) for w, column in zip(weight.tolist(), load.T.tolist(), strict=True))
