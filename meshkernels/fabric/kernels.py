"""The compiled parts of the simulator. Times are float64 cycles; a *place* is a core's number on its line.

Links are numbered ``direction * cores + core``: the link that leaves ``core`` eastwards, westwards, southwards or
northwards (0 to 3, as in the ledger). A link carries a word every ``wire / words`` cycles: a message occupies it for
``wire`` cycles from the moment its head enters, and the next one waits; one that is through before the last one has
entered (``since``) does not. Colours have queues of their own, so a message
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

from meshkernels.kernels.compiled import compiled

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
def begin(computes, work, setup, arithmetic, startup, launch, lead, overlap, moves_included, sends, receives, reads,
          sent, writes, reduces, launched, processor, ready, read, begins, cursor, mode, cause):  # fmt: skip
    """Every core begins its step: when its processor is free and what it computes with, and sends, is there.

    An asynchronous core, one that does more than one of computing, sending and receiving, pays the start-up, which
    contains the set-up of ``moves_included`` messages, and before its first such step the launch. ``reads``, ``sent``:
    buffers that the computation reads and that messages are sent from, ``writes``: those that the computation writes.
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
            if ns > 0:
                for i in range(len(sent)):
                    if ready[sent[i], c] > t:
                        t, why = ready[sent[i], c], 1 + sent[i]
        cause[c] = why
        begins[c] = t
        if busy == 0:
            mode[c], cursor[c] = (SERIAL if reduces[c] else IDLE), t
            continue
        if overlap and busy > 1:
            mode[c] = ASYNC
            if not launched[c]:
                launched[c] = True
                t += launch
            issued = t + startup + setup * max(0, ns + nr - moves_included)
            done = issued + work
            cursor[c] = issued - lead
        else:
            mode[c] = SERIAL
            done = t + work + (arithmetic if computes else 0.0)
            cursor[c] = done
            issued = done
        processor[c] = done if computes else issued
        if computes:
            for i in range(len(reads)):
                read[reads[i], c] = max(read[reads[i], c], done)
            for i in range(len(writes)):
                ready[writes[i], c] = done


@compiled
def play(axis, rows, cols, pattern, arms, counts, named, multicast, wire, size, ramp, setup, stage,
         mode, cursor, ready, read, free, arrive, depart, heads,
         since, busy, latency, detour, path, path_latency, link_bytes, link_messages, link_busy):  # fmt: skip
    """Play one move along the lines of an axis whose messages do not compete for links.

    Args:
        axis: 0: lines are columns of cores, 1: rows.
        rows: rows of cores.
        cols: columns of cores.
        pattern: ``(lines,)`` row of the tables for each line.
        arms: ``(patterns, n, 4)``: `SOURCE`, `END`, `AFTER`, `FIRST`.
        counts: ``(patterns,)`` arms of each pattern.
        named: ``(patterns, size)`` the source that each place names.
        multicast: whether a message is delivered on its way to the places that name its source, too.
        wire: cycles that a message occupies a link for.
        size: bytes of a message.
        ramp: cycles between a router and its core.
        setup: cycles to start a send.
        stage: cycles of software that hands a message on.
        mode: ``(cores,)`` `IDLE`, `SERIAL` or `ASYNC`.
        cursor: ``(cores,)`` see above, moved on.
        ready: ``(cores,)`` of the buffer that is sent.
        read: ``(cores,)`` of the same, moved on.
        free: ``(cores,)`` from when the buffer that is written may be overwritten.
        arrive: ``(cores,)`` when the message is complete, written.
        depart: ``(cores,)`` scratch: when each core's messages leave.
        heads: ``(lines, n)`` scratch, for arms that wait for others; ``(lines, 0)`` where none does.
        since: ``(links,)`` from when the last message occupies each link.
        busy: ``(links,)`` until when.
        latency: ``(4 * cores,)`` cycles from router to router.
        detour: ``(4 * cores + 1,)`` link ``l`` of the mesh is ``path[detour[l] : detour[l + 1]]`` of the fabric; none:
            itself.
        path: links of the fabric.
        path_latency: cycles over each of them.
        link_bytes: ``(4 * cores,)`` bytes so far, added to.
        link_messages: messages so far, added to.
        link_busy: cycles taken so far, added to.
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
            place, end, after = arms[p, j, SOURCE], arms[p, j, END], arms[p, j, AFTER]
            sender = line + place * cols if axis == 0 else line * cols + place
            if after >= 0:  # software hands on what it has received
                t = heads[line, after] + stage
            else:
                if arms[p, j, FIRST]:
                    depart[sender] = max(cursor[sender], ready[sender]) + (setup if mode[sender] != ASYNC else 0.0)
                t = depart[sender] + ramp
            source, c, entered, stall = place, sender, -1.0, 0.0
            sign, base = (1, up) if end > place else (-1, down)
            while place != end:
                link = base + c
                link_bytes[link] += size
                link_messages[link] += 1
                link_busy[link] += wire
                if detour[link] == detour[link + 1]:
                    if t + wire > since[link]:
                        t = max(t, busy[link])
                        since[link], busy[link] = t, t + wire
                    if entered < 0:
                        entered = t
                    t += latency[link]
                for i in range(detour[link], detour[link + 1]):  # several links of the fabric
                    if t + wire > since[path[i]]:
                        t = max(t, busy[path[i]])
                        since[path[i]], busy[path[i]] = t, t + wire
                    if entered < 0:
                        entered = t
                    t += path_latency[i]
                c += sign * stride
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
           free, arrive, heads, cause, move,
           since, busy, latency, detour, path, path_latency, link_bytes, link_messages, link_busy):  # fmt: skip
    """Play a `Reduce`: streams from both sides into each root, every core adding its own to what passes.

    A core that adds and passes on is busy until its last word has left. The root takes its streams one after the other,
    each by a vector instruction with a set-up of its own.
    """
    cores = rows * cols
    lines, stride = (cols, cols) if axis == 0 else (rows, 1)
    up, down = (2 * cores, 3 * cores) if axis == 0 else (0, cores)
    for line in range(lines):
        p = pattern[line]
        for j in range(counts[p]):
            place, end, after = arms[p, j, SOURCE], arms[p, j, END], arms[p, j, AFTER]
            sender = line + place * cols if axis == 0 else line * cols + place
            t = max(cursor[sender], ready[sender]) + setup + ramp
            if after >= 0 and heads[line, after] + stage > t:
                t = heads[line, after] + stage
                cause[sender] = move
            c, entered = sender, -1.0
            sign, base = (1, up) if end > place else (-1, down)
            while place != end:
                link = base + c
                link_bytes[link] += size
                link_messages[link] += 1
                link_busy[link] += wire
                if detour[link] == detour[link + 1]:
                    if t + wire > since[link]:
                        t = max(t, busy[link])
                        since[link], busy[link] = t, t + wire
                    if entered < 0:
                        entered = t
                    t += latency[link]
                for i in range(detour[link], detour[link + 1]):
                    if t + wire > since[path[i]]:
                        t = max(t, busy[path[i]])
                        since[path[i]], busy[path[i]] = t, t + wire
                    if entered < 0:
                        entered = t
                    t += path_latency[i]
                c += sign * stride
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
def copies(axis, rows, cols, pattern, named, cost, mode, cursor, ready, read, arrive):
    """Cores that name themselves as the source copy what they have, before they send: it is local work.

    What is noted in ``arrive`` is ``-2`` less the time, so that `finish` charges nothing for it.
    """
    for c in range(rows * cols):
        line, place = (c % cols, c // cols) if axis == 0 else (c // cols, c % cols)
        if named[pattern[line], place] == place:
            t = max(cursor[c], ready[c]) + cost
            arrive[c] = -2.0 - t
            read[c] = max(read[c], t)
            if mode[c] != ASYNC:
                cursor[c] = t


@compiled
def finish(targets, versions, costs, values, mode, arrive, begins, cursor, processor, ready, read, free, cause):
    """Every core takes what has arrived, move by move, and its step ends.

    Args:
        targets: ``(moves,)`` buffer in which each move arrives.
        versions: ``(buffers,)`` whether a buffer keeps two versions.
        costs: ``(moves, 2)`` cycles of taking a message in, of a serial and of an asynchronous core.
        values: ``(moves,)`` whether a `Reduce` has taken it in already.
        mode: ``(cores,)`` `IDLE`, `SERIAL` or `ASYNC`.
        arrive: ``(moves, cores)`` when a message was complete; -1: there was none; below: a copy, see `copies`. Reset
            to -1.
        begins: ``(cores,)`` when each core began its step; not read.
        cursor: ``(cores,)`` until when the processor is taken.
        processor: ``(cores,)`` when each core has ended its step, written.
        ready: ``(buffers, cores)``, moved on.
        read: ``(buffers, cores)``.
        free: ``(buffers, cores)``, written.
        cause: ``(cores,)`` m + 1 where the message of move m ended the step last, at most 127; written.
    """
    for c in range(len(processor)):
        processor[c] = max(processor[c], cursor[c])
        for m in range(len(targets)):
            t, b = arrive[m, c], targets[m]
            if t == -1:
                continue
            if t < 0:
                t = -2.0 - t
            elif not values[m]:
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
    """Append the messages of one move to the list of a contended step.

    Args:
        axis: 0: lines are columns of cores, 1: rows.
        rows: rows of cores.
        cols: columns of cores.
        pattern: ``(lines,)`` row of the tables for each line.
        arms: ``(patterns, n, 4)``: `SOURCE`, `END`, `AFTER`, `FIRST`.
        counts: ``(patterns,)`` arms of each pattern.
        move: number of the move.
        offset: first row of the move's patterns in ``named`` of `contend`.
        wire: cycles that a message occupies a link for.
        mode: ``(cores,)`` `IDLE`, `SERIAL` or `ASYNC`.
        setup: cycles to start a send.
        ramp: cycles between a router and its core.
        cursor: ``(cores,)`` moved on.
        ready: ``(cores,)`` of the buffer that is sent.
        depart: ``(cores,)`` scratch: when each core's messages leave.
        start: ``(n,)`` when the head is at its first router, -1: set off by the arm before it; written.
        fields: ``(n, 12)``: core, stride, link base, hops left; stride, base and hops of a second leg; place, source,
            row of ``named``, move, sign; written.
        n: length of the list before.

    Returns:
        The length of the list.
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
                if arms[p, j, FIRST]:
                    depart[c] = max(cursor[c], ready[c])
                    if mode[c] != ASYNC:
                        depart[c] += setup
                        cursor[c] = depart[c] + wire
                start[n] = depart[c] + ramp
            fields[n, 0], fields[n, 1], fields[n, 2], fields[n, 3] = c, sign * stride, base, abs(end - source)
            fields[n, 4], fields[n, 5], fields[n, 6] = 0, 0, 0
            fields[n, 7], fields[n, 8], fields[n, 9] = source, source, offset + p
            fields[n, 10], fields[n, 11] = move, sign
            n += 1
    return n


@compiled
def contend(start, fields, order, named, multicast, wire, size, ramp, turn, stage, sources, targets, versions, mode,
            cursor, read, free, arrive,
            since, busy, latency, detour, path, path_latency, link_bytes, link_messages, link_busy):  # fmt: skip
    """Play a list of messages hop by hop in the order of time: who is first at a link goes first.

    Args:
        start: ``(n,)`` from `list_arms`.
        fields: ``(n, 12)`` from `list_arms`; consumed.
        order: arms that start by themselves, by time.
        named: ``(patterns, size)`` the source that each place names, of all moves.
        multicast: ``(moves,)`` whether messages are delivered on their way.
        wire: ``(moves,)`` cycles that a message occupies a link for.
        size: ``(moves,)`` bytes of a message.
        ramp: cycles between a router and its core.
        turn: cycles of a bend in a router.
        stage: cycles of software that hands a message on.
        sources: ``(moves,)`` buffers that are sent.
        targets: ``(moves,)`` buffers that are written.
        versions: ``(buffers,)`` whether a buffer keeps two versions.
        mode: ``(cores,)`` `IDLE`, `SERIAL` or `ASYNC`.
        cursor: ``(cores,)`` moved on.
        read: ``(buffers, cores)`` moved on.
        free: ``(buffers, cores)``.
        arrive: ``(moves, cores)`` when a message is complete, written.
        since: ``(links,)`` from when the last message occupies each link.
        busy: ``(links,)`` until when.
        latency: ``(4 * cores,)`` cycles from router to router.
        detour: ``(4 * cores + 1,)`` link ``l`` of the mesh is ``path[detour[l] : detour[l + 1]]`` of the fabric; none:
            itself.
        path: links of the fabric.
        path_latency: cycles over each of them.
        link_bytes: ``(4 * cores,)`` bytes so far, added to.
        link_messages: messages so far, added to.
        link_busy: cycles taken so far, added to.
    """
    n = len(order)
    times, arms = np.empty(n), np.empty(n, np.int32)  # a heap: when the head of which arm is at its next router
    entered, stall = np.full(len(start), -1.0), np.zeros(len(start))
    origin = fields[:, 0].copy()
    for i in range(n):
        arms[i] = order[i]
        times[i] = start[order[i]]
    while n > 0:
        t, a = times[0], arms[0]
        m, c = fields[a, 10], fields[a, 0]
        if fields[a, 3] == 0:  # bends
            fields[a, 1], fields[a, 2], fields[a, 3], fields[a, 6] = fields[a, 4], fields[a, 5], fields[a, 6], 0
            t += turn
        link = fields[a, 2] + c
        link_bytes[link] += size[m]
        link_messages[link] += 1
        link_busy[link] += wire[m]
        if detour[link] == detour[link + 1]:
            if t + wire[m] > since[link]:
                t = max(t, busy[link])
                since[link], busy[link] = t, t + wire[m]
            if entered[a] < 0:
                entered[a] = t
            t += latency[link]
        for i in range(detour[link], detour[link + 1]):
            if t + wire[m] > since[path[i]]:
                t = max(t, busy[path[i]])
                since[path[i]], busy[path[i]] = t, t + wire[m]
            if entered[a] < 0:
                entered[a] = t
            t += path_latency[i]
        c += fields[a, 1]
        fields[a, 0] = c
        fields[a, 3] -= 1
        fields[a, 7] += fields[a, 11]
        over = fields[a, 3] == 0 and fields[a, 6] == 0
        if over or (multicast[m] and named[fields[a, 9], fields[a, 7]] == fields[a, 8]):
            b = targets[m]
            arrival = max(t + ramp, free[b, c] if versions[b] else read[b, c])
            stall[a] += arrival - (t + ramp)
            t = arrival - ramp
            arrive[m, c] = max(arrive[m, c], arrival + wire[m])
        if over:
            left, sender, b = entered[a] + wire[m] + stall[a] - ramp, origin[a], sources[m]
            read[b, sender] = max(read[b, sender], left)
            if mode[sender] != ASYNC:
                cursor[sender] = max(cursor[sender], left)
            a += 1
            if a < len(start) and start[a] == -1.0 and fields[a, 10] == m:  # software hands it on
                t += stage
            else:
                n -= 1
                t, a = times[n], arms[n]
        at = 0  # the entry at the top has grown: it sinks
        while True:
            child = 2 * at + 1
            if child >= n:
                break
            other = child + 1
            if other < n and (times[other] < times[child]
                              or (times[other] == times[child] and arms[other] < arms[child])):  # fmt: skip
                child = other
            if times[child] < t or (times[child] == t and arms[child] < a):
                times[at], arms[at] = times[child], arms[child]
                at = child
            else:
                break
        if n > 0:
            times[at], arms[at] = t, a


@compiled
def list_bent(more, wire, mode, setup, ramp, cursor, ready, start, fields, n):
    """Append messages with at most one bend, as `list_arms` does."""
    for i in range(len(more)):
        c = more[i, 0]
        t = max(cursor[c], ready[c])
        if mode[c] != ASYNC:
            t += setup
            cursor[c] = t + wire
        start[n] = t + ramp
        fields[n] = more[i]
        n += 1
    return n


@compiled
def copy_own(own, cost, mode, cursor, ready, read, arrive):
    """As `copies`, of the cores listed."""
    for c in own:
        t = max(cursor[c], ready[c]) + cost
        arrive[c] = -2.0 - t
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


@compiled
def shift_along(reach, computes, work, arithmetic, startup, launch, lead, ramp,
                pattern_x, source_x, target_x, latency_x, wire_x, number_x, ready_x, free_x,
                pattern_y, source_y, target_y, latency_y, wire_y, number_y, ready_y, free_y,
                launched, end, leave, cause):  # fmt: skip
    """One step in which whole lines of cores shift, and nothing competes for a link: `begin`, `play`, `finish` in one.

    Args:
        reach: rows that a message along y crosses at most: so far behind the beginnings follow the arrivals.
        computes: whether the cores compute in this step.
        work: cycles of the computation.
        arithmetic: cycles to start it where nothing moves.
        startup: cycles of the tasks of a step whose moves run beside its computation.
        launch: cycles before the first such step of a core.
        lead: cycles by which a message leaves before the end of the start-up.
        ramp: cycles between a router and its core.
        pattern_x: ``(rows,)`` what each row of cores does along x, -1: nothing.
        source_x: ``(patterns, cols)`` from whom each place receives.
        target_x: ``(patterns, cols)`` to whom each place sends.
        latency_x: ``(patterns, cols)`` cycles of the routers from each place to its target.
        wire_x: cycles that a message along x occupies a link for.
        number_x: 1 + number of the buffer that moves along x.
        ready_x: ``(cores,)`` of this buffer, moved on.
        free_x: ``(cores,)`` of this buffer, moved on.
        pattern_y: ``(cols,)`` what each column of cores does along y, -1: nothing.
        source_y: ``(patterns, rows)`` from whom each place receives.
        target_y: ``(patterns, rows)`` to whom each place sends.
        latency_y: ``(patterns, rows)`` cycles of the routers from each place to its target.
        wire_y: cycles that a message along y occupies a link for.
        number_y: 1 + number of the buffer that moves along y.
        ready_y: ``(cores,)`` of this buffer, moved on.
        free_y: ``(cores,)`` of this buffer, moved on.
        launched: ``(cores,)`` whether a core has had such a step, written.
        end: ``(cores,)`` when each core ends its step, moved on.
        leave: ``(cores,)`` scratch: when each core's messages leave.
        cause: ``(cores,)`` what each core waited for: 0 its own processor, b + 1 the arrival in buffer b; written.
    """
    rows, cols = len(pattern_x), len(pattern_y)
    row_free = np.empty(cols)
    before = np.empty((reach + 1, cols))  # free_y of the last rows, as it was before the step
    for step in range(rows + reach):
        if step < rows:
            y, moves_x = step, pattern_x[step] >= 0
            for x in range(cols):
                c = y * cols + x
                t, why = end[c], 0
                if computes or moves_x or pattern_y[x] >= 0:
                    if ready_x[c] > t:
                        t, why = ready_x[c], number_x
                    if ready_y[c] > t:
                        t, why = ready_y[c], number_y
                    if moves_x or pattern_y[x] >= 0:
                        if not launched[c]:
                            launched[c] = True
                            t += launch
                        t += startup
                        leave[c] = t - lead
                    else:
                        t += arithmetic
                    end[c] = t + work
                cause[c] = why
        y = step - reach
        if y < 0:
            continue
        base, p = y * cols, pattern_x[y]
        if p >= 0:
            for x in range(cols):
                row_free[x] = free_x[base + x]
            for x in range(cols):
                c, s = base + x, source_x[p, x]
                ready_x[c] = max(leave[base + s] + 2 * ramp + latency_x[p, s], row_free[x]) + wire_x
                left = wire_x + max(leave[c], row_free[target_x[p, x]] - 2 * ramp - latency_x[p, x])
                free_x[c] = max(left, end[c]) if computes else left
        kept = before[y % (reach + 1)]
        for x in range(cols):
            kept[x] = free_y[base + x]
        for x in range(cols):
            c, p = base + x, pattern_y[x]
            if p < 0:
                continue
            s, d = source_y[p, y], target_y[p, y]
            room = before[d % (reach + 1), x] if d < y else free_y[d * cols + x]
            ready_y[c] = max(leave[s * cols + x] + 2 * ramp + latency_y[p, s], kept[x]) + wire_y
            left = wire_y + max(leave[c], room - 2 * ramp - latency_y[p, y])
            free_y[c] = max(left, end[c]) if computes else left
