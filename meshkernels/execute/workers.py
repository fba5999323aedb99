"""A few threads for one call: tasks as tickets, and helpers that are awake, on a core of their own, when it comes.

A thread that sleeps takes the system 0.05 to some milliseconds to wake: as long as one thread needs for 50 MB of a
matrix-vector product. So helpers look for the next call for a moment before they sleep, as those of BLAS do. And
Linux wakes a thread on the core of the thread that wakes it (here in 36 of 40 trials), where it stays for 20 to 80
ms: so helpers are kept off the core that the leader is on. y = x @ W with 4096 x 4096 float32 numbers, on two cores:
2.6 ms with a pool of sleeping threads, as with one thread; 2.6 with threads awake; 2.1 with both; and 1.8 without the
two futures per call that a pool makes (60 us, when x @ W has just emptied the caches).

An exception in the leader, Ctrl-C for one, ends the call: who helps stops at the block that it is computing.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

import numpy as np
from numba import config, get_num_threads
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel as parallel_layer

from meshkernels.execute.atomic import add, give_way, load
from meshkernels.execute.compiled import compiled

#: Looks at a counter, about 20 us, before a thread that waits offers its core to others at every look; how often a
#: helper does that, about 10 ms in all, before it sleeps.
_LOOKS, _OFFERS = 20_000, 20_000
#: Seconds that a process which ends waits for its helpers, all together.
_FAREWELL = 2.0


@compiled
def _increment(counter):
    add(counter, 0, 1)


@compiled
def _wait(counter, value, looks, most):
    """Until ``counter`` has reached ``value``, or ``most`` looks have not seen it."""
    look = 0
    while load(counter, 0) < value and look < most:
        if look >= looks:
            give_way()
        look += 1


class _Helper(Thread):
    """A thread that does what it is given, looks for more for a while, and sleeps until there is."""

    def __init__(self) -> None:
        super().__init__(name="meshkernels", daemon=True)
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._called, self._kept_off = np.zeros(1, np.int64), -1
        self.start()

    def run(self) -> None:
        while True:
            self._called[0] = 0
            if self._tasks.empty():  # a task that comes from here on calls
                _wait(self._called, 1, _LOOKS, _LOOKS + _OFFERS)
            task = self._tasks.get()
            if task is None:
                return
            task()
            del task  # and with it operands and results, which must not outlive their call

    def give(self, task: Callable[[], None] | None) -> None:
        """One more task; None is the last."""
        self._tasks.put(task)
        self._called[0] = 1

    def keep_off(self, core: int) -> None:
        """Run on any other core that the calling thread may use, if there is one."""
        if self._kept_off != core:
            others, me = os.sched_getaffinity(0) - {core}, self.native_id
            if others and me is not None:
                with suppress(OSError):  # not everybody may
                    os.sched_setaffinity(me, others)
            self._kept_off = core


_helpers: list[_Helper] = []


@atexit.register
def _dismiss() -> None:
    for helper in _helpers:
        helper.give(None)
    end = time.monotonic() + _FAREWELL
    for helper in _helpers:  # a daemon thread may still lead one: the process does not wait for that
        helper.join(max(0.0, end - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.clear)  # a child has none of its parent's threads,
    # and would wait for ever for a lock that one of them held: nobody compiles during a fork
    os.register_at_fork(before=global_compiler_lock.acquire, after_in_parent=global_compiler_lock.release,
                        after_in_child=global_compiler_lock.release)

#: The core that the calling thread is on, where the system tells it and lets threads be moved.
_this_core = ctypes.PyDLL(None).sched_getcpu if sys.platform == "linux" else None


class Helped:
    """Inside the ``with`` block so many helpers do ``task()``; one that has not begun at its end need not any more.

    Args:
        task: what each helper does.
        helpers: how many.
        stop: makes the tasks end soon; called when the block ends, when it cannot begin, and when a task fails.
    """

    def __init__(self, task: Callable[[], object], helpers: int, stop: Callable[[], object] = lambda: None):
        self._task, self._stop, self._failures = task, stop, list[BaseException]()
        self._count, self._seats, self._ended = helpers, [None] * helpers, np.zeros(1, np.int64)

    def __enter__(self) -> None:
        try:
            while len(_helpers) < self._count:
                _helpers.append(_Helper())
            for helper in _helpers[: self._count]:
                if _this_core is not None:
                    helper.keep_off(_this_core())
                helper.give(self._take_seat)
        except BaseException:
            self._stop()
            raise

    def _take_seat(self) -> None:
        try:
            self._seats.pop()  # helpers and leader, one after the other: a list sees to that
        except IndexError:
            return
        try:
            self._task()
        except BaseException as failure:  # is the leader's to report
            self._failures.append(failure)
            self._stop()
        finally:
            _increment(self._ended)

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop()
        begun = self._count
        with suppress(IndexError):
            while True:
                self._seats.pop()
                begun -= 1
        _wait(self._ended, begun, _LOOKS, sys.maxsize)
        if self._failures and kind is None:
            raise self._failures[0]


def threads_for(operations: int, threads: int | None = None) -> int:
    """At most ``threads``, and only as many as the work is worth: waking one takes 0.1 ms.

    None: what numba.set_num_threads says, else the variable NUMBA_NUM_THREADS, else one per core.
    """
    started = getattr(parallel_layer, "_is_initialized", False)  # asking Numba would start threads of its own
    most = threads or (get_num_threads() if started else config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    return max(1, min(most, operations // 200_000))


def parallel(work: Callable[[Iterator[int]], None], tasks: int, threads: int) -> None:
    """Let each thread run ``work(tickets)``, whose kernels release the GIL; tickets 0 .. tasks - 1 are shared out."""
    tickets, helpers = iter(range(tasks)), min(threads, tasks) - 1
    if helpers < 1:
        work(tickets)
    else:
        with Helped(lambda: work(tickets), helpers, stop=lambda: deque(tickets, maxlen=0)):  # none is left to take
            work(tickets)


def spans(total: int, unit: int, most: int, parts: int = 1) -> list[slice]:
    """[0, total) cut at multiples of ``unit`` into nearly equal slices of about ``most``, a multiple of ``parts``."""
    units = -(-total // unit)
    count = -(-units // max(1, most // unit))
    count = max(1, min(units, -(-count // parts) * parts))
    edges = [min(total, units * i // count * unit) for i in range(count + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]
