"""C = A @ B on rings: packed, register-blocked, and every element keeps its mesh's order of summation.

On a ring, element (i, j) of C is one chain of fused multiply-adds through all K blocks in ring order, starting at ring
place u = row_start + col_start, which depends on its row and its column only. So an ordinary product over K packed in
ring order computes it, if each element starts and ends in time. The clock is the ring place tau, not taken modulo the
length L: an element lives from u to u + L, and a register tile from its smallest u to its largest u + L:

    smallest u                largest u                    smallest u + L            largest u + L
        |  zeroed as they start   |         all alive            |   stored as they end    |

What is computed outside an element's life is discarded when it starts, or never stored, so that no multiply-add needs
a mask. Rows and columns are packed in the order of their starts, so that the starts in a tile lie close together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from meshkernels.errors import MeshError
from meshkernels.kept import remember
from meshkernels.kernels import host, loops, memory
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import numbers_of
from meshkernels.kernels.pack import Blocks, Columns, Layout, Panels, Unpacked, layout, pack, wide, write_back
from meshkernels.kernels.ukernel import BANDS, Left, Life, Right, Sums, chain, live_chain


@register_jitable(inline="always")  # Numba counts references to arrays at every call of a function
def _spans(tile, row, r0, col, j0, parts, spans, clock, pc, stop, k0):
    """Fill in the spans of time from pc to stop between which elements of a register tile start or end.

    Args:
        tile: the register tile.
        row: of its `ukernel.Life`, as are the next three.
        r0: see there.
        col: see there.
        j0: see there.
        parts: (parts, 2) scratch: the first and the last start in each.
        spans: to be filled in.
        clock: of `_ring_block`.
        pc: multiply-adds before the chunk.
        stop: and at its end.
        k0: where k = 0 is.

    Returns:
        How many.
    """
    step, lanes, L = len(tile.rows) // BANDS, len(tile.lanes), (len(clock) - 1) // 3
    for p in range(len(parts)):
        r, j = r0 + p % BANDS * step, j0 + p // BANDS * lanes
        parts[p, 0] = row[r] + col[j]
        parts[p, 1] = row[r + step - 1] + col[j + lanes - 1]
    low, high = parts[0, 0], parts[len(parts) - 1, 1]
    count, tau = 0, low
    while tau < high + L and clock[tau] < stop:
        after = low + L if high <= tau < low + L else tau + 1
        here = pc <= clock[tau]  # time tau itself, at which elements start, is in this step of pc
        if pc < clock[after] or here:
            final = after == high + L or clock[after] >= stop
            kept = after - L if after >= low + L else 0
            begins, alive, ends = 0, 0, 0
            for p in range(len(parts)):
                first, last = parts[p, 0], parts[p, 1]
                begins |= (here & (first <= tau) & (tau <= last)) << p
                alive |= ((first < after) & (tau < last + L)) << p
                ends |= ((kept <= last) & (final | (low + L <= after) & (first <= kept))) << p
            spans[count, 0], spans[count, 1], spans[count, 2] = min(clock[after], stop) - k0, tau, kept
            spans[count, 3], spans[count, 4], spans[count, 5] = begins, alive, ends
            count += 1
        tau = after
    return count


@compiled
def _ring_block(tile, A, B, clock, C):
    """One block of C: loops pc (over time), jr, ir. clock[tau] = multiply-adds before ring time tau, for three turns.

    Args:
        tile: the register tile, a `host.MicroTile`.
        A: `loops.Lanes` of rows, their ``start`` being each lane's share of u.
        B: `loops.Lanes` of columns, the same.
        clock: ``(3 L + 1,)`` see above.
        C: register tiles, column of tiles by column.
    """
    mr, nr, rows, cols, kc = len(tile.rows), len(tile.vectors) * len(tile.lanes), len(A.start), len(B.start), A.kc
    row, col, left, right, out = A.start, B.start, numbers_of(A.numbers), numbers_of(B.numbers), numbers_of(C)
    L = (len(clock) - 1) // 3
    K = clock[L]
    first, last = row[0] + col[0], row[-1] + col[-1]
    start, end = clock[first], clock[last + L]
    spans, parts = np.empty((2 * (last - first) + 2, 6), np.int32), np.empty((BANDS * len(tile.vectors), 2), np.int64)
    table, row_at, col_at = numbers_of(spans), numbers_of(row), numbers_of(col)
    pc = start // K * K + start % K // kc * kc
    while pc < end:
        depth = min(kc, K - pc % K)
        stop, a_pc, b_pc = pc + depth, pc % K * A.total, pc % K * B.total
        a_stop, after = stop % K * A.total, min(kc, K - stop % K)
        late = cols - nr  # the last panel of B that is alive: its calls prefetch the next block of A
        while late > 0 and clock[row[0] + col[late]] >= stop:
            late -= nr
        for jr in range(0, late + nr, nr):
            for ir in range(0, rows, mr):
                low, high = row[ir] + col[jr], row[ir + mr - 1] + col[jr + nr - 1]
                k, upto = max(clock[low], pc), min(clock[high + L], stop)  # what of this chunk the tile lives through
                if k >= upto:
                    continue
                a = Left(left, a_pc + (A.first + ir) * depth + (k - pc) * mr, 1, mr)
                b_panel = b_pc + (B.first + jr) * depth
                b = Right(right, b_panel + (k - pc) * nr, nr)
                sums = Sums(out, (jr // nr * rows + ir) * nr, nr)
                a_next = a_stop + (A.first + ir) * after if jr == late else -1
                ahead = loops.panel_ahead(a, b, a_next, b_panel + nr * depth, depth, ir // mr, rows // mr, upto - k)
                if clock[high] < pc and stop <= clock[low + L]:  # all alive
                    chain(tile, a, b, sums, depth, ahead)
                elif low == high:  # all begin and end at one time: nothing to mask
                    if k == clock[low]:
                        for i in range(sums.at, sums.at + mr * nr):
                            C[i] = 0
                    chain(tile, a, b, sums, upto - k, ahead)
                else:
                    used = _spans(tile, row, ir, col, jr, parts, spans, clock, pc, stop, k)
                    live_chain(tile, a, b, sums, ahead, Life(used, table, row_at, ir, col_at, jr))
        pc = stop


@compiled
def _ring_blocks(product, blocks, places):
    L = len(places) - 1
    clock = np.empty(3 * L + 1, np.int64)
    for tau in range(len(clock)):
        clock[tau] = tau // L * places[L] + places[tau % L]
    for i0, i1, j0, j1 in blocks:
        A, B = loops.block_lanes(product, i0, i1, j0, j1)
        _ring_block(product.tile, A, B, clock, product.sums)
        write_back(product.tile, product.sums, product.C, i0, i1, j0, j1)


def ring_product(A: np.ndarray | Blocks, B: np.ndarray | Blocks | Columns | Panels, order: Any, *,
                 out_dtype: Any = None, accumulate: str | None = None, threads: int | None = None,
                 out: Any = None) -> Any:  # fmt: skip
    """C = A @ B, element (i, j) summed in ring order from row_start[i // row_tile] + col_start[j // col_tile].

    Args:
        A: (M, K), any strides; float32, float64, float16 or bfloat16.
        B: (K, N), of the dtype of A; or `Panels` from `pack_right` for the same order, or `Columns`.
        order: a `meshkernels.schedules.RingOrder`: blocks, block, row_start, col_start, row_tile, col_tile.
        out_dtype: dtype of C; the storage dtype if None.
        accumulate: "float16" rounds to float16 after every multiply-add, anything else leaves float32 / float64.
        threads: at most so many; NUMBA_NUM_THREADS if None.
        out: where to put C, an array or `Blocks`, as `pack.write_back` takes it; None: a new array.

    Returns:
        C: (M, N). Extra memory: a packed copy of B, and per thread about 2 L2 caches and some packed rows of A.

    Raises:
        MeshError: the operands do not match each other or the order, or are packed for another width of vectors.
    """
    rows = _ring_layout(order, True, *A.shape, len(host.micro_tile(wide(A.dtype)).rows))
    left = Unpacked(A, rows, _chunk(A.dtype, rows))
    right = B if isinstance(B, Panels) else pack_right(B, order, threads=threads, allocate=memory.borrow)
    K, others = len(left.layout.k_of), len(right.layout.k_of)
    if (others != K or len(left.layout.places) != len(right.layout.places) or left.kc != right.kc
            or wide(left.dtype) != right.data.dtype):
        raise MeshError(f"rows of {K} {left.dtype} and columns of {others} {right.dtype} do not match, or are "
                        "packed for different rings")
    C = memory.result((left.lanes, right.lanes), out_dtype or left.dtype) if out is None else out
    in_memory = C.array.transpose(0, 2, 1, 3) if isinstance(C, Blocks) else C
    if C.shape != (left.lanes, right.lanes) or not in_memory.flags.c_contiguous or getattr(C, "places", None):
        raise MeshError(f"out is {C.shape}, contiguous: {in_memory.flags.c_contiguous}; the product is "
                        f"{(left.lanes, right.lanes)} and goes to contiguous memory")
    if 0 in (*C.shape, K):
        in_memory[...] = 0
        return C
    tile = host.micro_tile(right.data.dtype, accumulate == "float16")
    loops.over_blocks(_ring_blocks, left.layout.places, left, right, tile, C, 1, threads)
    if right is not B:
        memory.give_back(right.data)
    return C


@remember
def _ring_layout(order: Any, left: bool, lanes: int, K: int, width: int) -> Layout:
    start, tile = (order.row_start, order.row_tile) if left else (order.col_start, order.col_tile)
    return layout(start[np.arange(lanes) // tile], order.blocks, order.block, K, width)


def pack_right(B: np.ndarray | Blocks | Columns, order: Any, *, threads: int | None = None,
               allocate: Callable[[int, np.dtype], np.ndarray] = memory.aligned) -> Panels:  # fmt: skip
    """B (K, N) as `ring_product` reads it, to be used again and again with this order; options as of `pack.pack`."""
    tile, (K, N) = host.micro_tile(wide(B.dtype)), B.shape
    where = _ring_layout(order, False, N, K, len(tile.vectors) * len(tile.lanes))
    lanes = B if isinstance(B, Columns) else B.T
    return pack(lanes, where, _chunk(B.dtype, where), threads=threads, allocate=allocate)


def _chunk(dtype: np.dtype, where: Layout) -> int:
    """How much of K is packed side by side: kc of the blocking."""
    kind = wide(dtype)
    return host.blocking(host.micro_tile(kind), kind.itemsize, len(where.k_of)).kc
