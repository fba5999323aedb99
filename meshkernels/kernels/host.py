"""What the host CPU offers, vector registers and caches, and the register tile and blocking that follow from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from llvmlite import binding

from meshkernels.errors import MeshError


class Simd(NamedTuple):
    """A register file: bytes in a vector, and the register tile of a product.

    The tile is two vectors wide: with three quarters of the registers (24 of 32, or 12 of 16) as accumulators, there
    are enough independent multiply-adds to hide their latency, and registers are left for the operands.
    """

    bytes: int
    rows: int
    vectors: int = 2


#: Every width gives the same bits.
SIMD = {"avx512": Simd(64, 12), "avx2": Simd(32, 6), "portable": Simd(16, 6)}
#: One per thread; "": what the host offers.
_forced = ContextVar("forced", default="")
_asked = os.environ.get("MESHKERNELS_SIMD", "")


@cache
def host_simd() -> str:
    """The widest of `SIMD` that this CPU executes in hardware."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return "avx512"
    return "avx2" if features.get("avx2") and features.get("fma") else "portable"


def simd() -> str:
    """The width in use: `force_simd`, else the variable MESHKERNELS_SIMD at import, else what the host offers.

    Only the thread that starts a product asks; its workers use the same.

    Returns:
        A key of `SIMD`.

    Raises:
        MeshError: no such width.
    """
    name = _forced.get() or _asked or host_simd()
    if name not in SIMD:
        raise MeshError(f"{'a forced width' if _forced.get() else 'MESHKERNELS_SIMD'} is {name!r}; known: "
                        f"{', '.join(SIMD)}")  # fmt: skip
    return name


@contextmanager
def force_simd(name: str) -> Iterator[None]:
    """Use one width in the calling thread inside the block; the compiler emulates one that the CPU lacks.

    Raises:
        MeshError: no such width.
    """
    before = _forced.set(name)
    try:
        simd()
        yield
    finally:
        _forced.reset(before)


class MicroTile(NamedTuple):
    """The register tile as a *type*: each number is the length of a tuple of zeros, so that Numba specialises on it.

    There are rows x (vectors * lanes) accumulators; ``len(halves) == 1`` rounds them to float16 after every
    multiply-add.
    """

    rows: tuple[int, ...]
    vectors: tuple[int, ...]
    lanes: tuple[int, ...]
    halves: tuple[int, ...]


def micro_tile(dtype: np.dtype, half: bool = False, rows: int = 0, vectors: int = 0) -> MicroTile:
    """The register tile for accumulators of ``dtype`` at the width in use; rows and vectors of its own if given."""
    return _micro_tile(simd(), np.dtype(dtype), half, rows, vectors)


@cache
def _micro_tile(name: str, dtype: np.dtype, half: bool, rows: int, vectors: int) -> MicroTile:
    width = SIMD[name]
    sizes = (rows or width.rows, vectors or width.vectors, width.bytes // dtype.itemsize, int(half))
    return MicroTile(*((0,) * n for n in sizes))


@cache
def caches() -> tuple[int, int, int]:
    """Bytes of L1 data, L2 and L3 cache of a core, as Linux reports them; usual sizes on other systems."""
    sizes = {"1": 32 << 10, "2": 512 << 10, "3": 16 << 20}
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = ((entry / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:  # files that a virtual machine leaves out
            continue
        if level in sizes and kind != "Instruction" and size.endswith("K"):
            sizes[level] = int(size[:-1]) << 10
    return sizes["1"], sizes["2"], sizes["3"]


class Blocking(NamedTuple):
    """Steps of the loops pc, ic, jc: kc multiply-adds deep, mc rows, nc columns (multiples of the micro-tile)."""

    kc: int
    mc: int
    nc: int


@cache
def blocking(tile: MicroTile, itemsize: int, K: int, kc: int | None = None) -> Blocking:
    """Cache blocking after Goto & van de Geijn, for a contraction of length K.

    Args:
        tile: the register tile, mr x nr.
        itemsize: bytes of a packed number.
        K: length of the contraction.
        kc: depth that the caller wants; None: as below.

    Returns:
        kc: an A micro-panel (mr x kc) takes 3/4 of L1: deep enough to spread the cost of loading and storing a register
            tile, with both micro-panels coming from L2; chunks of K are nearly equal;
        mc: an A block (mc x kc) takes 3/8 of L2;
        nc: the C block (mc x nc), which a thread completes before it turns to the next, takes 3/2 of L2: it streams
            by once in a chunk of K, and the wider it is, the less often the next A block comes from L3.
    """
    l1, l2, _ = caches()
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    if kc is None:
        chunks = -(-K // max(64, 3 * l1 // 4 // (mr * itemsize)))
        kc = max(1, -(-K // max(1, chunks)))
    mc = max(mr, 3 * l2 // 8 // (kc * itemsize) // mr * mr)
    nc = max(nr, 3 * l2 // 2 // (mc * itemsize) // nr * nr)
    return Blocking(kc, mc, nc)
