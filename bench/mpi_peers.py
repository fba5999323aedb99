"""Distributed products as the textbooks write them with mpi4py and `np.matmul`, for n that the ranks divide."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI


def cannon(A: np.ndarray, B: np.ndarray, grid: MPI.Cartcomm) -> np.ndarray:
    """Cannon's algorithm on a square grid of ranks: ``Cart_shift`` and ``Sendrecv_replace``."""
    side, (y, x) = grid.dims[0], grid.coords
    A, B, C = A.copy(), B.copy(), np.zeros((A.shape[0], B.shape[1]), A.dtype)
    for array, axis, turns in ((A, 1, -y), (B, 0, -x)):
        source, target = grid.Shift(axis, turns)
        grid.Sendrecv_replace(array, target, 0, source, 0)
    for step in range(side):
        C += A @ B
        if step < side - 1:
            for array, axis in ((A, 1), (B, 0)):
                source, target = grid.Shift(axis, -1)
                grid.Sendrecv_replace(array, target, 0, source, 0)
    return C


class Summa:
    """SUMMA on any grid of ranks: panels of A along rows and of B along columns by ``Bcast``."""

    def __init__(self, grid: MPI.Cartcomm):
        self.grid = grid
        self.row, self.column = grid.Sub([False, True]), grid.Sub([True, False])

    def __call__(self, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        down, across = self.grid.dims
        K = A.shape[1] * across
        width = K // np.lcm(down, across)
        C = np.zeros((A.shape[0], B.shape[1]), A.dtype)
        left, right = np.empty((A.shape[0], width), A.dtype), np.empty((width, B.shape[1]), B.dtype)
        product = np.empty_like(C)
        for k in range(0, K, width):
            for panel, own, comm, size in ((left, A, self.row, A.shape[1]), (right, B, self.column, B.shape[0])):
                root, begin = divmod(k, size)
                if comm.rank == root:
                    panel[...] = own[:, begin : begin + width] if panel is left else own[begin : begin + width]
                comm.Bcast(panel, root)
            C += np.matmul(left, right, out=product)
        return C
