"""The fast executor's arithmetic: packed, register-blocked products in which every element keeps its mesh's order.

NumPy arrays in, NumPy arrays out; nothing here knows a mesh beyond the order in which K blocks are met.

On a ring, element (i, j) of C is one chain of fused multiply-adds through all K blocks in ring order, from a place
u = row_start + col_start that depends on its row and its column only. So an ordinary product over K packed in ring
order computes it, if each element starts and ends in time. The clock is the ring place tau, not taken modulo the
length L: an element lives from u to u + L, and a register tile from its smallest u to its largest u + L:

    smallest u                largest u                    smallest u + L            largest u + L
        |  zeroed as they start   |         all alive            |   kept as they end      |

What is computed outside an element's life is thrown away when it starts, or never stored, so that no multiply-add
needs a mask. Rows and columns are packed in the order of their starts, so that a tile's starts lie close together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.execute import cpu, workers
from meshkernels.execute.atomic import add
from meshkernels.execute.compiled import compiled
from meshkernels.execute.microkernel import add_chains, chain, chain_ahead, live_chain, round_half
from meshkernels.execute.pack import Panels, copy_line, layout, pack, seen, wide, write_back
from meshkernels.kept import remember

# Compiled code checks no index: whatever calls it checks sizes first, and places with `_within`.


@compiled
def _within(places, n):
    """Whether each of ``places`` is one of 0 to n - 1."""
    inside = True
    for place in places:
        inside = inside and 0 <= place < n
    return inside


# ------------------------------------------------------------------------------------------- C = A @ B on rings


@compiled
def _ring_block(tile, A, B, a_lanes, b_lanes, ic, jc, u_row, u_col, clock, L, kc, C):
    """The block of C at (ic, jc): loops pc (over time), jr, ir. clock[tau] = multiply-adds before ring time tau."""
    mr, nr, K = len(tile.rows), len(tile.vectors) * len(tile.lanes), clock[L]
    begin, end = clock[u_row[0] + u_col[0]], clock[u_row[-1] + u_col[-1] + L]
    life = np.empty((2 * (u_row[-1] - u_row[0] + u_col[-1] - u_col[0]) + 2, 3), np.int32)
    pc = begin // K * K + begin % K // kc * kc
    while pc < end:
        depth = min(kc, K - pc % K)
        stop, a_pc, b_pc = pc + depth, pc % K * a_lanes, pc % K * b_lanes
        for jr in range(0, len(u_col), nr):
            for ir in range(0, len(u_row), mr):
                at = (jr // nr * len(u_row) + ir) * nr
                a0, b0 = a_pc + (ic + ir) * depth, b_pc + (jc + jr) * depth
                low, high = u_row[ir] + u_col[jr], u_row[ir + mr - 1] + u_col[jr + nr - 1]
                a_next = stop % K * a_lanes + (ic + ir) * min(kc, K - stop % K)
                ahead = _ahead(A, a0, a_next if jr + nr == len(u_col) else -1, B, b0, nr, depth, ir // mr)
                if clock[high] < pc and stop <= clock[low + L]:  # all alive
                    chain_ahead(tile, A, a0, 1, mr, B, b0, nr, C, at, nr, depth, ahead)
                elif clock[low] < stop and pc < clock[high + L]:
                    k0 = max(clock[low], pc)
                    spans = _spans(low, high, L, clock, pc, stop, k0, life)
                    a, b = a0 + (k0 - pc) * mr, b0 + (k0 - pc) * nr
                    live_chain(tile, A, a, 1, mr, B, b, nr, C, at, nr, spans, u_row, ir, u_col, jr, life, ahead)
        pc = stop


@compiled
def _ahead(A, a0, a_next, B, b0, nr, depth, call):
    """What to ask for, a cache line in each of ``depth`` steps: the next block of A if given, else the next panel of B.

    The first calls share that panel; the others ask for what is there already: the panel of A at a0.
    """
    if a_next < 0 and call * 64 < nr * B.itemsize:
        return B.ctypes.data + (b0 + nr * depth) * B.itemsize + call * 64 * depth
    return A.ctypes.data + (a0 if a_next < 0 else a_next) * A.itemsize


@compiled
def _spans(low, high, L, clock, pc, stop, k0, life):
    """Spans of time from pc to stop between which elements of a register tile start or end; see `live_chain`."""
    count, tau = 0, low
    while tau < high + L and clock[tau] < stop:
        after = low + L if high <= tau < low + L else tau + 1
        here = pc <= clock[tau]  # time tau itself, at which elements start, is in this step of pc
        if pc < clock[after] or here:
            life[count, 0] = min(clock[after], stop) - k0
            life[count, 1] = tau if here and tau <= high else -1
            life[count, 2] = after - L if after >= low + L else -1
            count += 1
        tau = after
    life[count - 1, 2] = max(life[count - 1, 2], 0)
    return count


def ring_product(A, B, order, *, out_dtype=None, accumulate=None, threads=None):
    """C = A @ B, element (i, j) summed in ring order from row_start[i // row_tile] + col_start[j // col_tile].

    Args:
        A: (M, K), B: (K, N), any strides; float32, float64, float16 or bfloat16, one dtype.
            Either may be `Panels` from `pack_left` or `pack_right` for the same order.
        order: a meshkernels.schedule.RingOrder: blocks, block, row_start, col_start, row_tile, col_tile.
        out_dtype: dtype of C; the storage dtype if None.
        accumulate: "float16" rounds to float16 after every multiply-add, anything else leaves float32 / float64.
        threads: at most so many; NUMBA_NUM_THREADS if None.

    Returns:
        C: (M, N). Extra memory: the packed copies of A and B, and 2 L2 caches per thread.
    """
    given = A, B
    A = A if isinstance(A, Panels) else pack_left(A, order, threads=threads, memory=cpu.borrow)
    B = B if isinstance(B, Panels) else pack_right(B, order, threads=threads, memory=cpu.borrow)
    sizes, others = (len(A.layout.k_of), len(A.layout.places)), (len(B.layout.k_of), len(B.layout.places))
    if sizes != others or A.kc != B.kc or A.data.dtype != B.data.dtype:
        raise MeshError(f"rows of {sizes[0]} {A.dtype} and columns of {others[0]} {B.dtype} do not match, or are "
                        "packed for different rings")
    C = np.empty((A.lanes, B.lanes), out_dtype or A.dtype)
    (rows, u_row, places, *_), (cols, u_col, *_) = A.layout, B.layout
    L, K = len(places) - 1, int(places[-1])
    if C.size == 0 or K == 0:
        C[...] = 0
        return C
    tile = cpu.micro_tile(A.data.dtype, accumulate == "float16")
    clock = np.concatenate([places[:-1] + K * turn for turn in range(3)] + [[3 * K]])

    def block(i, j, tiles):
        _ring_block(tile, A.data, B.data, len(rows), len(cols), i.start, j.start, u_row[i], u_col[j], clock, L, A.kc,
                    tiles)  # fmt: skip

    _over_blocks(block, A, B, tile, C, 1, threads)
    for operand, panels in zip(given, (A, B)):
        if operand is not panels:
            cpu.give_back(panels.data)
    return C


def _same_width(panels, lanes):
    if panels.layout.width != lanes:
        raise MeshError(f"an operand is packed {panels.layout.width} lanes wide, for another width of vectors: "
                        f"{cpu.simd()} takes {lanes}; pack it again")  # fmt: skip


def _over_blocks(block, A, B, tile, C, copies, threads):
    """The loops jc and ic, shared out over threads: ``block(rows, cols, tiles)``, then its tiles go to their places."""
    rows, cols, K = A.layout.source, B.layout.source, len(A.layout.k_of)
    mr, nr = A.layout.width, B.layout.width
    _, mc, nc = cpu.blocking(tile, A.data.itemsize, K, A.kc)
    _same_width(A, len(tile.rows))
    _same_width(B, len(tile.vectors) * len(tile.lanes))
    threads = workers.threads_for(A.lanes * B.lanes * K // 8, threads)
    spans_j = workers.spans(len(cols), nr, nc // copies)
    blocks = [(i, j) for j in spans_j for i in workers.spans(len(rows), mr, mc, threads)]
    out, largest = C.reshape(-1).view(seen(C.dtype)), max([(i.stop - i.start) * (j.stop - j.start) for i, j in blocks])

    def work(tickets):
        tiles = cpu.borrow(copies * largest, A.data.dtype)
        for ticket in tickets:
            i, j = blocks[ticket]
            block(i, j, tiles)
            i, j = rows[i.start : min(i.stop, A.lanes)], cols[j.start : min(j.stop, B.lanes)]
            write_back(tiles, mr, (0,) * nr, i, j, C.shape[1], out)
        cpu.give_back(tiles)

    workers.parallel(work, len(blocks), threads)


@remember
def _ring_layout(order, left, lanes, K, width):
    start, tile = (order.row_start, order.row_tile) if left else (order.col_start, order.col_tile)
    return layout(start[np.arange(lanes) // tile], order.blocks, order.block, K, width)


def _ring_panels(X, order, left, options):
    tile, (lanes, K) = cpu.micro_tile(wide(X.dtype)), X.shape
    width = len(tile.rows) if left else len(tile.vectors) * len(tile.lanes)
    where = _ring_layout(order, left, lanes, K, width)
    return pack(X, where, cpu.blocking(tile, wide(X.dtype).itemsize, len(where.k_of)).kc, **options)


def pack_left(A, order, **options) -> Panels:
    """A (M, K) as `ring_product` reads it, to be used again and again with this order."""
    return _ring_panels(A, order, True, options)


def pack_right(B, order, **options) -> Panels:
    """B (K, N) as `ring_product` reads it, to be used again and again with this order."""
    return _ring_panels(B.T, order, False, options)


# ------------------------------------------------------------------------------- S = Q @ K.T on chains of cores


@compiled
def _chain_block(tile, Q, K, q_lanes, k_lanes, ic, jc, rows, root, E, eb, parts, kc, S, spare):
    """The block of S at (ic, jc): left sums over x = 0 .. root, right sums over x = parts - 1 .. root + 1, their sum.

    Sums begin with -0.0, the neutral element of IEEE addition.
    """
    mr, nr, size, group = len(tile.rows), len(tile.vectors) * len(tile.lanes), rows * len(root), max(1, kc // eb)
    groups, whole = (parts + group - 1) // group, E // eb
    S[: 2 * size] = -0.0
    for sweep in range(2 * groups):  # left sums with pc ascending, then right sums with pc descending
        left = sweep < groups
        g, step = (sweep, 1) if left else (2 * groups - 1 - sweep, -1)
        x0, x1, pc = g * group, min(g * group + group, parts), min(g * kc, E)
        deep = min(kc, E - pc)
        after = min(pc + kc, E) if left else max(0, pc - kc)  # where the next sweep begins
        for jr in range(0, len(root), nr):
            low, high = root[jr], root[jr + nr - 1]
            for ir in range(0, rows, mr):
                at = (jr // nr * rows + ir) * nr + (0 if left else size)
                q0, k0 = pc * q_lanes + (ic + ir) * deep, pc * k_lanes + (jc + jr) * deep
                q_next = after * q_lanes + (ic + ir) * min(kc, E - after)
                ahead = _ahead(Q, q0, q_next if jr + nr == len(root) else -1, K, k0, nr, deep, ir // mr)
                x, last = (x0, min(x1, high + 1)) if left else (x1 - 1, max(x0, low + 1) - 1)
                common = min(x1, low + 1) if left else max(x0, high + 1) - 1  # up to here for all columns of the tile
                while (last - x) * step > 0:
                    k = x * eb - pc
                    depth, q, b = max(0, min(eb, deep - k)), q0 + k * mr, k0 + k * nr
                    if (common - x) * step > 0:
                        chains = 1 if depth < eb else (min(common, whole) - x if left else x - common)
                        q_step, k_step = step * eb * mr, step * eb * nr
                        add_chains(tile, Q, q, 1, mr, K, b, nr, S, at, nr, depth, chains, q_step, k_step, ahead)
                        x += step * chains
                        continue
                    for i in range(mr * nr):
                        spare[i] = S[at + i]
                    add_chains(tile, Q, q, 1, mr, K, b, nr, spare, 0, nr, depth, 1, 0, 0, ahead)
                    for i in range(mr * nr):
                        if (x <= root[jr + i % nr]) == left:
                            S[at + i] = spare[i]
                    x += step
    for i in range(size):
        S[i] += S[size + i]
        if len(tile.halves):
            S[i] = round_half(np.float32(S[i]))


def chain_product(Q, K, root, parts, *, out_dtype=None, accumulate=None, threads=None):
    """S = Q @ K.T as dist-GEMM-T sums it: partials of E blocks, chained from both ends to a root core.

    p_x = fma chain over E block x;  left = ((p_0 + p_1) + ...) + p_r;  right = ((p_last + ...) + p_{r+1});
    S[:, j] = left + right with r = root[j].

    Args:
        Q: (M, E), K: (N, E), any strides, one dtype.
        root: (N,) number of the block at which the two chains of column j meet.
        parts: number of E blocks, each ceil(E / parts) long (the last ones may be short or empty).
        out_dtype, accumulate, threads: as in `ring_product`.
    """
    S = np.empty((len(Q), len(K)), out_dtype or Q.dtype)
    E, root = Q.shape[1], np.asarray(root, np.int64)
    if K.shape[1] != E or K.dtype != Q.dtype or root.shape != (len(K),) or parts < 1 or not _within(root, parts):
        raise MeshError(f"Q {Q.dtype} {Q.shape}, K {K.dtype} {K.shape} and roots {root.shape} among {parts} blocks do "
                        "not match")
    if S.size == 0 or E == 0:
        S[...] = 0
        return S
    tile, eb, blocks = cpu.micro_tile(wide(Q.dtype), accumulate == "float16"), -(-E // parts), np.arange(parts)
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    rows, cols = layout(np.zeros(len(Q), np.int64), blocks, eb, E, mr), layout(root, blocks, eb, E, nr)
    E = len(rows.k_of)  # with a zero where the blocks do not divide it
    kc = max(1, cpu.blocking(tile, wide(Q.dtype).itemsize, E).kc // eb) * eb  # whole blocks
    left = pack(Q, rows, kc, threads=threads, memory=cpu.borrow)
    right = pack(K, cols, kc, threads=threads, memory=cpu.borrow)

    def block(i, j, tiles):
        _chain_block(tile, left.data, right.data, len(rows.source), len(cols.source), i.start, j.start,
                     i.stop - i.start, cols.start[j], E, eb, parts, kc, tiles,
                     cpu.aligned(mr * nr, tiles.dtype))  # fmt: skip

    _over_blocks(block, left, right, tile, S, 2, threads)
    cpu.give_back(left.data)
    cpu.give_back(right.data)
    return S


# ------------------------------------------------------------------------------------------------- y = x @ W


class PlacedVectorOperand(NamedTuple):
    """W as `gemv_sums` streams it: panels of columns, K in one piece, 16-bit storage kept; for ``parts`` K blocks."""

    panels: Panels
    parts: int
    turns: Iterator[int]  # 0, 1, 2, ... from call to call


def _gemv_tile(dtype, half=False):
    """256 bytes of a row of W at a time: enough chains to hide the latency of an fma, and long runs of memory."""
    return cpu.micro_tile(wide(dtype), half, rows=1, vectors=max(4, 16 // np.dtype(dtype).itemsize))


def pack_gemv(W, parts, **options) -> PlacedVectorOperand:
    """W (K, N), cut in ``parts`` K blocks of ceil(K / parts), stored once for many products; options as of `pack`."""
    tile = _gemv_tile(W.dtype)
    columns = _gemv_layout(*W.shape, parts, len(tile.vectors) * len(tile.lanes))
    return PlacedVectorOperand(pack(W.T, columns, max(len(columns.k_of), 1), widened=False, **options), parts, count())


@remember
def _gemv_layout(K, N, parts, width):
    return layout(np.zeros(N, np.int64), np.arange(parts), -(-K // parts), K, width)


@compiled
def _gemv_panels(tile, x, W, taken, back, parts, kb, dst, src, rows, out):
    """Panels of W as long as there are any, each from its first byte to its last, then its sums, still in cache."""
    nr, K = len(tile.vectors) * len(tile.lanes), len(x)
    sums, panels = np.empty((parts, nr), out.dtype), out.shape[1] // nr
    while True:
        p = add(taken, 0, 1)
        if p >= panels:
            return
        if back:
            p = panels - 1 - p
        sums[:] = 0
        for y in range(parts):
            k = min(y * kb, K)
            chain(tile, x, k, 0, 1, W, (p * K + k) * nr, nr, sums[y], 0, 0, min(kb, K - k))
        for step in range(len(dst)):
            into, other = sums[dst[step]], sums[src[step]]
            for j in range(nr):
                into[j] += other[j]
        for r in range(len(rows)):
            for j in range(nr):
                out[r, p * nr + j] = sums[rows[r], j]


def gemv_sums(x, W: PlacedVectorOperand, dst, src, rows, *, accumulate=None, threads=None):
    """Partial sums of a product x @ W, added up in a given order; (len(rows), N), float32 or float64.

    partials[y, j] = fma chain over the y-th K block of x[k] * W[k, j]; then, for s = 0, 1, ...,
    partials[dst[s]] += partials[src[s]]; ``rows`` of them are returned.
    """
    panels, parts, turns = W
    tile = _gemv_tile(panels.dtype, accumulate == "float16")
    _same_width(panels, len(tile.vectors) * len(tile.lanes))
    out = np.empty((len(rows), len(panels.layout.source)), wide(panels.dtype))
    data, kb, taken = panels.data, -(-len(x) // parts), np.zeros(1, np.int64)
    x = np.concatenate([x, np.zeros(len(panels.layout.padding))], dtype=out.dtype, casting="unsafe")
    dst, src, rows = (np.asarray(a, np.int64) for a in (dst, src, rows))
    if x.shape != panels.layout.k_of.shape or dst.shape != src.shape or not (
            _within(dst, parts) and _within(src, parts) and _within(rows, parts)):
        raise MeshError(f"x {x.shape} and W of {len(panels.layout.k_of)} rows do not match, or {len(dst)} sums leave "
                        f"their {parts} parts")
    back = next(turns) % 2 == 1  # back and forth: what one call read last, the next finds in cache

    def work(tickets):
        for _ in tickets:  # one for each thread; panels are shared out below
            _gemv_panels(tile, x, data, taken, back, parts, kb, dst, src, rows, out)

    threads = workers.threads_for(data.size, threads)
    workers.parallel(work, threads, threads)
    return out[:, : panels.lanes]


def gemv_partials(x, W: PlacedVectorOperand, *, accumulate=None, threads=None):
    """The partial sums of `gemv_sums` as they are: ``(parts, N)``."""
    return gemv_sums(x, W, (), (), range(W.parts), accumulate=accumulate, threads=threads)


@compiled
def _tree(partials, dst, src):
    width = 1024  # columns at a time: all their partials stay in L2
    for j0 in range(0, partials.shape[1], width):
        for step in range(len(dst)):
            into, other = partials[dst[step], j0 : j0 + width], partials[src[step], j0 : j0 + width]
            for j in range(len(into)):
                into[j] += other[j]


def tree_add(partials, dst, src):
    """partials[dst[s]] += partials[src[s]] for s = 0, 1, ..., in place."""
    dst, src = np.asarray(dst, np.int64), np.asarray(src, np.int64)
    if dst.shape != src.shape or not (_within(dst, len(partials)) and _within(src, len(partials))):
        raise MeshError(f"sums {dst.shape} from {src.shape} leave the {len(partials)} partial results")
    _tree(partials, dst, src)
    return partials


# --------------------------------------------------------------------------------- one step of the mesh, by tile


@compiled
def _whole_tile(tile, At, Bt, a0, b0, mt, nt, kb, a_next, b_next, C, c0):
    """A tile of C += a tile of A @ a tile of B, straight from where they lie; those at a_next and b_next are next."""
    line, a_bytes, b_bytes = 0, mt * kb * At.itemsize, kb * nt * Bt.itemsize
    for jr in range(0, nt, len(tile.vectors) * len(tile.lanes)):
        for ir in range(0, mt, len(tile.rows)):
            ahead = a_next + line if line < a_bytes else b_next + min(line - a_bytes, b_bytes)
            chain_ahead(tile, At, a0 + ir * kb, kb, 1, Bt, b0 + jr, nt, C, c0 + ir * nt + jr, nt, kb, ahead)
            line += kb * 64


@compiled
def _padded_tile(tile, At, Bt, a0, b0, mt, nt, kb, transposed, C, c0, a, b, c):
    """The same through copies a, b, c, whose sides are multiples of the register tile's."""
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    mp, width = (mt + mr - 1) // mr * mr, (nt + nr - 1) // nr * nr
    copy_line(At.ctypes.data + a0 * At.itemsize, mt * kb, At, a, 0)
    source = Bt.ctypes.data + b0 * Bt.itemsize
    for line in range(nt if transposed else kb):
        if transposed:
            for k in range(kb):
                copy_line(source + (line * kb + k) * Bt.itemsize, 1, Bt, b, k * width + line)
        else:
            copy_line(source + line * nt * Bt.itemsize, nt, Bt, b, line * width)
    for i in range(mt):
        copy_line(C.ctypes.data + (c0 + i * nt) * C.itemsize, nt, C, c, i * width)
    for jr in range(0, width, nr):
        for ir in range(0, mp, mr):
            chain(tile, a, ir * kb, kb, 1, b, jr, width, c, ir * width + jr, width, kb)
    for i in range(mt):
        copy_line(c.ctypes.data + i * width * c.itemsize, nt, c, C, c0 + i * nt)


@compiled
def _tile_step(tile, At, Bt, ha, hb, mt, nt, kb, transposed, taken, run, C):
    """Cores, ``run`` at a time, as long as any are left; tiles that register tiles do not divide are copied."""
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    mp, width = (mt + mr - 1) // mr * mr, (nt + nr - 1) // nr * nr
    whole = mp == mt and width == nt and not transposed
    a, b, c = np.zeros(mp * kb, C.dtype), np.zeros(kb * width, C.dtype), np.zeros(mp * width, C.dtype)
    a_start, a_bytes = At.ctypes.data, mt * kb * At.itemsize
    b_start, b_bytes = Bt.ctypes.data, kb * nt * Bt.itemsize
    while True:
        c0 = add(taken, 0, run)
        c1 = min(c0 + run, len(ha))
        if c0 >= c1:
            return
        for core in range(c0, c1):
            a0, b0, home, later = ha[core] * mt * kb, hb[core] * kb * nt, core * mt * nt, min(core + 1, c1 - 1)
            if whole:
                a_next, b_next = a_start + ha[later] * a_bytes, b_start + hb[later] * b_bytes
                _whole_tile(tile, At, Bt, a0, b0, mt, nt, kb, a_next, b_next, C, home)
            else:
                _padded_tile(tile, At, Bt, a0, b0, mt, nt, kb, transposed, C, home, a, b, c)


def tile_products(At, Bt, ha, hb, C, *, transposed=False, accumulate=None, threads=None):
    """C[c] = chain of fmas continued from C[c] with At[ha[c]] @ Bt[hb[c]] for every core c, in place.

    Args:
        At: (nA, mt, kb); Bt: (nB, kb, nt), or (nB, nt, kb) if transposed; contiguous.
        ha, hb: (cores,) handles: which tile each core holds.
        C: (cores, mt, nt) float32 or float64 accumulators, contiguous.
    """
    (cores, mt, nt), kb = C.shape, At.shape[2]
    ha, hb = np.asarray(ha, np.int64), np.asarray(hb, np.int64)
    if (At.shape[1:] != (mt, kb) or Bt.shape[1:] != ((nt, kb) if transposed else (kb, nt))
            or not ha.shape == hb.shape == (cores,) or not (_within(ha, len(At)) and _within(hb, len(Bt)))):
        raise MeshError(f"tiles {At.shape} and {Bt.shape} on {ha.shape} and {hb.shape} cores do not match the sums "
                        f"{C.shape}")
    rows = cpu.SIMD[cpu.simd()].rows
    mr = 1 if mt == 1 else min((rows, 2 * rows // 3, rows // 3), key=lambda r: -(-mt // r) * r)
    lanes = cpu.SIMD[cpu.simd()].bytes // C.itemsize
    tile = cpu.micro_tile(C.dtype, accumulate == "float16", rows=mr, vectors=2 - -(-nt // lanes) % 2)
    At, Bt, sums = (np.ascontiguousarray(x).reshape(-1).view(seen(x.dtype)) for x in (At, Bt, C))
    assert np.shares_memory(sums, C) or C.size == 0, "C must be contiguous: it is updated in place"
    threads = workers.threads_for(cores * mt * nt * kb // 8, threads)
    run, taken = -(-cores // (16 * threads)), np.zeros(1, np.int64)

    def work(tickets):
        for _ in tickets:  # one for each thread; cores are shared out below
            _tile_step(tile, At, Bt, ha, hb, mt, nt, kb, transposed, taken, run, sums)

    workers.parallel(work, threads, threads)
