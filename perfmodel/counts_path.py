"""The critical path of a GEMM: steps, hops and stages, for arrays of grids."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

#: ring on which the compute-shift algorithms move their tiles
RINGS = {"meshgemm": "interleaved", "cannon": "natural"}


class Path(NamedTuple):
    """The critical path of a GEMM; every field broadcasts.

    Attributes:
        rounds: steps that no product overlaps: alignments, a first broadcast, a gathering.
        round_hops, round_stages: of their longest messages, added up.
        steps: main steps, each a local product and the messages beside it.
        hops, stages: of one main step, in the mean over all.
        turns: how many main steps send (a last shift is not needed).
    """

    rounds: Any
    round_hops: Any
    round_stages: Any
    steps: Any
    hops: Any
    stages: Any
    turns: Any


def path(algorithm: str, rows: Any, cols: Any) -> Path:
    """The critical path of a GEMM algorithm on rows x cols cores, for arrays of grids.

    Args:
        algorithm: one of `GEMMS` but ``gemm_t``.
        rows: cores of a column; a number or an array.
        cols: cores of a row; a number or an array.

    Returns:
        Steps, hops and stages; `gemm` has the same.

    >>> [int(v) for v in path("meshgemm", 720, 720)], [int(v) for v in path("cannon", 4, 6)]
    ([360, 720, 0, 720, 2, 0, 719], [3, 15, 0, 12, 5, 0, 11])
    """
    rows, cols = np.broadcast_arrays(np.asarray(rows), np.asarray(cols))
    square = np.array_equal(rows, cols)
    steps, longest = (rows, rows) if square else (np.lcm(rows, cols), np.maximum(rows, cols))
    if algorithm == "meshgemm_t":  # B is aligned, then C shifts once more than B, then C is
        along_x, along_y = _rounds(rows, cols), _rounds(cols, rows)
        x, y = np.minimum(cols - 1, 2), np.minimum(rows - 1, 2)
        return Path(along_x + along_y, along_y * y + (1 + along_x) * x, 0, steps, np.maximum(x, y), 0, steps - 1)
    base, _, relay = algorithm.partition("_")
    if base in RINGS:
        most = 2 if base == "meshgemm" else LONGEST_HOP
        hops = np.minimum(longest - 1, most)
        if square:
            rounds = rows // 2
            return Path(rounds, rounds * hops, 0, steps, hops, 0, steps - 1)
        along_x, along_y = _rounds(rows, cols), _rounds(cols, rows)
        both = np.minimum(along_x, along_y)
        rest = (along_x - both) * np.minimum(cols - 1, most) + (along_y - both) * np.minimum(rows - 1, most)
        return Path(np.maximum(along_x, along_y), both * hops + rest, 0, steps, hops, 0, steps - 1)
    if base == "allgather":
        return Path(1, longest - 1, longest - 1 if relay else 0, steps, 0, 0, 0)
    if square:  # the farthest core of a broadcast from root r is max(r, P-1-r) away: (3P-2)/4 in the mean over r
        reach = (3 * rows - 2 - rows % 2 / rows) / 4
    else:
        grids, back = np.unique(np.stack([rows.ravel(), cols.ravel()]), axis=1, return_inverse=True)
        reach = np.array([_summa_reach(int(r), int(c)) for r, c in grids.T])[back].reshape(rows.shape)
    stages = reach if relay else 0
    return Path(1, reach, stages, steps, reach, stages, steps - 1)


#: no line of cores is as long
LONGEST_HOP = 1 << 40


def _rounds(rows: Any, cols: Any) -> Any:
    """Rounds that align the rows of A: row i turns by t = floor(i cols / rows), the shorter way round.

    t grows with i, and min(t, cols - t) is largest where t passes cols / 2: at i = rows / 2 or just behind.

    Returns:
        Rounds of one hop along a row, for each grid.
    """
    turns = [i * cols // rows for i in (rows // 2, rows // 2 + 1)]
    return np.maximum(*(np.minimum(t, cols - t) for t in turns))


@functools.lru_cache(maxsize=1 << 16)
def _summa_reach(rows: int, cols: int) -> float:
    """Mean over the lcm(rows, cols) broadcasts of the way to the farthest core, on a rectangular grid."""
    return summa_hops(rows, cols) / math.lcm(rows, cols)


def _reach(n: int) -> np.ndarray:
    """Distance from each core of a line to the farther end."""
    root = np.arange(n)
    return np.maximum(root, n - 1 - root)


def summa_hops(rows: int, cols: int) -> int:
    """Longest paths of the lcm(rows, cols) broadcasts along rows and columns, added up.

    Args:
        rows: rows of cores.
        cols: columns of cores.

    Returns:
        Hops.

    >>> summa_hops(2, 2), summa_hops(4, 4)
    (2, 10)
    """
    L = math.lcm(rows, cols)
    # between two first blocks of a core, of either axis, neither root changes
    first = np.union1d(np.arange(cols) * (L // cols), np.arange(rows) * (L // rows))
    longest = np.maximum(_reach(cols)[first // (L // cols)], _reach(rows)[first // (L // rows)])
    return int(longest @ np.diff(first, append=L))
