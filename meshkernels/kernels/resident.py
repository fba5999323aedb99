"""`Columns`: a matrix W (K, N) that stays, in the storage types of its file, arranged for products from the right.

Panels hold 64 columns and all of K, so that a product with a vector reads memory from the first byte to the last; see
`decoding` for what is where in a panel. Rows may be those of a stored matrix in another order, with zeros between;
columns of zeros are not stored at all. Columns of one storage type form a part: a fused weight may mix types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import NamedTuple

import numpy as np
from numba import carray

from meshkernels.errors import MeshError
from meshkernels.kernels import host, memory, pool
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.decoding import OFFSETS, WIDTH, decode, turn
from meshkernels.kernels.intrinsics import copy_line, pointer
from meshkernels.kernels.program import at_once
from meshkernels.kernels.storage import STORAGES, Planes, Storage


class Coded(NamedTuple):
    """A matrix as blocks of a storage type, a row after the other.

    Attributes:
        storage: its name.
        data: ``(rows, bytes of a row)`` uint8.
    """

    storage: str
    data: np.ndarray


@dataclass(frozen=True, eq=False)
class Part:
    """Columns of one storage type.

    Attributes:
        storage: the type.
        data: uint8, panel after panel.
        stride: bytes of a panel.
        offsets: ``(OFFSETS,)`` int64, see `decoding`.
        columns: ``(n,)`` int64, which columns of W they are.
    """

    storage: Storage
    data: np.ndarray
    stride: int
    offsets: np.ndarray
    columns: np.ndarray

    @property
    def panels(self) -> int:
        """How many there are."""
        return -(-len(self.columns) // WIDTH)


@dataclass(frozen=True, eq=False)
class Columns:
    """A matrix W (K, N) for many products.

    Attributes:
        shape: (K, N).
        dtype: of the elements, or float32 of codes.
        parts: see above.
        rows: ``(K,)`` int64, which number of a stored column each row of W is; -1: zeros.
        turns: 0, 1, 2, ... from one GEMV to the next.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    parts: tuple[Part, ...]
    rows: np.ndarray
    turns: Iterator[int] = field(default_factory=count)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.data.nbytes for part in self.parts)

    def numbers(self) -> np.ndarray:
        """All of W, ``(K, N)`` float32 (or float64)."""
        out = np.zeros(self.shape, wide(self.dtype))
        for part in self.parts:
            spans = spans_of(self.rows, part.storage, np.arange(self.shape[0]), np.zeros(self.shape[0], np.int64))
            spans, rows = spans[spans[:, 2] >= 0], np.zeros((self.shape[0], WIDTH), out.dtype)
            _widener(part.storage.name, host.SIMD[host.simd()].bytes)(
                part.data, part.stride, part.offsets, spans, part.columns, rows, out)
        return out

    def slabs(self, most: int) -> Iterator[tuple[np.ndarray, Columns]]:
        """All stored columns, some panels at a time.

        Args:
            most: bytes of a slab's numbers, widened; at least one panel.

        Yields:
            Numbers of columns ``(n,)``, and a matrix of these alone, which shares memory with this one.
        """
        panels = max(1, most // (WIDTH * max(1, self.shape[0]) * wide(self.dtype).itemsize))
        for part in self.parts:
            for first in range(0, part.panels, panels):
                chosen = part.columns[first * WIDTH : (first + panels) * WIDTH]
                slab = replace(part, data=part.data[first * part.stride :], columns=np.arange(len(chosen)))
                yield chosen, replace(self, shape=(self.shape[0], len(chosen)), parts=(slab,))

    def take(self, columns: np.ndarray, do: Callable[..., None] = at_once) -> np.ndarray:
        """Columns of W, as rows.

        Args:
            columns: ``(n,)`` int64, their numbers.
            do: calls the kernel, or records the call.

        Returns:
            ``(n, K)``, C-contiguous, float32 (or float64).
        """
        K, out = self.shape[0], np.zeros((len(columns), self.shape[0]), wide(self.dtype))
        for part in self.parts:
            spans = spans_of(self.rows, part.storage, np.arange(K), np.zeros(K, np.int64))
            spans, rows = spans[spans[:, 2] >= 0], np.zeros((K, WIDTH), out.dtype)
            do(_taker(part.storage.name, host.SIMD[host.simd()].bytes), columns, part.columns, part.data, part.stride,
               part.offsets, spans, rows, out)  # fmt: skip
        return out


def spans_of(rows: np.ndarray, storage: Storage, order: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Rows of W in an order, as spans of one storage type (see `decoding`).

    Args:
        rows: of `Columns`.
        storage: whose groups end spans.
        order: (n,) rows of W; -1: none, a place of padding.
        cuts: (n,) ascending: spans end where it changes.

    Returns:
        ``(spans, 5)`` int32: at (in ``order``), depth, place (-1: zeros), group, and the cut.
    """
    natural = np.where(order >= 0, rows[order], -1)
    stored = np.cumsum(rows >= 0) - 1
    place = np.where(natural >= 0, stored[order], -1)
    group = natural // storage.group if storage.group else np.zeros_like(natural)
    there = place >= 0
    alike = (np.diff(cuts) == 0) & (np.diff(group) == 0) & (there[1:] == there[:-1])
    gone_on = alike & (np.diff(place) == there[1:])
    begins = np.flatnonzero(np.concatenate([[len(order) > 0], ~gone_on]))
    depth = np.diff(begins, append=len(order))
    spans = np.stack([begins, depth, place[begins], group[begins], cuts[begins]], 1).astype(np.int32)
    return in_turns(spans, turn(storage))


def in_turns(spans: np.ndarray, turn: int) -> np.ndarray:
    """The same spans, those of stored rows cut into whole turns and the rows before and after them."""
    depth, place = spans[:, 1], spans[:, 2]
    before = np.where(place < 0, depth, np.minimum(-place % turn, depth))
    whole = (depth - before) // turn * turn
    cut = np.repeat(spans, 3, axis=0).reshape(-1, 3, spans.shape[1])
    cut[:, :, 1] = np.stack([before, whole, depth - before - whole], 1)
    skipped = np.cumsum(cut[:, :, 1], 1) - cut[:, :, 1]
    cut[:, :, 0] += skipped
    cut[:, :, 2] += skipped * (place >= 0)[:, None]
    return cut[cut[:, :, 1] > 0]


def wide(dtype: np.dtype) -> np.dtype:
    """The precision sums are kept in: float64 for float64 storage, else float32."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


@cache
def _taker(name: str, bytes_: int) -> Callable[..., None]:
    @compiled
    def taker(wanted, columns, data, stride, offsets, spans, rows, out):
        """Those of the wanted columns that a part has, to rows of ``out``; ``rows`` has room for a panel's numbers."""
        for i in range(len(wanted)):
            at = np.searchsorted(columns, wanted[i])
            if at < len(columns) and columns[at] == wanted[i]:
                panel = data.ctypes.data + at // WIDTH * stride
                decode(name, bytes_, panel, offsets.ctypes.data, spans.ctypes.data, len(spans), rows.ctypes.data)
                for k in range(out.shape[1]):
                    out[i, k] = rows[k, at % WIDTH]

    return taker


# -------------------------------------------------------------------------------------------------------- arranging
def stored(blocks: Sequence[Coded], columns: np.ndarray, rows: np.ndarray, *, threads: int | None = None,
           allocate: Callable[[int, np.dtype], np.ndarray] = memory.staying) -> Columns:  # fmt: skip
    """W from stored matrices, one below the other, whose rows are columns of W.

    Args:
        blocks: the matrices, all with rows of as many numbers.
        columns: (N,) which row of them each column of W is; -1: zeros.
        rows: (K,) which number of such a row each row of W is; -1: zeros.
        threads: at most so many.
        allocate: where parts come from.

    Returns:
        W, which shares no memory with ``blocks``.

    Raises:
        MeshError: no such row or number.
    """
    storages = [STORAGES[each.storage] for each in blocks]
    lengths = [each.data.shape[1] // storage.nbytes * storage.block for each, storage in zip(blocks, storages)]
    ends = np.cumsum([len(each.data) for each in blocks])
    rows, columns = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    if len(set(lengths)) != 1 or rows.max(initial=-1) >= lengths[0] or columns.max(initial=-1) >= ends[-1]:
        raise MeshError(f"rows up to {rows.max(initial=-1)} and columns up to {columns.max(initial=-1)} of matrices "
                        f"with {ends[-1]} rows of {sorted(set(lengths))} numbers")
    data = [np.ascontiguousarray(each.data) for each in blocks]
    addresses = np.concatenate([each.ctypes.data + np.arange(len(each)) * each.shape[1] for each in data])
    kinds = np.repeat(np.arange(len(blocks)), np.diff(ends, prepend=0))
    parts = []
    for storage in dict.fromkeys(storages):
        mine = np.array([each is storage for each in storages])
        chosen = np.flatnonzero((columns >= 0) & mine[kinds[np.maximum(columns, 0)]])
        if len(chosen):
            lanes = addresses[columns[chosen]]
            parts.append(_part(storage, lanes, chosen, rows[rows >= 0], lengths[0], threads, allocate))
    return Columns((len(rows), len(columns)), wide(np.dtype(storages[0].wide)), tuple(parts), rows)


def _part(storage: Storage, lanes: np.ndarray, columns: np.ndarray, rows: np.ndarray, length: int, threads: int | None,
          allocate: Callable[[int, np.dtype], np.ndarray]) -> Part:  # fmt: skip
    """Columns of one type from the addresses of their blocks."""
    tasks, offsets, at = [], np.zeros(OFFSETS, np.int64), 0

    def add(place: int, planes: Planes, index: np.ndarray, period: int, together: bool, zero: int = 0) -> None:
        """The planes of numbers ``index``, of which a block has ``period``: side by side, or in bytes of their own."""
        nonlocal at
        below = 0
        for i, plane in enumerate(planes):
            first = index // period * storage.nbytes + plane.at[index % period]
            if not together or i == 0:
                offsets[place + i] = at
            tasks.append((int(offsets[place + i * (not together)]), first, plane.shift[index % period], plane.bits,
                          below if together else -1, zero if i == 0 else 0))
            below += plane.bits
            if not together:
                at += -(-len(index) * plane.bits * WIDTH // 8 // 64) * 64
        if together and planes:
            at += len(index) * WIDTH

    add(0, storage.codes, rows, storage.block, False)
    for place, begin in ((2, storage.scale), (3, storage.minimum)):
        if begin >= 0:
            offsets[place] = at
            first = np.arange(length // storage.block) * storage.nbytes + begin
            tasks.append((at, first, np.zeros_like(first), 16, -1, 0))  # float16
            at += len(first) * 2 * WIDTH
    groups = np.arange(length // storage.group) if storage.factors else rows[:0]
    add(4, storage.factors, groups, storage.groups or 1, True, storage.factor_zero)
    add(5, storage.others, groups, storage.groups or 1, True)
    stride, panels = at, -(-len(lanes) // WIDTH)
    data = allocate(panels * stride + 64, np.dtype(np.uint8))  # loads shifted by bytes end beyond the last plane
    padded = np.concatenate([lanes, np.repeat(lanes[-1:], panels * WIDTH - len(lanes))])

    def work(items: Iterator[int]) -> None:
        for panel in items:
            mine, numbers = padded[panel * WIDTH : (panel + 1) * WIDTH], data[panel * stride : (panel + 1) * stride]
            numbers[:] = 0
            for at, first, shift, bits, below, zero in tasks:
                _lay(mine, first, shift, bits, below, zero, numbers[at:])

    pool.parallel(work, panels, pool.threads_for(panels * stride, threads))
    return Part(storage, data, stride, offsets, columns)


@compiled
def _lay(lanes, first, shift, bits, below, zero, out):
    """Bits of the numbers of a panel, row after row: see `decoding`.

    Args:
        lanes: (64,) addresses of the columns' blocks.
        first: (rows,) byte of each number.
        shift: (rows,) below its bits.
        bits: of each number; 16 and more: whole bytes.
        below: -1: a plane; else numbers have bytes of their own, in which these bits stand above so many others.
        zero: is subtracted from them.
        out: uint8, zeros; at the address of a multiple of 4 bytes.
    """
    like, bytes_, taken = np.empty(0, np.uint8), np.empty(8 * 64, np.uint8), np.empty(64, np.uint32)
    eights = bytes_.view(np.uint64)  # of each lane; the first byte is the lowest
    words = carray(pointer(out.ctypes.data, np.uint32(0)), len(out) // 4)
    row = 0
    while row < len(first):
        if bits >= 16:
            for lane in range(64):
                copy_line(lanes[lane] + first[row], bits // 8, like, out, (row * 64 + lane) * (bits // 8), False)
            row += 1
            continue
        together = row + 8 <= len(first)  # eight rows of eight bytes in a row, and loads eight times fewer
        for i in range(1, 8):
            together = together and first[row + i] == first[row] + i and shift[row + i] == shift[row]
        rows = 8 if together else 1
        for lane in range(64):
            if together:
                copy_line(lanes[lane] + first[row], 8, like, bytes_, 8 * lane, False)
            else:
                copy_line(lanes[lane] + first[row], 1, like, bytes_, 8 * lane, False)
        for i in range(rows):
            down = np.uint64(8 * i + shift[row])
            for lane in range(64):
                taken[lane] = np.uint32(eights[lane] >> down) & np.uint32((1 << bits) - 1)
            if below >= 0 or bits == 8:
                for lane in range(64):
                    out[(row + i) * 64 + lane] += np.uint8((taken[lane] << max(below, 0)) - zero)
                continue
            place, up = 4 * bits * (row + i) // 32 * 16, 4 * bits * (row + i) % 32
            for j in range(16):
                word = taken[j] | taken[16 + j] << bits | taken[32 + j] << 2 * bits | taken[48 + j] << 3 * bits
                words[place + j] |= np.uint32(word << up)
        row += rows


@cache
def _widener(name: str, bytes_: int) -> Callable:
    @compiled
    def widener(data, stride, offsets, spans, columns, rows, out):
        """Numbers of a part to their columns of ``out (K, N)``; ``rows (K, 64)`` has room for a panel's."""
        for first in range(0, len(columns), WIDTH):
            panel = data.ctypes.data + first // WIDTH * stride
            decode(name, bytes_, panel, offsets.ctypes.data, spans.ctypes.data, len(spans), rows.ctypes.data)
            for k in range(len(rows)):
                for i in range(min(WIDTH, len(columns) - first)):
                    out[k, columns[first + i]] = rows[k, i]

    return widener
