"""S = Q @ K.T on chains of cores, as dist-GEMM-T sums it: partial sums flow from both ends of a row to a root core."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.kept import remember
from meshkernels.kernels import host, loops, memory
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import numbers_of, round_half
from meshkernels.kernels.pack import Layout, Unpacked, layout, wide, write_back
from meshkernels.kernels.reduce import within
from meshkernels.kernels.ukernel import Ahead, Left, Repeat, Right, Sums, add_chains


class _Cut(NamedTuple):
    """How E is cut: ``parts`` blocks of ``block`` numbers, the last ones short or empty."""

    E: int
    block: int
    parts: int


@compiled
def _chain_block(tile, Q, K, cut, S, spare):
    """One block of S: left sums over x = 0 .. root, right sums over x = parts - 1 .. root + 1, then their sum.

    Sums begin with -0.0, the neutral element of IEEE addition.

    Args:
        tile: the register tile, a `host.MicroTile`.
        Q: `loops.Lanes` of rows.
        K: `loops.Lanes` of columns; ``K.start`` is the root of each.
        cut: (E, eb, parts): length of the contraction, of a block, and blocks.
        S: twice the block, in register tiles: left and right sums.
        spare: one register tile.
    """
    mr, nr, rows, root, kc = len(tile.rows), len(tile.vectors) * len(tile.lanes), len(Q.start), K.start, Q.kc
    packed_q, packed_k, out, apart = numbers_of(Q.numbers), numbers_of(K.numbers), numbers_of(S), numbers_of(spare)
    E, eb, parts = cut
    size, group = rows * len(root), max(1, kc // eb)
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
                sums = Sums(out, (jr // nr * rows + ir) * nr + (0 if left else size), nr)
                q0, k0 = pc * Q.total + (Q.first + ir) * deep, pc * K.total + (K.first + jr) * deep
                q_next = after * Q.total + (Q.first + ir) * min(kc, E - after) if jr + nr == len(root) else -1
                x, last = (x0, min(x1, high + 1)) if left else (x1 - 1, max(x0, low + 1) - 1)
                steps = (last - x) * step * eb  # 0 or less: this sweep leaves the tile out
                ahead = loops.panel_ahead(Left(packed_q, q0, 1, mr), Right(packed_k, k0, nr), q_next, k0 + nr * deep,
                                          deep, ir // mr, rows // mr, max(steps, 1))
                common = min(x1, low + 1) if left else max(x0, high + 1) - 1  # up to here for all columns of the tile
                while (last - x) * step > 0:
                    k = x * eb - pc
                    depth = max(0, min(eb, deep - k))
                    done = steps - (last - x) * step * eb
                    lines = Ahead(ahead.address + done * ahead.step, ahead.step)
                    q, b = Left(packed_q, q0 + k * mr, 1, mr), Right(packed_k, k0 + k * nr, nr)
                    if (common - x) * step > 0:
                        chains = 1 if depth < eb else (min(common, whole) - x if left else x - common)
                        repeat = Repeat(chains, step * eb * mr, step * eb * nr)
                        add_chains(tile, q, b, sums, depth, lines, repeat)
                        x += step * chains
                        continue
                    for i in range(mr * nr):
                        spare[i] = S[sums.at + i]
                    add_chains(tile, q, b, Sums(apart, 0, nr), depth, lines, Repeat(1, 0, 0))
                    for i in range(mr * nr):
                        if (x <= root[jr + i % nr]) == left:
                            S[sums.at + i] = spare[i]
                    x += step
    for i in range(size):
        S[i] += S[size + i]
        if len(tile.halves):
            S[i] = round_half(np.float32(S[i]))


@compiled
def _chain_blocks(product, blocks, cut):
    tile = product.tile
    spare = np.empty(len(tile.rows) * len(tile.vectors) * len(tile.lanes), product.sums.dtype)
    for i0, i1, j0, j1 in blocks:
        Q, K = loops.block_lanes(product, i0, i1, j0, j1)
        _chain_block(tile, Q, K, cut, product.sums, spare)
        write_back(tile, product.sums, product.C, i0, i1, j0, j1)


def chain_product(Q: np.ndarray, K: np.ndarray, root: Any, parts: int, *, out_dtype: Any = None,
                  accumulate: str | None = None, threads: int | None = None) -> np.ndarray:  # fmt: skip
    """S = Q @ K.T, as chains of partial sums from both ends of a row of cores to a root core.

    p_x = fma chain over E block x;  left = ((p_0 + p_1) + ...) + p_r;  right = ((p_last + ...) + p_{r+1});
    S[:, j] = left + right with r = root[j].

    Args:
        Q: (M, E), any strides.
        K: (N, E), any strides, of the dtype of Q.
        root: (N,) number of the block at which the two chains of column j meet.
        parts: number of E blocks, each ceil(E / parts) long (the last ones may be short or empty).
        out_dtype: dtype of S; that of Q if None.
        accumulate: "float16" rounds to float16 after every operation; anything else leaves float32 or float64.
        threads: at most so many; NUMBA_NUM_THREADS if None.

    Returns:
        S: (M, N).

    Raises:
        MeshError: the operands do not match, or a root is not one of the blocks.
    """
    S = memory.result((len(Q), len(K)), out_dtype or Q.dtype)
    E, root = Q.shape[1], np.asarray(root, np.int64)
    if K.shape[1] != E or K.dtype != Q.dtype or root.shape != (len(K),) or parts < 1 or not within(root, parts):
        raise MeshError(f"Q {Q.dtype} {Q.shape}, K {K.dtype} {K.shape} and roots {root.shape} among {parts} blocks do "
                        "not match")
    if S.size == 0 or E == 0:
        S[...] = 0
        return S
    tile, eb = host.micro_tile(wide(Q.dtype), accumulate == "float16"), -(-E // parts)
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    rows, cols = _layout(bytes(8 * len(Q)), parts, E, mr), _layout(root.tobytes(), parts, E, nr)
    cut = _Cut(len(rows.k_of), eb, parts)  # E with a zero where the blocks do not divide it
    kc = max(1, host.blocking(tile, wide(Q.dtype).itemsize, cut.E).kc // eb) * eb  # whole blocks
    right = Unpacked(K, cols, kc).whole(threads, memory.borrow)

    loops.over_blocks(_chain_blocks, cut, Unpacked(Q, rows, kc), right, tile, S, 2, threads)
    memory.give_back(right.data)
    return S


@remember
def _layout(root: bytes, parts: int, E: int, width: int) -> Layout:
    return layout(np.frombuffer(root, np.int64), np.arange(parts), -(-E // parts), E, width)
