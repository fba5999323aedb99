"""The loop that combines partial values: the only one, for products, reductions on the mesh, attention and norms.

What a schedule's reduction does to the values of a line of cores is a list of additions (or maxima) in order:
``values[dst[s]] += values[src[s]]`` for s = 0, 1, ...
"""

from __future__ import annotations

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import round_half


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
        op: "add", or "max", which keeps NaN.
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
    flat = values.reshape(len(values), values.size // max(1, len(values)))
    _by_strips(flat, dst, src, op == "max", half)
    return values


def combined(mine: np.ndarray, arriving: np.ndarray, *, op: str = "add", half: bool = False) -> np.ndarray:
    """``op(mine, arriving)``, element by element, as a new array."""
    return combine_in_order(np.stack([mine, arriving]), [0], [1], op=op, half=half)[0]
