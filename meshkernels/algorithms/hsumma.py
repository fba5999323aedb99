"""HSUMMA: SUMMA with its broadcasts in two levels, so that no root reaches further than a group or a row of groups.

Invariant: as SUMMA's; at time t every core (y, x) holds A(y, t) and B(t, x) in its panel buffers. The columns of cores
are cut into groups of g. Panel t of A, of column c, goes first to the cores at the same place in every group, then each
of those broadcasts it inside its group; B likewise along y. The first level of panel t + 1 runs while panel t is
broadcast by the second.

References:
    Quintin, Hasanov and Lastovetsky, Hierarchical parallel matrix multiplication on large-scale distributed memory
    platforms, ICPP 2013.
"""

from __future__ import annotations

import numpy as np

from meshkernels import schedules as S
from meshkernels.algorithms import register
from meshkernels.errors import MeshError
from meshkernels.mesh import Mesh, Tiling


@register("gemm", "hsumma")
def hsumma(mesh: Mesh, M: int, K: int, N: int, *, groups: int | None = None) -> S.Schedule:
    """C[M, N] = A[M, K] B[K, N], panels broadcast between ``groups`` a side (None: about the root of the side).

    Returns:
        The schedule: two steps to fill the pipeline, then one broadcast in two levels for each panel.

    Raises:
        MeshError: groups that do not divide both sides of the mesh.
    """
    common = [n for n in range(1, min(mesh.shape) + 1) if mesh.rows % n == mesh.cols % n == 0]
    G = min(common, key=lambda n: abs(n - min(mesh.shape) ** 0.5)) if groups is None else groups
    if G not in common:
        raise MeshError(f"groups = {G}: {mesh.rows} x {mesh.cols} cores can be cut into {', '.join(map(str, common))}")
    L = mesh.lcm
    A, B, C = Tiling((M, K), (mesh.rows, L)), Tiling((K, N), (L, mesh.cols)), Tiling((M, N), mesh.shape)
    y, x, q, p = S.line(0, range(mesh.rows)), S.line(1, range(mesh.cols)), L // mesh.cols, L // mesh.rows
    buffers = {"A": S.Tiles("A", q, S.Place(y, S.Index(range(L), x=q * np.arange(mesh.cols), step=1))),
               "B": S.Tiles("B", p, S.Place(S.Index(range(L), y=p * np.arange(mesh.rows), step=1), x)),
               **{f"{X} {what}": S.Tiles(X, copies=2) for X in "AB" for what in ("relay", "panel")},
               "C": S.Values(C.tile)}  # fmt: skip

    def sends(level: int, first: int) -> list[S.Move]:
        """Panel ``first + t`` on its way between the groups (level 0), or inside each of them (level 1)."""
        moves, k = [], (np.arange(L) + first) % L
        for X, axis, P in (("A", 1, mesh.cols), ("B", 0, mesh.rows)):
            g, owner, n = P // G, k[:, None] // (L // P), L // P
            if level == 0:  # the owner, for the cores at its place in each group: [panel, place]
                table, place = np.where(owner % g == np.arange(g), owner, -1), np.arange(P) % g
            else:  # the core of each group at the owner's place: [panel, group]
                table, place = np.arange(G) * g + owner % g, np.arange(P) // g
            source = S.Index(table.ravel(), **{"yx"[axis]: place}, step=table.shape[1])
            moves.append(S.Move(X, S.Multicast(axis, source), S.Index(k % n, step=1), f"{X} relay", 0) if level == 0
                         else S.Move(f"{X} relay", S.Multicast(axis, source), 0, f"{X} panel", 0))  # fmt: skip
        return moves

    multiply, task = S.Multiply("A panel", "B panel", "C"), S.Task("product", ("A", "B"))
    first, last = sends(1, 0), [S.Step("broadcast", multiply, S.settled(tuple(sends(1, 1)), L - 2))]
    body = S.Step("broadcast", multiply, sends(0, 2) + sends(1, 1))
    program = [S.Step("between groups", moves=S.settled(tuple(sends(0, 0)), 0)),
               S.Step("broadcast", moves=S.settled(tuple(first + (sends(0, 1) if L > 1 else [])), 0)),
               S.Repeat(max(L - 2, 0), body), *(last if L > 1 else []), S.Step("multiply", multiply)]  # fmt: skip
    return S.Schedule("hsumma", task, mesh, {"A": A, "B": B}, C, buffers, program, S.Collect("C", S.Place(y, x)))
