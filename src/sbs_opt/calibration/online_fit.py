"""Fit of the cost model to the passes that a router or simulator has seen: one scale of all laws, one floor.

What differs between the GPUs that a profile was fitted on and those that are served by (clocks, power caps, another
build of the kernels) slows most laws alike; what the host adds to a pass does not depend on tokens. Two numbers that a
few dozen passes determine: measured ≈ floor + scale · work, where work is the model's pass without its floor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sbs_opt.calibration.pass_log import COLUMNS, PassLog
from sbs_opt.calibration.robust import Quality, fit
from sbs_opt.calibration.tables import FloatArray
from sbs_opt.models.checks import IntArray, int_array
from sbs_opt.models.cost.breakdown import Budget
from sbs_opt.models.cost.prefill import PrefillCost
from sbs_opt.models.cost.profile import HardwareProfile
from sbs_opt.models.errors import InputError

MIN_PASSES = 8
"""Fewer passes are not fitted."""

_SPREAD = 1.1
"""Ratio of a large pass's work to a small one's below which slope and floor cannot be told apart."""

_SLOWED = (
    "prefill_attention", "decode_attention", "gemm", "grouped_gemm", "alltoall_normal", "alltoall_low_latency",
    "prefill_pass",
)  # fmt: skip
_FLOOR = "layer_ns"


@dataclass(frozen=True, slots=True)
class OnlineFit:
    """What a log of passes says of a profile.

    Parameters
    ----------
    scale
        Measured over predicted time of all that depends on tokens.
    floor_ns
        Measured floor of a pass.
    layer_ns
        The same per layer and micro-batch, as in `PrefillPass`.
    quality
        Relative error over the passes, odd ones included.
    hardware
        The profile that predicts such passes: `slowed` by `scale`, with `layer_ns`.
    """

    scale: float
    floor_ns: float
    layer_ns: float
    quality: Quality
    hardware: HardwareProfile


def fit_passes(log: PassLog, cost: PrefillCost) -> OnlineFit:
    """Fit scale and floor of `cost` to a log; robust against a few percent of odd passes (first ones, clock jumps).

    Parameters
    ----------
    log
        At least `MIN_PASSES` passes of different sizes.
    cost
        What the profile predicts so far, for the instance that was logged.

    Raises
    ------
    InputError
        Too few passes, all of one size, or times that do not grow with the work.
    """
    if len(log) < MIN_PASSES:
        raise InputError(f"log holds {len(log)} passes: at least {MIN_PASSES} are needed; log more of them")
    work = work_ns(log, cost)
    small, large = np.quantile(work, (0.05, 0.95))
    if large < _SPREAD * small:
        raise InputError(
            f"log holds passes of {small / 1e6:.6g} to {large / 1e6:.6g} ms of work, all of one size: floor and slope "
            "cannot be told apart; log passes of different sizes"
        )
    measured = log.pass_ns.astype(np.float64)
    # Starting values, which are also the scale of the parameters: a tenth of a pass, and the typical slope.
    start = (0.1 * float(np.median(measured)), float(np.median(measured / work)))
    found = fit("passes", lambda x: np.asarray(x[0] + x[1] * work), measured, start)
    floor, scale = (float(x) for x in found.parameters)
    if scale <= 0.0:
        raise InputError(
            "pass_ns does not grow with the work of the busiest rank: check that times and tokens are of the same "
            "passes, and the tokens of the busiest rank"
        )
    layer_ns = floor / (cost.model.layers * (2 if cost.overlap else 1))
    hardware = slowed(cost.hardware, scale)
    hardware = replace(hardware, prefill_pass=replace(hardware.prefill_pass, layer_ns=layer_ns))
    return OnlineFit(scale, floor, layer_ns, found.quality("passes"), hardware)


def work_ns(log: PassLog, cost: PrefillCost) -> FloatArray:
    """Return float64[n], what `cost` predicts for each pass, without its floor.

    Ranks that were not logged are taken to share the rest of the tokens evenly: of them the sum matters, for the
    experts. Where one of them has more new tokens than the busiest one, which has more context, its all-to-all is
    underestimated; with overlap that is hidden.
    """
    table = np.column_stack([log.pairs, log.new_tokens, log.context_tokens, log.mean_new_tokens]).tolist()
    return np.array([_work_ns(_budget(cost, *row)) for row in table], dtype=np.float64)


def _work_ns(budget: Budget) -> float:
    return budget.total - budget.floor


def _budget(cost: PrefillCost, pairs: int, new: int, context: int, mean: int) -> Budget:
    rest = max(mean * cost.units - new, 0)  # of a pass with little to do the rounded mean can be too low
    tokens = np.empty(cost.units, np.int64)
    tokens[0] = new
    if cost.units > 1:
        each, left = divmod(rest, cost.units - 1)
        tokens[1:] = each
        tokens[1 : 1 + left] += 1
    sums = np.zeros(cost.units, np.int64)  # the least pairs, so that unit 0 stays the busiest
    sums[0] = pairs
    contexts = tokens.copy()
    contexts[0] = context
    return cost.budget(sums, tokens, contexts)


def slowed(hardware: HardwareProfile, scale: float) -> HardwareProfile:
    """Return a profile all of whose laws take `scale` times as long.

    Rates are divided, times multiplied. What stays: the device's specification, the host, the evidence (ranges of
    sizes, and errors that are relative), and the floors `layer_ns`, which do not belong to a law of tokens.

    Raises
    ------
    InputError
        `scale` is not positive and finite.
    """
    if not 0.0 < scale < float("inf"):
        raise InputError(f"scale = {scale!r}: must be positive and finite")
    return replace(hardware, **{section: _slowed(getattr(hardware, section), scale) for section in _SLOWED})


def _slowed(law: Any, scale: float) -> Any:
    changed: dict[str, Any] = {}
    for name, value in ((field.name, getattr(law, field.name)) for field in fields(law)):
        if is_dataclass(value):
            changed[name] = _slowed(value, scale)
        elif name.endswith(("tflops", "gbps")):
            changed[name] = value / scale
        elif (name.endswith("_ns") or "_ns_per_" in name) and name != _FLOOR:
            changed[name] = value * scale
    return replace(law, **changed)


class PassEstimator:
    """The fit as a router runs it: the last passes in a ring of arrays.

    Parameters
    ----------
    cost
        What the profile predicts for the instance.
    window
        Passes to keep, at least `MIN_PASSES`.
    """

    def __init__(self, cost: PrefillCost, window: int = 256) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < MIN_PASSES:
            raise InputError(f"window = {window!r}: must be a whole number of at least {MIN_PASSES}, the fewest to fit")
        self._cost = cost
        self._ring = np.zeros((window, len(COLUMNS)), np.int64)
        self._seen = 0

    def __len__(self) -> int:
        return min(self._seen, len(self._ring))

    def add(
        self,
        pass_ns: npt.ArrayLike,
        pairs: npt.ArrayLike,
        new_tokens: npt.ArrayLike,
        context_tokens: npt.ArrayLike,
        mean_new_tokens: npt.ArrayLike,
    ) -> None:
        """Take in one pass (integers) or k of them (int64[k] each), columns as in `PassLog`; O(k).

        Raises
        ------
        InputError
            As `PassLog`; then nothing is taken in.
        """
        given = (pass_ns, pairs, new_tokens, context_tokens, mean_new_tokens)
        columns = (np.atleast_1d(int_array(*named)) for named in zip(COLUMNS, given, strict=True))
        new = _table(PassLog(*columns))
        window, count = len(self._ring), len(new)
        kept = min(count, window)
        self._ring[(self._seen + np.arange(count - kept, count)) % window] = new[count - kept :]
        self._seen += count

    @property
    def log(self) -> PassLog:
        """The passes that are kept, oldest first."""
        oldest = self._seen % len(self._ring) if self._seen > len(self._ring) else 0
        return PassLog(*np.roll(self._ring, -oldest, axis=0)[: len(self)].T)

    def fit(self) -> OnlineFit:
        """Return the fit to the passes that are kept; errors as `fit_passes`."""
        return fit_passes(self.log, self._cost)


def _table(log: PassLog) -> IntArray:
    return np.column_stack([getattr(log, name) for name in COLUMNS])
