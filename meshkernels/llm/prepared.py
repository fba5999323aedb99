"""Products and reductions prepared once, so that a token costs arithmetic and not set-up.

Each takes its schedule from the builders that the library's verbs use, and keeps the order of additions that the
schedule states: the bits are those of the verbs. Matrix products call the kernels of the fused executor. A weight is
stored once for both phases, as `Columns`, which hold for every width of vectors: GEMV streams them, GEMM packs its
panels from them.
"""

from __future__ import annotations

import numpy as np

from meshkernels.algorithms import gemv as vector
from meshkernels.kept import remember
from meshkernels.kernels.chains import chain_product
from meshkernels.kernels.pack import Columns, columns
from meshkernels.kernels.reduce import combine_in_order
from meshkernels.kernels.ring import ring_product
from meshkernels.kernels.team import Team
from meshkernels.mesh import Mesh
from meshkernels.readers.fused import whole_vector_sums
from meshkernels.schedules.order import ChainSum, RingOrder
from meshkernels.api import schedule


@remember
def tree(mesh: Mesh, axis: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The additions of a K-tree along ``axis``: ``(dst, src, root)``, to be done in order."""
    plan = vector.allreduce(mesh, 1, axis=axis)
    found = whole_vector_sums(plan)
    assert found is not None, "a K-tree streams whole vectors"
    dst, src, root = found
    return dst, src, int(root[0])


class AllReduce:
    """Sum vectors over the lines of an axis, prepared."""

    def __init__(self, mesh: Mesh, axis: int, half: bool = False):
        self.dst, self.src, self.root = tree(mesh, axis)
        self.half = half

    def __call__(self, partials: np.ndarray) -> np.ndarray:
        """``(P, n)`` partial sums -> ``(n,)``; ``partials`` is used up."""
        return combine_in_order(partials, self.dst, self.src, half=self.half)[self.root]


class Gemv:
    """``x W`` for one weight, placed once: MeshGEMV along an axis.

    Args:
        W: ``(K, N)`` float32; `Columns` are used as they are, of an array a copy is made.
        mesh: the cores.
        axis: along which the partial sums are added up.
        accumulate: dtype of sums.
        team: the threads.
    """

    def __init__(self, W: np.ndarray | Columns, mesh: Mesh, axis: int, accumulate: str = "float32",
                 team: Team | None = None):
        self.team = team or Team(1)
        stored = W if isinstance(W, Columns) else columns(W)
        self._job = self.team.job(stored, mesh.length(axis), *tree(mesh, axis), accumulate == "float16")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """``(1, K)`` -> ``(1, N)``."""
        x, out = np.ascontiguousarray(x, np.float32), np.empty((1, self._job.N), np.float32)
        self.team.run(self._job, x, out)
        return out


class Gemm:
    """``X W`` for one weight, placed once: MeshGEMM."""

    def __init__(self, W: np.ndarray | Columns, mesh: Mesh, accumulate: str | None = None):
        self.W, self.mesh, self.accumulate = W, mesh, accumulate

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """``(L, K)`` -> ``(L, N)``."""
        order = ring_order(self.mesh, len(X), *self.W.shape)
        return ring_product(X, self.W, order, accumulate=self.accumulate)


@remember
def ring_order(mesh: Mesh, M: int, K: int, N: int) -> RingOrder:
    """In which order MeshGEMM's cores meet the blocks of K."""
    order = schedule("meshgemm", mesh, max(M, 2), K, N).proof.order  # one row on one core is also a split sum
    assert isinstance(order, RingOrder)
    return order


@remember
def chain_order(mesh: Mesh, M: int, K: int, N: int) -> np.ndarray:
    """``(N,)`` the column of cores at which dist-GEMM-T adds up each column of the result."""
    order = schedule("gemm_t", mesh, M, K, N).proof.order
    assert isinstance(order, ChainSum)
    return np.repeat(order.roots, order.col_tile)[:N]


def gemm_t(Q: np.ndarray, K: np.ndarray, mesh: Mesh, accumulate: str | None = None) -> np.ndarray:
    """``Q K^T`` by dist-GEMM-T: ``(M, D), (N, D) -> (M, N)``."""
    root = chain_order(mesh, len(Q), Q.shape[1], len(K))
    return chain_product(Q, K, root, mesh.cols, accumulate=accumulate)


def gemm(A: np.ndarray, B: np.ndarray | Columns, mesh: Mesh, accumulate: str | None = None) -> np.ndarray:
    """``A B`` of two activations by MeshGEMM."""
    order = ring_order(mesh, len(A), *B.shape)
    return ring_product(A, B, order, accumulate=accumulate)
