"""Numba kernels of the simulated prefill engine.

`work[r]` holds one request, `units[u]` one unit; columns are named below. Queues are linked lists through NEXT.
"""

from __future__ import annotations

from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.scheduler.prefix_kernels import leading_run, touch

# Columns of `work`.
NEXT, PROMPT, HIT, DONE, STARTED, UNIT = range(6)
WORK_COLUMNS = 6
# Columns of `units`. QUEUED counts the rest of a started prompt and the whole of an unstarted one.
HEAD, TAIL, QUEUED = range(3)
UNIT_COLUMNS = 3


@njit(cache=True, nogil=True)
def push(work: IntArray, units: IntArray, request: IntArray, unit: IntArray) -> None:
    """Append requests to the queues of their units, in order."""
    for k in range(len(request)):
        r, u = request[k], unit[k]
        work[r, NEXT] = -1
        work[r, UNIT] = u
        if units[u, TAIL] >= 0:
            work[units[u, TAIL], NEXT] = r
        else:
            units[u, HEAD] = r
        units[u, TAIL] = r
        units[u, QUEUED] += work[r, PROMPT]


@njit(cache=True, nogil=True)
def launch(
    work: IntArray,
    units: IntArray,
    first: int,
    count: int,
    budget: int,
    kv_tokens: int,
    block_tokens: int,
    block_offset: IntArray,
    block_id: IntArray,
    table: IntArray,
    nodes: IntArray,
    lists: IntArray,
    capacity: int,
    sums: IntArray,
    finishing: IntArray,
) -> int:
    """Run each unit's queue from its head up to the budget; return how many requests finish in this pass.

    sums[0..2, k] receive pairs, new tokens and context of unit first + k; finishing[:return] the requests that finish,
    unit by unit. A request looks its prefix up when it starts. It starts only where its prompt fits the KV beside those
    of the pass; the first of a pass always fits.
    """
    finished = 0
    for k in range(count):
        u = first + k
        sums[0, k] = 0
        sums[1, k] = 0
        sums[2, k] = 0
        room = budget
        kv = 0
        r = units[u, HEAD]
        while r >= 0 and room > 0:
            row = work[r]
            if kv > 0 and kv + row[PROMPT] > kv_tokens:
                break
            if row[STARTED] == 0:
                row[STARTED] = 1
                if block_tokens > 0:
                    start = block_offset[r]
                    usable = max(0, min((row[PROMPT] - 1) // block_tokens, block_offset[r + 1] - start))
                    run = leading_run(table, nodes, capacity, u, block_id[start : start + usable])
                    touch(table, nodes, lists, capacity, u, block_id[start : start + run])
                    row[HIT] = run * block_tokens
                    row[DONE] = row[HIT]
                    units[u, QUEUED] -= row[HIT]
            kv += row[PROMPT]
            take = min(row[PROMPT] - row[DONE], room)
            if take > 0:
                sums[0, k] += take * row[DONE] + take * (take + 1) // 2
                sums[1, k] += take
                sums[2, k] += row[DONE] + take
            row[DONE] += take
            room -= take
            units[u, QUEUED] -= take
            if row[DONE] < row[PROMPT]:
                break
            finishing[finished] = r
            finished += 1
            r = row[NEXT]
            units[u, HEAD] = r
            if r < 0:
                units[u, TAIL] = -1
    return finished


@njit(cache=True, nogil=True)
def remember(
    work: IntArray,
    finished: IntArray,
    block_tokens: int,
    block_offset: IntArray,
    block_id: IntArray,
    table: IntArray,
    nodes: IntArray,
    lists: IntArray,
    capacity: int,
) -> None:
    """Put the full blocks of finished prompts into the caches of their units."""
    for k in range(len(finished)):
        r = finished[k]
        start = block_offset[r]
        full = min(work[r, PROMPT] // block_tokens, block_offset[r + 1] - start)
        touch(table, nodes, lists, capacity, work[r, UNIT], block_id[start : start + full])
