"""Depth-first search for a placement within a given makespan, item by item in descending order of size.

A node is the item to place and what room each unit has left. Units with equivalent rooms are one choice (range
equivalence), a node met before is not searched again, and where an item uses a room as well as any set of smaller items
could, only that choice is searched (fill-up rule); these are rules of Akram, Maas, Sanders & Schreiber 2024, who start
from empty machines. All of them speak of rooms only, never of how a room came about, so unequal loads change nothing.
A node is also refuted by the multipliers of `branch_and_bound_dual_kernel`, which order the choices, too: most of the
worth still needed first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.branch_and_bound_dual_kernel import Dual
from sbs_opt.solvers.branch_and_bound_reach_kernel import ENTRIES, Reach, rank_of, reachable

CUT, FOUND, REFUTED = 0, 1, 2

_KNOWN_NUMBERS = 1 << 20
_WORTH_KNOWING = 8


class Tree(NamedTuple):
    """The search: what does not change, the stack, and the nodes known to have no solution.

    Parameters
    ----------
    size
        int64[n], descending.
    size_from
        int64[n + 1], sum of the sizes from i on.
    reach
        Reachable sums of the last items.
    room
        int64[n + 1, m], descending: the rooms at each level of the stack; ranks where `reach` has lists.
    choice, landed, choices, following, entered
        int32[n + 1, m] the positions in `room` that item i may take, best first; int64[n + 1] where the room taken was
        sorted in again, how many choices there are, which is next (−1 = node not visited yet), and nodes before this.
    level
        int64[2], depth of the stack, −1 when the search has ended; nodes visited in all.
    known, known_level
        int64[k, m] and int64[k], rooms and item of nodes without solution, at a place given by their hash; −1 = none.
    factor
        int64[m], odd numbers for the hash.
    """

    size: IntArray
    size_from: IntArray
    reach: Reach
    room: IntArray
    choice: npt.NDArray[np.int32]
    landed: IntArray
    choices: IntArray
    following: IntArray
    entered: IntArray
    level: IntArray
    known: IntArray
    known_level: IntArray
    factor: IntArray


def second_stack(tree: Tree) -> Tree:
    """Return another search with a stack of its own; what either finds to have no solution, both know."""
    return tree._replace(
        room=np.zeros_like(tree.room),
        choice=np.zeros_like(tree.choice),
        landed=np.zeros_like(tree.landed),
        choices=np.zeros_like(tree.choices),
        following=np.zeros_like(tree.following),
        entered=np.zeros_like(tree.entered),
        level=np.array([-1, 0]),
    )


def new_tree(size: IntArray, num_units: int, top: int) -> Tree:
    """Return an empty search over sizes in descending order, for rooms of at most `top`."""
    n, m = len(size), num_units
    size_from = np.zeros(n + 1, dtype=np.int64)
    size_from[:n] = size[::-1].cumsum()[::-1]
    slots = 1 << max(4, (_KNOWN_NUMBERS // m).bit_length() - 1)
    return Tree(
        size=size,
        size_from=size_from,
        reach=reachable(size, top, ENTRIES),
        room=np.zeros((n + 1, m), dtype=np.int64),
        choice=np.zeros((n + 1, m), dtype=np.int32),
        landed=np.zeros(n + 1, dtype=np.int64),
        choices=np.zeros(n + 1, dtype=np.int64),
        following=np.zeros(n + 1, dtype=np.int64),
        entered=np.zeros(n + 1, dtype=np.int64),
        level=np.array([-1, 0]),
        known=np.empty((slots, m), dtype=np.int64),
        known_level=np.full(slots, -1, dtype=np.int64),
        factor=np.random.default_rng(0).integers(-(2**62), 2**62, m) * 2 + 1,
    )


@njit(cache=True, nogil=True)
def restart(tree: Tree, load: IntArray, makespan: int) -> None:
    """Put the root on the stack: all items, and the rooms below `makespan` of units with ascending `load`."""
    for u in range(len(load)):
        room = makespan - load[u]
        tree.room[0, u] = rank_of(tree.reach, 0, room) if tree.reach.first == 0 else room
    tree.level[0] = 0
    tree.following[0] = -1


@njit(cache=True, nogil=True)
def _slot(rooms: IntArray, i: int, factor: IntArray, slots: int) -> int:
    mixed = np.int64(i) * np.int64(0x2545F4914F6CDD1D)
    for u in range(len(rooms)):
        mixed += rooms[u] * factor[u]
    mixed ^= (mixed >> 32) ^ (mixed >> 47)
    return int(mixed & (slots - 1))


@njit(cache=True, nogil=True)
def _same(one: IntArray, two: IntArray) -> bool:
    for u in range(len(one)):  # noqa: SIM110 — all() over a generator does not compile
        if one[u] != two[u]:
            return False
    return True


@njit(cache=True, nogil=True)
def _sort_in(choice: npt.NDArray[np.int32], slack: IntArray, count: int, u: int, left: int) -> None:
    """Sort u with its slack into the choices, greatest slack first; of equal ones the first stays first."""
    k = count
    while k > 0 and slack[k - 1] < left:
        slack[k], choice[k] = slack[k - 1], choice[k - 1]
        k -= 1
    slack[k], choice[k] = left, u


@njit(cache=True, nogil=True)
def _choose(
    rooms: IntArray,
    size: int,
    best: npt.NDArray[np.int32],
    shift: int,
    worth_after: int,
    choice: npt.NDArray[np.int32],
    slack: IntArray,
) -> int:
    """List the rooms that an item may take, the one that leaves most worth first; return how many there are.

    `best` and `worth_after` are those of the next item.
    """
    spare, fitting = -worth_after, 0
    for u in range(len(rooms)):
        spare += best[rooms[u] >> shift]
        fitting += rooms[u] >= size
    count, before = 0, -1
    for u in range(fitting):
        room = rooms[u]
        if room == before:
            continue
        before = room
        left = spare - best[room >> shift] + best[(room - size) >> shift]
        if left >= 0:
            _sort_in(choice, slack, count, u, left)
            count += 1
    return count


@njit(cache=True, nogil=True)
def _choose_listed(
    ranks: IntArray,
    size: int,
    value: IntArray,
    keep: npt.NDArray[np.int32],
    take: npt.NDArray[np.int32],
    value_after: IntArray,
    size_from: IntArray,
    best: npt.NDArray[np.int32],
    shift: int,
    worth_after: int,
    choice: npt.NDArray[np.int32],
    slack: IntArray,
) -> int:
    """Do the same where rooms are ranks; `size_from` are the sums of sizes from this and from the next item on."""
    now_all, later_all, spare = 0, 0, -worth_after
    for u in range(len(ranks)):
        now, later = value[ranks[u]], value_after[keep[ranks[u]]]
        # Fill-up rule: whatever of the later items fits this room is no more than this item. Swapped against them, it
        # may as well be here, in any solution.
        if now >= size >= later:
            choice[0] = u
            return 1
        now_all += now
        later_all += later
        spare += best[later >> shift]
    if now_all < size_from[0]:
        return 0
    count = 0
    for u in range(len(ranks)):
        rank = ranks[u]
        if take[rank] < 0:
            break
        if u > 0 and rank == ranks[u - 1]:
            continue
        later, taken = value_after[keep[rank]], value_after[take[rank]]
        left = spare - best[later >> shift] + best[taken >> shift]
        if left >= 0 and later_all - later + taken >= size_from[1]:
            _sort_in(choice, slack, count, u, left)
            count += 1
    return count


@njit(cache=True, nogil=True)
def _sink(rooms: IntArray, place: int, room: int) -> int:
    """Write `room` at `place` of the descending rooms and move it down to where it belongs; return where."""
    k = place
    while k < len(rooms) - 1 and rooms[k + 1] > room:
        rooms[k] = rooms[k + 1]
        k += 1
    rooms[k] = room
    return k


@njit(cache=True, nogil=True)
def _take(rooms: IntArray, place: int, size: int, below: IntArray) -> int:
    """Write the rooms that are left when an item has taken the one at `place`; return where that one is now."""
    for u in range(len(rooms)):
        below[u] = rooms[u]
    return _sink(below, place, rooms[place] - size)


@njit(cache=True, nogil=True)
def _take_listed(
    ranks: IntArray, place: int, keep: npt.NDArray[np.int32], take: npt.NDArray[np.int32], below: IntArray
) -> int:
    """Do the same where rooms are ranks."""
    for u in range(len(ranks)):
        below[u] = keep[ranks[u]]
    return _sink(below, place, take[ranks[place]])


@njit(cache=True, nogil=True)
def search(tree: Tree, dual: Dual, max_nodes: int) -> tuple[int, int]:
    """Go on with the search for at most `max_nodes` nodes.

    Returns
    -------
    status : CUT, FOUND (the stack holds the solution, see `write_solution`) or REFUTED (there is none)
    nodes : visited
    """
    # Arrays of a tuple are slow to get at: once here, not in the loops.
    size, size_from, room, choice = tree.size, tree.size_from, tree.room, tree.choice
    landed, choices, following, entered = tree.landed, tree.choices, tree.following, tree.entered
    known, known_level, factor = tree.known, tree.known_level, tree.factor
    reach, best, worth_from, shift = tree.reach, dual.best, dual.worth_from, dual.shift
    first, start, value, keep, take = reach.first, reach.start, reach.value, reach.keep, reach.take
    n, m, slots = len(size), room.shape[1], len(known_level)
    slack = np.empty(m, dtype=np.int64)
    i, visited = tree.level
    begun = visited
    while i >= 0:
        rooms = room[i]
        if following[i] < 0:  # a new node
            if visited - begun >= max_nodes or i == n:
                tree.level[:] = i, visited
                return (FOUND if i == n else CUT), visited - begun
            visited += 1
            entered[i] = visited
            following[i] = choices[i] = 0
            slot = _slot(rooms, i, factor, slots)
            if known_level[slot] == i and _same(known[slot], rooms):
                i -= 1
                continue
            if i < first:
                choices[i] = _choose(rooms, size[i], best[i + 1], shift, worth_from[i + 1], choice[i], slack)
            else:
                choices[i] = _choose_listed(
                    rooms,
                    size[i],
                    value[start[i] :],
                    keep[start[i] :],
                    take[start[i] :],
                    value[start[i + 1] :],
                    size_from[i:],
                    best[i + 1],
                    shift,
                    worth_from[i + 1],
                    choice[i],
                    slack,
                )
        if following[i] < choices[i]:
            place, below = choice[i, following[i]], room[i + 1]
            if i < first:
                landed[i] = _take(rooms, place, size[i], below)
                for u in range(m if i + 1 == first else 0):
                    below[u] = rank_of(reach, first, below[u])
            else:
                landed[i] = _take_listed(rooms, place, keep[start[i] :], take[start[i] :], below)
            following[i] += 1
            i += 1
            following[i] = -1
            continue
        if visited - entered[i] >= _WORTH_KNOWING:
            slot = _slot(rooms, i, factor, slots)
            known_level[slot] = i
            for u in range(m):
                known[slot, u] = rooms[u]
        i -= 1
    tree.level[:] = i, visited
    return REFUTED, visited - begun


@njit(cache=True, nogil=True)
def write_solution(tree: Tree, unit: IntArray) -> None:
    """Write the unit of each item, units counted as `restart` was given them, of the solution on the stack; O(n·m)."""
    m = tree.room.shape[1]
    holder = np.arange(m)
    for i in range(len(tree.size)):
        place = tree.choice[i, tree.following[i] - 1]
        u = holder[place]
        unit[i] = u
        for k in range(place, tree.landed[i]):
            holder[k] = holder[k + 1]
        holder[tree.landed[i]] = u
