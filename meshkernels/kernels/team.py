"""Several threads on one kernel after the other, with microseconds between them.

Decoding a token is some hundred matrix-vector products of a few hundred microseconds each, and attention between them:
too short to wake a sleeping thread for. So workers of the pool stay awake for the length of a token. The leader posts a
*job* on the *board*: a kernel, called once for each of its work items (runs of panels of a product, heads of
attention), which all threads take one by one. A worker without a work item spins for about 20 us, then yields the core
between polls. A worker that the operating system does not run takes no items and is not waited for, so that a busy
machine costs little; there are never more threads than cores that the process may use.

Why not one task of the pool per product: a token of SmolLM2-135M on 24 x 24 cores, two threads on two cores, medians of
30 to 80 interleaved repetitions. With the second core mostly free: one thread 42 ms, pool 41 ms, team 36 ms (the pool
takes 1.15 to 1.17 times as long as the team, whose workers did not yield the core then). With another program at work
on that core: one thread 41 ms, pool 48 ms, team 43 ms (1.12 to 1.16 times); workers that never yielded made the token
2 times as long.

The board is an array of 64-bit integers. ``board[NEXT]`` holds the number of the job on the board (upper half) and its
next work item (lower half). A thread takes an item by one compare-and-swap, which succeeds only while that job is on
the board. Before the board is rewritten, its item is `_CLOSED`: beyond the last item of any job.

A job is stated by addresses (`meshkernels.kernels.program.call_row`). `Team.share` is the only way to the board, and
the leader waits until all items are done, so that its arrays outlive the job. No interrupt leaves a worker
spinning: it works for one token, and leaves by itself when nothing has been posted for a while.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from meshkernels.arguments import as_count
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.kernels import pool
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.gemv import Stated, gemv_run
from meshkernels.kernels.intrinsics import add, call, load, pointer, store, swap_if, yield_core
from meshkernels.kernels.program import at_once, call_row
from meshkernels.kernels.resident import Columns, wide

#: Places on the board, a cache line apart: TOKEN is the number of the token being decoded, or 0; LED says whether
#: somebody leads a job, FAILED why one was not done; JOB is how many items it has, and after that its row's address.
NEXT, DONE, TOKEN, LED, FAILED, JOB = 0, 8, 16, 24, 32, 40
#: The lower half of ``board[NEXT]``.
_CLOSED = 0xFFFFFFFF
_FLOAT = np.dtype(np.float32)
#: Polls with a yield, some milliseconds in all, before a worker looks at the clock.
_YIELDS = 5_000
#: Seconds without a job after which a worker leaves.
_PATIENCE = 0.1
#: Why a job was not done.
_BUSY, _NO_MEMORY = 1, 2


@compiled
def _work(board):
    """Do items of the job on the board until none is left."""
    while True:
        word = load(board, NEXT)
        item = word & _CLOSED
        if item >= load(board, JOB):
            return
        if not swap_if(board, NEXT, word, word + 1):
            continue
        row = board[JOB + 1]
        if call(carray(pointer(row, np.int64(0)), 1)[0], (item, row)):  # no memory
            store(board, FAILED, _NO_MEMORY)
        add(board, DONE, 1)


@compiled
def _lead(board, items, row):
    """Post a job, work on it, and wait for the workers that still do; ``board[FAILED]`` says if it was in vain."""
    if not swap_if(board, LED, 0, 1):
        store(board, FAILED, _BUSY)
        return
    number = (load(board, NEXT) >> 32) + 1
    store(board, NEXT, number << 32 | _CLOSED)
    board[JOB], board[JOB + 1] = items, row.ctypes.data
    store(board, DONE, 0)
    store(board, NEXT, number << 32)
    _work(board)
    pool.wait(board, DONE, items, sys.maxsize)
    store(board, LED, 0)


@compiled
def _help(board, token):
    """Work on one job after the other until the token is done, or none comes; returns whether there was one."""
    first = job = load(board, NEXT) >> 32
    polls = 0
    while load(board, TOKEN) == token and polls < pool.SPINS + _YIELDS:
        _work(board)
        polls += 1
        if load(board, NEXT) >> 32 != job:
            polls, job = 0, load(board, NEXT) >> 32
        elif polls > pool.SPINS:
            yield_core()
    return job != first


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Product(NamedTuple):
    """A product with one weight, as `Team.product` states it.

    Attributes:
        K, N: lengths of x and out.
        stated: the weight and its tree of sums.
    """

    K: int
    N: int
    stated: Stated


class Team:
    """The threads that decode a token together.

    Args:
        threads: at most so many, the leader included; None: as many as Numba may use at that moment
            (``numba.set_num_threads``, ``NUMBA_NUM_THREADS``). Never more than the process has cores.

    Raises:
        MeshError: fewer than one thread.
    """

    def __init__(self, threads: int | None = None):
        if threads is not None and threads < 1:
            raise MeshError(f"threads = {threads}: at least 1, the one that asks")
        self._most = threads
        self._board = np.zeros(JOB + 16, np.int64)
        self._tokens = itertools.count(1)

    @property
    def threads(self) -> int:
        """Threads that work on a job at this moment, the leader included."""
        return min(pool.threads_for(sys.maxsize, self._most), _cores())

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Keep workers awake inside the ``with`` block."""
        threads = self.threads
        if threads == 1:
            yield
            return
        token = next(self._tokens)
        self._board[TOKEN] = token
        with pool.Workers(lambda: self._stay(token), threads - 1, stop=lambda: self._done(token)):
            yield

    def _stay(self, token: int) -> None:
        """What a worker does for one token."""
        last = time.monotonic()
        while self._board[TOKEN] == token and time.monotonic() - last < _PATIENCE:
            if _help(self._board, token):
                last = time.monotonic()

    def _done(self, token: int) -> None:
        if self._board[TOKEN] == token:
            self._board[TOKEN] = 0

    def share(self, kernel: Callable[..., Any], items: int, *arguments: Any, do: Callable[..., None] = at_once,
              keep: object = None) -> None:  # fmt: skip
        """Call ``kernel(item, *arguments)`` for each of so many items, by all threads that are awake.

        Args:
            kernel: compiled; which items it is called for at the same time, and in which order, is open.
            items: how many.
            *arguments: as of `Program.add`; whoever calls answers for sizes and places.
            do: calls the kernel, or records the call; whoever runs what it recorded calls `check` after that.
            keep: what the arguments name by address.

        Raises:
            MeshError: another thread leads a job.
            MemoryError: none left for what the kernel needs.
        """
        row = np.array(call_row(kernel, *arguments, by_items=True), np.int64)
        do(_lead, self._board, items, row, keep=(arguments, keep))
        if do is at_once:
            self.check()

    def product(self, W: Columns, parts: int, dst: np.ndarray, src: np.ndarray, root: int, half: bool) -> Product:
        """State a product with one weight, for many vectors.

        Args:
            W: ``(K, N)``, of numbers or codes that are summed in float32.
            parts: into how many runs the rows of W are cut, each with a partial sum.
            dst: ``(additions,)`` int64: ``partial[dst[i]] += partial[src[i]]``, in this order.
            src: ``(additions,)`` int64, see ``dst``.
            root: the partial sum that is the result.
            half: round every sum to float16.

        Returns:
            The product, for `run`.

        Raises:
            MeshTypeError: a weight of another type or dtype, or numbers that are not integers.
            MeshError: a tree of sums that leaves its ``parts``.
        """
        parts, root = as_count("parts", parts), as_count("root", root)
        if not isinstance(W, Columns) or wide(W.dtype) != _FLOAT:
            raise MeshTypeError(f"the weight W is {type(W).__name__} of {getattr(W, 'dtype', None)}; it must be "
                                "Columns summed in float32: see meshkernels.kernels.pack.columns")
        if dst.dtype != np.int64 or src.dtype != np.int64 or dst.ndim != 1 or dst.shape != src.shape:
            raise MeshTypeError(f"dst is {dst.dtype} {dst.shape} and src {src.dtype} {src.shape}; they must be int64, "
                                "one-dimensional and equally long")
        places = [root, *dst.tolist(), *src.tolist()]
        if not 1 <= parts < 2**31 or min(places) < 0 or max(places) >= parts:
            raise MeshError(f"a tree of sums with places {min(places)} to {max(places)} over parts = {parts}: parts "
                            "must be 1 or more (below 2^31), and each place one of 0 to parts - 1")
        return Product(*W.shape, Stated(W, parts, dst, src, np.array([root]), bool(half)))

    def run(self, product: Product, x: np.ndarray, out: np.ndarray, do: Callable[..., None] = at_once) -> None:
        """Compute ``out = x W``, runs of panels of W as work items.

        Args:
            product: what `product` returned.
            x: K numbers, float32, C-contiguous.
            out: N numbers of the same kind, writable.
            do: as of `share`.

        Raises:
            MeshTypeError: an array of another dtype.
            MeshError: arrays of another size or layout; another thread leads a job.
            MemoryError: none left for the partial sums.
        """
        for name, array in (("x", x), ("out", out)):
            if array.dtype != _FLOAT:
                raise MeshTypeError(f"{name} is {array.dtype} {array.shape}; it must be float32")
            if not (array.flags.c_contiguous and array.flags.aligned):
                raise MeshError(f"{name} {array.shape} must be C-contiguous and aligned: see numpy.require")
        K, N, stated = product
        if x.size != K or x.shape[-1] != K or out.size != N or not out.flags.writeable:
            raise MeshError(f"x {x.shape} times W ({K}, {N}) into out {out.shape}: x must have {K} elements, and out "
                            f"{N} that can be written to")
        if stated.columns < N:  # columns of zeros are not stored
            out[...] = 0
        runs = stated.runs(self.threads)
        self.share(gemv_run, len(runs) - 1, runs, stated.table, x.reshape(-1), out.reshape(-1), do=do, keep=stated)

    def check(self) -> None:
        """Raise what `share` raises if a job since the last check was not done."""
        failure, self._board[FAILED] = self._board[FAILED], 0
        if failure == _BUSY:
            raise MeshError("this team is at work in another thread: it leads one job at a time")
        if failure == _NO_MEMORY:
            raise MemoryError("no memory for what a kernel needs while it works, such as partial sums")
