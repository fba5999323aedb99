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

from meshkernels.algorithms import register
from meshkernels.errors import MeshError
from meshkernels.mesh import Mesh, Tiling
from meshkernels.rings import Ring
from meshkernels.schedule import ChainSum, Move, Multiply, Schedule, Step, Tiles, Values, collect_rows, place
from meshkernels.traffic import chain, shift

#: Most bytes of the moves' patterns: a move for each block of a tile of B and each place in C that takes it in.
MOST_BYTES = 1 << 30


def check(mesh: Mesh) -> None:
    """Refuse a mesh whose sides share so few factors that the moves of a product fill main memory.

    Raises:
        MeshError: it names the mesh and what would do.
    """
    q, p = mesh.lcm // mesh.cols, mesh.lcm // mesh.rows
    moves = mesh.rows * p * min(mesh.rows, q)
    if moves * mesh.rows * 8 > MOST_BYTES:
        raise MeshError(f"gemm_t on {mesh.rows} x {mesh.cols} cores takes {moves} moves, too many to hold: choose "
                        f"sides that share a factor")


@register("gemm_t", "gemm_t")
def gemm_t(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """C[M, N] = A[M, K] B[N, K]^T with B shifted and partial sums reduced along rows."""
    check(mesh)
    L, ring = mesh.lcm, Ring.interleaved(mesh.rows)
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), mesh.shape), Tiling((N, K), (L, mesh.cols)), Tiling((M, N), (mesh.rows, L))
    y, x = np.arange(mesh.rows)[:, None, None], np.arange(mesh.cols)[None, :, None]
    onwards, into_column = (shift(ring),), tuple(chain(root, mesh.cols) for root in range(mesh.cols))

    steps = []
    for t in range(mesh.rows):
        k = ring.order[(ring.position - t) % mesh.rows]  # (rows,) the tile of B that each row holds
        moves = [Move("B", 0, onwards)] if t < mesh.rows - 1 else []
        for d in range(p):
            column, slot = np.divmod(k * p + d, q)  # where the d-th block of that tile belongs in C
            for s in np.unique(slot):
                use = np.where(slot == s, column, -1)
                moves.append(Move("partial", 1, into_column, use, d, into="C", slot=int(s), combine="add"))
        steps.append(Step("shift and reduce", Multiply("A", "B", "partial", None, True, False), tuple(moves)))

    return Schedule(
        "gemm_t", mesh, {"A": A, "B": B}, C,
        {"A": Tiles("A", 1, place(mesh, A, y, x)),
         "B": Tiles("B", p, place(mesh, B, y * p + np.arange(p), x), copies=2),
         "partial": Values(C.tile, p, copies=2), "C": Values(C.tile, q)},
        tuple(steps), collect=collect_rows(mesh, q),
        order=ChainSum(A.tile[1], np.arange(L) // q, C.tile[1]),
    )  # fmt: skip
