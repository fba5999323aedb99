"""MeshGEMM-T: C = A B^T with A in place and no chain; tiles of B *and* partial sums of C move along interleaved rings.

Invariant: at time t core (y, x) holds B(k, x) and the partial sum of C(y, k) with k = rho(pi(y) + pi(x) - t); it adds
A(y, x) B(k, x)^T, and both move on by one ring position. After P steps each C(y, k) has met every x once, in ring
order: a rotation, as in MeshGEMM, and no message goes further than two hops. B is aligned before the first step, C
after the last, unless it stays ``skewed``: then it lies as MeshGEMM aligns its left operand, ready for the next product
on the same rings, whose right operand needs the skew of B. On a rows x cols mesh B's rows and C's columns are cut into
L = lcm(rows, cols) blocks, p = L/rows of them in a tile of B and q = L/cols in a tile of C, and a tile moves on when
its last block has been used.

References:
    Left-stationary Cannon (van de Geijn and Watts, 1997) on the rings of He et al., WaferLLM, OSDI 2025, section 5.
"""

from __future__ import annotations

import numpy as np

from meshkernels import schedules as S
from meshkernels.algorithms import register
from meshkernels.algorithms.cannon import every, rounds, turns
from meshkernels.mesh import Mesh, Tiling
from meshkernels.rings import Ring


@register("gemm_t", "meshgemm_t")
def meshgemm_t(mesh: Mesh, M: int, K: int, N: int, *, skewed: str = "") -> S.Schedule:
    """C[M, N] = A[M, K] B[N, K]^T with A left in place, every neighbour at most two hops away."""
    L, along_y, along_x = mesh.lcm, Ring.interleaved(mesh.rows), Ring.interleaved(mesh.cols)
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), mesh.shape), Tiling((N, K), (L, mesh.cols)), Tiling((M, N), (mesh.rows, L))
    y, x = S.line(0, range(mesh.rows)), S.line(1, range(mesh.cols))
    # the ring of blocks: as C's columns lie along x; core (y, x) starts at block p pi(y) + q pi(x) and goes down
    ring = (along_x.order[:, None] * q + np.arange(q)).ravel()
    start_y, start_x = p * along_y.position, q * along_x.position
    buffers = {
        "A": S.Tiles("A", 1, S.Place(y, x)),
        "B": S.Tiles("B", p, S.Place(S.Index(ring, y=start_y, step=1), x), copies=2),
        "C": S.Values(C.tile, q, copies=2),
    }
    turns_b, turns_c = turns(start_x // p % mesh.rows, mesh.rows), turns(start_y // q % mesh.cols, mesh.cols)
    align_b, align_c = (int(abs(n).max()) for n in (turns_b, turns_c))
    align = S.Step("align B", moves=S.Move("B", S.Shift(0, along_y, rounds(1, turns_b, align_b))))
    left, piece = (S.Index(range(n), y=start_y, x=start_x, step=-1) if n > 1 else 0 for n in (p, q))
    multiply = S.Multiply("A", "B", "C", 0, left, piece, transposed=True)
    moves = (S.Move("B", S.Shift(0, along_y, every(p, x=start_x))),
             S.Move("C", S.Shift(1, along_x, every(q, y=start_y))))  # fmt: skip
    # when all is added up, row y's tiles of C have gone round once: they turn back to where they belong
    back = S.Step("align C", moves=S.Move("C", S.Shift(1, along_x, rounds(0, -turns_c, align_c))))
    last = S.Step("shift", S.settled(multiply, L - 1), S.settled(moves[1], L - 1))  # nobody needs B again
    program = (S.Repeat(align_b, align), S.Repeat(L - 1, S.Step("shift", multiply, moves)), last,
               S.Repeat(align_c, back))[: 3 if skewed else 4]  # fmt: skip
    lies = S.Index(ring, y=start_y // q * q, x=start_x, step=1) if skewed else S.Index(
        range(L), x=q * np.arange(mesh.cols), step=1)  # fmt: skip
    return S.Schedule("meshgemm_t", S.Task("product_t", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers, program,
                    S.Collect("C", S.Place(y, lies)))  # fmt: skip
