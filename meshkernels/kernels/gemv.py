"""y = x @ W: the one matrix-vector product, of `Columns`, which it reads from the first byte to the last.

Each panel of W, 256 bytes of a row, is multiplied from its first row to its last, with enough chains in registers to
hide the latency of a multiply-add; its partial sums are combined while they are in cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.kernels import host, pool
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import add
from meshkernels.kernels.pack import Columns, wide
from meshkernels.kernels.reduce import combine, within
from meshkernels.kernels.ukernel import Left, Right, Sums, chain


class Product(NamedTuple):
    """One product, for `gemv_panel`.

    Attributes:
        x: ``(K,)``; W: panels of ``width`` columns, flat; both may be of other dtypes than the result.
        width: columns of a panel.
        parts: into how many runs of rows W is cut, each with a partial sum.
        dst, src: ``(steps,)`` int64: ``partial[dst[s]] += partial[src[s]]`` in this order.
        rows: which partial sums are wanted afterwards.
        out: ``(len(rows), N)``.
    """

    x: np.ndarray
    W: np.ndarray
    width: int
    parts: int
    dst: np.ndarray
    src: np.ndarray
    rows: np.ndarray
    out: np.ndarray


@compiled
def gemv_panel(tile, panel, product):
    """The columns of one panel, a register tile of them after the other."""
    x, W, width, parts, dst, src, rows, out = product
    nr, K, N = len(tile.vectors) * len(tile.lanes), len(x), out.shape[1]
    block, sums = (K + parts - 1) // parts, np.empty((parts, nr), out.dtype)
    for j in range(panel * width, min(panel * width + width, N), nr):
        sums[:] = 0
        for part in range(parts):
            k = min(part * block, K)
            depth, first = min(block, K - k), (panel * K + k) * width + j % width
            chain(tile, Left(x, k, 0, 1), Right(W, first, width), Sums(sums, part * nr, 0), depth, None)
            if depth < block:  # the padding of the last rows: zeros, which make +0.0 of -0.0
                for i in range(nr):
                    sums[part, i] += out.dtype.type(0)
        combine(sums, 0, nr, dst, src, False, len(tile.halves) == 1)
        for r in range(len(rows)):
            for i in range(min(nr, N - j)):
                out[r, j + i] = sums[rows[r], i]


@compiled
def _gemv_panels(tile, product, taken, back):
    """Panels as long as any is left."""
    panels = (product.out.shape[1] + product.width - 1) // product.width
    while True:
        p = add(taken, 0, 1)
        if p >= panels:
            return
        gemv_panel(tile, panels - 1 - p if back else p, product)


def gemv_tile(dtype: np.dtype, half: bool = False) -> host.MicroTile:
    """The register tile for W of a dtype: up to eight vectors of one panel."""
    lanes = host.SIMD[host.simd()].bytes // wide(dtype).itemsize
    return host.micro_tile(wide(dtype), half, rows=1, vectors=min(8, 256 // np.dtype(dtype).itemsize // lanes))


def gemv_sums(x: np.ndarray, W: Columns, parts: int, dst: Sequence[int] | np.ndarray = (),
              src: Sequence[int] | np.ndarray = (), rows: Sequence[int] | np.ndarray | None = None, *,
              accumulate: str | None = None, threads: int | None = None) -> np.ndarray:  # fmt: skip
    """Partial sums of a product x @ W, combined in a given order.

    partial[y, j] = fma chain over the y-th run of rows of x[k] * W[k, j]; then, for s = 0, 1, ...,
    partial[dst[s]] += partial[src[s]].

    Args:
        x: (K,).
        W: (K, N), stored.
        parts: runs of rows, each ceil(K / parts) long (the last ones may be short or empty).
        dst: (additions,) partial sums that are added to.
        src: (additions,) partial sums that are added.
        rows: the partial sums that are returned; None: all.
        accumulate: "float16" rounds to float16 after every operation; anything else leaves float32 or float64.
        threads: at most so many; NUMBA_NUM_THREADS if None.

    Returns:
        (len(rows), N), float32 or float64.

    Raises:
        MeshError: x and W do not match, or sums leave their parts.
    """
    dst, src, rows = (np.asarray(a, np.int64) for a in (dst, src, range(parts) if rows is None else rows))
    if x.shape != W.shape[:1] or dst.shape != src.shape or parts < 1 or not (
            within(dst, parts) and within(src, parts) and within(rows, parts)):
        raise MeshError(f"x {x.shape} and W {W.shape} do not match, or {len(dst)} sums leave their {parts} parts")
    half, out = accumulate == "float16", np.empty((len(rows), W.lanes), wide(W.dtype))
    tile = gemv_tile(W.dtype, half)
    product = Product(np.ascontiguousarray(x, out.dtype), W.data, W.layout.width, parts, dst, src, rows, out)
    taken = np.zeros(1, np.int64)
    back = next(W.turns) % 2 == 1  # back and forth: what one call read last, the next finds in cache
    threads = pool.threads_for(W.data.size, threads)
    pool.parallel(lambda _: _gemv_panels(tile, product, taken, back), threads, threads)
    return out
