"""Numba kernels of the simulated decode engine.

`work[r]` holds one request, `units[u]` one unit, `running[u, :COUNT]` the sequences of a unit, oldest first.
"""

from __future__ import annotations

from numba import njit

from sbs_opt.models.checks import IntArray

# Columns of `work`. CONTEXT is the sequence's KV: prompt + generated so far.
NEXT, CONTEXT, REMAINING = range(3)
WORK_COLUMNS = 3
# Columns of `units`. KV sums the contexts of the running sequences, QUEUED those of the waiting ones.
HEAD, TAIL, COUNT, KV, QUEUED = range(5)
UNIT_COLUMNS = 5


@njit(cache=True, nogil=True)
def push(work: IntArray, units: IntArray, request: IntArray, unit: IntArray) -> None:
    """Append requests to the queues of their units, in order."""
    for k in range(len(request)):
        r, u = request[k], unit[k]
        work[r, NEXT] = -1
        if units[u, TAIL] >= 0:
            work[units[u, TAIL], NEXT] = r
        else:
            units[u, HEAD] = r
        units[u, TAIL] = r
        units[u, QUEUED] += work[r, CONTEXT]


@njit(cache=True, nogil=True)
def end_step(work: IntArray, units: IntArray, running: IntArray, first: int, count: int, finished: IntArray) -> int:
    """Every running sequence of the instance gains a token; return how many finish, listed in `finished`."""
    done = 0
    for u in range(first, first + count):
        kept = 0
        for k in range(units[u, COUNT]):
            r = running[u, k]
            work[r, CONTEXT] += 1
            work[r, REMAINING] -= 1
            units[u, KV] += 1
            if work[r, REMAINING] == 0:
                units[u, KV] -= work[r, CONTEXT]
                finished[done] = r
                done += 1
            else:
                running[u, kept] = r
                kept += 1
        units[u, COUNT] = kept
    return done


@njit(cache=True, nogil=True)
def admit(
    work: IntArray, units: IntArray, running: IntArray, first: int, count: int, slots: int, kv_tokens: int, reserve: int
) -> tuple[int, int]:
    """Admit from each queue's head while slot and KV are there, then preempt the youngest where KV would overflow.

    A sequence is admitted when its context and `reserve` tokens for each running sequence fit, or on an empty unit. A
    preempted one goes to its own queue's head. Returns the sequences that run the next step, and the preemptions.
    """
    total = 0
    preempted = 0
    for u in range(first, first + count):
        row = units[u]
        while row[HEAD] >= 0 and row[COUNT] < slots:
            r = row[HEAD]
            if row[COUNT] > 0 and row[KV] + work[r, CONTEXT] + reserve * (row[COUNT] + 1) > kv_tokens:
                break
            row[HEAD] = work[r, NEXT]
            if row[HEAD] < 0:
                row[TAIL] = -1
            running[u, row[COUNT]] = r
            row[COUNT] += 1
            row[KV] += work[r, CONTEXT]
            row[QUEUED] -= work[r, CONTEXT]
        while row[COUNT] > 1 and row[KV] + row[COUNT] > kv_tokens:
            row[COUNT] -= 1
            r = running[u, row[COUNT]]
            row[KV] -= work[r, CONTEXT]
            row[QUEUED] += work[r, CONTEXT]
            work[r, NEXT] = row[HEAD]
            row[HEAD] = r
            if row[TAIL] < 0:
                row[TAIL] = r
            preempted += 1
        total += row[COUNT]
    return total, preempted
