"""The fast executor's arithmetic: every element of C is one chain of fused multiply-adds, in the mesh's order.

NumPy arrays in, NumPy arrays out; nothing here knows a mesh beyond the order in which K blocks are met.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["chain_product", "gemv_partials", "pack_gemv", "ring_product", "tile_products", "tree_add"]


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once: the contraction is explicit, so no compiler setting can change a bit."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return c(c, c, c), codegen


@intrinsic
def round_half(typingctx, x):
    """float32 -> the nearest float16 (ties to even), returned as float32: the wafer's register width."""

    def codegen(context, builder, signature, args):
        return builder.fpext(builder.fptrunc(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.float32), codegen


@njit(cache=True, nogil=True)
def _ring_loop(A, B, blocks, kb, row_start, col_start, mt, nt, half, C):
    M, K = A.shape
    L = len(blocks)
    acc = np.zeros(B.shape[1], C.dtype)
    for i in range(M):
        for j0 in range(0, B.shape[1], nt):
            j1 = min(j0 + nt, B.shape[1])
            acc[j0:j1] = 0
            start = row_start[i // mt] + col_start[j0 // nt]
            for t in range(L):
                b = blocks[(start + t) % L]
                for k in range(b * kb, min(b * kb + kb, K)):
                    a = A[i, k]
                    for j in range(j0, j1):
                        acc[j] = fma(a, B[k, j], acc[j])
                    if half:
                        for j in range(j0, j1):
                            acc[j] = round_half(np.float32(acc[j]))
            C[i, j0:j1] = acc[j0:j1]


@njit(cache=True, nogil=True)
def _tile_loop(At, Bt, ha, hb, transposed, half, C):
    cores, mt, nt = C.shape
    for c in range(cores):
        a, b = At[ha[c]], Bt[hb[c]]
        for i in range(mt):
            for j in range(nt):
                acc = C[c, i, j]
                for k in range(a.shape[1]):
                    acc = fma(a[i, k], b[j, k] if transposed else b[k, j], acc)
                    if half:
                        acc = round_half(np.float32(acc))
                C[c, i, j] = acc


@njit(cache=True, nogil=True)
def _tree_loop(partials, dst, src, maximum):
    width = 2048
    for j0 in range(0, partials.shape[1], width):
        j1 = min(j0 + width, partials.shape[1])
        for step in range(len(dst)):
            into, other = partials[dst[step]], partials[src[step]]
            for j in range(j0, j1):
                if not maximum:
                    into[j] += other[j]
                elif not into[j] >= other[j]:  # as np.maximum: a NaN on either side stays
                    into[j] = into[j] if into[j] != into[j] else other[j]


def _wide(dtype) -> type:
    """The precision sums are kept in: float64 for float64 storage, else float32."""
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32


def ring_product(A, B, order, *, out_dtype=None, accumulate=None, threads=None):
    """C = A @ B, element (i, j) summed in ring order from row_start[i // row_tile] + col_start[j // col_tile].

    Args:
        A: (M, K), B: (K, N), any strides; float32, float64, float16 or bfloat16, one dtype.
        order: a meshkernels.schedule.RingOrder: blocks, block, row_start, col_start, row_tile, col_tile.
        out_dtype: dtype of C; the storage dtype if None.
        accumulate: "float16" rounds to float16 after every multiply-add, anything else leaves float32 / float64.
    """
    wide = _wide(A.dtype)
    C = np.empty((A.shape[0], B.shape[1]), wide)
    _ring_loop(np.ascontiguousarray(A, wide), np.ascontiguousarray(B, wide), np.asarray(order.blocks, np.int64),
               int(order.block), np.asarray(order.row_start, np.int64), np.asarray(order.col_start, np.int64),
               int(order.row_tile), int(order.col_tile), accumulate == "float16", C)
    return C.astype(out_dtype or A.dtype, copy=False)


def tile_products(At, Bt, ha, hb, C, *, transposed=False, accumulate=None):
    """C[c] = chain of fmas continued from C[c] with At[ha[c]] @ Bt[hb[c]] for every core c, in place.

    Args:
        At: (nA, mt, kb); Bt: (nB, kb, nt), or (nB, nt, kb) if transposed; contiguous.
        ha, hb: (cores,) handles: which tile each core holds.
        C: (cores, mt, nt) float32 or float64 accumulators.
    """
    wide = C.dtype
    _tile_loop(np.ascontiguousarray(At, wide), np.ascontiguousarray(Bt, wide), np.asarray(ha, np.int64),
               np.asarray(hb, np.int64), bool(transposed), accumulate == "float16", C)


def chain_product(Q, K, root, parts, *, out_dtype=None, accumulate=None, threads=None):
    """S = Q @ K.T as dist-GEMM-T sums it: partials of E blocks, chained from both ends to a root column.

    p_x = fma chain over E block x;  left = ((p_0 + p_1) + ...) + p_r;  right = ((p_last + ...) + p_{r+1});
    S[:, j] = left + right with r = root[j].

    Args:
        Q: (M, E), K: (N, E), any strides.
        root: (N,) block index at which the two chains of column j meet.
        parts: number of E blocks, each ceil(E / parts) long (the last ones may be short or empty).
    """
    wide, half, out_dtype = _wide(Q.dtype), accumulate == "float16", out_dtype or Q.dtype
    M, E = Q.shape
    eb = -(-E // parts)
    Q, K, root = np.ascontiguousarray(Q, wide), np.ascontiguousarray(K, wide), np.asarray(root, np.int64)

    def add(a, b):
        s = a + b
        return s.astype(np.float16).astype(wide) if half else s

    # -0.0 is the exact neutral element of IEEE addition: the first partial arrives unchanged.
    left, right = np.full((M, K.shape[0]), -0.0, wide), np.full((M, K.shape[0]), -0.0, wide)
    zero = np.zeros(1, np.int64)

    def partial(x):
        p = np.zeros((1, M, K.shape[0]), wide)
        span = slice(min(x * eb, E), min(x * eb + eb, E))
        _tile_loop(np.ascontiguousarray(Q[None, :, span]), np.ascontiguousarray(K[None, :, span]), zero, zero,
                   True, half, p)
        return p[0]

    for x in range(parts):
        left = np.where(x <= root, add(left, partial(x)), left)
    for x in reversed(range(parts)):
        right = np.where(x > root, add(right, partial(x)), right)
    return add(left, right).astype(out_dtype, copy=False)


def pack_gemv(W, parts):
    """W (K, N), cut in `parts` K blocks of ceil(K / parts), kept as gemv_partials reads it."""
    return W, parts


def gemv_partials(x, placed, *, accumulate=None, threads=None):
    """partials[y, j] = fma chain over the y-th K block of x[k] * W[k, j]; (parts, N), float32 or float64."""
    W, parts = placed
    wide = _wide(W.dtype)
    kb = -(-len(x) // parts)
    out = np.zeros((parts, 1, W.shape[1]), wide)
    zero = np.zeros(1, np.int64)
    for y in range(parts):
        span = slice(y * kb, min(y * kb + kb, len(x)))
        _tile_loop(np.ascontiguousarray(x[None, None, span], wide), np.ascontiguousarray(W[None, span], wide),
                   zero, zero, False, accumulate == "float16", out[y:y + 1])
    return out[:, 0]


def tree_add(partials, dst, src, op="add"):
    """partials[dst[s]] = op(partials[dst[s]], partials[src[s]]) for s = 0, 1, ..., in place; op: "add" or "max"."""
    _tree_loop(partials, np.asarray(dst, np.int64), np.asarray(src, np.int64), op == "max")
    return partials
