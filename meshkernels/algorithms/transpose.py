"""Transpose: every tile travels to its mirror place, turned on the way out.

Invariant: A is cut into L x L blocks, L = lcm(rows, cols), core (y, x) holding a = L/rows of them down and b = L/cols
across; so is the result. Block (i, j) goes, turned, from its core along the row and then down the column to the core
of block (j, i): one message with at most one bend.

References:
    Hockney and Jesshope, Parallel Computers 2, 1988, section 5.5 (transposition on a mesh of processors).
"""

from __future__ import annotations

import numpy as np

from meshkernels import schedules as S
from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling


@register("transpose", "transpose")
def transpose(mesh: Mesh, M: int, N: int) -> S.Schedule:
    """T[N, M] = A[M, N]^T, both cut over the mesh alike."""
    L = mesh.lcm
    a, b = L // mesh.rows, L // mesh.cols
    A, T = Tiling((M, N), (L, L)), Tiling((N, M), (L, L))
    # slot u * b + v of core (y, x) holds block (y a + u, x b + v)
    u, v = np.divmod(np.arange(a * b), b)
    down = S.Index((np.arange(mesh.rows)[:, None] * a + u).ravel(), y=a * b * np.arange(mesh.rows), step=1)
    across = S.Index((np.arange(mesh.cols)[:, None] * b + v).ravel(), x=a * b * np.arange(mesh.cols), step=1)
    buffers = {"A": S.Tiles("A", a * b, S.Place(down, across)), "turned": S.Values(T.tile, a * b, dtype="stored"),
               "T": S.Values(T.tile, a * b, dtype="stored")}  # fmt: skip
    turn = [S.Copy("A", "turned", slot, slot, transposed=True) for slot in range(a * b)]
    moves = []
    for slot in range(a * b):
        i, j = np.arange(mesh.rows) * a + u[slot], np.arange(mesh.cols) * b + v[slot]  # the block of core (y, x)
        to = S.Permute(S.Index(j // a, x=range(mesh.cols)), S.Index(i // b, y=range(mesh.rows)))
        moves.append(S.Move("turned", to, slot, "T", S.Index(range(a * b), y=i % b, x=j % a * b)))
    return S.Schedule("transpose", S.Task("transpose", ("A",)), mesh, {"A": A}, T, buffers,
                    (S.Step("turn and send", turn, moves),), S.Collect("T", S.Place(down, across)))  # fmt: skip
