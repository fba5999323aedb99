"""What people write today to simulate a mesh, and the plain loops that a kernel must beat."""

from __future__ import annotations

import numba
import numpy as np


def cut(matrix: np.ndarray, side: int) -> np.ndarray:
    """``(side, side, h, w)`` tiles of a matrix that ``side`` divides."""
    h, w = matrix.shape[0] // side, matrix.shape[1] // side
    return np.ascontiguousarray(matrix.reshape(side, h, side, w).swapaxes(1, 2))


def roll_cannon(A: np.ndarray, B: np.ndarray, side: int) -> np.ndarray:
    """Cannon's algorithm as it is usually written: `np.roll` of all tiles, then a product per core, in every step."""
    a, b = cut(A, side), cut(B, side)
    for i in range(side):
        a[i], b[:, i] = np.roll(a[i], -i, 0), np.roll(b[:, i], -i, 0)
    c = np.zeros((side, side, a.shape[2], b.shape[3]), A.dtype)
    for _ in range(side):
        for y in range(side):
            for x in range(side):
                c[y, x] += a[y, x] @ b[y, x]
        a, b = np.roll(a, -1, 1), np.roll(b, -1, 0)
    return c.swapaxes(1, 2).reshape(A.shape[0], B.shape[1])


def batched_cannon(A: np.ndarray, B: np.ndarray, side: int) -> np.ndarray:
    """Cannon's algorithm with handles: in every step, tiles are picked by index, then one batched matmul."""
    a, b = cut(A, side), cut(B, side)
    c = np.zeros((side, side, a.shape[2], b.shape[3]), A.dtype)
    y, x = np.ogrid[:side, :side]
    for t in range(side):
        k = (y + x + t) % side
        c += a[y, k] @ b[k, x]
    return c.swapaxes(1, 2).reshape(A.shape[0], B.shape[1])


@numba.njit
def round_half(x, bits):
    """float32 -> nearest float16 -> float32 as plain Numba can: on the bits (``bits``: one uint32 to work in)."""
    value = bits.view(np.float32)
    value[0] = x
    if abs(x) < np.float32(2.0**-14):  # subnormal: steps of 2^-24
        return (x + np.float32(0.75)) - np.float32(0.75)
    odd = (bits[0] >> np.uint32(13)) & np.uint32(1)
    bits[0] = (bits[0] + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000)
    return value[0] if abs(value[0]) <= np.float32(65504) else value[0] * np.float32(np.inf)


@numba.njit
def half_loop(A, B, C):
    """C = A @ B as the textbook writes it, float16 values in float32 storage, rounded after every multiply-add."""
    bits = np.zeros(1, np.uint32)
    for i in range(A.shape[0]):
        for j in range(B.shape[1]):
            total = np.float32(0)
            for k in range(A.shape[1]):
                total = round_half(total + A[i, k] * B[k, j], bits)
            C[i, j] = total


@numba.njit
def half_loop_by_rows(A, B, C):
    """The same sums with the loop over j inside, which LLVM turns into vectors; right for normal numbers only."""
    bits = np.zeros(1, np.uint32)
    value = bits.view(np.float32)
    for i in range(A.shape[0]):
        C[i] = 0
        for k in range(A.shape[1]):
            for j in range(B.shape[1]):
                value[0] = C[i, j] + A[i, k] * B[k, j]
                odd = (bits[0] >> np.uint32(13)) & np.uint32(1)
                bits[0] = (bits[0] + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000)
                C[i, j] = value[0]
