"""The window of one prefill pass and its greedy placement, in lists (laws 49–52)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sbs_opt.models.cost.protocols import PrefillTiming
from sbs_opt.models.deployment import Unit
from sbs_opt.testing.twin.costs import Piece, piece_ns

LEFT_OUT = -1
_SPREAD_SCALE = 1024


@dataclass(frozen=True, slots=True)
class PlainWindow:
    """Items × resources, units × resources. The last two resources are chunk tokens (open) and KV tokens (hard)."""

    demand: list[list[int]]
    load: list[list[int]]
    price: list[int]
    weight: list[int]
    tier: list[int]
    limits: Unit
    saving: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def added(self, item: int, unit: int) -> list[int]:
        """Return what the item adds to the unit, resource by resource: its demand less what the unit saves."""
        saved = self.saving.get((item, unit))
        return self.demand[item] if saved is None else [d - s for d, s in zip(self.demand[item], saved, strict=True)]

    def priced(self, amounts: Sequence[int]) -> int:
        """Return Σ price × amount."""
        return sum(p * a for p, a in zip(self.price, amounts, strict=True))


def window_of(
    prompts: Sequence[int],
    tier: Sequence[int],
    hits: dict[tuple[int, int], int],
    queued: Sequence[Sequence[Piece]],
    kv_tokens: Sequence[int],
    limits: Unit,
    cost: PrefillTiming,
    *,
    by_time: bool,
) -> PlainWindow:
    """Return the window of a pass; `hits[item, unit]` are cached tokens, `queued[unit]` what the pass runs already."""
    demand = [[prompt, prompt] for prompt in prompts]
    load = [[sum(piece.new for piece in pieces), kv] for pieces, kv in zip(queued, kv_tokens, strict=True)]
    saving = {pair: [hit, 0] for pair, hit in hits.items()}
    price = [1, 0]
    if by_time:
        whole = [piece_ns(cost, Piece(prompt, 0)) for prompt in prompts]
        demand = [[*whole[item], *amounts] for item, amounts in enumerate(demand)]
        for unit, pieces in enumerate(queued):
            times = [piece_ns(cost, piece) for piece in pieces]
            load[unit] = [sum(t[0] for t in times), sum(t[1] for t in times), *load[unit]]
        for (item, unit), hit in hits.items():
            rest = piece_ns(cost, Piece(prompts[item] - hit, hit))
            saving[item, unit] = [*(max(w - r, 0) for w, r in zip(whole[item], rest, strict=True)), *saving[item, unit]]
        price = [1, cost.alltoall_price, 0, 0]
    return PlainWindow(demand, load, price, _weights(price, demand, load), list(tier), limits, saving)


def _weights(price: list[int], demand: list[list[int]], load: list[list[int]]) -> list[int]:
    """Weigh a priced resource by the largest total of any resource over its own total."""
    totals = [max(1, sum(row[r] for row in demand) + sum(row[r] for row in load)) for r in range(len(price))]
    most = _SPREAD_SCALE * max(totals)
    return [p * max(1, most // total) if p else 0 for p, total in zip(price, totals, strict=True)]


class Greedy:
    """One construction: items in a given order, each on the unit that a rule likes best, lowest index on ties."""

    def __init__(self, window: PlainWindow, order: Sequence[int], *, least_increase: bool) -> None:
        self.window = window
        self.load = [list(row) for row in window.load]
        self.unit = [LEFT_OUT] * len(window.demand)
        self._longest = [0] * len(self.load)
        self._peak = [max(row[r] for row in self.load) for r in range(len(window.price))]
        for item in order:
            self._place(item, least_increase)

    def _place(self, item: int, least_increase: bool) -> None:
        rule = self._increase_first if least_increase else self._load_first
        fitting = [unit for unit in range(len(self.load)) if self._fits(item, unit)]
        if not fitting:
            return
        best = min(fitting, key=lambda unit: (rule(item, unit), unit))
        added = self.window.added(item, best)
        self.unit[item] = best
        self.load[best] = [have + more for have, more in zip(self.load[best], added, strict=True)]
        self._peak = [max(peak, have) for peak, have in zip(self._peak, self.load[best], strict=True)]
        self._longest[best] = max(self._longest[best], added[-2])

    def _load_first(self, item: int, unit: int) -> tuple[int, float, int]:
        return 0, 0.0, self.window.priced(self.load[unit])

    def _increase_first(self, item: int, unit: int) -> tuple[int, float, int]:
        """Return (how much the bottleneck rises, how much the spread rises, priced load)."""
        added, load, window = self.window.added(item, unit), self.load[unit], self.window
        rise = [max(0, have + more - peak) for have, more, peak in zip(load, added, self._peak, strict=True)]
        spread = 0.0
        for weight, have, more in zip(window.weight, load, added, strict=True):
            spread += float(weight) * (float(more) * (2.0 * float(have) + float(more)))
        return window.priced(rise), spread, window.priced(load)

    def _fits(self, item: int, unit: int) -> bool:
        """KV is a cap. The chunk is a budget to start in: without its longest item a unit must stay below it."""
        added = self.window.added(item, unit)
        chunk, kv = added[-2], added[-1]
        if kv > 0 and self.load[unit][-1] + kv > self.window.limits.kv_tokens:
            return False
        total = self.load[unit][-2] + chunk
        if chunk == 0 or total <= self.window.limits.chunk_tokens:
            return True
        return total - max(chunk, self._longest[unit]) < self.window.limits.chunk_tokens

    def left_out(self) -> list[int]:
        """Return the items that fit nowhere."""
        return [item for item, unit in enumerate(self.unit) if unit == LEFT_OUT]

    def objective(self) -> tuple[list[int], int, int, int]:
        """Return (left out per tier, bottleneck, −saved, spread)."""
        window = self.window
        out = [window.tier[item] for item in self.left_out()]
        saved = [window.saving.get(pair, []) for pair in enumerate(self.unit)]
        spread = sum(w * have * have for row in self.load for w, have in zip(window.weight, row, strict=True))
        return (
            [out.count(tier) for tier in sorted(set(window.tier))],
            window.priced(self._peak),
            -sum(window.priced(amounts) for amounts in saved if amounts),
            spread,
        )


def place(window: PlainWindow, *, longest_first: bool) -> tuple[list[int], int]:
    """Return the unit of each item and the steps taken (one per item and construction)."""
    items = range(len(window.demand))
    if not longest_first:
        return Greedy(window, items, least_increase=False).unit, len(items)
    size = [window.priced(amounts) for amounts in window.demand]
    tier = window.tier
    best = Greedy(window, sorted(items, key=lambda i: -size[i]), least_increase=True)
    tries = 1
    for further in range(3):
        if not best.left_out():
            break
        if further == 0:
            order = sorted(items, key=lambda i: (tier[i], -size[i]))
        elif further == 1:
            order = sorted(items, key=lambda i: (tier[i], size[i]))
        else:
            out = best.left_out()
            admitted = [item for item in items if item not in out]
            order = sorted(admitted, key=lambda i: -size[i]) + sorted(out, key=lambda i: (tier[i], size[i]))
        attempt = Greedy(window, order, least_increase=True)
        tries += 1
        if attempt.objective() < best.objective():
            best = attempt
    return best.unit, tries * len(items)


def dispatch_order(window: PlainWindow, unit: Sequence[int]) -> list[int]:
    """Return the placed items unit by unit, those with fewer tokens to compute first, equal ones by index."""
    placed = [item for item, chosen in enumerate(unit) if chosen != LEFT_OUT]
    return sorted(placed, key=lambda item: (unit[item], window.added(item, unit[item])[-2], item))
