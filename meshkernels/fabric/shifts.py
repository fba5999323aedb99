"""Whole lines of cores that shift without competing for links, compiled: what a ring algorithm does most of the time.

The loops over a row of cores are short and store to one array each, so that the compiler turns them into vector
instructions. Several steps are played at a time, each a few rows behind the one before, so that what they share stays
in the cache.
"""

from __future__ import annotations

import numpy as np

from meshkernels.kernels.compiled import compiled

#: Rows of cores in flight, at most: some 60 bytes per core.
WINDOW_BYTES, CORE_BYTES = 1 << 20, 60
#: Steps that are played at a time, at most.
MOST = 64


def together(reach: int, cols: int) -> int:
    """How many steps to play at a time, so that the rows between the first and the last stay in the cache.

    Args:
        reach: rows that a message along y crosses at most.
        cols: columns of cores.

    Returns:
        The number of steps, at least 1.
    """
    return min(max(WINDOW_BYTES // (CORE_BYTES * cols * max(2 * reach, 1)), 1), MOST)


@compiled
def start_row(y, rests, computes, moves_x, pattern_y, number_x, number_y, work, arithmetic, startup, launch, lead, end,
              ready_x, ready_y, launched, leave, cause):  # fmt: skip
    """One row begins a step: when its processor is free and what it computes with, and sends, is there.

    ``rests``: some columns move nothing in this step, or some cores have not launched.
    """
    first, last = y * len(pattern_y), (y + 1) * len(pattern_y)
    end, ready_x, ready_y, leave, cause, launched = (
        end[first:last], ready_x[first:last], ready_y[first:last], leave[first:last], cause[first:last],
        launched[first:last])  # fmt: skip
    if not rests:
        by_x, by_y, itself = np.uint8(number_x), np.uint8(number_y), np.uint8(0)
        for x in range(len(end)):
            cause[x] = by_y if ready_y[x] > ready_x[x] else by_x
        for x in range(len(end)):
            cause[x] = cause[x] if max(ready_x[x], ready_y[x]) > end[x] else itself
        for x in range(len(end)):
            t = max(end[x], ready_x[x], ready_y[x])
            leave[x] = t + (startup - lead)
            end[x] = t + (startup + work)
        return
    for x in range(len(end)):
        t, why, moves = end[x], 0, moves_x or pattern_y[x] >= 0
        if computes or moves:
            if ready_x[x] > t:
                t, why = ready_x[x], number_x
            if ready_y[x] > t:
                t, why = ready_y[x], number_y
            if moves:
                if not launched[x]:
                    launched[x] = True
                    t += launch
                leave[x] = t + (startup - lead)
                end[x] = t + (startup + work)
            else:
                end[x] = t + (arithmetic + work)
        cause[x] = why


@compiled
def arrive(wire, way_in, way_out, inward, outward, sent, room, busy, leave, kept, ready, free):
    """Messages arrive on some cores of a row, and those that these cores have sent have left.

    Args:
        wire: cycles that a message occupies a link for.
        way_in: cycles from the sender, of all the cores alike.
        way_out: cycles to the receiver.
        inward: ``(n,)`` cycles from the sender, core by core.
        outward: ``(n,)`` cycles to the receiver.
        sent: ``(n,)`` when the messages leave their senders.
        room: ``(n,)`` from when the receivers have room.
        busy: ``(n,)`` until when the cores read what they send, in a computation.
        leave: ``(n,)`` when their own messages leave.
        kept: ``(n,)`` from when they have room themselves.
        ready: ``(n,)`` when what they hold is complete, written.
        free: ``(n,)`` from when they will have room, written.
    """
    for i in range(len(ready)):
        ready[i] = max(sent[i] + (way_in + inward[i]), kept[i]) + wire
    for i in range(len(free)):
        free[i] = max(max(leave[i], room[i] - (way_out + outward[i])) + wire, busy[i])


@compiled
def shift_along(reach, computes, work, arithmetic, startup, launch, lead, ramp,
                patterns_x, source_x, target_x, inward_x, outward_x, wire_x, number_x, ready_x, free_x,
                patterns_y, source_y, target_y, inward_y, outward_y, wire_y, number_y, ready_y, free_y,
                launched, end, leave, cause):  # fmt: skip
    """Some iterations of one step in which whole lines of cores shift, and nothing competes for a link.

    Of each iteration a row begins; ``reach`` rows behind it the messages arrive; the next iteration follows when they
    are out of reach.

    * ``reach``: rows that a message along y crosses at most: so far behind the beginnings follow the arrivals.
    * ``computes``: whether the cores compute in this step; ``work``: cycles of the computation; ``arithmetic``: cycles
      to start it where nothing moves; ``startup``: of the tasks of a step whose moves run beside it; ``launch``: before
      the first such step of a core; ``lead``: by which a message leaves before the end of the start-up; ``ramp``:
      between a router and its core.

    Of what moves along x, and of what moves along y:

    * ``patterns (iterations, rows)`` or ``(iterations, cols)``: what each line of cores does, -1: nothing.
    * ``source``, ``target (patterns, places)``: from whom each place receives (along x unsigned), to whom it sends;
      ``inward``, ``outward``: cycles of the routers from there, and to there.
    * ``wire``: cycles that a message occupies a link for; ``number``: 1 + number of the buffer that moves; ``ready``,
      ``free (cores,)``: of this buffer, moved on.

    Of all cores:

    * ``launched (cores,)``: whether a core has had such a step, written; ``end (cores,)``: when each ends its step,
      moved on; ``leave (cores,)``: scratch, when its messages leave; ``cause (iterations, cores)``: what each waited
      for, 0 its own processor, b + 1 the arrival in buffer b, written.
    """
    iterations, rows = patterns_x.shape
    cols = patterns_y.shape[1]
    before = np.empty((iterations, reach + 1, cols))  # free_y of the last rows, as it was before the step
    rests, alike = np.empty(iterations, np.bool_), np.empty(iterations, np.bool_)  # some column, all columns along y
    for i in range(iterations):
        rests[i], alike[i] = patterns_y[i].min() < 0, patterns_y[i].min() == patterns_y[i].max()
    fresh, never = not launched.all(), np.full(cols, -1.0)
    sent, room, inward, outward, held, even = (
        np.empty(cols), np.empty(cols), np.empty(cols), np.empty(cols), np.empty(cols), np.zeros(cols))  # fmt: skip
    for front in range(rows + reach + (iterations - 1) * 2 * reach):
        for i in range(iterations):
            y = front - i * 2 * reach
            if 0 <= y < rows:
                some = fresh or (patterns_x[i, y] < 0 and rests[i])
                start_row(y, some, computes, patterns_x[i, y] >= 0, patterns_y[i], number_x, number_y, work, arithmetic,
                          startup, launch, lead, end, ready_x, ready_y, launched, leave, cause[i])  # fmt: skip
            y -= reach
            if y < 0 or y >= rows:
                continue
            base = y * cols
            row = slice(base, base + cols)
            busy, p = end[row] if computes else never, patterns_x[i, y]
            if p >= 0:
                held[:] = free_x[row]
                for x in range(cols):
                    sent[x] = leave[base + source_x[p, x]]
                for x in range(cols):
                    room[x] = held[target_x[p, x]]
                arrive(wire_x, 2 * ramp, 2 * ramp, inward_x[p], outward_x[p], sent, room, busy, leave[row], held,
                       ready_x[row], free_x[row])  # fmt: skip
            kept, p = before[i, y % (reach + 1)], patterns_y[i, 0]
            kept[:] = free_y[row]
            if alike[i] and p >= 0:
                s, d = source_y[p, y] * cols, target_y[p, y]
                there = before[i, d % (reach + 1)] if d < y else free_y[d * cols : (d + 1) * cols]
                arrive(wire_y, 2 * ramp + inward_y[p, y], 2 * ramp + outward_y[p, y], even, even, leave[s : s + cols],
                       there, busy, leave[row], kept, ready_y[row], free_y[row])  # fmt: skip
            elif not alike[i]:
                held[:] = ready_y[row]
                for x in range(cols):
                    p = max(patterns_y[i, x], 0)
                    d = target_y[p, y]
                    sent[x] = leave[source_y[p, y] * cols + x]
                    room[x] = before[i, d % (reach + 1), x] if d < y else free_y[d * cols + x]
                    inward[x], outward[x] = inward_y[p, y], outward_y[p, y]
                arrive(wire_y, 2 * ramp, 2 * ramp, inward, outward, sent, room, busy, leave[row], kept, ready_y[row],
                       free_y[row])  # fmt: skip
                for x in range(cols):
                    if patterns_y[i, x] < 0:
                        ready_y[base + x], free_y[base + x] = held[x], kept[x]
