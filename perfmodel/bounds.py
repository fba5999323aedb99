"""Lower bounds on the cycles of each operator: no schedule on the same cores can be faster.

* compute: the multiply-accumulates, shared evenly, at peak rate.
* link: cut the mesh in two equal halves. A half that does half of the work must see operands and results of at
  least 3 (V/2)^(2/3) elements (Loomis-Whitney, V multiply-accumulates), of which it holds half; the rest crosses
  the links of the cut.
* distance: some result depends on elements at both ends of a line, so news must travel half of it for a product
  (the result may lie in the middle), and all of it if every core is to have the sum.

References:
    Irony, Toledo, Tiskin, Communication lower bounds for distributed-memory matrix multiplication, 2004.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perfmodel.counts import ELEMENT_BYTES, cdiv
from perfmodel.device import Device

Bounds = dict[str, Any]


def gemm(chip: Device, M: Any, K: Any, N: Any, rows: Any, cols: Any) -> Bounds:
    """Bounds of C[M,N] = A[M,K] B[K,N]; each matrix is stored once, evenly.

    Args:
        chip: a mesh device.
        M: rows of A and of C; a number or an array.
        K: columns of A, rows of B; a number or an array.
        N: columns of B and of C; a number or an array.
        rows: rows of cores; a number or an array.
        cols: columns of cores; a number or an array.

    Returns:
        Least cycles by compute, link and distance.

    >>> from perfmodel.device import device
    >>> sorted(gemm(device("wse3"), 720, 720, 720, 720, 720))
    ['compute', 'distance', 'link']
    """
    M, K, N = (np.asarray(v, float) for v in (M, K, N))
    volume = M * K * N
    held = (M * K + K * N + M * N) / 2
    crossing = np.maximum(3 * (volume / 2) ** (2 / 3) - held, 0)
    per_word = chip.word_bytes / ELEMENT_BYTES
    return {
        "compute": volume / (rows * cols * chip.macs_per_cycle),
        "link": crossing / (np.minimum(rows, cols) * chip.link_words_per_cycle * per_word),
        "distance": np.maximum(rows, cols) // 2 * chip.alpha,
    }


def gemv(chip: Device, M: Any, N: Any, rows: Any, cols: Any) -> Bounds:
    """Bounds of y[N] = x[M] W[M,N] with y on every core of its column."""
    volume = np.asarray(M, float) * N
    return {
        "compute": volume / (rows * cols * chip.macs_per_cycle),
        **allreduce(chip, cdiv(np.asarray(N), cols), rows),
    }


def allreduce(chip: Device, words: Any, cores: Any) -> Bounds:
    """Bounds of an all-reduce of a vector of elements along a line: a vector crosses the middle link each way."""
    per_word = chip.word_bytes / ELEMENT_BYTES
    return {
        "link": (cores > 1) * np.asarray(words) / (chip.link_words_per_cycle * per_word),
        "distance": (np.asarray(cores) - 1) * chip.alpha,
    }


def add(*parts: Bounds) -> Bounds:
    """Bounds of operators one after the other, kind by kind."""
    return {kind: sum(part.get(kind, 0.0) for part in parts) for kind in ("compute", "link", "distance")}


def scale(factor: Any, bounds: Bounds) -> Bounds:
    """Bounds of the same operator several times."""
    return {kind: factor * value for kind, value in bounds.items()}
