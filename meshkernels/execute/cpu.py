"""What the host CPU offers: vector width, cache sizes, memory, and the blocking constants that follow from them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from llvmlite import binding
from numba.core import event


class Simd(NamedTuple):
    """A register file: bytes in a vector, and the rows x vectors of accumulators that fit beside the operands."""

    bytes: int
    rows: int
    vectors: int


#: avx512: 24 accumulators of 32 registers; the others: 12 of 16. Every width gives the same bits.
SIMD = {"avx512": Simd(64, 12, 2), "avx2": Simd(32, 6, 2), "portable": Simd(16, 6, 2)}
_forced = [os.environ.get("MESHKERNELS_SIMD", "")]  # the last one counts; "": what the host offers


@cache
def host_simd() -> str:
    """The widest of `SIMD` that this CPU executes in hardware."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return "avx512"
    return "avx2" if features.get("avx2") and features.get("fma") else "portable"


def simd() -> str:
    """The width in use: `force_simd`, else the variable MESHKERNELS_SIMD at import, else what the host offers."""
    name = _forced[-1] or host_simd()
    if name not in SIMD:
        raise ValueError(f"MESHKERNELS_SIMD is {name!r}; known: {', '.join(SIMD)}")
    return name


@contextmanager
def force_simd(name: str) -> Iterator[None]:
    """Use one width inside the block. A width the CPU lacks still runs, emulated by narrower instructions."""
    _forced.append(name)
    try:
        simd()
        yield
    finally:
        _forced.pop()


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
    """(size,) uninitialised numbers that begin on a huge page, or on a cache line if they are few.

    A vector that straddles two cache lines costs two loads; small pages, scattered over physical memory, cost misses
    of TLB and L2 that differ from run to run. What is not touched of the larger allocation takes no memory.
    """
    needed = size * np.dtype(dtype).itemsize
    unit = _HUGE if needed >= 64 << 10 else 64
    raw = np.empty(max(needed + unit, 2 * _HUGE if unit == _HUGE else 0), np.uint8)
    skip = -raw.__array_interface__["data"][0] % unit
    return raw[skip : skip + needed].view(dtype)


def physical_memory() -> int:
    """Bytes of main memory; 4 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


#: Packing buffers wait for the next product, up to 1/32 of main memory: fresh pages cost 2-9 % of a product.
KEPT = physical_memory() // 32
_kept: dict[int, np.ndarray] = {}  # the oldest first


def borrow(size: int, dtype: np.dtype) -> np.ndarray:
    """As `aligned`, but perhaps a buffer that was given back."""
    needed = size * np.dtype(dtype).itemsize
    for key, buffer in sorted(_kept.items(), key=lambda item: len(item[1])):
        if needed <= len(buffer) <= 5 * needed // 4 + 4096 and _kept.pop(key, None) is not None:
            return buffer[:needed].view(dtype)
    return aligned(needed, np.dtype(np.uint8)).view(dtype)


def give_back(array: np.ndarray) -> None:
    """Let a later `borrow` have the memory of ``array``, which nobody uses any more; the oldest make room for it."""
    if array.nbytes > KEPT:
        return
    for key in list(_kept):
        if array.nbytes + sum(map(len, list(_kept.values()))) <= KEPT:
            break
        _kept.pop(key, None)
    buffer = array.view(np.uint8)
    _kept[id(buffer)] = buffer


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


class _Notice(event.Listener):
    """Says once, on stderr, why the first call takes seconds."""

    def __init__(self) -> None:
        self.said = False

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        if not self.said and (function.__module__ or "").startswith("meshkernels."):
            self.said = True
            print("meshkernels: compiling kernels for this CPU (seconds, once; cached on disk)", file=sys.stderr)

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Notice())
