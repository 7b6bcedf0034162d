"""The prefix blocks that one unit holds, least recently used first out (law 18)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Blocks of one unit, oldest first; an engine's cache, or what a scheduler believes of it."""

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity = max(1, capacity_blocks)
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def leading_run(self, blocks: Sequence[int]) -> int:
        """Return how many of the leading blocks are held."""
        for k, block in enumerate(blocks):
            if block not in self._blocks:
                return k
        return len(blocks)

    def touch(self, blocks: Sequence[int]) -> None:
        """Make the blocks the newest, deepest first, so that a chain is evicted from its end."""
        for block in reversed(blocks):
            if block not in self._blocks and len(self._blocks) == self._capacity:
                self._blocks.popitem(last=False)
            self._blocks[block] = None
            self._blocks.move_to_end(block)
