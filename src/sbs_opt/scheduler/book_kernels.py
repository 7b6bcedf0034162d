"""Numba kernels of the load book: a FIFO of booked requests per unit, as linked lists in two arrays.

`slots[s]` holds one request, `units[u]` the sums of one unit; the columns are named below. `booked` lengths are the
prompt less the prefix hit that the scheduler expects; a finished or withdrawn slot leaves its list.
"""

from __future__ import annotations

from numba import njit

from sbs_opt.models.checks import IntArray

# Columns of `slots`.
NEXT, PROMPT, HIT, DONE, REMAINING, SENT, UNIT, MISSED = range(8)
SLOT_COLUMNS = 8
# Columns of `units`. QUEUED excludes, INFLIGHT holds what the running pass is believed to run.
HEAD, TAIL, QUEUED, INFLIGHT, REQUESTS, KV, PAIRS, CONTEXT = range(8)
UNIT_COLUMNS = 8


@njit(cache=True, nogil=True)
def push(slots: IntArray, units: IntArray, slot: int, unit: int, prompt: int, hit: int, sent_ns: int) -> None:
    """Append a request to the queue of a unit."""
    row = slots[slot]
    row[NEXT] = -1
    row[PROMPT] = prompt
    row[HIT] = hit
    row[DONE] = hit
    row[REMAINING] = prompt - hit
    row[SENT] = sent_ns
    row[UNIT] = unit
    row[MISSED] = 0
    sums = units[unit]
    if sums[TAIL] >= 0:
        slots[sums[TAIL], NEXT] = slot
    else:
        sums[HEAD] = slot
    sums[TAIL] = slot
    sums[QUEUED] += prompt - hit
    sums[REQUESTS] += 1
    sums[KV] += prompt


@njit(cache=True, nogil=True)
def push_many(
    slots: IntArray, units: IntArray, slot: IntArray, unit: IntArray, prompt: IntArray, hit: IntArray, sent_ns: int
) -> None:
    """Append requests in order."""
    for k in range(len(slot)):
        push(slots, units, slot[k], unit[k], prompt[k], hit[k], sent_ns)


@njit(cache=True, nogil=True)
def remove(slots: IntArray, units: IntArray, slot: int) -> None:
    """Take a request out of its unit's queue, wherever it stands; O(queue), O(1) at the head."""
    row = slots[slot]
    sums = units[row[UNIT]]
    before, at = -1, sums[HEAD]
    while at >= 0 and at != slot:
        before, at = at, slots[at, NEXT]
    if at < 0:
        return
    if before >= 0:
        slots[before, NEXT] = row[NEXT]
    else:
        sums[HEAD] = row[NEXT]
    if sums[TAIL] == slot:
        sums[TAIL] = before
    sums[QUEUED] -= row[REMAINING]
    sums[REQUESTS] -= 1
    sums[KV] -= row[PROMPT]


@njit(cache=True, nogil=True)
def remove_many(slots: IntArray, units: IntArray, slot: IntArray) -> None:
    """Take requests out of their queues."""
    for k in range(len(slot)):
        remove(slots, units, slot[k])


@njit(cache=True, nogil=True)
def launch(slots: IntArray, units: IntArray, first: int, count: int, budget: int, sent_limit_ns: int) -> int:
    """Run each unit's queue from the head up to the budget, as the engine is believed to do; return the tokens.

    Requests sent after `sent_limit_ns` had not reached the engine. Sums of the pass go to INFLIGHT, PAIRS, CONTEXT.
    """
    total = 0
    for u in range(first, first + count):
        sums = units[u]
        sums[INFLIGHT] = 0
        sums[PAIRS] = 0
        sums[CONTEXT] = 0
        room = budget
        at = sums[HEAD]
        while at >= 0 and room > 0:
            row = slots[at]
            if row[SENT] > sent_limit_ns:
                break
            take = min(row[REMAINING], room)
            if take > 0:
                sums[PAIRS] += take * row[DONE] + take * (take + 1) // 2
                sums[CONTEXT] += row[DONE] + take
                row[DONE] += take
                row[REMAINING] -= take
                room -= take
            at = row[NEXT]
        sums[INFLIGHT] = budget - room
        sums[QUEUED] -= budget - room
        total += budget - room
    return total


@njit(cache=True, nogil=True)
def preview(
    slots: IntArray,
    units: IntArray,
    first: int,
    count: int,
    budget: int,
    pairs: IntArray,
    new: IntArray,
    context: IntArray,
) -> None:
    """Fill int64[count] sums of what the next pass would run of the queues, without changing anything."""
    for k in range(count):
        pairs[k] = 0
        new[k] = 0
        context[k] = 0
        room = budget
        at = units[first + k, HEAD]
        while at >= 0 and room > 0:
            row = slots[at]
            take = min(row[REMAINING], room)
            if take > 0:
                pairs[k] += take * row[DONE] + take * (take + 1) // 2
                new[k] += take
                context[k] += row[DONE] + take
                room -= take
            at = row[NEXT]


@njit(cache=True, nogil=True)
def pieces(slots: IntArray, units: IntArray, first: int, count: int, budget: int, out: IntArray, kv: IntArray) -> int:
    """List what is queued: out[k] = (unit, new, cached) of the part of a request that the next pass would run.

    kv[u] receives the prompts of the queued requests. Returns the number of rows, −1 when `out` is too small.
    """
    rows = 0
    for k in range(count):
        kv[k] = 0
        room = budget
        at = units[first + k, HEAD]
        while at >= 0:
            row = slots[at]
            if row[REMAINING] > 0:
                kv[k] += row[PROMPT]
                take = min(row[REMAINING], room)
                if take > 0:
                    if rows == len(out):
                        return -1
                    out[rows, 0] = k
                    out[rows, 1] = take
                    out[rows, 2] = row[DONE]
                    rows += 1
                    room -= take
            at = row[NEXT]
    return rows


@njit(cache=True, nogil=True)
def has_work(slots: IntArray, units: IntArray, first: int, count: int, as_of_ns: int) -> bool:
    """Tell whether `launch` at `as_of_ns` would run any token."""
    for u in range(first, first + count):
        at = units[u, HEAD]
        while at >= 0 and slots[at, SENT] <= as_of_ns:
            if slots[at, REMAINING] > 0:
                return True
            at = slots[at, NEXT]
    return False


@njit(cache=True, nogil=True)
def next_arrival(slots: IntArray, units: IntArray, first: int, count: int, from_ns: int) -> int:
    """Return when the first of the requests that reach the engine at `from_ns` or later does so; −1 when none does."""
    earliest = -1
    for u in range(first, first + count):
        at = units[u, HEAD]
        while at >= 0:
            sent_ns = slots[at, SENT]
            if sent_ns >= from_ns and (earliest < 0 or sent_ns < earliest):
                earliest = sent_ns
            at = slots[at, NEXT]
    return earliest


@njit(cache=True, nogil=True)
def reconcile(
    slots: IntArray, units: IntArray, first: int, queued: IntArray, as_of_ns: int, ended: bool, stale: IntArray
) -> tuple[int, int]:
    """Set the queues to what the engine reported to be queued at `as_of_ns`.

    The report counts the rest of a started prompt and the whole of an unstarted one, and the engine works in order: so
    the prompts that it was sent, less the report, are done from the head on. What reached the engine at `as_of_ns` or
    later is not in the report. A request that two ends of passes show to be done though its first token was never
    heard of is listed in `stale`, as far as there is room. Returns the requests that the engine still had, and the
    length of the list.
    """
    present = 0
    found = 0
    for k in range(len(queued)):
        sums = units[first + k]
        done = -max(queued[k], 0)
        at = sums[HEAD]
        while at >= 0 and slots[at, SENT] < as_of_ns:
            done += slots[at, PROMPT]
            at = slots[at, NEXT]
        at = sums[HEAD]
        while at >= 0 and slots[at, SENT] < as_of_ns:
            row = slots[at]
            if done > 0:
                rest = row[PROMPT] - min(done, row[PROMPT])
                done -= row[PROMPT] - rest
            else:
                rest = row[PROMPT] - row[HIT]
            sums[QUEUED] += rest - row[REMAINING]
            row[DONE] = row[PROMPT] - rest
            row[REMAINING] = rest
            if rest > 0 or row[PROMPT] == 0:
                present += 1
                row[MISSED] = 0
            elif ended:
                row[MISSED] += 1
                if row[MISSED] > 1 and found < len(stale):
                    stale[found] = at
                    found += 1
            at = row[NEXT]
    return present, found
