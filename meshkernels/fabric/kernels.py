"""The compiled parts of the simulator. Times are float64 cycles; a *place* is a core's number on its line.

Links are numbered ``direction * cores + core``: the link that leaves ``core`` eastwards, westwards, southwards or
northwards (0 to 3, as in the ledger). A link carries a word every ``wire / words`` cycles: a message occupies it for
``wire`` cycles from the moment its head enters, and the next one waits. Colours have queues of their own, so a message
that waits at a receiver holds no link.

The state of the cores, one row per buffer ``b``:

=========== ========================================================================================
``ready``   when what the buffer holds was complete
``read``    until when it was last read, by a computation or by a message that leaves
``free``    from when the next arrival may be written: the earlier version is read no longer
``cursor``  until when the core's processor is taken in this step; of an asynchronous core when its messages leave
=========== ========================================================================================
"""

from __future__ import annotations

import numpy as np

from meshkernels.execute.compiled import compiled

#: What a core does in a step: nothing, one thing after the other, or everything at once.
IDLE, SERIAL, ASYNC = 0, 1, 2
#: Rows of an arm table: source, end, the arm whose delivery sets it off (-1: none), whether it begins a message.
SOURCE, END, AFTER, FIRST = 0, 1, 2, 3


@compiled
def count_parts(axis, cols, pattern, sends, receives, out_sends, out_receives):
    """Add the messages that each core sends and receives in one move: ``sends, receives: (patterns, size)``."""
    for c in range(len(out_sends)):
        line, place = (c % cols, c // cols) if axis == 0 else (c // cols, c % cols)
        out_sends[c] += sends[pattern[line], place]
        out_receives[c] += receives[pattern[line], place]


@compiled
def begin(computes, work, setup, startup, lead, overlap, moves_included, sends, receives, reads, writes, reduces,
          processor, ready, read, begins, cursor, mode, cause):  # fmt: skip
    """Every core begins its step: when its processor is free and what it computes with is there.

    An asynchronous core, one that does more than one of computing, sending and receiving, pays the start-up; it
    contains the set-up of ``moves_included`` messages. ``reads``: buffers that the computation reads, ``writes``: those
    that it writes.
    """
    for c in range(len(processor)):
        ns, nr = sends[c], receives[c]
        busy = computes + (ns > 0) + (nr > 0)
        t, why = processor[c], 0
        if busy or reduces[c]:
            if computes:
                for i in range(len(reads)):
                    if ready[reads[i], c] > t:
                        t, why = ready[reads[i], c], 1 + reads[i]
        cause[c] = why
        begins[c] = t
        if busy == 0:
            mode[c], cursor[c] = (SERIAL if reduces[c] else IDLE), t
            continue
        if overlap and busy > 1:
            mode[c] = ASYNC
            issued = t + startup + setup * max(0, ns + nr - moves_included)
            done = issued + work
            cursor[c] = issued - lead
        else:
            mode[c] = SERIAL
            done = t + work + (setup if computes else 0.0)
            cursor[c] = done
            issued = done
        processor[c] = done if computes else issued
        if computes:
            for i in range(len(reads)):
                read[reads[i], c] = max(read[reads[i], c], done)
            for i in range(len(writes)):
                ready[writes[i], c] = done


@compiled
def _cross(link, t, wire, size, busy, latency, detour, path, path_latency, link_bytes, link_messages):
    """A head reaches ``link`` at ``t``: when it enters, and when it is at the next router."""
    link_bytes[link] += size
    link_messages[link] += 1
    low, high = detour[link], detour[link + 1]
    if low == high:
        t = max(t, busy[link])
        busy[link] = t + wire
        return t, t + latency[link]
    entered = -1.0
    for i in range(low, high):  # a link between logical neighbours that are none: several links of the fabric
        t = max(t, busy[path[i]])
        busy[path[i]] = t + wire
        if entered < 0:
            entered = t
        t += path_latency[i]
    return entered, t


@compiled
def _arm(t, core, place, end, source, stride, up, down, multicast, named, wire, size, ramp, free, arrive, link_args):
    """A message runs along a line from a router at ``t``: its head at the last router, and when its tail has left."""
    sign, base = (1, up) if end > place else (-1, down)
    entered, stall = -1.0, 0.0
    while place != end:
        at, t = _cross(base + core, t, wire, size, *link_args)
        if entered < 0:
            entered = at
        core += sign * stride
        place += sign
        if place == end or (multicast and named[place] == source):
            arrival = max(t + ramp, free[core])
            wait = arrival - (t + ramp)
            t += wait
            stall += wait
            arrive[core] = max(arrive[core], arrival + wire)
    return t, entered + wire + stall


@compiled
def _leave(c, setup, mode, cursor, ready, depart):
    """A message is sent: when its head leaves the core."""
    t = max(cursor[c], ready[c])
    if mode[c] != ASYNC:
        t += setup
    depart[c] = t
    return t


@compiled
def _left(c, t, mode, cursor, read):
    """The tail of a message has left the core at ``t``."""
    read[c] = max(read[c], t)
    if mode[c] != ASYNC:
        cursor[c] = max(cursor[c], t)


@compiled
def play(axis, rows, cols, pattern, arms, counts, named, multicast, wire, size, ramp, setup, stage,
         mode, cursor, ready, read, free, arrive, depart, heads, link_args):  # fmt: skip
    """Play one move along the lines of an axis whose messages do not compete for links.

    Args:
        pattern: ``(lines,)`` row of the tables for each line.
        arms: ``(patterns, n, 4)``; counts: ``(patterns,)`` how many of them there are.
        named: ``(patterns, size)`` the source that each place names.
        heads: ``(lines, n)`` scratch, for arms that wait for others.
    """
    cores = rows * cols
    lines, stride = (cols, cols) if axis == 0 else (rows, 1)
    up, down = (2 * cores, 3 * cores) if axis == 0 else (0, cores)
    most, waits = arms.shape[1], heads.shape[1] > 0
    for outer in range(most if axis == 0 else lines):  # neighbours in memory one after the other
        for inner in range(lines if axis == 0 else most):
            line, j = (inner, outer) if axis == 0 else (outer, inner)
            p = pattern[line]
            if j >= counts[p]:
                continue
            source, end, after = arms[p, j, SOURCE], arms[p, j, END], arms[p, j, AFTER]
            c = line + source * cols if axis == 0 else line * cols + source
            if after >= 0:  # software hands on what it has received
                t = heads[line, after] + stage
            else:
                t = (_leave(c, setup, mode, cursor, ready, depart) if arms[p, j, FIRST] else depart[c]) + ramp
            head, left = _arm(t, c, source, end, source, stride, up, down, multicast, named[p], wire, size, ramp,
                              free, arrive, link_args)  # fmt: skip
            if waits:
                heads[line, j] = head
            _left(c, left - ramp, mode, cursor, read)


@compiled
def reduce(axis, rows, cols, pattern, arms, counts, wire, size, ramp, setup, stage, cursor, mode, ready, read,
           free, arrive, heads, cause, move, link_args):  # fmt: skip
    """Play a `Reduce`: streams from both sides into each root, every core adding its own to what passes.

    A core that adds is busy until its last word has left; the root takes its streams one after the other.
    """
    cores = rows * cols
    lines, stride = (cols, cols) if axis == 0 else (rows, 1)
    up, down = (2 * cores, 3 * cores) if axis == 0 else (0, cores)
    none = np.zeros(0, np.int32)
    never, nowhere = np.zeros(cores), np.zeros(cores)
    for line in range(lines):
        p = pattern[line]
        for j in range(counts[p]):
            source, end, after = arms[p, j, SOURCE], arms[p, j, END], arms[p, j, AFTER]
            c = line + source * cols if axis == 0 else line * cols + source
            own = max(cursor[c], ready[c]) + setup + ramp
            t = own
            if after >= 0 and heads[line, after] + stage > own:
                t = heads[line, after] + stage
                cause[c] = move
            head, left = _arm(t, c, source, end, source, stride, up, down, False, none, wire, size, ramp, never,
                              nowhere, link_args)  # fmt: skip
            heads[line, j] = head
            cursor[c] = max(cursor[c], left - ramp)
            read[c] = max(read[c], left - ramp)
            last = j + 1 == counts[p] or arms[p, j + 1, AFTER] != j
            if last:  # the root
                r = line + end * cols if axis == 0 else line * cols + end
                first = head + stage - ramp
                own = max(max(cursor[r], ready[r]) + setup, free[r])
                if first > own:
                    cause[r] = move
                cursor[r] = max(first, own) + wire
                read[r] = max(read[r], cursor[r])
                arrive[r] = max(arrive[r], cursor[r])


@compiled
def copies(axis, rows, cols, pattern, named, cost, setup, mode, cursor, ready, read, arrive):
    """Cores that name themselves as the source copy what they have."""
    for c in range(rows * cols):
        line, place = (c % cols, c // cols) if axis == 0 else (c // cols, c % cols)
        if named[pattern[line], place] == place:
            t = max(cursor[c], ready[c]) + setup + cost
            arrive[c] = max(arrive[c], t)
            read[c] = max(read[c], t)
            if mode[c] != ASYNC:
                cursor[c] = t


@compiled
def finish(targets, versions, costs, values, mode, arrive, begins, cursor, processor, ready, read, free, cause):
    """Every core takes what has arrived, move by move, and its step ends.

    Args:
        targets: ``(moves,)`` buffers; ``versions``: whether they keep two; ``costs``: of taking a message in,
            ``values``: whether a `Reduce` has taken it in already.
        arrive: ``(moves, cores)`` when a message was complete; -1: there was none.
    """
    for c in range(len(processor)):
        processor[c] = max(processor[c], cursor[c])
        for m in range(len(targets)):
            t, b = arrive[m, c], targets[m]
            if t < 0:
                continue
            if not values[m]:
                if mode[c] == ASYNC:
                    t += costs[m, 1]
                else:
                    if t > processor[c]:
                        cause[c] = m + 1 if m < 126 else 127
                    t = max(t, processor[c]) + costs[m, 0]
                    processor[c] = t
            ready[b, c] = max(ready[b, c], t)
            arrive[m, c] = -1.0
            if versions[b]:
                free[b, c] = read[b, c]


@compiled
def list_arms(axis, rows, cols, pattern, arms, counts, move, offset, wire, mode, setup, ramp, cursor, ready, depart,
              start, fields, n):  # fmt: skip
    """Append the messages of one move to the list of a contended step; returns the new length.

    ``fields: (n, 12)``: core, stride, link base, hops left; stride, base and hops of a second leg; place, source, row of
    ``named``, move, sign. ``start: (n,)`` when the head is at its first router, -1: set off by the arm before it.
    """
    cores = rows * cols
    lines, stride = (cols, cols) if axis == 0 else (rows, 1)
    up, down = (2 * cores, 3 * cores) if axis == 0 else (0, cores)
    for line in range(lines):
        p = pattern[line]
        for j in range(counts[p]):
            source, end = arms[p, j, SOURCE], arms[p, j, END]
            c = line + source * cols if axis == 0 else line * cols + source
            sign, base = (1, up) if end > source else (-1, down)
            if arms[p, j, AFTER] >= 0:
                start[n] = -1.0
            else:
                start[n] = (_leave(c, setup, mode, cursor, ready, depart) if arms[p, j, FIRST] else depart[c]) + ramp
                if mode[c] != ASYNC and arms[p, j, FIRST]:
                    cursor[c] = depart[c] + wire
            fields[n, 0], fields[n, 1], fields[n, 2], fields[n, 3] = c, sign * stride, base, abs(end - source)
            fields[n, 4], fields[n, 5], fields[n, 6] = 0, 0, 0
            fields[n, 7], fields[n, 8], fields[n, 9] = source, source, offset + p
            fields[n, 10], fields[n, 11] = move, sign
            n += 1
    return n


@compiled
def _sift(times, arms, at, n):
    """Restore the order of a heap whose entry ``at`` has grown."""
    t, a = times[at], arms[at]
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and (times[child + 1] < times[child]
                              or (times[child + 1] == times[child] and arms[child + 1] < arms[child])):  # fmt: skip
            child += 1
        if times[child] < t or (times[child] == t and arms[child] < a):
            times[at], arms[at] = times[child], arms[child]
            at = child
        else:
            break
    times[at], arms[at] = t, a


@compiled
def contend(start, fields, order, named, multicast, wire, size, ramp, turn, stage, sources, targets, versions, mode,
            cursor, read, free, arrive, link_args):  # fmt: skip
    """Play a list of messages hop by hop in the order of time: who is first at a link goes first.

    Args:
        order: arms that start by themselves, by time.
        multicast, wire, size, sources, targets: of each move.

    Returns:
        Events: heads at routers.
    """
    n = len(order)
    times, arms = np.empty(n), np.empty(n, np.int32)
    entered = np.full(len(start), -1.0)
    stall = np.zeros(len(start))
    origin = fields[:, 0].copy()
    for i in range(n):
        arms[i] = order[i]
        times[i] = start[order[i]]
    events = 0
    while n > 0:
        t, a = times[0], arms[0]
        events += 1
        f = fields[a]
        m = f[10]
        if f[3] == 0:  # bends
            f[1], f[2], f[3], f[6] = f[4], f[5], f[6], 0
            t += turn
        at, t = _cross(f[2] + f[0], t, wire[m], size[m], *link_args)
        if entered[a] < 0:
            entered[a] = at
        f[0] += f[1]
        f[3] -= 1
        f[7] += f[11]
        over = f[3] == 0 and f[6] == 0
        if over or (multicast[m] and named[f[9], f[7]] == f[8]):
            c, b = f[0], targets[m]
            arrival = max(t + ramp, free[b, c] if versions[b] else read[b, c])
            wait = arrival - (t + ramp)
            t += wait
            stall[a] += wait
            arrive[m, c] = max(arrive[m, c], arrival + wire[m])
        if over:
            _left(origin[a], entered[a] + wire[m] + stall[a] - ramp, mode, cursor, read[sources[m]])
            if a + 1 < len(start) and start[a + 1] == -1.0 and fields[a + 1, 10] == m:
                times[0], arms[0] = t + stage, a + 1
            else:
                n -= 1
                times[0], arms[0] = times[n], arms[n]
        else:
            times[0] = t
        if n > 0:
            _sift(times, arms, 0, n)
    return events


@compiled
def list_bent(more, wire, mode, setup, ramp, cursor, ready, depart, start, fields, n):
    """Append messages with at most one bend, as `list_arms` does."""
    for i in range(len(more)):
        c = more[i, 0]
        start[n] = _leave(c, setup, mode, cursor, ready, depart) + ramp
        if mode[c] != ASYNC:
            cursor[c] = depart[c] + wire
        fields[n] = more[i]
        n += 1
    return n


@compiled
def copy_own(own, cost, setup, mode, cursor, ready, read, arrive):
    """As `copies`, of the cores listed."""
    for c in own:
        t = max(cursor[c], ready[c]) + setup + cost
        arrive[c] = max(arrive[c], t)
        read[c] = max(read[c], t)
        if mode[c] != ASYNC:
            cursor[c] = t


@compiled
def take_part(axis, cols, pattern, sends, receives, out):
    """Mark the cores that send or receive in a `Reduce`."""
    for c in range(len(out)):
        line, place = (c % cols, c // cols) if axis == 0 else (c // cols, c % cols)
        if sends[pattern[line], place] + receives[pattern[line], place]:
            out[c] = True
