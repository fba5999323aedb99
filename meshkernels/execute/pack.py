"""Panels: an operand copied into the order in which the micro-kernel reads it, and results copied back.

A panel holds ``width`` lanes (rows of A, columns of B); place runs through K in ring order, cut into chunks of kc.
A core pads a short block with zeros and adds their products too, which turns a sum of -0.0 into +0.0. Any number of
zeros does the same as one, so the padding of each block has one place in a panel.
Chunk after chunk, panel after panel, place after place, the lanes lie side by side, so that the cache block of a
step of the loop pc is one contiguous stretch of memory (panels that ran through all of K: 0.9 of this speed).
float16 and bfloat16 become float32 on the way, unless they are kept for GEMV.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

from meshkernels.errors import MeshError
from meshkernels.execute import cpu, workers
from meshkernels.execute.compiled import compiled
from meshkernels.execute.microkernel import move, prefetch, stream, transpose4

#: Storage types that Numba has no arithmetic for travel as 16-bit integers; see microkernel.HALF and BFLOAT.
_BITS = {"float16": np.dtype(np.uint16), "bfloat16": np.dtype(np.int16)}


@cache
def seen(dtype: np.dtype) -> np.dtype:
    """``dtype`` as Numba sees it: float16 as uint16, bfloat16 as int16, anything else as it is."""
    return _BITS.get(np.dtype(dtype).name, np.dtype(dtype))


@cache
def wide(dtype: np.dtype) -> np.dtype:
    """The precision sums are kept in: float64 for float64 storage, else float32."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


_ONE, _FOUR, _SIXTEEN = (0,), (0,) * 4, (0,) * 16  # vector lengths, as types: see cpu.MicroTile


class Layout(NamedTuple):
    """Where the numbers of an operand go.

    Attributes:
        source: (panels * width,) which row of A (column of B) each lane is; padding repeats the last.
        start: (panels * width,) int32, the lane's share of the ring place where its chains start; ascending.
        places: (L + 1,) multiply-adds before each ring place; the last is their number, K and the padding.
        k_of: (places[-1],) which k stands at each place; any where it is one of padding.
        padding: places at which zeros stand.
        width: lanes in a panel.
    """

    source: np.ndarray
    start: np.ndarray
    places: np.ndarray
    k_of: np.ndarray
    padding: np.ndarray
    width: int


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


def layout(start, blocks, block, K, width) -> Layout:
    """Lanes sorted by ``start``, K in the order of ``blocks``.

    Args:
        start: (lanes,) ring place at which each lane's chains start.
        blocks: (L,) K-block ids in ring order, each ``block`` long, the last ones short or empty.
        width: lanes of a panel.

    One zero ends the numbers of a short block, or begins a run of empty ones: wherever on the ring a chain starts and
    ends, it meets a zero after its last number that padding follows.
    """
    lanes = len(start)
    padded = np.minimum(np.arange(-(-lanes // width) * width), lanes - 1)
    index = np.argsort(start, kind="stable")[padded]
    first = np.minimum(np.asarray(blocks, np.int64) * block, K)
    lengths = np.minimum(first + block, K) - first
    if lengths.sum() != K:
        raise MeshError(f"an operand of depth {K} does not match blocks that hold {lengths.sum()}")
    short = (lengths < block) & (K > 0)
    if short.any():
        lengths += short & ((lengths > 0) | ~np.roll(short, 1))
    places = np.concatenate(([0], np.cumsum(lengths)))
    k_of = np.arange(places[-1]) + np.repeat(first - places[:-1], lengths)  # K where there is none
    padding = np.flatnonzero(k_of == K)
    k_of[padding] = 0
    return Layout(index, np.asarray(start)[index].astype(np.int32), places, k_of, padding, width)


def pack(X, layout, kc, *, widened=True, threads=None, memory=cpu.aligned) -> Panels:
    """Pack the rows of ``X`` (lanes, K), any strides.

    Args:
        X: A itself, or B.T.
        kc: depth of a chunk.
        widened: convert 16-bit storage to float32.
        memory: where the panels come from.
    """
    index, _, _, k_of, padding, width = layout
    like = np.empty(0, seen(X.dtype))
    data = memory(len(index) * len(k_of), wide(X.dtype) if widened else like.dtype)
    copy = _copy_runs if X.strides[0] == X.itemsize else _transpose
    address = X.__array_interface__["data"][0]

    def work(tickets):
        for ticket in tickets:
            p0, p1 = groups[ticket].start, groups[ticket].stop
            copy(address, *X.strides, like, index, (0,) * width, k_of, kc, p0, p1, data, past_caches)

    # Panels that fill half of L3 would be gone when they are read: they are written past the caches. Then 16 KiB of a
    # row at a time are best, long stretches of main memory; else 1 KiB, so that few panels are written at once.
    past_caches = data.nbytes > cpu.caches()[2] // 2 and data.ctypes.data % 64 == 0
    stretch = 16 << 10 if past_caches else 1 << 10
    threads = workers.threads_for(data.size, threads)
    groups = workers.spans(len(index) // width, 1, max(1, stretch // (X.itemsize * width)), threads)
    workers.parallel(work, len(groups), threads)
    for place in padding:
        chunk, k = place - place % kc, place % kc
        panels = data[chunk * len(index) : (chunk + kc) * len(index)].reshape(-1, min(kc, len(k_of) - chunk), width)
        panels[:, k] = 0
    return Panels(data, layout, kc, len(X), X.dtype)


@njit(nogil=True, inline="always")
def copy_line(address, count, like, out, to):
    """out[to : to + count] = the numbers, of the dtype of ``like``, at an address; converted."""
    r = 0
    while r + 16 <= count:
        move(_SIXTEEN, address + r * like.itemsize, like, out, to + r)
        r += 16
    while r + 4 <= count:
        move(_FOUR, address + r * like.itemsize, like, out, to + r)
        r += 4
    while r < count:
        move(_ONE, address + r * like.itemsize, like, out, to + r)
        r += 1


@compiled
def _copy_runs(address, lane_step, k_step, like, index, lanes, k_of, kc, p0, p1, out, past_caches):
    """Panels p0 .. p1 - 1 of an operand whose lanes lie side by side (steps in bytes): copy runs, row after row."""
    K, width = len(k_of), len(lanes)
    begins = np.array([l for l in range(p0 * width, p1 * width) if l % width == 0 or index[l] != index[l - 1] + 1])
    runs, source = np.append(begins[1:], p1 * width) - begins, address + index[begins] * lane_step
    for chunk in range(0, K, kc):
        depth = min(kc, K - chunk)
        target = chunk * len(index) + begins // width * width * depth + begins % width
        for k in range(depth):
            row, line, ahead = k_of[chunk + k] * k_step, k * width, k_of[min(chunk + k + 8, K - 1)] * k_step
            for i in range(len(begins)):
                for byte in range(0, runs[i] * like.itemsize, 64):
                    prefetch(source[i] + ahead + byte)
                if runs[i] == width and past_caches:
                    stream(lanes, source[i] + row, like, out, target[i] + line)
                elif runs[i] == width:
                    move(lanes, source[i] + row, like, out, target[i] + line)
                elif runs[i] == 16 and past_caches and width % 16 == target[i] % 16 == 0:
                    stream(_SIXTEEN, source[i] + row, like, out, target[i] + line)
                else:
                    copy_line(source[i] + row, runs[i], like, out, target[i] + line)


@compiled
def _transpose(address, lane_step, k_step, like, index, lanes, k_of, kc, p0, p1, out, past_caches):
    """The same for lanes that lie apart: a transposition, 4 x 4 at a time where k is contiguous."""
    K, width, strip = len(k_of), len(lanes), 64 // like.itemsize  # a cache line of each lane
    for p in range(p0, p1):
        place = 0
        while place < K:
            chunk = place - place % kc
            depth = min(kc, K - chunk)
            count, limit = 1, min(strip, chunk + depth - place)
            while count < limit and k_of[place + count] == k_of[place] + count:
                count += 1
            row, to = address + k_of[place] * k_step, chunk * len(index) + (p * depth + place - chunk) * width
            fours = count - count % 4 if k_step == like.itemsize else 0
            for l in range(0, width - 3, 4):
                q = p * width + l
                a0, a1 = row + index[q] * lane_step, row + index[q + 1] * lane_step
                a2, a3 = row + index[q + 2] * lane_step, row + index[q + 3] * lane_step
                for k in range(0, fours, 4):
                    s = k * k_step
                    transpose4((a0 + s, a1 + s, a2 + s, a3 + s), k_step, like, out, to + k * width + l, width)
            for l in range(width):
                at = row + index[p * width + l] * lane_step
                for k in range(fours if l < width - width % 4 else 0, count):
                    move(_ONE, at + k * k_step, like, out, to + k * width + l)
            place += count


@compiled
def write_back(tiles, mr, lanes, rows, cols, N, out):
    """Copy register tiles, column of tiles by column, to the rows and columns of ``out`` (M * N,) they stand for.

    Element (i, j) of the block is ``tiles[(j // nr * padded + i) * nr + j % nr]`` with nr = len(lanes) and padded =
    rows rounded up to mr.
    """
    nr, padded, strip = len(lanes), (len(rows) + mr - 1) // mr * mr, 8
    begins = np.array([j for j in range(len(cols)) if j % nr == 0 or cols[j] != cols[j - 1] + 1])
    ends = np.append(begins[1:], len(cols))
    for i0 in range(0, len(rows), strip):  # a few rows at a time: runs in both, and lines that stay in L1
        for s in range(len(begins)):
            j, run = begins[s], ends[s] - begins[s]
            for i in range(i0, min(i0 + strip, len(rows))):
                at = tiles.ctypes.data + ((j // nr * padded + i) * nr + j % nr) * tiles.itemsize
                if run == nr:
                    move(lanes, at, tiles, out, rows[i] * N + cols[j])
                else:
                    copy_line(at, run, tiles, out, rows[i] * N + cols[j])
