"""Weights that are placed on the mesh once and multiplied many times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from meshkernels.arguments import MeshLike, as_mesh, operand
from meshkernels.kernels import host, pack, ring
from meshkernels.mesh import Mesh
from meshkernels.schedules.order import RingOrder


class Placed:
    """A weight matrix on a mesh, kept in whatever arrangement the products that use it read.

    The first product of each kind arranges a copy; later ones find it. The matrix itself is referred to, not
    copied: do not change it afterwards, since arrangements made before would not know.

    Attributes:
        array: ``(K, N)`` the matrix.
        mesh: the cores it is placed on.
    """

    def __init__(self, array: np.ndarray, mesh: Mesh):
        self.array, self.mesh = array, mesh
        self._arranged: dict[Any, Any] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """``(K, N)``."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the elements."""
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix; an arrangement takes about as much again."""
        return self.array.nbytes

    def __repr__(self) -> str:
        return f"Placed({self.shape[0]} x {self.shape[1]} {self.dtype} on {self.mesh.rows} x {self.mesh.cols} cores)"

    def on_ring(self, order: RingOrder) -> Any:
        """The matrix as the right operand of products in ``order``, whatever their number of rows."""
        key = (order.blocks.tobytes(), order.block, order.col_start.tobytes(), order.col_tile)
        return self._once(key, lambda: ring.pack_right(self.array, order))

    def in_columns(self) -> pack.Columns:
        """The matrix as the operand of matrix-vector products."""
        return self._once("columns", lambda: pack.columns(self.array))

    def _once(self, key: Any, arrange: Callable[[], Any]) -> Any:
        key = (host.simd(), key)  # an arrangement is made for one width of vectors
        if key not in self._arranged:
            self._arranged[key] = arrange()
        return self._arranged[key]


def place(W: ArrayLike, mesh: MeshLike) -> Placed:
    """Place a weight matrix on ``mesh`` for repeated products.

    Args:
        W: ``(K, N)``.
        mesh: the cores that all products with it will run on.

    Returns:
        What `gemm` and `gemv` take in the place of their second operand.

    Raises:
        MeshError: W is not a matrix.
        TypeError: a dtype that is not accepted.

    Examples:
        >>> import meshkernels as mk
        >>> W = mk.place(np.eye(6, dtype=np.float32), mk.Mesh(3, 2))
        >>> mk.gemv(np.arange(6, dtype=np.float32), W, mk.Mesh(3, 2)).tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    return Placed(operand("W", W, 2), as_mesh(mesh))
