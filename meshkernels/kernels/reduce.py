"""The loop that combines partial values: of reductions on the mesh, attention and norms.

A GEMV alone adds its own in registers, in the same order: see `meshkernels.kernels.additions`.

What a schedule's reduction does to the values of a line of cores is a list of combinations in order:
``values[dst[s]] = op(values[dst[s]], values[src[s]])`` for s = 0, 1, ...

``"logsumexp"`` combines softmax states, rows ``(m, s_1, s_2, ...)`` that stand for the sums ``exp(m) s_j``: of two rows
``M = max(m, m')`` is kept, and ``s_j exp(m - M) + s'_j exp(m' - M)``. With m the largest score of some entries and the
sums of ``exp(score - m)`` times 1 and times each element of a value, the result is softmax(scores) values, undivided.

References:
    Milakov and Gimelshein, Online normalizer calculation for softmax, 2018; Flash-Decoding (Dao et al., 2023).
"""

from __future__ import annotations

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import fma, round_half


@compiled
def within(places, n):
    """Whether each of ``places`` is one of 0 to n - 1. Compiled code checks no index: its callers do."""
    inside = True
    for place in places:
        inside = inside and 0 <= place < n
    return inside


@compiled
def rounded(x, half):
    """float32 x, rounded to float16 if ``half``."""
    return round_half(x) if half else x


@compiled
def combine(values, begin, end, dst, src, largest, half):
    """Combine columns begin .. end - 1 of ``values (P, n)`` in place: see `combine_in_order`."""
    for step in range(len(dst)):
        into, other = values[dst[step], begin:end], values[src[step], begin:end]
        if largest:
            for j in range(len(into)):
                into[j] = into[j] if into[j] >= other[j] or into[j] != into[j] else other[j]
        else:
            for j in range(len(into)):
                into[j] += other[j]
        if half:
            for j in range(len(into)):
                into[j] = round_half(np.float32(into[j]))


@compiled
def _share(m, largest, one):
    """``exp(m - largest)``; 1 for the largest itself, which may be infinite."""
    return one if m == largest else np.exp(m - largest)


@compiled
def merge(states, dst, src, half):
    """Combine softmax states ``(P, n, 1 + sums)`` in place, float32 or float64; two of -inf are one of -inf."""
    for step in range(len(dst)):
        for i in range(states.shape[1]):
            into, other = states[dst[step], i], states[src[step], i]
            mine, yours = into[0], other[0]
            largest = mine if mine >= yours or mine != mine else yours
            one = states.dtype.type(1)
            a, b = _share(mine, largest, one), _share(yours, largest, one)
            for j in range(1, len(into)):
                into[j] = fma(other[j], b, into[j] * a)
            into[0] = largest
            if half:
                for j in range(len(into)):
                    into[j] = round_half(np.float32(into[j]))


@compiled
def _by_strips(values, dst, src, largest, half):
    width = 1024  # columns at a time: their values stay in L2
    for begin in range(0, values.shape[1], width):
        combine(values, begin, min(begin + width, values.shape[1]), dst, src, largest, half)


def combine_in_order(values: np.ndarray, dst, src, *, op: str = "add", half: bool = False) -> np.ndarray:
    """``values[dst[s]] = op(values[dst[s]], values[src[s]])`` for s = 0, 1, ..., in place.

    Args:
        values: ``(P, ...)`` float32 or float64, C-contiguous.
        dst: ``(steps,)`` places on the first axis that are combined into.
        src: ``(steps,)`` places that are combined.
        op: "add"; "max", which keeps NaN; "logsumexp": the last axis is a softmax state.
        half: round each result to float16.

    Returns:
        ``values``.

    Raises:
        MeshError: a place outside of the P values, or values that are not contiguous.
    """
    dst, src = np.asarray(dst, np.int64), np.asarray(src, np.int64)
    if dst.shape != src.shape or not (within(dst, len(values)) and within(src, len(values))):
        raise MeshError(f"sums {dst.shape} from {src.shape} leave the {len(values)} partial results")
    if not values.flags.c_contiguous:
        raise MeshError(f"values {values.shape} to be combined in place must be C-contiguous")
    if op == "logsumexp" and values.size:
        merge(values.reshape(len(values), -1, values.shape[-1]), dst, src, half)
    else:
        _by_strips(values.reshape(len(values), values.size // max(1, len(values))), dst, src, op == "max", half)
    return values


def combined(mine: np.ndarray, arriving: np.ndarray, *, op: str = "add", half: bool = False) -> np.ndarray:
    """``op(mine, arriving)``, element by element, as a new array."""
    return combine_in_order(np.stack([mine, arriving]), [0], [1], op=op, half=half)[0]
