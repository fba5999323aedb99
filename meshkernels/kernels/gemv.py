"""y = x @ W: the one matrix-vector product, of `Columns`, which it reads from the first byte to the last.

Each panel of W, 64 columns, is multiplied from its first row to its last, decoded in registers, where its partial sums
are combined as soon as both are there (see `additions`). What a product is, is stated in integers and addresses, a row
for each storage type in W, so that one loop, and one board of a `team`, serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import count
from typing import Any

import numpy as np
from numba import carray

from meshkernels.errors import MeshError
from meshkernels.kept import physical_memory
from meshkernels.kernels import host, memory, pool, prefetch
from meshkernels.kernels.additions import Additions, additions
from meshkernels.kernels.compiled import address_of, compiled, folder_of
from meshkernels.kernels.decoding import (
    AHEAD,
    GOES_ON,
    OFFSETS,
    PADDED,
    PLAIN,
    WIDTH,
    chains,
    copy_number,
)
from meshkernels.kernels.intrinsics import add, call, pointer
from meshkernels.kernels.prefetch import Distances
from meshkernels.kernels.reduce import within
from meshkernels.kernels.resident import Coded, Columns, Part, spans_of, stored, wide
from meshkernels.kernels.storage import STORAGES

#: The places of a row: the kernel's address; first panel and number of panels; of `Part` the address, bytes of a panel
#: and offsets; how far ahead to prefetch into L1, and into L2; the spans; the places of sums, and how many there are;
#: those that are wanted; the columns; N.
KERNEL, FIRST, PANELS, DATA, STRIDE, OFFSET = 0, 1, 2, 3, 4, 5
_AFTER = range(OFFSET + OFFSETS, OFFSET + OFFSETS + 12)
NEAR, FAR, SPANS, COUNT, PLACES, SIZE, WANTED, ROWS, COLUMNS, USED, N, FIELDS = _AFTER
#: Panels of a work item, at most: if other programs take its core, a thread may be stopped while it works on one.
_RUN = 16
#: A weight of fewer bytes is not measured: it stays in the cache of a core.
_SMALL = 128 << 10
#: Bytes that one call reads to measure, a slice, and those of all slices, which are read in turn: so many that L3 does
#: not hold a slice any more when its turn comes again, but (beyond two slices) at most 1/64 of main memory.
_SLICE = 32 << 20
_STREAM = max(2 * _SLICE, min(host.caches()[2] + _SLICE, physical_memory() // 64))


class Stated:
    """A product with one weight, for `gemv_run`.

    Args:
        W: the weight.
        parts: into how many runs of rows W is cut, each with a partial sum.
        dst: ``(steps,)`` int64: ``partial[dst[s]] += partial[src[s]]`` in this order.
        src: ``(steps,)`` int64.
        rows: int64, which partial sums are wanted afterwards.
        half: round every sum to float16.
        ahead: bytes from what is read to what is prefetched; None: as is best on this CPU.

    Attributes:
        table: ``(parts of W, FIELDS)`` int64, the rows above.
        panels, columns: of all parts of W.
        arrays: what the addresses point to.
    """

    def __init__(self, W: Columns, parts: int, dst: np.ndarray, src: np.ndarray, rows: np.ndarray, half: bool,
                 ahead: Distances | None = None):  # fmt: skip
        self.panels, self.columns, self.table = 0, 0, np.zeros((len(W.parts), FIELDS), np.int64)
        todo = additions(dst, src, rows)
        self.arrays: list[np.ndarray] = [todo.places, todo.wanted]
        for part, row in zip(W.parts, self.table):
            spans = _spans(W, part, parts, todo)
            self.arrays += [part.data, spans, part.columns]
            row[:OFFSET] = _kernel(part, half), self.panels, part.panels, part.data.ctypes.data, part.stride
            row[OFFSET:NEAR] = part.offsets
            in_cache = part.data.nbytes < _SMALL
            row[NEAR:SPANS] = ahead or (AHEAD if in_cache else _distances(part.storage.name, host.simd()))
            row[SPANS:WANTED] = spans.ctypes.data, len(spans), todo.places.ctypes.data, todo.size
            row[WANTED:COLUMNS] = todo.wanted.ctypes.data, len(todo.wanted)
            row[COLUMNS:] = part.columns.ctypes.data, len(part.columns), W.shape[1]
            self.panels, self.columns = self.panels + part.panels, self.columns + len(part.columns)
        self._runs: dict[int, np.ndarray] = {}

    def runs(self, threads: int) -> np.ndarray:
        """How so many threads share out the panels.

        A thread that goes on with the next panel finds its first bytes prefetched: of the 147 KB panels of an 8B model,
        two threads read 5 to 9 % faster in runs than one by one. The last runs are short, so that all end together.

        Returns:
            ``(items + 1,)`` int64: item i of the work is the panels from ``runs[i]`` to ``runs[i + 1] - 1``.
        """
        if threads not in self._runs:
            edges = [0]
            while (left := self.panels - edges[-1]) > 0:
                edges.append(edges[-1] + min(_RUN, -(-left // (4 * threads))))
            self._runs[threads] = np.array(edges, np.int64)
        return self._runs[threads]


def _spans(W: Columns, part: Part, parts: int, todo: Additions) -> np.ndarray:
    """Spans of the chains in the order of computing, their last column as `decoding` has them."""
    K = W.shape[0]
    block = max(1, -(-K // parts))
    found = spans_of(W.rows, part.storage, np.arange(K), np.arange(K) // block)
    found = found[found[:, 2] >= 0]
    first, after = (np.searchsorted(found[:, 4], todo.parts, side) for side in ("left", "right"))
    count = after - first  # none where there is no part
    last = np.cumsum(np.maximum(count, 1)) - 1  # of an entry; one without rows has a span of none
    spans = np.zeros((np.maximum(count, 1).sum(), 5), np.int32)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    spans[np.repeat(last - np.maximum(count, 1) + 1, count) + step] = found[np.repeat(first, count) + step]
    there = np.flatnonzero(W.rows >= 0) // block
    rows = np.searchsorted(there, todo.parts, "right") - np.searchsorted(there, todo.parts)
    spans[:, 4] = -1
    spans[last, 4] = 4 * todo.counts + np.where(todo.parts < 0, GOES_ON, np.where(rows < block, PADDED, PLAIN))
    return spans


def _kernel(part: Part, half: bool) -> int:
    """The address of the kernel for a part, compiled for the width in use."""
    return _compiled_kernel(part.storage.name, host.SIMD[host.simd()].bytes, half)


@cache
def _compiled_kernel(name: str, bytes_: int, half: bool) -> int:
    return address_of(_panel_kernel(name, bytes_, half), -1, 0, 0, 0)


@cache
def _panel_kernel(name: str, bytes_: int, half: bool) -> Any:
    size = 8 if name == "F64" else 4
    row_bytes = WIDTH * size

    @compiled
    def panel_kernel(panel, row, x, out):
        """One panel of a part; returns 1 if there is no memory for its partial sums, else 0."""
        if panel < 0:
            return 0
        f = carray(pointer(row, np.int64(0)), FIELDS)
        try:
            memory = np.empty(f[SIZE] * row_bytes + 64, np.uint8)
        except Exception:
            return 1
        sums = (memory.ctypes.data + 63) // 64 * 64
        chains(name, bytes_, half, x, f[DATA] + panel * f[STRIDE], row + 8 * OFFSET, f[STRIDE], f[NEAR], f[FAR],
               f[SPANS], f[COUNT], f[PLACES], sums)  # fmt: skip
        wanted = carray(pointer(f[WANTED], np.int64(0)), f[ROWS])
        columns = carray(pointer(f[COLUMNS], np.int64(0)), f[USED])
        first = panel * WIDTH
        for r in range(f[ROWS]):
            for i in range(min(WIDTH, f[USED] - first)):
                copy_number(name, sums + wanted[r] * row_bytes + i * size, out + (r * f[N] + columns[first + i]) * size)
        return memory[0] * 0  # its last use: not freed before

    return panel_kernel


@cache
def _distances(name: str, simd: str) -> Distances:
    """How far ahead the kernel of a storage type prefetches on this CPU, with vectors of one width.

    Returns:
        What is best in main memory; `AHEAD` if there is none to measure it in.
    """
    K, ones = 4096, np.ones((WIDTH, 4096 // STORAGES[name].block * STORAGES[name].nbytes), np.uint8)
    W = stored([Coded(name, ones)], np.arange(WIDTH), np.arange(K), allocate=memory.aligned)
    stride, none = W.parts[0].stride, np.zeros(0, np.int64)
    panels, together, firsts = _STREAM // stride, _SLICE // stride, count()

    @cache  # not before it is needed
    def stream() -> tuple[Stated, np.ndarray, np.ndarray]:
        data = memory.aligned(_STREAM + 64, np.dtype(np.uint8))
        data[:] = 1
        part = replace(W.parts[0], data=data, columns=np.arange(panels * WIDTH))
        longer = replace(W, shape=(K, panels * WIDTH), parts=(part,))
        stated = Stated(longer, 1, none, none, np.zeros(1, np.int64), False, AHEAD)
        return stated, np.zeros(K, wide(W.dtype)), np.zeros(panels * WIDTH, wide(W.dtype))

    def read(ahead: Distances) -> None:
        stated, x, out = stream()
        stated.table[0, NEAR:SPANS] = ahead
        first = next(firsts) % (panels // together) * together
        _work(np.array([first, first + together], np.int64), stated.table, x, out, np.zeros(1, np.int64), False)

    try:
        return prefetch.distances(name, folder_of(_panel_kernel(name, host.SIMD[simd].bytes, False)), read)
    except MemoryError:
        return AHEAD


@compiled
def gemv_run(item, runs, table, x, out):
    """One of the runs of panels of a product with the ``table (parts, FIELDS)``; 1 if there was no memory, else 0."""
    part = failed = 0
    for panel in range(runs[item], runs[item + 1]):
        while panel >= table[part, FIRST] + table[part, PANELS]:
            part += 1
        row = table[part]
        failed |= call(row[KERNEL], (panel - row[FIRST], row.ctypes.data, x.ctypes.data, out.ctypes.data))
    return failed


@compiled
def _work(runs, table, x, out, taken, back):
    """Runs as long as any is left; returns whether one could not be computed."""
    failed, items = 0, len(runs) - 1
    while True:
        item = add(taken, 0, 1)
        if item >= items:
            return failed
        failed |= gemv_run(items - 1 - item if back else item, runs, table, x, out)


class Sums:
    """Partial sums of products with one weight, combined in a given order; see `gemv_sums`.

    Args:
        W: ``(K, N)``, stored.
        parts: runs of rows.
        dst: ``(additions,)`` partial sums that are added to.
        src: ``(additions,)`` partial sums that are added.
        rows: the partial sums that are wanted; None: all.
        accumulate: "float16" rounds to float16 after every operation; anything else leaves float32 or float64.

    Raises:
        MeshError: sums leave their parts.
    """

    def __init__(self, W: Columns, parts: int, dst: Sequence[int] | np.ndarray = (),
                 src: Sequence[int] | np.ndarray = (), rows: Sequence[int] | np.ndarray | None = None,
                 accumulate: str | None = None):  # fmt: skip
        dst, src, rows = (np.array(a, np.int64) for a in (dst, src, range(parts) if rows is None else rows))
        if dst.shape != src.shape or parts < 1 or not (
                within(dst, parts) and within(src, parts) and within(rows, parts)):
            raise MeshError(f"{len(dst)} sums leave their {parts} parts")
        self._W, self._wide, self._shape = W, wide(W.dtype), (len(rows), W.shape[1])
        self._stated = Stated(W, parts, dst, src, rows, accumulate == "float16")

    def __call__(self, x: np.ndarray, out: np.ndarray | None = None, threads: int | None = None) -> np.ndarray:
        """The sums of ``x @ W``.

        Args:
            x: ``(K,)``.
            out: ``(len(rows), N)``, C-contiguous, of the dtype of sums; columns of zeros in W are left as they are.
                None: a new array.
            threads: at most so many; NUMBA_NUM_THREADS if None.

        Returns:
            ``out``.

        Raises:
            MeshError: x and W do not match, or ``out`` is not such an array.
            MemoryError: none left for the partial sums.
        """
        W, stated = self._W, self._stated
        if x.shape != W.shape[:1]:
            raise MeshError(f"x {x.shape} and W {W.shape} do not match")
        out = np.zeros(self._shape, self._wide) if out is None else out
        if out.shape != self._shape or out.dtype != self._wide or not out.flags.c_contiguous:
            raise MeshError(f"out is {out.dtype} {out.shape}; it must be {self._wide} {self._shape}, C-contiguous")
        x, taken = np.ascontiguousarray(x, self._wide), np.zeros(1, np.int64)
        back = next(W.turns) % 2 == 1  # back and forth: what one call read last, the next finds in cache
        threads, failed = pool.threads_for(W.nbytes // out.itemsize, threads), []
        runs = stated.runs(threads)
        if back:  # the short runs are the last here too
            runs = np.ascontiguousarray(stated.panels - runs[::-1])

        def work(_: object) -> None:
            failed.append(_work(runs, stated.table, x, out, taken, back))

        pool.parallel(work, threads, threads)
        if any(failed):
            raise MemoryError(f"no memory for the partial sums of a product with W {W.shape}")
        return out


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
        MemoryError: none left for the partial sums.
    """
    return Sums(W, parts, dst, src, rows, accumulate)(x, threads=threads)
