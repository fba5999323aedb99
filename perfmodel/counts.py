"""What a schedule does, counted: steps, hops, stages, words, colours and bytes per core.

These are derived here from the algorithms' definitions, in closed form or by enumerating one line of cores;
nothing is executed. Conventions (``word`` = one matrix element):

* ``hops``, ``stages``: sums over steps of the longest path and of the longest chain of software touches.
* ``words``: elements sent, a multicast counted once; ``word_hops``: elements times the links they cross.
* ``colours``: most distinct flows that touch one router over the whole schedule.
* tiles are padded to whole blocks, so every core moves and stores the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel import checks
from perfmodel.counts_line import interleaved, natural, ring_flows, shift_hops
from perfmodel.counts_path import RINGS, path, summa_hops

#: element size of the published kernels: fp16
ELEMENT_BYTES = 2


@dataclass(frozen=True)
class Counts:
    """Exact counts of one operator on one mesh.

    Attributes:
        steps: communication/compute rounds, one after the other.
        hops, stages: longest path and longest chain of software touches, summed over the steps.
        words, word_hops: elements sent, and elements x links crossed.
        colours: routing paths needed at the busiest router.
        bytes_per_core: operand and result buffers of one core.
        macs_per_core: multiply-accumulates of one core, padding included.
    """

    steps: int
    hops: int
    stages: int
    words: int
    word_hops: int
    colours: int
    bytes_per_core: int
    macs_per_core: int = 0


def cdiv(a: Any, b: Any) -> Any:
    """ceil(a / b), elementwise.

    Args:
        a: dividend: a whole number or an array.
        b: divisor: the same.

    Returns:
        The quotient, rounded up.

    >>> cdiv(7, 3), cdiv(np.array([6, 7]), 3).tolist()
    (3, [2, 3])
    """
    return -(-a // b)


def check_sizes(**sizes: int) -> list[int]:
    """The sizes as Python's integers, whose products have no limit."""
    return [checks.size(name, value) for name, value in sizes.items()]


def check_sides(**sides: int) -> list[int]:
    """Cores of a line are counted one by one, so that their number is bounded."""
    return [checks.size(name, value, checks.LONGEST_SIDE, "since the cores of a line are counted one by one")
            for name, value in sides.items()]


# ---------------------------------------------------------------------------------------------- GEMM

#: matrix products that can be counted and predicted
GEMMS = ["meshgemm", "cannon", "summa", "summa_relay", "allgather", "allgather_relay", "gemm_t", "meshgemm_t"]


def tiles(M: int, K: int, N: int, rows: int, cols: int) -> tuple[int, int, int, int, int, int]:
    """(mt, kb, nt, L, p, q): tile sizes and the logical lcm(rows, cols) grid.

    A tiles are mt x (q kb), B tiles (p kb) x nt, with L = lcm, p = L / rows, q = L / cols.

    Args:
        M: rows of A and of C.
        K: columns of A, rows of B.
        N: columns of B and of C.
        rows: rows of cores.
        cols: columns of cores.

    Returns:
        (mt, kb, nt, L, p, q), sizes in elements.

    >>> tiles(10, 10, 10, 2, 3)
    (5, 2, 4, 6, 3, 2)
    """
    L = math.lcm(rows, cols)
    return cdiv(M, rows), cdiv(K, L), cdiv(N, cols), L, L // rows, L // cols


def gemm_bytes(algorithm: str, M: Any, K: Any, N: Any, rows: Any, cols: Any) -> Any:
    """Bytes of buffers per core of a GEMM, for arrays of grids; in float64, which has no limit.

    Args:
        algorithm: one of `GEMMS`.
        M: rows of A and of C; a number or an array.
        K: columns of A, rows of B; a number or an array.
        N: columns of B and of C; a number or an array.
        rows: rows of cores; a number or an array.
        cols: columns of cores; a number or an array.

    Returns:
        Bytes per core.

    >>> int(gemm_bytes("meshgemm", 8, 8, 8, 4, 4))
    40
    """
    M, K, N = (np.asarray(size, float) for size in (M, K, N))
    steps = np.lcm(rows, cols)
    m, k, n = cdiv(M, rows), cdiv(K, steps), cdiv(N, cols)
    a, b, c = m * k * (steps // cols), k * n * (steps // rows), m * n
    if algorithm.startswith("summa"):
        elements = a + b + 2 * (m * k + k * n) + c
    elif algorithm.startswith("allgather"):
        elements = a + b + m * k * steps + k * n * steps + c
    elif algorithm == "gemm_t":
        p, q, block, e = steps // rows, steps // cols, cdiv(N, steps), cdiv(K, cols)
        elements = m * e + 2 * p * block * e + (2 * p + q) * m * block
    elif algorithm == "meshgemm_t":
        p, q, block, e = steps // rows, steps // cols, cdiv(N, steps), cdiv(K, cols)
        elements = m * e + 2 * p * block * e + 2 * q * m * block
    else:
        elements = 2 * a + 2 * b + c
    return ELEMENT_BYTES * elements


#: side of the tiles that a matrix engine multiplies
MATRIX_TILE = 32


def matmul_tiles(M: Any, K: Any, N: Any, rows: Any, cols: Any) -> tuple[Any, Any]:
    """Tile products of a core, and tiles of A and B that it receives, in a matmul with multicast.

    Every core owns a block of C; the blocks of A it needs come along its row, those of B along its column.

    Args:
        M: rows of A and of C; a number or an array.
        K: columns of A, rows of B; a number or an array.
        N: columns of B and of C; a number or an array.
        rows: rows of cores; a number or an array.
        cols: columns of cores; a number or an array.

    Returns:
        (tile products, tiles received), of the busiest core.

    >>> [int(n) for n in matmul_tiles(512, 1024, 2048, 8, 8)]  # blocks of 2 x 8 tiles, 32 tiles deep
    [512, 320]
    """
    high, deep, wide = cdiv(cdiv(M, MATRIX_TILE), rows), cdiv(K, MATRIX_TILE), cdiv(cdiv(N, MATRIX_TILE), cols)
    return high * deep * wide, (high + wide) * deep


def matmul_bytes(M: Any, K: Any, N: Any, rows: Any, cols: Any) -> Any:
    """Bytes per core of A, B and C cut evenly over the cores; in float64.

    Args:
        M: rows of A and of C; a number or an array.
        K: columns of A, rows of B; a number or an array.
        N: columns of B and of C; a number or an array.
        rows: rows of cores; a number or an array.
        cols: columns of cores; a number or an array.

    Returns:
        Bytes per core.

    >>> int(matmul_bytes(64, 64, 64, 2, 2))
    6144
    """
    M, K, N = (np.asarray(size, float) for size in (M, K, N))
    return ELEMENT_BYTES * (M * K + K * N + M * N) / (np.asarray(rows, float) * cols)


def gemm(algorithm: str, M: int, K: int, N: int, rows: int, cols: int | None = None, *,
         element_bytes: int = ELEMENT_BYTES, skewed: str = "") -> Counts:
    """Counts of C[M,N] = A[M,K] B[K,N] on rows x cols cores.

    Args:
        algorithm: one of `GEMMS`; ``gemm_t`` and ``meshgemm_t`` are C = A B^T with B of N x K. ``summa`` and
            ``allgather`` give every root a route of its own; their ``_relay`` forms hand blocks on from neighbour to
            neighbour.
        M: rows of A and of C.
        K: columns of A, rows of B.
        N: columns of B and of C.
        rows: rows of cores.
        cols: columns of cores; None: as many as rows.
        element_bytes: bytes of a stored element.
        skewed: operands of meshgemm that lie aligned already (A, B, AB); C of meshgemm_t stays so.

    Returns:
        Steps, hops, stages, words, colours, bytes and multiply-accumulates.

    >>> gemm("meshgemm", 8, 8, 8, 4, 4).hops, gemm("cannon", 8, 8, 8, 4, 4).hops
    (10, 15)
    """
    checks.choice("algorithm", algorithm, GEMMS)
    M, K, N = check_sizes(M=M, K=K, N=N)
    rows, cols = check_sides(rows=rows, cols=rows if cols is None else cols)
    if algorithm == "gemm_t":
        return _gemm_t(M, K, N, rows, cols, element_bytes)
    if algorithm == "meshgemm_t":
        return _meshgemm_t(M, K, N, rows, cols, element_bytes, skewed)
    base, _, form = algorithm.partition("_")
    if base in RINGS:
        return _compute_shift(algorithm, M, K, N, rows, cols, element_bytes, skewed)
    broadcast = _summa if base == "summa" else _allgather
    return broadcast(M, K, N, rows, cols, form == "relay", element_bytes)


def _compute_shift(algorithm: str, M: int, K: int, N: int, rows: int, cols: int, element_bytes: int,
                   skewed: str) -> Counts:
    """Cannon's algorithm on a ring per axis: align what is not, then L computations with a shift between them."""
    mt, kb, nt, L, p, q = tiles(M, K, N, rows, cols)
    a_tile, b_tile = mt * q * kb, p * kb * nt
    order = interleaved if RINGS[algorithm] == "interleaved" else natural
    lines = [_Axis(cols, order(rows), p, q, a_tile), _Axis(rows, order(cols), q, p, b_tile)]
    way = path(algorithm, rows, cols)
    rounds, round_hops = int(way.rounds), int(way.round_hops)
    if skewed:
        for line, operand in zip(lines, "AB"):
            line.align, line.reverse = line.align * (operand not in skewed), line.reverse & (operand not in skewed)
        rounds = max(int(line.align.max()) for line in lines)
        round_hops = sum(int(line.align.max()) * shift_hops(line.n, RINGS[algorithm]) for line in lines)  # one of them
    return Counts(
        steps=rounds + L, hops=round_hops + int(way.turns * way.hops), stages=0,
        words=sum(line.messages * line.tile for line in lines),
        word_hops=sum(line.message_hops * line.tile for line in lines),
        colours=_ring_colours(lines[0], lines[1]),
        bytes_per_core=element_bytes * (2 * a_tile + 2 * b_tile + mt * nt),
        macs_per_core=L * mt * kb * nt,
    )


def _meshgemm_t(M: int, K: int, N: int, rows: int, cols: int, element_bytes: int, skewed: str) -> Counts:
    """C = A B^T: B is aligned, B and C shift along with L products, C goes on once more and turns back to its place.

    Returns:
        The counts of all steps.
    """
    mt, nb, et, L, p, q = tiles(M, N, K, rows, cols)
    b_tile, c_tile = p * nb * et, mt * q * nb
    x, y = _Axis(cols, interleaved(rows), p, q, c_tile), _Axis(rows, interleaved(cols), q, p, b_tile)
    x.shifts = np.full(rows, cols)  # once round the whole ring
    turned = (interleaved(rows) * p // q) % cols
    x.reverse = (turned > 0) & (turned > cols - turned)  # back, the shorter way
    if skewed:
        x.align, x.reverse = 0 * x.align, x.reverse & False
    hx, hy = shift_hops(cols, "interleaved"), shift_hops(rows, "interleaved")
    back, first = int(x.align.max()), int(y.align.max())
    return Counts(
        steps=first + L + back, hops=first * hy + (L - 1) * max(hx, hy) + (1 + back) * hx, stages=0,
        words=sum(line.messages * line.tile for line in (x, y)),
        word_hops=sum(line.message_hops * line.tile for line in (x, y)),
        colours=_ring_colours(x, y), bytes_per_core=element_bytes * (mt * et + 2 * b_tile + 2 * c_tile),
        macs_per_core=L * mt * nb * et,
    )


class _Axis:
    """All lines of one axis: line i rotates its tiles by floor(order_i * mine / other), then shifts along.

    Each line has ``n`` cores; ``mine`` blocks lie between two neighbouring lines and ``other`` blocks in a tile.
    """

    def __init__(self, n: int, order: np.ndarray, mine: int, other: int, tile: int) -> None:
        self.n, self.tile = n, tile
        turn = (order * mine // other) % n
        self.align = np.minimum(turn, n - turn)
        # the shorter way round; backwards, against the main loop, if both are as long
        self.reverse = (turn > 0) & (turn <= n - turn)
        # transitions t = 0..L-2 with t = order * mine (mod other): n in a full turn, less the one left out
        self.shifts = n - ((order * mine + 1) % other == 0)

    @property
    def messages(self) -> int:
        """Tiles sent, over all lines: every shift moves the n tiles of a line."""
        return 0 if self.n == 1 else int((self.align + self.shifts).sum()) * self.n

    @property
    def message_hops(self) -> int:
        """Links crossed by those tiles: 2(n-1) for a whole shift of either ring."""
        return int((self.align + self.shifts).sum()) * 2 * (self.n - 1)

    def directions(self) -> np.ndarray:
        """Rings (forward, backward) that each line uses; a ring of two is its own reverse."""
        forward = (self.shifts > 0) | ((self.align > 0) & ~self.reverse)
        return forward.astype(int) + (self.reverse if self.n > 2 else 0)


def _ring_colours(x: _Axis, y: _Axis) -> int:
    """Most flows at one router: (rings of its row) x (flows at its column), and the same the other way."""
    per_row = set(zip(x.directions().tolist(), ring_flows(y.n).tolist()))
    per_col = set(zip(y.directions().tolist(), ring_flows(x.n).tolist()))
    return max(dx * fx + dy * fy for dx, fy in per_row for dy, fx in per_col)


def _broadcast_colours(n: int, relay: bool) -> int:
    """Multicast: one flow per root along the whole line; relay: to and from both neighbours."""
    if n == 1:
        return 0
    return min(4, 2 * (n - 1)) if relay else n


def _messages(n: int, relay: bool) -> int:
    """Messages of one broadcast along a line of n: one, or one per neighbour relayed to."""
    return n - 1 if relay else min(1, n - 1)


def _summa(M: int, K: int, N: int, rows: int, cols: int, relay: bool, element_bytes: int) -> Counts:
    """L broadcasts of an A block along its rows and a B block along its columns, one panel ahead."""
    mt, kb, nt, L, p, q = tiles(M, K, N, rows, cols)
    hops = summa_hops(rows, cols)
    a_panel, b_panel = mt * kb, kb * nt
    return Counts(
        steps=L + 1, hops=hops, stages=hops if relay else 0,
        words=L * (rows * a_panel * _messages(cols, relay) + cols * b_panel * _messages(rows, relay)),
        word_hops=L * (rows * a_panel * (cols - 1) + cols * b_panel * (rows - 1)),
        colours=_broadcast_colours(cols, relay) + _broadcast_colours(rows, relay),
        bytes_per_core=element_bytes * ((q + 2) * a_panel + (p + 2) * b_panel + mt * nt),
        macs_per_core=L * mt * kb * nt,
    )


def _allgather(M: int, K: int, N: int, rows: int, cols: int, relay: bool, element_bytes: int) -> Counts:
    """Every block broadcast along its line in one step, then one local product."""
    mt, kb, nt, L, _, _ = tiles(M, K, N, rows, cols)
    hops = max(cols - 1, rows - 1)
    a_all, b_all = mt * L * kb, L * kb * nt
    return Counts(
        steps=2, hops=hops, stages=hops if relay else 0,
        words=rows * a_all * _messages(cols, relay) + cols * b_all * _messages(rows, relay),
        word_hops=rows * a_all * (cols - 1) + cols * b_all * (rows - 1),
        colours=_broadcast_colours(cols, relay) + _broadcast_colours(rows, relay),
        bytes_per_core=element_bytes * (a_all // cols + b_all // rows + a_all + b_all + mt * nt),
        macs_per_core=L * mt * kb * nt,
    )


def _gemm_t(M: int, K: int, N: int, rows: int, cols: int, element_bytes: int) -> Counts:
    """C = A B^T: B tiles turn along y; after each product the row's partial sums stream to their owners.

    N is cut into L = lcm(rows, cols) blocks, p of them in a tile of B and q in a tile of C. In every step each
    column of cores owns some row's block, so the longest stream always crosses the whole row.

    Returns:
        The counts of all steps.
    """
    mt, nb, et, L, p, q = tiles(M, N, K, rows, cols)
    a_tile, b_tile, partial = mt * et, p * nb * et, mt * nb
    turns, reach = (rows - 1) * cols, cols - 1
    return Counts(
        steps=rows, hops=(rows - 1) * max(shift_hops(rows, "interleaved"), reach) + reach, stages=rows * reach,
        words=turns * rows * b_tile + rows * L * reach * partial,
        word_hops=turns * 2 * (rows - 1) * b_tile + rows * L * reach * partial,
        colours=_broadcast_colours(cols, True) + int(ring_flows(rows).max()),
        bytes_per_core=element_bytes * (a_tile + 2 * b_tile + (2 * p + q) * partial),
        macs_per_core=L * mt * nb * et,
    )
