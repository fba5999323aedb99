"""What the host CPU offers: vector width, cache sizes, memory, and the blocking constants that follow from them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding

from meshkernels import kept
from meshkernels.errors import MeshError


class Simd(NamedTuple):
    """A register file: bytes in a vector, and the rows x vectors of accumulators that fit beside the operands."""

    bytes: int
    rows: int
    vectors: int


#: avx512: 24 accumulators of 32 registers; the others: 12 of 16. Every width gives the same bits.
SIMD = {"avx512": Simd(64, 12, 2), "avx2": Simd(32, 6, 2), "portable": Simd(16, 6, 2)}
#: Of each thread its own; "": what the host offers.
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

    Helper threads do not ask: the thread that leads a product has chosen, for all of it.

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
    """The calling thread uses one width inside the block; one that the CPU lacks still runs, emulated by narrower ones.

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
    """The register tile as a *type*: each number is the length of a tuple of zeros, so Numba specialises on it.

    rows x (vectors * lanes) accumulators; ``len(halves) == 1`` rounds them to float16 after every multiply-add.
    """

    rows: tuple[int, ...]
    vectors: tuple[int, ...]
    lanes: tuple[int, ...]
    halves: tuple[int, ...]


def micro_tile(dtype: np.dtype, half: bool = False, rows: int = 0, vectors: int = 0) -> MicroTile:
    """The register tile for accumulators of ``dtype`` at the width in use, with other rows and vectors if given."""
    return _micro_tile(simd(), np.dtype(dtype), half, rows, vectors)


@cache
def _micro_tile(name: str, dtype: np.dtype, half: bool, rows: int, vectors: int) -> MicroTile:
    width = SIMD[name]
    sizes = (rows or width.rows, vectors or width.vectors, width.bytes // dtype.itemsize, int(half))
    return MicroTile(*((0,) * n for n in sizes))


@cache
def caches() -> tuple[int, int, int]:
    """Bytes of L1 data, L2 and L3 cache that a core sees; usual ones where the system does not say (Linux does)."""
    sizes = {"1": 32 << 10, "2": 512 << 10, "3": 16 << 20}
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = ((entry / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:  # some systems leave files out
            continue
        if level in sizes and kind != "Instruction" and size.endswith("K"):
            sizes[level] = int(size[:-1]) << 10
    return sizes["1"], sizes["2"], sizes["3"]


#: Linux backs 2 MiB by one page where an array of 4 MiB or more asks for it, as NumPy's do.
_HUGE = 2 << 20


def aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """(size,) uninitialised numbers that begin on a huge page, or on a cache line if they would not fill half of one.

    A vector that straddles two cache lines costs two loads; small pages, scattered over physical memory, cost misses
    of TLB and L2 that differ from run to run. What is not touched of the larger allocation takes no memory.
    """
    needed = size * np.dtype(dtype).itemsize
    unit = _HUGE if needed >= _HUGE // 2 else 64
    raw = np.empty(max(needed + unit, 2 * _HUGE if unit == _HUGE else 0), np.uint8)
    begin = _begin(raw, unit)
    return raw[begin : begin + needed].view(dtype)


def _begin(raw: np.ndarray, unit: int) -> int:
    """The first byte of ``raw`` at a multiple of ``unit``."""
    return -ctypes.addressof(ctypes.c_char.from_buffer(raw.data)) % unit  # in half the time of raw.ctypes.data


#: Packing buffers wait for the next product, up to 1/32 of main memory: fresh pages cost 2-9 % of a product.
KEPT = kept.physical_memory() // 32
_kept: dict[int, np.ndarray] = {}  # all that is aligned of each allocation, the oldest first; small ones are alike


def borrow(size: int, dtype: np.dtype) -> np.ndarray:
    """As `aligned`, but perhaps a buffer that was given back; no smaller one is made than a huge page."""
    lent = size * np.dtype(dtype).itemsize
    needed = max(lent, _HUGE)
    for key, buffer in sorted(_kept.items(), key=_usable):
        if needed <= len(buffer) <= 5 * needed // 4 + _HUGE and _kept.pop(key, None) is not None:
            return buffer[:lent].view(dtype)
    return aligned(needed, np.dtype(np.uint8))[:lent].view(dtype)


def give_back(array: np.ndarray) -> None:
    """Let a later `borrow` have the memory of a borrowed ``array``, which nobody uses any more.

    What counts is the whole allocation, however little of it was lent; the oldest make room for it.
    """
    raw: Any = array.base
    if len(raw) > KEPT:
        return
    _kept[id(raw)] = raw[_begin(raw, _HUGE) :]
    for oldest in list(_kept):
        if kept_bytes() <= KEPT:
            break
        _kept.pop(oldest, None)


def kept_bytes() -> int:
    """At most so many are kept: the buffers that wait for the next `borrow`, and what lies before their first page."""
    return sum(map(len, list(_kept.values()))) + len(_kept) * _HUGE


def _usable(item: tuple[int, np.ndarray]) -> int:
    return len(item[1])


class Blocking(NamedTuple):
    """Steps of the loops pc, ic, jc: kc multiply-adds deep, mc rows, nc columns (multiples of the micro-tile)."""

    kc: int
    mc: int
    nc: int


@cache
def blocking(tile: MicroTile, itemsize: int, K: int, kc: int | None = None) -> Blocking:
    """Cache blocking after Goto & van de Geijn, for a contraction of length K.

    kc: an A micro-panel (mr x kc) takes 3/4 of L1 (unless the caller wants another kc): deep enough to spread the cost
        of loading and storing a register tile, with both micro-panels coming from L2; chunks of K are nearly equal;
    mc: an A block (mc x kc) takes 3/8 of L2;
    nc: the C block (mc x nc), which a thread completes before it turns to the next, takes as much.
    """
    l1, l2, _ = caches()
    mr, nr = len(tile.rows), len(tile.vectors) * len(tile.lanes)
    if kc is None:
        chunks = -(-K // max(64, 3 * l1 // 4 // (mr * itemsize)))
        kc = max(1, -(-K // max(1, chunks)))
    mc = max(mr, 3 * l2 // 8 // (kc * itemsize) // mr * mr)
    nc = max(nr, 3 * l2 // 8 // (mc * itemsize) // nr * nr)
    return Blocking(kc, mc, nc)
