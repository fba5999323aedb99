"""The one pool of worker threads: work items for one call, and workers awake when it comes, on cores of their own.

A thread that sleeps takes the system 0.05 to some milliseconds to wake: as long as one thread needs for 50 MB of a
matrix-vector product. So workers spin for a moment before they sleep, as those of BLAS do. And Linux wakes a thread on
the core of the thread that wakes it (here in 36 of 40 trials), where it stays for 20 to 80 ms: so workers are kept off
the core of the leader, the thread that made the call. y = x @ W with 4096 x 4096 float32 numbers, on two cores: 2.6 ms
with a pool of sleeping threads, as with one thread; 2.6 with threads awake; 2.1 with both; and 1.8 without the two
futures per call that a pool makes (60 us, when x @ W has just emptied the caches).

An exception in the leader, Ctrl-C for one, ends the call: workers stop at the block that they are computing.
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

from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import add, load, yield_core

#: Polls, about 20 us, during which a waiting thread spins; then it yields its core at every poll.
SPINS = 20_000
#: Polls with a yield, about 10 ms in all, before a worker without work sleeps.
_YIELDS = 20_000
#: Seconds that a process which ends waits for its workers, all together.
_FAREWELL = 2.0


@compiled
def _increment(counter):
    add(counter, 0, 1)


@compiled
def wait(board, place, value, polls):
    """Until ``board[place]`` has reached ``value``, or ``polls`` polls have not seen it."""
    poll = 0
    while load(board, place) < value and poll < polls:
        if poll >= SPINS:
            yield_core()
        poll += 1


class _Worker(Thread):
    """A thread that does the tasks it is given, spins and yields for a while, and sleeps until there are more."""

    def __init__(self) -> None:
        super().__init__(name="meshkernels", daemon=True)
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._called, self._kept_off = np.zeros(1, np.int64), -1
        self.start()

    def run(self) -> None:
        while True:
            self._called[0] = 0
            if self._tasks.empty():  # a task that comes from here on sets the flag
                wait(self._called, 0, 1, SPINS + _YIELDS)
            task = self._tasks.get()
            if task is None:
                return
            task()
            del task  # and with it operands and results, which must not outlive their call

    def give(self, task: Callable[[], None] | None) -> None:
        """Add a task; None is the last."""
        self._tasks.put(task)
        self._called[0] = 1

    def keep_off(self, core: int) -> None:
        """Run on any other core that the calling thread may use, if there is one."""
        if self._kept_off != core:
            others, me = os.sched_getaffinity(0) - {core}, self.native_id
            if others and me is not None:
                with suppress(OSError):  # not permitted everywhere
                    os.sched_setaffinity(me, others)
            self._kept_off = core


_workers: list[_Worker] = []


@atexit.register
def _dismiss() -> None:
    for worker in _workers:
        worker.give(None)
    end = time.monotonic() + _FAREWELL
    for worker in _workers:  # a daemon thread may still lead one: the process does not wait for that
        worker.join(max(0.0, end - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.clear)  # a child has none of its parent's threads,
    # and would wait for ever for a lock that one of them held: nobody compiles during a fork
    os.register_at_fork(before=global_compiler_lock.acquire, after_in_parent=global_compiler_lock.release,
                        after_in_child=global_compiler_lock.release)

#: The core that the calling thread is on, where the system tells it and lets threads be moved.
_this_core = ctypes.PyDLL(None).sched_getcpu if sys.platform == "linux" else None


class Workers:
    """Run ``task()`` on worker threads while the ``with`` block executes.

    On exit, workers that have not started are cancelled and the others are joined.

    Args:
        task: what each worker does.
        workers: how many.
        stop: makes the tasks end soon; called when the block ends, when it cannot begin, and when a task fails.

    Raises:
        BaseException: on exit, what the first task that failed raised, unless the block itself raised.
    """

    def __init__(self, task: Callable[[], object], workers: int, stop: Callable[[], object] = lambda: None):
        self._task, self._stop, self._failures = task, stop, list[BaseException]()
        self._count, self._seats, self._ended = workers, [None] * workers, np.zeros(1, np.int64)

    def __enter__(self) -> None:
        try:
            while len(_workers) < self._count:
                _workers.append(_Worker())
            for worker in _workers[: self._count]:
                if _this_core is not None:
                    worker.keep_off(_this_core())
                worker.give(self._start)
        except BaseException:
            self._stop()
            raise

    def _start(self) -> None:
        try:
            self._seats.pop()  # each seat is taken once, by a worker or by the leader that cancels it
        except IndexError:
            return
        try:
            self._task()
        except BaseException as failure:  # the leader raises it
            self._failures.append(failure)
            self._stop()
        finally:
            _increment(self._ended)

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop()
        started = self._count
        with suppress(IndexError):
            while True:
                self._seats.pop()
                started -= 1
        wait(self._ended, 0, started, sys.maxsize)
        if self._failures and kind is None:
            raise self._failures[0]


def threads_for(operations: int, threads: int | None = None) -> int:
    """At most ``threads``, and fewer for small products: waking one takes about 0.1 ms.

    Args:
        operations: multiply-adds, or numbers to be moved.
        threads: at most so many; None: what numba.set_num_threads says, else the variable NUMBA_NUM_THREADS, else one
            per core.

    Returns:
        1 or more.
    """
    if operations < 400_000:
        return 1
    started = getattr(parallel_layer, "_is_initialized", False)  # asking Numba would start threads of its own
    most = threads or (get_num_threads() if started else config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    return max(1, min(most, operations // 200_000))


def parallel(work: Callable[[Iterator[int]], object], items: int, threads: int) -> None:
    """Run ``work(iterator)`` on each thread; the threads share work items 0 .. items - 1.

    Threads run at the same time where the work releases the GIL, as kernels do.
    """
    shared, workers = iter(range(items)), min(threads, items) - 1
    if workers < 1:
        work(shared)
    else:
        with Workers(lambda: work(shared), workers, stop=lambda: deque(shared, maxlen=0)):  # takes all that are left
            work(shared)


def spans(total: int, unit: int, most: int, parts: int = 1) -> list[slice]:
    """[0, total) cut at multiples of ``unit`` into nearly equal slices of about ``most``, a multiple of ``parts``."""
    units = -(-total // unit)
    count = -(-units // max(1, most // unit))
    count = max(1, min(units, -(-count // parts) * parts))
    edges = [min(total, units * i // count * unit) for i in range(count + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]
