"""What cores do in a step, compiled. Times are float64 cycles; a *place* is a core's number on its line.

The state of the cores, one row per buffer ``b``:

=========== ========================================================================================
``ready``   when what the buffer holds was complete
``read``    until when it was last read, by a computation or by a message that leaves
``free``    from when the next arrival may be written: the earlier version is read no longer
``cursor``  until when the core's processor is taken in this step; of an asynchronous core when its messages leave
=========== ========================================================================================
"""

from __future__ import annotations

from meshkernels.kernels.compiled import compiled

#: What a core does in a step: nothing, one thing after the other, or everything at once.
IDLE, SERIAL, ASYNC = 0, 1, 2


@compiled
def begin(computes, work, setup, arithmetic, startup, launch, lead, overlap, moves_included, sends, receives, reads,
          sent, writes, reduces, launched, processor, ready, read, cursor, mode, cause):  # fmt: skip
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
def copy_own(own, cost, mode, cursor, ready, read, arrive):
    """The cores listed, which send to themselves, copy what they have before they send: it is local work.

    What is noted in ``arrive`` is ``-2`` less the time, so that `finish` charges nothing for it.
    """
    for c in own:
        t = max(cursor[c], ready[c]) + cost
        arrive[c] = -2.0 - t
        read[c] = max(read[c], t)
        if mode[c] != ASYNC:
            cursor[c] = t


@compiled
def finish(targets, versions, costs, values, mode, arrive, cursor, processor, ready, read, free, cause):
    """Every core takes what has arrived, move by move, and its step ends.

    Args:
        targets: ``(moves,)`` buffer in which each move arrives.
        versions: ``(buffers,)`` whether a buffer keeps two versions.
        costs: ``(moves, 2)`` cycles of taking a message in, of a serial and of an asynchronous core.
        values: ``(moves,)`` whether a `Reduce` has taken it in already.
        mode: ``(cores,)`` `IDLE`, `SERIAL` or `ASYNC`.
        arrive: ``(moves, cores)`` when a message was complete; -1: there was none; below: a copy, see `copy_own`. Reset
            to -1.
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
        b = targets[m]
        for c in range(len(processor)):
            t = arrive[m, c]
            if t == -1:
                continue
            if t < 0:
                t = -2.0 - t
            elif not values[m]:
                if mode[c] == ASYNC:
                    t += costs[m, 1]
                else:
                    if t > processor[c]:
                        cause[c] = min(m + 1, 127)
                    t = max(t, processor[c]) + costs[m, 0]
                    processor[c] = t
            ready[b, c] = max(ready[b, c], t)
            arrive[m, c] = -1.0
            if versions[b]:
                free[b, c] = read[b, c]
