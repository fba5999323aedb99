"""MeshGEMM: Cannon's compute-shift on interleaved rings, so that no tile ever travels more than two hops.

Invariant: Cannon's, in the positions of the interleaved ring 0 2 4 ... 5 3 1. The critical path of a shift is
two hops whatever the size of the mesh, and every directed link carries one flow.

References:
    He et al., WaferLLM, OSDI 2025, section 5.
"""

from __future__ import annotations

from meshkernels.algorithms import register
from meshkernels.algorithms.cannon import compute_shift
from meshkernels.mesh import Mesh
from meshkernels.rings import Ring
from meshkernels.schedules import Schedule


@register("gemm", "meshgemm")
def meshgemm(mesh: Mesh, M: int, K: int, N: int, *, skewed: str = "") -> Schedule:
    """C[M, N] = A[M, K] B[K, N] with every neighbour at most two hops away; A, B or both (AB) may lie ``skewed``."""
    rings = Ring.interleaved(mesh.cols), Ring.interleaved(mesh.rows)
    return compute_shift("meshgemm", mesh, M, K, N, *rings, skewed)
