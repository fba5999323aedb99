"""dist-GEMM-T: C = A B^T without transposing B on the mesh.

A(y, x) stays; B (N x K, laid out as it is: N down the rows, K along the columns) moves along the interleaved
ring of each column. Invariant: at time t row y holds B(k, x) with k = rho(pi(y) - t), the same k on the whole
row; the partial products A(y, x) B(k, x)^T of a row add up to C(y, k), and are chain-reduced along the row to
the column of cores that owns block k. No alignment is needed, and C arrives laid out like A. On a rows x cols
mesh N is cut into L = lcm(rows, cols) blocks: p = L/rows of them in a tile of B, q = L/cols in a tile of C.

References:
    He et al., WaferLLM, OSDI 2025, section 4 (dist-GEMM-T for Q K^T).
"""

from __future__ import annotations

import numpy as np

from meshkernels import schedules as S
from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling
from meshkernels.rings import Ring


@register("gemm_t", "gemm_t")
def gemm_t(mesh: Mesh, M: int, K: int, N: int) -> S.Schedule:
    """C[M, N] = A[M, K] B[N, K]^T with B shifted and partial sums reduced along rows."""
    L, ring = mesh.lcm, Ring.interleaved(mesh.rows)
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), mesh.shape), Tiling((N, K), (L, mesh.cols)), Tiling((M, N), (mesh.rows, L))
    y, x = S.line(0, range(mesh.rows)), S.line(1, range(mesh.cols))
    buffers = {
        "A": S.Tiles("A", 1, S.Place(y, x)),
        "B": S.Tiles("B", p, S.Place(S.Index(range(L), y=p * np.arange(mesh.rows), step=1), x), copies=2),
        "partial": S.Values(C.tile, p, copies=2), "C": S.Values(C.tile, q),
    }
    multiply = [S.Multiply("A", "B", "partial", 0, d, d, transposed=True, accumulate=False) for d in range(p)]
    moves = [S.Move("B", S.Shift(0, ring))]
    for d in range(p):
        column, slot = np.divmod(ring.order * p + d, q)  # where the d-th block of a tile belongs in C
        moves.append(S.Move("partial", S.Reduce(1, S.Index(column, y=ring.position, step=-1), low_first=True), d, "C",
                          S.Index(slot, y=ring.position, step=-1), "add"))  # fmt: skip
    step = S.Step("shift and reduce", multiply, moves)
    last = S.Step("shift and reduce", multiply, S.settled(tuple(moves[1:]), mesh.rows - 1))
    return S.Schedule("gemm_t", S.Task("product_t", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers,
                    (S.Repeat(mesh.rows - 1, step), last), S.Collect("C", S.Place(
                        y, S.Index(range(L), x=q * np.arange(mesh.cols), step=1))))  # fmt: skip
