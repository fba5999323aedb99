"""Packing: an operand copied into panels, in the order in which the micro-kernel reads it, and results copied back.

A panel holds ``width`` lanes (rows of A, columns of B); place runs through K in ring order, cut into chunks of kc.
Chunk after chunk, panel after panel, place after place, the lanes lie side by side, so that the cache block of a
step of the loop pc is contiguous in memory (0.9 of this speed where a panel ran through all of K).

A core pads a short block with zeros and adds their products too, which turns a sum of -0.0 into +0.0. Any number of
zeros has the effect of one, so the padding of each block has one place in a panel.

float16 and bfloat16 become float32 in packing, except in `Columns`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from meshkernels.errors import MeshError
from meshkernels.kept import remember
from meshkernels.kernels import host, memory, pool
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.decoding import OFFSETS, WIDTH, decode
from meshkernels.kernels.intrinsics import copy_line, prefetch, transpose4
from meshkernels.kernels.resident import Columns, Part, spans_of, wide
from meshkernels.kernels.storage import OF_DTYPE, STORAGES

#: Storage types that Numba has no arithmetic for travel as 16-bit integers; see intrinsics.HALF and BFLOAT.
_BITS = {"float16": np.dtype(np.uint16), "bfloat16": np.dtype(np.int16)}


@cache
def seen(dtype: np.dtype) -> np.dtype:
    """``dtype`` as Numba sees it: float16 as uint16, bfloat16 as int16, anything else as it is."""
    return _BITS.get(np.dtype(dtype).name, np.dtype(dtype))


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the numbers of an operand go; hashed by identity, so that what follows from one can be remembered.

    Attributes:
        source: (panels * width,) which row of A (column of B) each lane is; padding repeats the last.
        start: (panels * width,) int32, the lane's share of the ring place where its chains start; ascending.
        places: (L + 1,) multiply-adds before each ring place; the last is their number, K and the padding.
        k_of: (places[-1],) which k stands at each place; any where it is one of padding.
        by_k: (places[-1],) the places in ascending order of k: in this order an operand is read, so that hardware
            prefetchers can follow.
        padding: places at which zeros stand.
        runs: (panels * width,) for a lane that begins a run of neighbours within a panel, how many these are; else 0.
        width: lanes in a panel.
    """

    source: np.ndarray
    start: np.ndarray
    places: np.ndarray
    k_of: np.ndarray
    by_k: np.ndarray
    padding: np.ndarray
    runs: np.ndarray
    width: int


@dataclass(frozen=True, eq=False)
class Blocks:
    """A matrix that lies in memory block by block.

    Attributes:
        array: ``(rows of blocks, h, columns of blocks, w)``, any strides: element (y h + i, x w + j) is
            ``array[y, i, x, j]``.
        shape: ``(height, width)`` of the matrix; blocks may be padded beyond it.
        places: where blocks lie otherwise: bytes from the array's first element to block (y, x) are ``places[0][y] +
            places[1][x]``, in memory that the caller keeps alive; None: as the array's strides say.
    """

    array: np.ndarray
    shape: tuple[int, int]
    places: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def dtype(self) -> np.dtype:
        """Of the elements."""
        return self.array.dtype

    @property
    def T(self) -> Blocks:
        """The transpose, a view."""
        return Blocks(self.array.transpose(2, 3, 0, 1), self.shape[::-1], self.places and self.places[::-1])

    def offsets(self, axis: int, index: np.ndarray) -> np.ndarray:
        """Bytes from the array's first element to each of these rows (axis 0) or columns (1)."""
        block, within = np.divmod(index, max(self.array.shape[2 * axis + 1], 1))
        inner = within * self.array.strides[2 * axis + 1]
        return inner + (block * self.array.strides[2 * axis] if self.places is None else self.places[axis][block])


@dataclass(frozen=True, eq=False)
class Panels:
    """One packed operand.

    Attributes:
        data: (places * panels * width,) element (place, panel p, lane l) at ``chunk * kc * panels * width + (p * depth
            + place - chunk * kc) * width + l``, where the chunk is depth = min(kc, places - chunk * kc) deep.
        layout: see `Layout`.
        kc: depth of a chunk.
        lanes: rows of A (columns of B).
        dtype: of the operand before packing.
    """

    data: np.ndarray
    layout: Layout
    kc: int
    lanes: int
    dtype: np.dtype


def layout(start: np.ndarray, blocks: np.ndarray, block: int, K: int, width: int) -> Layout:
    """Lanes sorted by ``start``, K in the order of ``blocks``.

    One zero ends the numbers of a short block, or begins a run of empty ones: wherever on the ring a chain begins and
    ends, it meets a zero after its last number that padding follows.

    Args:
        start: (lanes,) ring place at which each lane's chains start.
        blocks: (L,) K-block ids in ring order, each ``block`` long, the last ones short or empty; -1: none.
        block: length of a block.
        K: length of the contraction.
        width: lanes of a panel.

    Returns:
        Where each lane and each k of a packed operand comes from.

    Raises:
        MeshError: the blocks do not hold K numbers.
    """
    lanes = len(start)
    padded = np.minimum(np.arange(-(-lanes // width) * width), lanes - 1)
    index = np.argsort(start, kind="stable")[padded]
    first, real = np.minimum(np.asarray(blocks, np.int64) * block, K), np.asarray(blocks) >= 0
    lengths = np.where(real, np.minimum(first + block, K) - first, 0)
    if lengths.sum() != K:
        raise MeshError(f"an operand of depth {K} does not match blocks that hold {lengths.sum()}")
    short = (lengths < block) & real & (K > 0)
    if short.any():
        lengths += short & ((lengths > 0) | ~np.roll(short, 1))
    places = np.concatenate(([0], np.cumsum(lengths)))
    k_of = np.arange(places[-1]) + np.repeat(first - places[:-1], lengths)  # K where there is none
    padding = np.flatnonzero(k_of == K)
    k_of[padding] = 0
    runs = _runs(index, 1, width)
    by_k = np.argsort(k_of, kind="stable")
    return Layout(index, np.asarray(start)[index].astype(np.int32), places, k_of, by_k, padding, runs, width)


class Source(NamedTuple):
    """An operand that is to be packed, for compiled code.

    Attributes:
        at: address of the operand's first number.
        lanes: (panels * width,) bytes from there to k = 0 of each packed lane.
        start: (panels * width,) see `Layout`.
        runs: (panels * width,) for each lane that begins a run of neighbours within a panel, how many these are.
        begins: the lanes that begin runs, in the order of memory.
        side_by_side: whether lanes lie side by side in memory, and not k.
        k_at: (places,) bytes from k = 0 to the number at each place.
        step: bytes from k to k + 1, within a block.
        by_k: (places,) see `Layout`.
        padding: see `Layout`.
        like: an empty array of the operand's dtype.
    """

    at: int
    lanes: np.ndarray
    start: np.ndarray
    runs: np.ndarray
    begins: np.ndarray
    side_by_side: bool
    k_at: np.ndarray
    step: int
    by_k: np.ndarray
    padding: np.ndarray
    like: np.ndarray


class Target(NamedTuple):
    """Panels being filled; see `Panels` for the order.

    Attributes:
        numbers: of these panels.
        width: of a panel, as the length of a tuple.
        kc: depth of a chunk.
        first: number, in the operand, of the first lane that the panels hold.
        total: lanes that they hold.
        non_temporal: write past the caches.
    """

    numbers: np.ndarray
    width: tuple[int, ...]
    kc: int
    first: int
    total: int
    non_temporal: bool


def past_caches(data: np.ndarray | Blocks) -> bool:
    """Whether ``data`` is best written past the caches.

    Args:
        data: what is about to be filled, and not read at once.

    Returns:
        Whether it fills half of L3, or eight L2 caches where many cores share L3: it would be evicted before it is
        read.
    """
    _, l2, l3 = host.caches()
    return math.prod(data.shape) * data.dtype.itemsize >= min(l3 // 2, 8 * l2)


class Unpacked:
    """An operand that is to be packed: whole, or by `fill` a part of its lanes when they are needed.

    Args:
        X: (lanes, K), any strides: A itself, or B.T; either of them in blocks.
        layout: made for as many lanes and as long a K.
        kc: depth of a chunk.
        widened: convert 16-bit storage to float32.

    Attributes:
        layout, kc, lanes, dtype: of `Panels`.
        packed: dtype of the panels.
        source: for `fill`.
    """

    def __init__(self, X: np.ndarray | Blocks, layout: Layout, kc: int, widened: bool = True):
        self.layout, self.kc, self.lanes, self.dtype = layout, kc, X.shape[0], X.dtype
        self.packed = wide(X.dtype) if widened else seen(X.dtype)
        if isinstance(X, Blocks):
            array, down, across = X.array.transpose(0, 2, 1, 3), X.offsets(0, layout.source), X.offsets(1, layout.k_of)
            parts = _source(layout, down, across, array.strides[2:], X.dtype)
        else:
            array, parts = X, _source_of_array(layout, X.strides, X.dtype)
        self.source = Source(array.__array_interface__["data"][0], *parts)

    def whole(self, threads: int | None, allocate: Callable[[int, np.dtype], np.ndarray]) -> Panels:
        """Pack all lanes, by ``threads`` threads at most, into what ``allocate`` gives."""
        lanes, width = len(self.layout.source), self.layout.width
        data = allocate(lanes * len(self.layout.k_of), self.packed)
        # Past the caches, 16 KiB of a row at a time are best, long stretches of main memory; else 1 KiB: few panels at
        # a time.
        non_temporal = past_caches(data)
        stretch = 16 << 10 if non_temporal else 1 << 10
        target = Target(data, (0,) * width, self.kc, 0, lanes, non_temporal)
        threads = pool.threads_for(data.size, threads)
        groups = pool.spans(lanes // width, 1, max(1, stretch // (self.dtype.itemsize * width)), threads)

        def work(items: Iterator[int]) -> None:
            for item in items:
                fill(self.source, target, groups[item].start, groups[item].stop)

        pool.parallel(work, len(groups), threads)
        return Panels(data, self.layout, self.kc, self.lanes, self.dtype)


def _source(layout: Layout, down: np.ndarray, across: np.ndarray, strides: tuple[int, ...],
            dtype: np.dtype) -> tuple[Any, ...]:  # fmt: skip
    """All of a `Source` but the address, of an operand that has its lanes and its k at these bytes."""
    runs = _runs(down, dtype.itemsize, layout.width)
    begins = np.flatnonzero(runs)
    return (down, layout.start, runs, begins[np.argsort(down[begins])], strides[0] == dtype.itemsize, across,
            strides[1], layout.by_k, layout.padding, np.empty(0, seen(dtype)))  # fmt: skip


@remember
def _source_of_array(layout: Layout, strides: tuple[int, ...], dtype: np.dtype) -> tuple[Any, ...]:
    return _source(layout, layout.source * strides[0], layout.k_of * strides[1], strides, dtype)


def pack(X: np.ndarray | Blocks | Columns, layout: Layout, kc: int, *, widened: bool = True, threads: int | None = None,
         allocate: Callable[[int, np.dtype], np.ndarray] = memory.aligned) -> Panels:  # fmt: skip
    """An operand packed at once, rows of an array or stored columns: see `Unpacked` and its method ``whole``."""
    if isinstance(X, Columns):
        return _pack_columns(X, layout, kc, threads, allocate)
    return Unpacked(X, layout, kc, widened).whole(threads, allocate)


def _runs(places: np.ndarray, step: int, width: int) -> np.ndarray:
    """Length of the run that begins at each place; 0 inside a run."""
    # In a run each place is ``step`` after the one before; no run crosses a multiple of ``width``.
    begins = np.flatnonzero((np.arange(len(places)) % width == 0) | (np.diff(places, prepend=0) != step))
    runs = np.zeros(len(places), np.int64)
    runs[begins] = np.diff(begins, append=len(places))
    return runs


def columns(W: np.ndarray, **options: Any) -> Columns:
    """W (K, N), any strides, in its own dtype, for many products; options as of `pack`."""
    (K, N), storage = W.shape, STORAGES[OF_DTYPE[W.dtype.name]]
    packed = pack(W.T, _plain_layout(K, N, WIDTH), max(K, 1), widened=False, **options)
    data = packed.data.view(np.uint8)
    part = Part(storage, data, K * WIDTH * W.itemsize, np.zeros(OFFSETS, np.int64), np.arange(N))
    return Columns((K, N), W.dtype, (part,) if N else (), np.arange(K))


#: Rows of a panel that are decoded at a time: they stay in L1.
_ROWS = 64


def _pack_columns(W: Columns, layout: Layout, kc: int, threads: int | None,
                  allocate: Callable[[int, np.dtype], np.ndarray]) -> Panels:  # fmt: skip
    """Pack W: each of its own panels is decoded once, some rows at a time, and copied to wherever its lanes are."""
    width, places, lanes = layout.width, len(layout.k_of), len(layout.source)
    data, bytes_ = allocate(lanes * places, wide(W.dtype)), host.SIMD[host.simd()].bytes
    target = Target(data, (0,) * width, kc, 0, lanes, False)
    stored = np.zeros(lanes, bool)
    for part in W.parts:
        where, home = _lanes(layout, kc, part.storage.name, W.rows.tobytes(), part.columns.tobytes())
        stored[home] = True

        def work(items: Iterator[int], part: Part = part, where: _Lanes = where) -> None:
            rows = memory.aligned(_ROWS * WIDTH, data.dtype)
            for panel in items:
                _unpacker(part.storage.name, bytes_)(part.data, part.stride, part.offsets, where, panel, rows, target)

        pool.parallel(work, part.panels, pool.threads_for(data.size, threads))
    if not stored.all():  # columns of zeros
        panel, lane = np.divmod(np.flatnonzero(~stored), width)
        for chunk in range(0, places, kc):
            depth = min(kc, places - chunk)
            part_of = data[chunk * lanes : (chunk + depth) * lanes]
            part_of.reshape(-1, depth, width)[panel, :, lane] = 0
    return Panels(data, layout, kc, W.shape[1], W.dtype)


class _Lanes(NamedTuple):
    """Where the lanes of one part of `Columns` go.

    Attributes:
        spans: of all places, but for zeros.
        batches: ``(batches + 1, 2)`` first place and first span of at most `_ROWS` places; at last their numbers.
        runs: ``(runs, 3)`` neighbours in a panel of W and in one of the packed operand: lane, how many, packed lane.
        firsts: where the runs of each panel of W begin, and their number.
        total: packed lanes.
    """

    spans: np.ndarray
    batches: np.ndarray
    runs: np.ndarray
    firsts: np.ndarray
    total: int


@remember
def _lanes(layout: Layout, kc: int, storage: str, rows: bytes, columns: bytes) -> tuple[_Lanes, np.ndarray]:
    """Where the lanes of a part with these columns go, int64 as `rows` of `Columns`; and all places that they go to."""
    width, places, source = layout.width, len(layout.k_of), layout.source
    here = np.frombuffer(columns, np.int64)
    order, place = layout.k_of.copy(), np.arange(places)
    order[layout.padding] = -1
    index = np.full(1 + max(source.max(), here.max()), -1)
    index[here] = np.arange(len(here))
    home = np.flatnonzero(index[source] >= 0)
    home = home[np.argsort(index[source[home]], kind="stable")]
    lane = index[source[home]]
    gone_on = (np.diff(lane) == 1) & (np.diff(home) == 1) & (lane[1:] % WIDTH > 0) & (home[1:] % width > 0)
    begins = np.flatnonzero(np.concatenate([[True], ~gone_on]))
    runs = np.stack([lane[begins] % WIDTH, np.diff(begins, append=len(home)), home[begins]], 1)
    firsts = np.searchsorted(lane[begins] // WIDTH, np.arange(-(-len(here) // WIDTH) + 1))
    batch = place // kc * places + place % kc // _ROWS
    begins = np.append(np.flatnonzero(np.diff(batch, prepend=-1)), places)
    spans = spans_of(np.frombuffer(rows, np.int64), STORAGES[storage], order, batch)
    spans = spans[spans[:, 2] >= 0]
    batches = np.stack([begins, np.searchsorted(spans[:, 0], begins)], 1)
    return _Lanes(spans, batches, runs, firsts, len(source)), home


@cache
def _unpacker(name: str, bytes_: int) -> Callable:
    @compiled
    def unpack(data, stride, offsets, where, panel, rows, target):
        """One panel of a part, its data, stride and offsets, to the packed operand, through ``rows``."""
        spans, batches, runs, firsts, total = where
        out, lanes, kc, K = target.numbers, len(target.width), target.kc, batches[len(batches) - 1, 0]
        for batch in range(len(batches) - 1):
            (begin, s), (end, stop) = batches[batch], batches[batch + 1]
            chunk = begin // kc * kc
            depth = min(kc, K - chunk)
            if spans[s:stop, 1].sum() < end - begin:
                rows[:] = 0
            decode(name, bytes_, data.ctypes.data + panel * stride, offsets.ctypes.data,
                   spans.ctypes.data + s * 20, stop - s, rows.ctypes.data - begin * WIDTH * rows.itemsize)  # fmt: skip
            for r in range(firsts[panel], firsts[panel + 1]):
                lane, count, home = runs[r]
                to = chunk * total + home // lanes * lanes * depth + (begin - chunk) * lanes + home % lanes
                for k in range(end - begin):
                    at = rows.ctypes.data + (k * WIDTH + lane) * rows.itemsize
                    copy_line(at, count, rows, out, to + k * lanes, False)

    return unpack


@remember
def _plain_layout(K: int, N: int, width: int) -> Layout:
    return layout(np.zeros(N, np.int64), np.arange(1), K, K, width)


@compiled
def fill(source, target, p0, p1):
    """Pack panels p0 .. p1 - 1 of a `Source` into a `Target` that has room for them."""
    if source.side_by_side:
        first, last = p0 * len(target.width), p1 * len(target.width)
        _copy_runs(source, source.begins[(source.begins >= first) & (source.begins < last)], target)
    else:
        _transpose(source, target, p0, p1)
    out, kc, width, K = target.numbers, target.kc, len(target.width), len(source.k_at)
    for place in source.padding:
        chunk = place - place % kc
        depth = min(kc, K - chunk)
        for p in range(p0 - target.first // width, p1 - target.first // width):
            for l in range(width):
                out[chunk * target.total + (p * depth + place - chunk) * width + l] = 0


@register_jitable(inline="always")  # with a constant ``run`` LLVM knows which instructions copy it
def _copy_run(at, step, count, ahead, run, like, out, home, width, non_temporal):
    for k in range(count):
        for byte in range(0, run * like.itemsize, 64):
            prefetch(at + k * step + ahead + byte)
        copy_line(at + k * step, run, like, out, home + k * width, non_temporal)


#: Rows that are copied together: see `_copy_runs`.
_STRIP = 8


@compiled
def _copy_runs(source, begins, target):
    """Pack lanes that lie side by side: copy the runs that begin at these lanes, a few k at a time.

    Lanes and k are taken in the order of memory, so that hardware prefetchers can follow.
    """
    lanes, runs, like, by_k, k_at, step = source.lanes, source.runs, source.like, source.by_k, source.k_at, source.step
    out, panel, kc, first, total, non_temporal = target
    K, width, i = len(k_at), len(panel), 0
    while i < K:
        place = by_k[i]
        chunk = place - place % kc
        depth, row = min(kc, K - chunk), source.at + k_at[place]
        count, limit = 1, min(_STRIP, chunk + depth - place, K - i)
        while count < limit and by_k[i + count] == place + count and k_at[place + count] == k_at[place] + count * step:
            count += 1
        i += count
        ahead = source.at + k_at[by_k[min(i, K - 1)]] - row
        for lane in begins:
            run, l, at = runs[lane], lane - first, lanes[lane] + row
            home = chunk * total + l // width * width * depth + l % width + (place - chunk) * width
            if run == 8:
                _copy_run(at, step, count, ahead, 8, like, out, home, width, non_temporal)
            elif run == 16:
                _copy_run(at, step, count, ahead, 16, like, out, home, width, non_temporal)
            else:
                _copy_run(at, step, count, ahead, run, like, out, home, width, non_temporal)


@compiled
def _transpose(source, target, p0, p1):
    """Pack panels p0 .. p1 - 1 of lanes that lie apart: a transposition, 4 x 4 at a time where k is contiguous."""
    like, lanes, step, by_k, k_at = source.like, source.lanes, source.step, source.by_k, source.k_at
    out, kc, size, K, width = target.numbers, target.kc, like.itemsize, len(k_at), len(target.width)
    strip = 64 // size  # a cache line
    for p in range(p0, p1):
        i, later = 0, min(p + 1, p1 - 1)
        while i < K:
            place = by_k[i]
            chunk = place - place % kc
            depth = min(kc, K - chunk)
            count, limit = 1, min(strip, chunk + depth - place, K - i)
            while (count < limit and by_k[i + count] == place + count
                   and k_at[place + count] == k_at[place] + count * step):  # fmt: skip
                count += 1
            row = source.at + k_at[place]
            to = chunk * target.total + ((p - target.first // width) * depth + place - chunk) * width
            if (lanes[p * width] + row) % 64 < count * size:  # a new line: too many streams for the hardware
                for l in range(later * width, later * width + width):
                    prefetch(lanes[l] + row)
            fours = count - count % 4 if step == size else 0
            for l in range(0, width - 3, 4):
                q = p * width + l
                a0, a1, a2, a3 = lanes[q] + row, lanes[q + 1] + row, lanes[q + 2] + row, lanes[q + 3] + row
                for k in range(0, fours, 4):
                    s = k * step
                    transpose4((a0 + s, a1 + s, a2 + s, a3 + s), step, like, out, to + k * width + l, width)
            for l in range(width):
                at = lanes[p * width + l] + row
                for k in range(fours if l < width - width % 4 else 0, count):
                    copy_line(at + k * step, 1, like, out, to + k * width + l, False)
            i += count


class Home(NamedTuple):
    """Where the numbers of a result go, in memory: element (i, j) to ``numbers[down[i] * row + across[j]]``.

    Attributes:
        numbers: the result, flat, as it lies in memory.
        row: numbers from one of ``down`` to the next.
        down: of each packed row, but for padding.
        across: of each packed column, but for padding.
        runs: for each column that begins a run of neighbours within a panel, how many these are.
        non_temporal: write past the caches.
    """

    numbers: np.ndarray
    row: int
    down: np.ndarray
    across: np.ndarray
    runs: np.ndarray
    non_temporal: bool


def home(C: np.ndarray | Blocks, rows: Layout, cols: Layout) -> Home:
    """Where `write_back` puts a product.

    Args:
        C: (M, N), or its blocks; the memory is contiguous, and elements of a row (of a block) lie side by side.
        rows: of the left operand.
        cols: of the right one.

    Returns:
        For compiled code.
    """
    down, across = rows.source[: C.shape[0]], cols.source[: C.shape[1]]
    if not isinstance(C, Blocks):
        memory_order, row, runs = C, C.shape[1], cols.runs
    else:
        memory_order, row = C.array.transpose(0, 2, 1, 3), 1
        down, across = (C.offsets(axis, each) // C.dtype.itemsize for axis, each in enumerate((down, across)))
        runs = _runs(across, 1, cols.width)
    return Home(memory_order.reshape(-1).view(seen(C.dtype)), row, down, across, runs, past_caches(C))


@register_jitable(inline="always")  # see `_copy_run`
def _copy_down(at, nr, run, sums, out, i0, i1, column):
    for i in range(i0, i1):
        copy_line(at + (i - i0) * nr * sums.itemsize, run, sums, out.numbers, out.down[i] * out.row + column,
                  out.non_temporal)


@compiled
def write_back(tile, sums, out, i0, i1, j0, j1):
    """Copy register tiles, column of tiles by column, to rows i0 .. i1 - 1 and columns j0 .. j1 - 1 of a `Home`.

    Element (i, j) of the block is ``sums[(j // nr * (i1 - i0) + i) * nr + j % nr]``.
    """
    nr, strip, across = len(tile.vectors) * len(tile.lanes), 8, out.across
    rows, cols = min(i1, len(out.down)), min(j1, len(across))
    for i_strip in range(i0, rows, strip):  # a few rows at a time: runs in both, and lines that stay in L1
        j = j0
        while j < cols:
            run, l = out.runs[j], j - j0
            at = sums.ctypes.data + ((l // nr * (i1 - i0) + i_strip - i0) * nr + l % nr) * sums.itemsize
            i_stop = min(i_strip + strip, rows)
            if run == 8:
                _copy_down(at, nr, 8, sums, out, i_strip, i_stop, across[j])
            elif run == 16:
                _copy_down(at, nr, 16, sums, out, i_strip, i_stop, across[j])
            elif run == 32:
                _copy_down(at, nr, 32, sums, out, i_strip, i_stop, across[j])
            else:
                _copy_down(at, nr, run, sums, out, i_strip, i_stop, across[j])
            j += run
