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
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import carray, config, types
from numba.extending import intrinsic

from meshkernels.errors import MeshError
from meshkernels.execute import workers
from meshkernels.execute.atomic import add, give_way, load, store, swap_if
from meshkernels.execute.compiled import compiled
from meshkernels.llm.kernels import gemv

#: Places on the board, a cache line apart.
TICKETS, DONE, STOP, JOB = 0, 8, 16, 24
_SIXTEEN = 0xFFFF
#: Looks at the board before the core is offered to others: about as long as the leader's Python between products.
_LOOKS = 20_000


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
        gemv(carray(floats(x), K), carray(floats(W), (K, N)), ticket * span, min(N, ticket * span + span), parts,
             carray(integers(dst), adds), carray(integers(src), adds), root, half != 0, columns)
        add(board, DONE, 1)


@compiled
def _lead(board, job):
    """Post a product, work on it, and wait for the helpers that still do."""
    board[JOB : JOB + 12] = job
    span = job[11]
    tickets = (job[2] + span - 1) // span
    store(board, DONE, 0)
    store(board, TICKETS, (((load(board, TICKETS) >> 32) + 1) << 32) | (tickets << 16))
    _take_tickets(board)
    looks = 0
    while load(board, DONE) < tickets:
        looks += 1
        if looks > _LOOKS:
            give_way()


@compiled
def _help(board):
    """Work on one product after the other until the token is done."""
    looks, product = 0, load(board, TICKETS) >> 32
    while not load(board, STOP):
        _take_tickets(board)
        looks += 1
        if load(board, TICKETS) >> 32 != product:
            looks, product = 0, load(board, TICKETS) >> 32
        elif looks > _LOOKS:
            give_way()


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(affinity(0)) if affinity else os.cpu_count() or 1


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
        self._board[STOP] = 0
        with workers.Helped(lambda: _help(self._board), threads - 1):
            try:
                yield
            finally:
                self._board[STOP] = 1

    def span(self, N: int) -> int:
        """Columns of one ticket: few tickets where columns are few, none wider than a strip of the kernel."""
        most = self._most or config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        tickets = most if N < 2048 else 2 * most
        return min(4096, 16 * -(-N // (16 * tickets)))

    def job(self, W: np.ndarray, parts: int, dst: np.ndarray, src: np.ndarray, root: int, half: bool) -> np.ndarray:
        """A product with one weight as the board states it, the vectors' addresses left open."""
        assert W.flags.c_contiguous and W.dtype == np.float32 and dst.dtype == src.dtype == np.int64
        return np.array([W.ctypes.data, *W.shape, 0, 0, parts, root, half, dst.ctypes.data, src.ctypes.data,
                         len(dst), self.span(W.shape[1])], np.int64)

    def run(self, job: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
        """Compute ``out = x W`` with everybody who is awake."""
        job[3:5] = x.ctypes.data, out.ctypes.data
        _lead(self._board, job)
