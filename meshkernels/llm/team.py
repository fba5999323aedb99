"""Several threads on one matrix-vector product after the other, with microseconds between them.

Decoding a token is some hundred products of a few hundred microseconds each: too short to wake a sleeping thread for.
So the helpers stay awake for the length of a token. The leader posts a product on the *board*, and everybody takes
spans of its columns, one ticket at a time; who finds no ticket spins for some microseconds and then offers the core
to others between looks. A helper that the operating system does not run takes no tickets and is not waited for, so
that a busy machine costs little; there are never more threads than cores that the process may use.

Why not one task of a thread pool per product: a token of SmolLM2-135M on 24 x 24 cores, two threads on two cores,
medians of 30 to 80 interleaved repetitions. With the second core mostly free: one thread 42 ms, pool 41 ms, team
36 ms (the pool takes 1.15 to 1.17 times as long as the team, whose helpers did not offer the core then). With another
program at work on that core: one thread 41 ms, pool 48 ms, team 43 ms (1.12 to 1.16 times); helpers that never
offered it made the token 2 times as long.

The board is an array of 64-bit integers. ``board[TICKETS]`` packs, for the product on the board, the number of tickets
and of those taken (16 bits each, above them the number of the product): taking a ticket is one compare-and-swap,
which can only succeed while the product that it belongs to is on the board.

A product is stated by addresses. `Team.job` and `Team.run` are the only way to the board; they check every array, and
whoever has posted a product waits for all who work on it, so that its arrays outlive it. No interrupt leaves a helper
spinning: it helps with one token, and leaves by itself when nothing has been posted for a while.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numba import carray, config, types
from numba.extending import intrinsic

from meshkernels.arguments import as_count
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.execute import workers
from meshkernels.execute.atomic import add, give_way, load, store, swap_if
from meshkernels.execute.compiled import compiled
from meshkernels.llm.kernels import gemv

#: Places on the board, a cache line apart: TOKEN is the number of the token being decoded, or 0; LED says whether
#: somebody leads a product, FAILED whether a span of it could not be computed; the twelve numbers of JOB state it.
TICKETS, DONE, TOKEN, LED, FAILED, JOB = 0, 8, 16, 24, 32, 40
_SIXTEEN = 0xFFFF
_FLOAT = np.dtype(np.float32)
#: Looks at the board before the core is offered to others: about as long as the leader's Python between products; and
#: how often it is offered, some milliseconds in all, before a helper looks at the clock.
_LOOKS, _OFFERS = 20_000, 5_000
#: Seconds without a product after which a helper leaves.
_PATIENCE = 0.1
#: Why a product was not computed.
_BUSY, _NO_MEMORY = 1, 2


@intrinsic
def _floats(typingctx, address):
    """An address as a pointer to float32."""
    pointer = types.CPointer(types.float32)
    return pointer(types.int64), lambda context, builder, signature, args: builder.inttoptr(
        args[0], context.get_value_type(pointer))


@intrinsic
def _integers(typingctx, address):
    """An address as a pointer to int64."""
    pointer = types.CPointer(types.int64)
    return pointer(types.int64), lambda context, builder, signature, args: builder.inttoptr(
        args[0], context.get_value_type(pointer))


floats: Any = _floats
integers: Any = _integers


@compiled
def _take_tickets(board):
    """Compute spans of the product on the board until none is left."""
    while True:
        word = load(board, TICKETS)
        ticket, tickets = word & _SIXTEEN, (word >> 16) & _SIXTEEN
        if ticket >= tickets:
            return
        if not swap_if(board, TICKETS, word, word + 1):
            continue
        W, K, N, x, out, parts, root, half, dst, src, adds, span = board[JOB : JOB + 12]
        columns = carray(floats(out), N)
        try:
            gemv(carray(floats(x), K), carray(floats(W), (K, N)), ticket * span, min(N, ticket * span + span), parts,
                 carray(integers(dst), adds), carray(integers(src), adds), root, half != 0, columns)
        except Exception:  # no memory for the partial sums
            store(board, FAILED, 1)
        add(board, DONE, 1)


@compiled
def _lead(board, job, x, out):
    """Post a product, work on it, and wait for the helpers that still do; returns 0, `_BUSY` or `_NO_MEMORY`."""
    if not swap_if(board, LED, 0, 1):
        return _BUSY
    board[JOB : JOB + 12] = job
    board[JOB + 3], board[JOB + 4] = x.ctypes.data, out.ctypes.data
    span = job[11]
    tickets = (job[2] + span - 1) // span
    store(board, FAILED, 0)
    store(board, DONE, 0)
    store(board, TICKETS, (((load(board, TICKETS) >> 32) + 1) << 32) | (tickets << 16))
    _take_tickets(board)
    looks = 0
    while load(board, DONE) < tickets:
        looks += 1
        if looks > _LOOKS:
            give_way()
    failed = load(board, FAILED)
    store(board, LED, 0)
    return _NO_MEMORY if failed else 0


@compiled
def _help(board, token):
    """Work on one product after the other until the token is done, or none comes; returns whether there was one."""
    first = product = load(board, TICKETS) >> 32
    looks = 0
    while load(board, TOKEN) == token and looks < _LOOKS + _OFFERS:
        _take_tickets(board)
        looks += 1
        if load(board, TICKETS) >> 32 != product:
            looks, product = 0, load(board, TICKETS) >> 32
        elif looks > _LOOKS:
            give_way()
    return product != first


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Job(NamedTuple):
    """A product with one weight, as `Team.job` states it.

    Attributes:
        row: (12,) what goes on the board, but for the addresses of x and out.
        K, N: lengths of x and out.
        arrays: the weight and its tree of sums, whose addresses are in the row.
    """

    row: np.ndarray
    K: int
    N: int
    arrays: tuple[np.ndarray, ...]


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
        self._numbers = itertools.count(1)

    @property
    def threads(self) -> int:
        """Threads that work on a product at this moment, the leader included."""
        return min(workers.threads_for(sys.maxsize, self._most), _cores())

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Helpers are awake inside the ``with`` block."""
        threads = self.threads
        if threads == 1:
            yield
            return
        token = next(self._numbers)
        self._board[TOKEN] = token
        with workers.Helped(lambda: self._stay(token), threads - 1, stop=lambda: self._done(token)):
            yield

    def _stay(self, token: int) -> None:
        """What a helper does for one token."""
        last = time.monotonic()
        while self._board[TOKEN] == token and time.monotonic() - last < _PATIENCE:
            if _help(self._board, token):
                last = time.monotonic()

    def _done(self, token: int) -> None:
        if self._board[TOKEN] == token:
            self._board[TOKEN] = 0

    def span(self, N: int) -> int:
        """Columns of one ticket: few tickets where columns are few, none wider than a strip of the kernel.

        Sixteen bits count the tickets of a product: where there would be more, they are wider.
        """
        most = min(_SIXTEEN, self._most or config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        tickets = most if N < 2048 else 2 * most
        return max(min(4096, 16 * -(-N // (16 * tickets))), 16 * -(-N // (16 * _SIXTEEN)), 16)

    def job(self, W: np.ndarray, parts: int, dst: np.ndarray, src: np.ndarray, root: int, half: bool) -> Job:
        """A product with one weight, stated once for many vectors.

        Args:
            W: ``(K, N)`` float32, C-contiguous; not copied, its numbers may change.
            parts: into how many runs the rows of W are cut, each with a partial sum.
            dst, src: ``(additions,)`` int64: ``partial[dst[i]] += partial[src[i]]``, in this order.
            root: the partial sum that is the result.
            half: round every sum to float16.

        Raises:
            MeshTypeError: a weight of another dtype, or numbers that are not integers.
            MeshError: a weight that is not C-contiguous and aligned, or a tree of sums that leaves its ``parts``.
        """
        parts, root = as_count("parts", parts), as_count("root", root)
        W = _plain("the weight W", W, 2)[:]  # a view of our own, and copies below: nobody can give them another shape
        if dst.dtype != np.int64 or src.dtype != np.int64 or dst.ndim != 1 or dst.shape != src.shape:
            raise MeshTypeError(f"dst is {dst.dtype} {dst.shape} and src {src.dtype} {src.shape}; they must be int64, "
                                "one-dimensional and equally long")
        dst, src = dst.copy(), src.copy()
        places = [root, *dst.tolist(), *src.tolist()]
        if not 1 <= parts < 2**31 or min(places) < 0 or max(places) >= parts:
            raise MeshError(f"a tree of sums with places {min(places)} to {max(places)} over parts = {parts}: parts "
                            "must be 1 or more (below 2^31), and each place one of 0 to parts - 1")
        (K, N), span = W.shape, self.span(W.shape[1])
        row = np.array([W.ctypes.data, K, N, 0, 0, parts, root, bool(half), dst.ctypes.data, src.ctypes.data, len(dst),
                        span], np.int64)
        return Job(row, K, N, (W, dst, src))

    def run(self, job: Job, x: np.ndarray, out: np.ndarray) -> None:
        """Compute ``out = x W`` with everybody who is awake.

        Args:
            x: K numbers, float32, C-contiguous. out: N numbers of the same kind, writable.

        Raises:
            MeshTypeError, MeshError: arrays of another dtype, size or layout; another thread leads a product.
            MemoryError: none left for the partial sums.
        """
        _plain("x", x, x.ndim)
        _plain("out", out, out.ndim)
        if x.size != job.K or x.shape[-1] != job.K or out.size != job.N or not out.flags.writeable:
            raise MeshError(f"x {x.shape} times W ({job.K}, {job.N}) into out {out.shape}: x must have {job.K} "
                            f"elements, and out {job.N} that can be written to")
        failure = _lead(self._board, job.row, x, out)
        if failure == _BUSY:
            raise MeshError("this team is at work on a product in another thread: it leads one at a time")
        if failure == _NO_MEMORY:
            raise MemoryError(f"no memory for the partial sums of a product with W ({job.K}, {job.N})")


def _plain(name: str, array: np.ndarray, ndim: int) -> np.ndarray:
    """``array``, if compiled code can take it by its address."""
    if array.dtype != _FLOAT or array.ndim != ndim:
        raise MeshTypeError(f"{name} is {array.dtype} {array.shape}; it must be float32 with {ndim} dimensions")
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise MeshError(f"{name} {array.shape} must be C-contiguous and aligned: see numpy.require")
    return array
