"""Messages on their way over the links, compiled. Times are float64 cycles; a *place* is a core's number on its line.

Links are numbered ``direction * cores + core``: the link that leaves ``core`` eastwards, westwards, southwards or
northwards (0 to 3, as in the ledger). A link carries a word every ``wire / words`` cycles: a message occupies it for
``wire`` cycles from the moment its head enters, and the next one waits; one that is through before the last one has
entered does not. Colours have queues of their own, so a message that waits at a receiver holds no link.

``links`` is the triple ``(state, fabric, path)`` of `meshkernels.fabric.links.Links`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from meshkernels.fabric.kernels import ASYNC
from meshkernels.kernels.compiled import compiled

#: Rows of the state of the links: from when the last message occupies it, until when; cycles from router to router;
#: where the links of the fabric begin and end that it is laid over (none: itself); bytes, messages, cycles taken.
SINCE, BUSY, LATENCY, FIRST, STOP, BYTES, MESSAGES, TAKEN = range(8)
#: Columns of an arm: source, end, the arm whose delivery sets it off (-1: none), whether it begins a message.
SOURCE, END, AFTER, BEGINS = range(4)
#: Columns of a message in a list: its core, and stride, first link and hops of the leg that it is on; those of the leg
#: after the bend; place on its line, source, row of the table of sources, move, sign of its direction; the core that
#: sends it, the message behind it in its slot of the wheel.
CORE, STRIDE, LINK, HOPS, NEXT_STRIDE, NEXT_LINK, NEXT_HOPS, PLACE, FROM, NAMED, MOVE, SIGN, SENDER, BEHIND = range(14)
#: A message in a list is a line of the cache.
COLUMNS = 16
#: Columns of its times: when its head is at its next router (of a message that is set off by the one before it: -1
#: until then), when it entered its first link (-1: not yet), how long it stood before receivers.
HEAD, ENTERED, STALL = range(3)


#: Parts of the kernels, called for every hop: without counting references to the arrays that they are given, which
#: takes longer than the rest.
part: Any = njit(**{"_nrt": False, "forceinline": True})  # type: ignore[call-overload]


@part
def cross(state, fabric, path, link, t, wire, size):
    """A head is at a link at ``t``: when it enters, and when it is at the next router."""
    state[BYTES, link] += size
    state[MESSAGES, link] += 1
    state[TAKEN, link] += wire
    if len(path) == 0:
        if t + wire > state[SINCE, link]:
            t = max(t, state[BUSY, link])
            state[SINCE, link], state[BUSY, link] = t, t + wire
        return t, t + state[LATENCY, link]
    entered, first = t, int(state[FIRST, link])
    for i in range(first, int(state[STOP, link])):  # several links of the fabric
        at = int(path[i, 0])
        if t + wire > fabric[SINCE, at]:
            t = max(t, fabric[BUSY, at])
            fabric[SINCE, at], fabric[BUSY, at] = t, t + wire
        if i == first:
            entered = t
        t += path[i, 1]
    return entered, t


@part
def direction(axis, rows, cols, source, end):
    """Of an arm: sign of its direction, cores from one to the next, number of the link of core 0."""
    cores = rows * cols
    if axis == 0:
        return (1, cols, 2 * cores) if end > source else (-1, -cols, 3 * cores)
    return (1, 1, 0) if end > source else (-1, -1, cores)


@compiled
def play(axis, rows, cols, pattern, arms, counts, named, multicast, wire, size, ramp, setup, stage,
         mode, cursor, ready, read, free, arrive, depart, heads, links):  # fmt: skip
    """Play one move along the lines of an axis whose messages do not compete for links.

    Args:
        axis: 0: lines are columns of cores, 1: rows.
        rows: rows of cores.
        cols: columns of cores.
        pattern: ``(lines,)`` row of the tables for each line.
        arms: ``(patterns, n, 4)``, columns as above.
        counts: ``(patterns,)`` arms of each pattern.
        named: ``(patterns, size)`` the source that each place names.
        multicast: whether a message is delivered on its way to the places that name its source, too.
        wire: cycles that a message occupies a link for.
        size: bytes of a message.
        ramp: cycles between a router and its core.
        setup: cycles to start a send.
        stage: cycles of software that hands a message on.
        mode: ``(cores,)`` `IDLE`, `SERIAL` or `ASYNC`.
        cursor: ``(cores,)`` see `meshkernels.fabric.kernels`, moved on.
        ready: ``(cores,)`` of the buffer that is sent.
        read: ``(cores,)`` of the same, moved on.
        free: ``(cores,)`` from when the buffer that is written may be overwritten.
        arrive: ``(cores,)`` when the message is complete, written.
        depart: ``(cores,)`` scratch: when each core's messages leave.
        heads: ``(lines, n)`` scratch, for arms that wait for others; ``(lines, 0)`` where none does.
        links: state of the links, moved on.
    """
    state, fabric, path = links
    lines = cols if axis == 0 else rows
    most, waits = arms.shape[1], heads.shape[1] > 0
    for outer in range(most if axis == 0 else lines):  # neighbours in memory one after the other
        for inner in range(lines if axis == 0 else most):
            line, j = (inner, outer) if axis == 0 else (outer, inner)
            p = pattern[line]
            if j >= counts[p]:
                continue
            source, end, after = arms[p, j, SOURCE], arms[p, j, END], arms[p, j, AFTER]
            sender = line + source * cols if axis == 0 else line * cols + source
            if after >= 0:  # software hands on what it has received
                t = heads[line, after] + stage
            else:
                if arms[p, j, BEGINS]:
                    depart[sender] = max(cursor[sender], ready[sender]) + (setup if mode[sender] != ASYNC else 0.0)
                t = depart[sender] + ramp
            place, c, entered, stall = source, sender, -1.0, 0.0
            sign, stride, base = direction(axis, rows, cols, source, end)
            while place != end:
                at, t = cross(state, fabric, path, base + c, t, wire, size)
                if entered < 0:
                    entered = at
                c += stride
                place += sign
                if place == end or (multicast and named[p, place] == source):
                    arrival = max(t + ramp, free[c])
                    stall += arrival - (t + ramp)
                    t = arrival - ramp
                    arrive[c] = max(arrive[c], arrival + wire)
            if waits:
                heads[line, j] = t
            left = entered + wire + stall - ramp
            read[sender] = max(read[sender], left)
            if mode[sender] != ASYNC:
                cursor[sender] = max(cursor[sender], left)


@compiled
def reduce(axis, rows, cols, pattern, arms, counts, wire, size, ramp, setup, arithmetic, stage, cursor, ready, read,
           free, arrive, heads, cause, move, links):  # fmt: skip
    """Play a `Reduce`: streams from both sides into each root, every core adding its own to what passes.

    A core that adds and passes on is busy until its last word has left. The root takes its streams one after the other,
    each by a vector instruction with a set-up of its own.
    """
    state, fabric, path = links
    for line in range(cols if axis == 0 else rows):
        p = pattern[line]
        for j in range(counts[p]):
            place, end, after = arms[p, j, SOURCE], arms[p, j, END], arms[p, j, AFTER]
            sender = line + place * cols if axis == 0 else line * cols + place
            t = max(cursor[sender], ready[sender]) + setup + ramp
            if after >= 0 and heads[line, after] + stage > t:
                t = heads[line, after] + stage
                cause[sender] = move
            c, entered = sender, -1.0
            sign, stride, base = direction(axis, rows, cols, place, end)
            while place != end:
                at, t = cross(state, fabric, path, base + c, t, wire, size)
                if entered < 0:
                    entered = at
                c += stride
                place += sign
            heads[line, j] = t
            left = entered + wire - ramp
            cursor[sender] = max(cursor[sender], left)
            read[sender] = max(read[sender], left)
            if j + 1 == counts[p] or arms[p, j + 1, AFTER] != j:  # c is the root
                own = max(cursor[c], ready[c], free[c])
                taken = max(t + ramp, own) + arithmetic
                if t + ramp > own:
                    cause[c] = move
                cursor[c] = taken + wire
                read[c] = max(read[c], cursor[c])
                arrive[c] = cursor[c]


@compiled
def list_arms(axis, rows, cols, pattern, arms, counts, move, offset, wire, mode, setup, ramp, cursor, ready, depart,
              times, fields, n):  # fmt: skip
    """Append the messages of one move to the list of a contended step.

    Arguments are those of `play` but for ``move``, the number of the move; ``offset``, the first row of its patterns in
    ``named`` of `contend`; ``times (n, 3)`` and ``fields (n, 16)``, columns as above, written; and ``n``, the length of
    the list before.

    Returns:
        The length of the list.
    """
    for line in range(cols if axis == 0 else rows):
        p = pattern[line]
        for j in range(counts[p]):
            source, end = arms[p, j, SOURCE], arms[p, j, END]
            c = line + source * cols if axis == 0 else line * cols + source
            sign, stride, base = direction(axis, rows, cols, source, end)
            times[n, ENTERED], times[n, STALL] = -1.0, 0.0
            if arms[p, j, AFTER] >= 0:
                times[n, HEAD] = -1.0
            else:
                if arms[p, j, BEGINS]:
                    depart[c] = max(cursor[c], ready[c])
                    if mode[c] != ASYNC:
                        depart[c] += setup
                        cursor[c] = depart[c] + wire
                times[n, HEAD] = depart[c] + ramp
            fields[n, CORE], fields[n, STRIDE], fields[n, LINK], fields[n, HOPS] = c, stride, base, abs(end - source)
            fields[n, NEXT_STRIDE], fields[n, NEXT_LINK], fields[n, NEXT_HOPS] = 0, 0, 0
            fields[n, PLACE], fields[n, FROM], fields[n, NAMED] = source, source, offset + p
            fields[n, MOVE], fields[n, SIGN], fields[n, SENDER] = move, sign, c
            n += 1
    return n


@compiled
def list_bent(more, wire, mode, setup, ramp, cursor, ready, times, fields, n):
    """Append messages with at most one bend, as `list_arms` does."""
    for i in range(len(more)):
        c = more[i, CORE]
        t = max(cursor[c], ready[c])
        if mode[c] != ASYNC:
            t += setup
            cursor[c] = t + wire
        times[n, HEAD], times[n, ENTERED], times[n, STALL] = t + ramp, -1.0, 0.0
        fields[n] = more[i]
        n += 1
    return n


@part
def hang(a, t, width, wheel, times, fields):
    """Hang message ``a``, whose head is at a router at ``t``, in the slot of the wheel that ``t`` belongs to."""
    slot = int(t / width) % len(wheel)
    times[a, HEAD], fields[a, BEHIND], wheel[slot] = t, wheel[slot], a


@compiled
def sort(now, times):
    """Sort messages by their time, those of one time by their number."""
    if len(now) > 24:
        now.sort()
        now[:] = now[np.argsort(times[now, HEAD], kind="mergesort")]
        return
    for i in range(1, len(now)):
        a, at = now[i], i
        t = times[a, HEAD]
        while at > 0 and (times[now[at - 1], HEAD] > t or (times[now[at - 1], HEAD] == t and now[at - 1] > a)):
            now[at] = now[at - 1]
            at -= 1
        now[at] = a


@compiled
def contend(times, fields, order, named, multicast, wire, size, ramp, turn, stage, least, sources, targets, versions,
            mode, cursor, read, free, arrive, links):  # fmt: skip
    """Play a list of messages hop by hop in the order of time, then of the list: who is first at a link goes first.

    What comes next is kept in a wheel of slots of time (a calendar queue: R. Brown, CACM 31, 1988). A slot is at most
    half as wide as a hop takes, so that a message that goes on never comes back into the slot that is played: it is
    sorted once.

    Args:
        times: ``(n, 3)`` from `list_arms`; consumed.
        fields: ``(n, 16)`` from `list_arms`; consumed.
        order: messages that start by themselves, by time.
        named: ``(patterns, size)`` the source that each place names, of all moves.
        multicast: ``(moves,)`` whether messages are delivered on their way.
        wire: ``(moves,)`` cycles that a message occupies a link for.
        size: ``(moves,)`` bytes of a message.
        ramp: cycles between a router and its core.
        turn: cycles of a bend in a router.
        stage: cycles of software that hands a message on.
        least: cycles that a hop takes at least.
        sources: ``(moves,)`` buffers that are sent.
        targets: ``(moves,)`` buffers that are written.
        versions: ``(buffers,)`` whether a buffer keeps two versions.
        mode: ``(cores,)`` `IDLE`, `SERIAL` or `ASYNC`.
        cursor: ``(cores,)`` moved on.
        read: ``(buffers, cores)`` moved on.
        free: ``(buffers, cores)``.
        arrive: ``(moves, cores)`` when a message is complete, written.
        links: state of the links, moved on.
    """
    state, fabric, path = links
    n, left = len(times), len(order)
    width = least / min(max(n // 512, 2), 16)
    wheel, now = np.full(1 << 12, -1, np.int32), np.empty(n, np.int32)
    begun, hanging, slot = 0, 0, 0
    while left > 0:
        if hanging == 0:  # nothing is on its way: on to the next that starts
            slot = max(slot, int(times[order[begun], HEAD] / width))
        while begun < len(order) and int(times[order[begun], HEAD] / width) <= slot:
            hang(order[begun], times[order[begun], HEAD], width, wheel, times, fields)
            begun, hanging = begun + 1, hanging + 1
        count, a = 0, wheel[slot % len(wheel)]
        wheel[slot % len(wheel)] = -1
        while a >= 0:
            behind = fields[a, BEHIND]
            if int(times[a, HEAD] / width) > slot:  # a later turn of the wheel
                hang(a, times[a, HEAD], width, wheel, times, fields)
            else:
                now[count] = a
                count += 1
            a = behind
        if count > 1:
            sort(now[:count], times)
        for i in range(count):
            a = now[i]
            t, m = times[a, HEAD], fields[a, MOVE]
            if fields[a, HOPS] == 0:  # bends
                fields[a, STRIDE], fields[a, LINK] = fields[a, NEXT_STRIDE], fields[a, NEXT_LINK]
                fields[a, HOPS], fields[a, NEXT_HOPS] = fields[a, NEXT_HOPS], 0
                t += turn
            at, t = cross(state, fabric, path, fields[a, LINK] + fields[a, CORE], t, wire[m], size[m])
            if times[a, ENTERED] < 0:
                times[a, ENTERED] = at
            c = fields[a, CORE] + fields[a, STRIDE]
            fields[a, CORE] = c
            fields[a, HOPS] -= 1
            fields[a, PLACE] += fields[a, SIGN]
            over = fields[a, HOPS] == 0 and fields[a, NEXT_HOPS] == 0
            if over or (multicast[m] and named[fields[a, NAMED], fields[a, PLACE]] == fields[a, FROM]):
                b = targets[m]
                arrival = max(t + ramp, free[b, c] if versions[b] else read[b, c])
                times[a, STALL] += arrival - (t + ramp)
                t = arrival - ramp
                arrive[m, c] = max(arrive[m, c], arrival + wire[m])
            if over:
                gone, sender, b = times[a, ENTERED] + wire[m] + times[a, STALL] - ramp, fields[a, SENDER], sources[m]
                read[b, sender] = max(read[b, sender], gone)
                if mode[sender] != ASYNC:
                    cursor[sender] = max(cursor[sender], gone)
                a += 1
                if a == n or times[a, HEAD] != -1.0 or fields[a, MOVE] != m:
                    left, hanging = left - 1, hanging - 1
                    continue
                t += stage  # software hands it on
            hang(a, t, width, wheel, times, fields)
        slot += 1
