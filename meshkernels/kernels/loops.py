"""What macro-kernels share: the lanes that they work on, what they prefetch, and the loops over blocks and threads.

A product runs through blocks of C (mc x nc, see `host.blocking`). A thread completes a block, through all of
K, before it takes the next: the loops jc and ic of Goto & van de Geijn's algorithm are outermost, and a macro-kernel
holds the loops pc, jr and ir around the micro-kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.kernels import host, memory, pool
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.pack import Blocks, Panels, Unpacked, write_back


class Lanes(NamedTuple):
    """The lanes of a packed operand that belong to one block of C, for a macro-kernel.

    Attributes:
        numbers: the whole operand's panels; lane l of these in the chunk at pc, which is ``depth`` deep, begins at
            ``pc * total + (first + l) * depth`` if a panel begins with it.
        total: lanes of the whole operand, a multiple of the panel's width.
        first: of these lanes, the first of a panel.
        start: int32, of each of these lanes; ascending. See `pack.Layout`.
        kc: depth of a chunk.
    """

    numbers: np.ndarray
    total: int
    first: int
    start: np.ndarray
    kc: int


@compiled
def panel_ahead(A, B, a_next, call, to_next, depth):
    """Address to prefetch from, one cache line per k.

    It lies in the next block of A, or else in this call's share of the next panel of B. Calls beyond that panel's end
    prefetch their own panel of A, which is cached: a no-op.

    Args:
        A: the call's `ukernel.Left`.
        B: the call's `ukernel.Right`.
        a_next: where the next block of A begins in its numbers; -1: prefetch B.
        call: number of this call among those that read this panel of B.
        to_next: rows from this panel of B to the next one in memory.
        depth: how many rows of the panel are read.

    Returns:
        The address, an integer.
    """
    line = call * 64 * depth
    if a_next < 0 and line < B.step * depth * B.numbers.itemsize:
        return B.numbers.ctypes.data + (B.at + B.step * to_next) * B.numbers.itemsize + line
    return A.numbers.ctypes.data + (A.at if a_next < 0 else a_next) * A.numbers.itemsize


def over_blocks(block: Callable[[Lanes, Lanes, np.ndarray], object], A: Unpacked, B: Panels,
                tile: host.MicroTile, C: np.ndarray | Blocks, copies: int, threads: int | None) -> None:  # fmt: skip
    """The loops jc and ic, shared by threads: ``block(lanes of A, lanes of B, sums)``, then its sums go to C.

    Args:
        block: a macro-kernel; ``sums`` are ``copies`` blocks of C in register tiles, uninitialised.
        A: the left operand: a thread packs the rows of its block and then reads them from its own cache.
        B: the right one, packed for the same order.
        tile: the register tile that both are laid out for.
        C: (M, N), as `pack.write_back` takes it.
        copies: blocks of sums that the macro-kernel needs.
        threads: at most so many.

    Raises:
        MeshError: an operand is packed for another register tile.
    """
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    for panels, width in ((A, mr), (B, nr)):
        if panels.layout.width != width:
            raise MeshError(f"an operand is packed {panels.layout.width} lanes wide, for another width of vectors: "
                            f"{host.simd()} takes {width}; pack it again")  # fmt: skip
    rows, cols, K = A.layout.source, B.layout.source, len(A.layout.k_of)
    _, mc, nc = host.blocking(tile, B.data.itemsize, K, A.kc)
    threads = pool.threads_for(A.lanes * B.lanes * K // 8, threads)
    spans_i, spans_j = pool.spans(len(rows), mr, mc, threads), pool.spans(len(cols), nr, nc // copies)
    blocks = [(i, j) for j in spans_j for i in spans_i]
    tallest, widest = (max(part.stop - part.start for part in spans) for spans in (spans_i, spans_j))

    def work(items: Iterator[int]) -> None:
        sums, packed = (memory.borrow(tallest * n, B.data.dtype) for n in (copies * widest, K))
        for i, j in (blocks[item] for item in items):
            A.part(i, packed)
            block(Lanes(packed, i.stop - i.start, 0, A.layout.start[i], A.kc),
                  Lanes(B.data, len(cols), j.start, B.layout.start[j], B.kc), sums)
            write_back(sums, mr, nr, rows[i.start : min(i.stop, A.lanes)], cols[j.start : min(j.stop, B.lanes)],
                       B.layout.runs[j], C)  # fmt: skip
        memory.give_back(sums)
        memory.give_back(packed)

    pool.parallel(work, len(blocks), threads)
