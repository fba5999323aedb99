"""One step of the mesh: every core multiplies the tiles that it holds, straight from where they lie."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.kernels import host, pool
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import add, address_in, copy_line, numbers_of
from meshkernels.kernels.pack import seen
from meshkernels.kernels.reduce import within
from meshkernels.kernels.ukernel import Ahead, Left, Right, Sums, chain


class _Step(NamedTuple):
    """What all cores do in one step.

    Attributes:
        At, Bt: all tiles, flat: (mt, kb), and (kb, nt) or, if transposed, (nt, kb).
        ha, hb: (cores,) which tile each core holds.
        C: the cores' sums (mt, nt), flat.
        backwards: begin with the last cores.
    """

    At: np.ndarray
    Bt: np.ndarray
    ha: np.ndarray
    hb: np.ndarray
    mt: int
    nt: int
    kb: int
    transposed: bool
    C: np.ndarray
    backwards: bool


@compiled
def _whole_tiles(tile, step, begin, end):
    """The products of cores whose sides the register tile divides; the tiles of the next core are prefetched."""
    At, Bt, ha, hb, mt, nt, kb, _, C, _ = step
    a_bytes, b_bytes = mt * kb * At.itemsize, kb * nt * Bt.itemsize
    steps = max(1, kb)
    left, right, sums = numbers_of(At), numbers_of(Bt), numbers_of(C)
    calls = nt // (len(tile.vectors) * len(tile.lanes)) * (mt // len(tile.rows))
    of_a = max(1, calls * a_bytes // max(1, a_bytes + b_bytes))  # calls that prefetch A; the others prefetch B
    a_share, b_share = (a_bytes + of_a - 1) // of_a, (b_bytes + calls - of_a - 1) // max(1, calls - of_a)
    for core in range(begin, end):
        after, call = min(core + 1, end - 1), 0
        a_next, b_next = address_in(left, ha[after] * mt * kb), address_in(right, hb[after] * kb * nt)
        for jr in range(0, nt, len(tile.vectors) * len(tile.lanes)):
            for ir in range(0, mt, len(tile.rows)):
                ahead = (Ahead(a_next + call * a_share, (a_share + steps - 1) // steps) if call < of_a else
                         Ahead(b_next + (call - of_a) * b_share, (b_share + steps - 1) // steps))
                chain(tile, Left(left, (ha[core] * mt + ir) * kb, kb, 1), Right(right, hb[core] * kb * nt + jr, nt),
                      Sums(sums, (core * mt + ir) * nt + jr, nt), kb, ahead)  # fmt: skip
                call += 1


@compiled
def _padded_tiles(tile, step, begin, end, a, b, c):
    """The same through copies a, b, c, padded to multiples of the register tile's sides."""
    At, Bt, ha, hb, mt, nt, kb, transposed, C, _ = step
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    mp, width = (mt + mr - 1) // mr * mr, (nt + nr - 1) // nr * nr
    for core in range(begin, end):
        home = core * mt * nt
        copy_line(At.ctypes.data + ha[core] * mt * kb * At.itemsize, mt * kb, At, a, 0, False)
        source = Bt.ctypes.data + hb[core] * kb * nt * Bt.itemsize
        for line in range(nt if transposed else kb):
            if transposed:
                for k in range(kb):
                    copy_line(source + (line * kb + k) * Bt.itemsize, 1, Bt, b, k * width + line, False)
            else:
                copy_line(source + line * nt * Bt.itemsize, nt, Bt, b, line * width, False)
        for i in range(mt):
            copy_line(C.ctypes.data + (home + i * nt) * C.itemsize, nt, C, c, i * width, False)
        for jr in range(0, width, nr):
            for ir in range(0, mp, mr):
                chain(tile, Left(a, ir * kb, kb, 1), Right(b, jr, width), Sums(c, ir * width + jr, width), kb, None)
        for i in range(mt):
            copy_line(c.ctypes.data + i * width * c.itemsize, nt, c, C, home + i * nt, False)


@compiled
def _tile_step(tile, step, taken, run):
    """Cores, ``run`` at a time, as long as any are left; tiles that the register tile does not divide are copied."""
    _, _, ha, _, mt, nt, kb, transposed, C, backwards = step
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    mp, width = (mt + mr - 1) // mr * mr, (nt + nr - 1) // nr * nr
    a, b, c = np.zeros(mp * kb, C.dtype), np.zeros(kb * width, C.dtype), np.zeros(mp * width, C.dtype)
    while True:
        begin = add(taken, 0, run)
        if begin >= len(ha):
            return
        if backwards:
            begin = (len(ha) - 1) // run * run - begin
        end = min(begin + run, len(ha))
        if mp == mt and width == nt and not transposed:
            _whole_tiles(tile, step, begin, end)
        else:
            _padded_tiles(tile, step, begin, end, a, b, c)


def tile_products(At: np.ndarray, Bt: np.ndarray, ha: Any, hb: Any, C: np.ndarray, *, transposed: bool = False,
                  accumulate: str | None = None, backwards: bool = False,
                  threads: int | None = None) -> None:  # fmt: skip
    """C[c] = chain of fmas continued from C[c] with At[ha[c]] @ Bt[hb[c]] for every core c, in place.

    Args:
        At: (nA, mt, kb), contiguous.
        Bt: (nB, kb, nt), or (nB, nt, kb) if transposed; contiguous.
        ha: (cores,) handles: which tile of At each core holds.
        hb: (cores,) handles: which tile of Bt.
        C: (cores, mt, nt) float32 or float64 accumulators, contiguous.
        transposed: whether the right tiles are.
        accumulate: "float16" rounds to float16 after every multiply-add; anything else leaves float32 or float64.
        backwards: begin with the last cores: in every other step, so that it finds in the caches what was used last.
        threads: at most so many; NUMBA_NUM_THREADS if None.

    Raises:
        MeshError: shapes that do not match, or a handle of no tile.
    """
    (cores, mt, nt), kb = C.shape, At.shape[2]
    ha, hb = np.array(ha, np.int64), np.array(hb, np.int64)  # copies: Numba compiles again for read-only arrays
    if (At.shape[1:] != (mt, kb) or Bt.shape[1:] != ((nt, kb) if transposed else (kb, nt))
            or not ha.shape == hb.shape == (cores,) or not (within(ha, len(At)) and within(hb, len(Bt)))):
        raise MeshError(f"tiles {At.shape} and {Bt.shape} on {ha.shape} and {hb.shape} cores do not match the sums "
                        f"{C.shape}")
    rows = host.SIMD[host.simd()].rows
    mr = 1 if mt == 1 else min((rows, 2 * rows // 3, rows // 3), key=lambda r: -(-mt // r) * r)
    lanes = host.SIMD[host.simd()].bytes // C.itemsize
    tile = host.micro_tile(C.dtype, accumulate == "float16", rows=mr, vectors=2 - -(-nt // lanes) % 2)
    At, Bt, sums = (np.ascontiguousarray(x).reshape(-1).view(seen(x.dtype)) for x in (At, Bt, C))
    assert np.shares_memory(sums, C) or C.size == 0, "C must be contiguous: it is updated in place"
    threads = pool.threads_for(cores * mt * nt * kb // 8, threads)
    step, taken = _Step(At, Bt, ha, hb, mt, nt, kb, transposed, sums, backwards), np.zeros(1, np.int64)
    run = -(-cores // (16 * threads))
    pool.parallel(lambda _: _tile_step(tile, step, taken, run), threads, threads)
