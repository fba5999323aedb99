"""Buffers that begin on cache lines or huge pages, and wait for the next product that needs one."""

from __future__ import annotations

import ctypes
from threading import Lock
from typing import Any

import numpy as np

from meshkernels import kept

#: Linux backs 2 MiB by one page where an array of 4 MiB or more asks for it, as NumPy's do.
_HUGE = 2 << 20
#: Bytes of packing buffers that wait for the next product: fresh pages cost 2-9 % of a product.
KEPT = kept.physical_memory() // 32
#: Bytes of memory that arrays which stay share; pages of it that none has are never touched.
_SHARED = 16 << 20
_shared: list[np.ndarray] = []  # what is left of the latest
_sharing = Lock()
_kept: dict[int, np.ndarray] = {}  # all that is aligned of each allocation, the oldest first; small ones are alike


def staying(size: int, dtype: np.dtype) -> np.ndarray:
    """(size,) uninitialised numbers for many arrays that stay: they begin on cache lines and share huge pages.

    An array takes no huge page of its own, and keeps those that it shares.

    Args:
        size: how many numbers.
        dtype: of which type.

    Returns:
        (size,), a part of a larger allocation.
    """
    needed = -(-size * np.dtype(dtype).itemsize // 64) * 64
    if needed >= _SHARED:
        return aligned(size, dtype)
    with _sharing:
        if not _shared or len(_shared[0]) < needed:
            _shared[:] = [_beginning(_HUGE, _SHARED)]
        found, _shared[0] = _shared[0][:needed], _shared[0][needed:]
    return found[: size * np.dtype(dtype).itemsize].view(dtype)


def aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """(size,) uninitialised numbers that begin on a huge page, or on a cache line if they fill less than half of one.

    A vector that straddles two cache lines costs two loads; small pages, scattered over physical memory, cost misses
    of TLB and L2 that differ from run to run. Pages of the larger allocation that are never touched take no memory.

    Args:
        size: how many numbers.
        dtype: of which type.

    Returns:
        (size,), a part of a larger allocation.
    """
    needed = size * np.dtype(dtype).itemsize
    return _beginning(_HUGE if needed >= _HUGE // 2 else 64, needed).view(dtype)


def result(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """An uninitialised matrix for a caller to keep; one of many huge pages begins on a cache line.

    NumPy's large arrays begin 16 bytes behind one, where no vector can be written past the caches.

    Args:
        shape: rows, columns.
        dtype: of the elements.

    Returns:
        ``shape``, C-contiguous; it may be a part of a larger allocation.
    """
    size = shape[0] * shape[1]
    if size * np.dtype(dtype).itemsize < 2 * _HUGE:
        return np.empty(shape, dtype)
    return aligned(size, dtype).reshape(shape)


def _beginning(unit: int, needed: int) -> np.ndarray:
    """So many bytes that begin at a multiple of ``unit``."""
    raw = np.empty(max(needed + unit, 2 * _HUGE if unit == _HUGE else 0), np.uint8)
    begin = _begin(raw, unit)
    return raw[begin : begin + needed]


def _begin(raw: np.ndarray, unit: int) -> int:
    """The first byte of ``raw`` at a multiple of ``unit``."""
    return -ctypes.addressof(ctypes.c_char.from_buffer(raw.data)) % unit  # in half the time of raw.ctypes.data


def borrow(size: int, dtype: np.dtype) -> np.ndarray:
    """Like `aligned`, but perhaps a buffer that was given back; new ones are a huge page or larger."""
    lent = size * np.dtype(dtype).itemsize
    needed = max(lent, _HUGE)
    for key, buffer in sorted(_kept.items(), key=_usable):
        if needed <= len(buffer) <= 5 * needed // 4 + _HUGE and _kept.pop(key, None) is not None:
            return buffer[:lent].view(dtype)
    return aligned(needed, np.dtype(np.uint8))[:lent].view(dtype)


def give_back(array: np.ndarray) -> None:
    """Let a later `borrow` have the memory of a borrowed ``array``, which nobody uses any more.

    The whole allocation counts, however little of it was lent; the oldest are freed to make room.
    """
    raw: Any = array.base
    if len(raw) > KEPT:
        return
    _kept[id(raw)] = raw[_begin(raw, _HUGE) :]
    for oldest in list(_kept):
        if kept_bytes() <= KEPT:
            break
        _kept.pop(oldest, None)


def forget(largest: int = _HUGE) -> None:
    """Free the buffers that wait, but for those of at most ``largest`` bytes."""
    for key, buffer in list(_kept.items()):
        if len(buffer) > largest:
            _kept.pop(key, None)


def kept_bytes() -> int:
    """An upper bound of what is kept: the buffers that wait, and what lies before their first huge page."""
    return sum(map(len, list(_kept.values()))) + len(_kept) * _HUGE


def _usable(item: tuple[int, np.ndarray]) -> int:
    return len(item[1])
