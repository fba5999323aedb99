"""What macro-kernels share: the lanes that they work on, what they prefetch, and the loops over blocks and threads.

A product runs through blocks of C (mc x nc, see `host.blocking`). A thread completes a block, through all of
K, before it takes the next: the loops jc and ic of Goto & van de Geijn's algorithm are outermost, and a macro-kernel
holds the loops pc, jr and ir around the micro-kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.kept import remember
from meshkernels.kernels import host, memory, pool
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import address_in
from meshkernels.kernels.pack import Blocks, Home, Panels, Source, Target, Unpacked, fill, home
from meshkernels.kernels.ukernel import Ahead


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
def panel_ahead(A, B, a_next, b_next, depth, call, calls, steps):
    """What a call of the micro-kernel prefetches: its own rows of the next block of A, or its share of a panel of B.

    The calls that read one panel of B ask for the next one evenly, so that L3 delivers all the time.

    Args:
        A: the call's `ukernel.Left`, its numbers a pointer.
        B: the call's `ukernel.Right`, the same.
        a_next: where these rows begin in A's numbers; -1: prefetch B.
        b_next: where the next panel begins in B's numbers.
        depth: rows of that panel.
        call: number of this call among those that read the present panel of B.
        calls: how many these are.
        steps: multiply-adds of this call, at least 1.

    Returns:
        A `ukernel.Ahead`.
    """
    if a_next >= 0:
        return Ahead(address_in(A.numbers, a_next), address_in(A.numbers, A.step) - address_in(A.numbers, 0))
    share = (address_in(B.numbers, B.step * depth) - address_in(B.numbers, 0) + calls - 1) // calls
    return Ahead(address_in(B.numbers, b_next) + call * share, (share + steps - 1) // steps)


class Product(NamedTuple):
    """What a thread works on, for compiled code.

    Attributes:
        tile: the register tile, a `host.MicroTile`.
        A: the left operand, a `pack.Source`.
        B: all columns of the right one.
        C: a `pack.Home`.
        packed: a buffer for the rows of a block.
        sums: a buffer for the sums of a block, in register tiles: column of tiles by column.
    """

    tile: host.MicroTile
    A: Source
    B: Lanes
    C: Home
    packed: np.ndarray
    sums: np.ndarray


@compiled
def block_lanes(product, i0, i1, j0, j1):
    """The rows of a block, packed, and its columns: two `Lanes`."""
    B, mr = product.B, len(product.tile.rows)
    fill(product.A, Target(product.packed, product.tile.rows, B.kc, i0, i1 - i0, False), i0 // mr, i1 // mr)
    return (Lanes(product.packed, i1 - i0, 0, product.A.start[i0:i1], B.kc),
            Lanes(B.numbers, B.total, j0, B.start[j0:j1], B.kc))  # fmt: skip


#: Multiply-adds between two looks at signals: about 0.1 s.
_PATIENCE = 1 << 33


def over_blocks(macro: Callable[[Product, np.ndarray, Any], object], more: Any, A: Unpacked, B: Panels,
                tile: host.MicroTile, C: np.ndarray | Blocks, copies: int, threads: int | None) -> None:  # fmt: skip
    """The loops jc and ic, shared by threads: ``macro(product, blocks, more)`` on each.

    Args:
        macro: compiled; for each of ``blocks (n, 4)``, rows i0 .. i1 - 1 and columns j0 .. j1 - 1 of C as they are
            packed, in whole register tiles: `block_lanes`, a macro-kernel, `pack.write_back`.
        more: what it needs beside.
        A: the left operand: a thread packs the rows of its block and then reads them from its own cache.
        B: the right one, packed for the same order.
        tile: the register tile that both are laid out for.
        C: (M, N), as `pack.home` takes it.
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
    rows, cols, K = len(A.layout.source), len(B.layout.source), len(A.layout.k_of)
    threads = pool.threads_for(A.lanes * B.lanes * K // 8, threads)
    blocks, at_a_time, packed_size, sums_size = _blocks(tile, B.data.itemsize, rows, cols, K, A.kc, copies, threads)
    where, columns = home(C, A.layout, B.layout), Lanes(B.data, cols, 0, B.layout.start, B.kc)

    def work(items: Iterator[int]) -> None:
        buffer = memory.borrow(packed_size + sums_size, B.data.dtype)
        product = Product(tile, A.source, columns, where, buffer[:packed_size], buffer[packed_size:])
        for item in items:
            macro(product, blocks[item * at_a_time :][:at_a_time], more)
        memory.give_back(buffer)

    pool.parallel(work, -(-len(blocks) // at_a_time), threads)


@remember
def _blocks(tile: host.MicroTile, itemsize: int, rows: int, cols: int, K: int, kc: int, copies: int,
            threads: int) -> tuple[np.ndarray, int, int, int]:  # fmt: skip
    """How threads share out a product.

    Returns:
        The blocks of C ``(n, 4)``, how many of them are one work item, and the numbers that a thread needs room for:
        packed rows of a block, in whole cache lines, and ``copies`` blocks of sums.
    """
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    _, mc, nc = host.blocking(tile, itemsize, K, kc)
    # threads share out the rows; where these are few, the columns: else each thread would read all of B for little work
    down, across = (threads, 1) if rows > mc else (1, threads)
    spans_i, spans_j = pool.spans(rows, mr, mc, down), pool.spans(cols, nr, nc // copies, across)
    blocks = np.array([(i.start, i.stop, j.start, j.stop) for j in spans_j for i in spans_i])
    tallest, widest = (max(part.stop - part.start for part in spans) for spans in (spans_i, spans_j))
    # Many blocks in one call, since Python code is evicted from the caches while a block is computed; few enough that
    # all threads end at about the same time.
    at_a_time = max(1, min(_PATIENCE // (tallest * widest * K), len(blocks) // (8 * threads if threads > 1 else 1)))
    return blocks, at_a_time, -(-tallest * K // nr) * nr, copies * tallest * widest
