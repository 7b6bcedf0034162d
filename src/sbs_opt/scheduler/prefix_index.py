"""Which prefix blocks each unit holds, least recently used first out: a scheduler's belief or an engine's cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.scheduler import prefix_kernels as kernels


class PrefixIndex:
    """Blocks held per unit, at most `capacity_blocks` each.

    Parameters
    ----------
    num_units
        Units, numbered from 0.
    capacity_blocks
        Blocks per unit; at least 1.

    Notes
    -----
    A lookup costs one hash probe per leading hit and unit. Memory is about 56 bytes × units × capacity.
    """

    def __init__(self, num_units: int, capacity_blocks: int) -> None:
        self._capacity = max(1, capacity_blocks)
        nodes = num_units * self._capacity
        self._nodes = np.zeros((nodes, 3), np.int64)
        self._table = np.zeros(1 << max(4, (2 * nodes - 1).bit_length()), np.int64)
        self._lists = np.tile(np.array([-1, -1, 0], np.int64), (num_units, 1))

    @property
    def state(self) -> tuple[IntArray, IntArray, IntArray, int]:
        """The arrays (table, nodes, lists) and the capacity, for kernels that work on them."""
        return self._table, self._nodes, self._lists, self._capacity

    def leading_run(self, unit: int, blocks: IntArray) -> int:
        """Return how many of the leading `blocks` the unit holds."""
        return int(kernels.leading_run(self._table, self._nodes, self._capacity, unit, blocks))

    def leading_runs(self, first_unit: int, num_units: int, chains: Sequence[IntArray]) -> IntArray:
        """Return int64[chains, num_units], the leading run of each chain on each unit from `first_unit` on."""
        offset = np.zeros(len(chains) + 1, np.int64)
        np.cumsum([len(chain) for chain in chains], out=offset[1:])
        blocks = np.concatenate(chains) if chains else np.zeros(0, np.int64)
        out = np.empty((len(chains), num_units), np.int64)
        kernels.leading_runs_of_many(self._table, self._nodes, self._capacity, first_unit, offset, blocks, out)
        return out

    def clear(self, unit: int) -> None:
        """Forget all blocks of a unit."""
        kernels.clear(self._table, self._nodes, self._lists, self._capacity, unit)

    def touch(self, unit: int, blocks: IntArray) -> None:
        """Make `blocks` the newest of the unit, deepest first; the oldest beyond the capacity leave."""
        kernels.touch(self._table, self._nodes, self._lists, self._capacity, unit, blocks)
