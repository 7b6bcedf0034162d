"""Numba kernels of the prefix index: one hash table over (unit, block), one recency list per unit.

`nodes[node]` = (block, newer, older); node numbers of unit u lie in [u·capacity, (u + 1)·capacity).
`lists[u]` = (newest, oldest, count). `table` holds node + 1, 0 = empty; its length is a power of two.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray

BLOCK, NEWER, OLDER = 0, 1, 2
NEWEST, OLDEST, COUNT = 0, 1, 2


@njit(cache=True, nogil=True)
def _home(table: IntArray, unit: int, block: int) -> int:
    # SplitMix64's finaliser (Steele, Lea, Flood 2014) spreads consecutive block ids over the table.
    x = np.uint64(block) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(unit + 1) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    # Numba's int() would leave it unsigned, and unsigned mixed with signed becomes float64.
    return np.int64(x & np.uint64(len(table) - 1))  # type: ignore[return-value]


@njit(cache=True, nogil=True)
def _find(table: IntArray, nodes: IntArray, capacity: int, unit: int, block: int) -> int:
    """Return the position in `table` that holds the pair, or where it would go (an empty one)."""
    mask = len(table) - 1
    position = _home(table, unit, block)
    while table[position] != 0:
        node = table[position] - 1
        if nodes[node, BLOCK] == block and node // capacity == unit:
            return position
        position = (position + 1) & mask
    return position


@njit(cache=True, nogil=True)
def _delete(table: IntArray, nodes: IntArray, capacity: int, position: int) -> None:
    # Backward shift keeps probe sequences unbroken without tombstones (Knuth, TAOCP 3, 6.4, algorithm R).
    mask = len(table) - 1
    gap = position
    probe = position
    while True:
        table[gap] = 0
        while True:
            probe = (probe + 1) & mask
            if table[probe] == 0:
                return
            node = table[probe] - 1
            home = _home(table, node // capacity, nodes[node, BLOCK])
            if ((probe - home) & mask) >= ((probe - gap) & mask):
                table[gap] = table[probe]
                gap = probe
                break


@njit(cache=True, nogil=True)
def _unlink(nodes: IntArray, lists: IntArray, unit: int, node: int) -> None:
    newer, older = nodes[node, NEWER], nodes[node, OLDER]
    if newer >= 0:
        nodes[newer, OLDER] = older
    else:
        lists[unit, NEWEST] = older
    if older >= 0:
        nodes[older, NEWER] = newer
    else:
        lists[unit, OLDEST] = newer


@njit(cache=True, nogil=True)
def _link_newest(nodes: IntArray, lists: IntArray, unit: int, node: int) -> None:
    first = lists[unit, NEWEST]
    nodes[node, NEWER] = -1
    nodes[node, OLDER] = first
    if first >= 0:
        nodes[first, NEWER] = node
    else:
        lists[unit, OLDEST] = node
    lists[unit, NEWEST] = node


@njit(cache=True, nogil=True)
def leading_run(table: IntArray, nodes: IntArray, capacity: int, unit: int, blocks: IntArray) -> int:
    """Return how many leading blocks the unit holds."""
    for k in range(len(blocks)):
        if table[_find(table, nodes, capacity, unit, blocks[k])] == 0:
            return k
    return len(blocks)


@njit(cache=True, nogil=True)
def leading_runs_of_many(
    table: IntArray, nodes: IntArray, capacity: int, first: int, offset: IntArray, blocks: IntArray, out: IntArray
) -> None:
    """Fill out[i, k] with the leading run of chain i on unit first + k; chain i is blocks[offset[i]:offset[i + 1]]."""
    for i in range(len(out)):
        chain = blocks[offset[i] : offset[i + 1]]
        for k in range(out.shape[1]):
            out[i, k] = leading_run(table, nodes, capacity, first + k, chain)


@njit(cache=True, nogil=True)
def touch(table: IntArray, nodes: IntArray, lists: IntArray, capacity: int, unit: int, blocks: IntArray) -> None:
    """Make the blocks the unit's newest, inserting absent ones and evicting the oldest beyond the capacity.

    The deepest block goes first, so that a chain is evicted from its end and its head stays usable.
    """
    for k in range(len(blocks) - 1, -1, -1):
        position = _find(table, nodes, capacity, unit, blocks[k])
        if table[position] != 0:
            node = table[position] - 1
            _unlink(nodes, lists, unit, node)
        elif lists[unit, COUNT] < capacity:
            node = unit * capacity + lists[unit, COUNT]
            lists[unit, COUNT] += 1
            nodes[node, BLOCK] = blocks[k]
            table[position] = node + 1
        else:
            node = lists[unit, OLDEST]
            _unlink(nodes, lists, unit, node)
            _delete(table, nodes, capacity, _find(table, nodes, capacity, unit, nodes[node, BLOCK]))
            nodes[node, BLOCK] = blocks[k]
            table[_find(table, nodes, capacity, unit, blocks[k])] = node + 1
        _link_newest(nodes, lists, unit, node)


@njit(cache=True, nogil=True)
def clear(table: IntArray, nodes: IntArray, lists: IntArray, capacity: int, unit: int) -> None:
    """Take every block of the unit out of the table."""
    for node in range(unit * capacity, unit * capacity + lists[unit, COUNT]):
        _delete(table, nodes, capacity, _find(table, nodes, capacity, unit, nodes[node, BLOCK]))
    lists[unit, NEWEST] = -1
    lists[unit, OLDEST] = -1
    lists[unit, COUNT] = 0
