"""2.5D Cannon: layers of cores side by side on the mesh share the contraction; their sums are reduced at the end.

Invariant: the mesh is cut into c layers of P x P cores, layer l in the columns l P .. l P + P - 1. Each layer gets a
copy of A and B, aligned so that at time t its core (y, x) holds A(y, k) and B(k, x), k = rho(pi(y) + pi(x) - l s - t),
and takes the s = P / c steps t = 0 .. s - 1. The partial sums of the c cores at one place are then added up on layer 0.

References:
    Solomonik and Demmel, Communication-optimal parallel 2.5D matrix multiplication, Euro-Par 2011.
"""

from __future__ import annotations

import numpy as np

from meshkernels import schedules as S
from meshkernels.algorithms import register
from meshkernels.algorithms.cannon import rounds, turns
from meshkernels.errors import MeshError, shown
from meshkernels.mesh import Mesh, Tiling
from meshkernels.rings import Ring


@register("gemm", "cannon25d")
def cannon25d(mesh: Mesh, M: int, K: int, N: int, *, ring: str = "interleaved") -> S.Schedule:
    """C[M, N] = A[M, K] B[K, N] on P rows and c P columns of cores; c divides P, ``ring`` may be ``"natural"``.

    Returns:
        The schedule: copy, align, P / c - 1 shifts, reduce.

    Raises:
        MeshError: a mesh of other proportions, or an unknown ring.
    """
    P, c = mesh.rows, mesh.cols // mesh.rows
    if c * P != mesh.cols or c < 1 or P % c:
        raise MeshError(f"cannon25d needs P x c P cores with c a divisor of P, not {mesh.rows} x {mesh.cols}")
    if not isinstance(ring, str) or ring not in ("interleaved", "natural"):
        raise MeshError(f"ring = {shown(ring)}; known: 'interleaved', 'natural'")
    cycle, s = Ring.interleaved(P) if ring == "interleaved" else Ring.natural(P), P // c
    layer, j = np.divmod(np.arange(mesh.cols), P)
    A, B, C = Tiling((M, K), (P, P)), Tiling((K, N), (P, P)), Tiling((M, N), (P, P))
    y, x = S.line(0, range(P)), S.line(1, np.where(layer == 0, j, -1))  # what belongs to layer 0 alone
    buffers = {"A": S.Tiles("A", 1, S.Place(y, x), copies=2), "C": S.Values(C.tile, copies=2),
               "B": S.Tiles("B", 1, S.Place(y, x), copies=2)}  # fmt: skip
    # the copies of A begin l s places further back on the rings along x, those of B are turned along y
    copies = S.Step("copy", moves=[
        S.Move("A", S.Multicast(1, S.line(1, cycle.order[(cycle.position[j] - layer * s) % P]))),
        S.Move("B", S.Multicast(1, S.line(1, j)))])  # fmt: skip
    turns_a, turns_b = turns(cycle.position, P), turns((cycle.position[j] - layer * s) % P, P)
    most = int(max(abs(turns_a).max(), abs(turns_b).max()))
    cycles = [cycle.order + l * P for l in range(c)]
    align = S.Step("align", moves=[S.Move("A", S.Shift(1, cycles, rounds(0, turns_a, most))),
                                   S.Move("B", S.Shift(0, cycle, rounds(1, turns_b, most)))])  # fmt: skip
    multiply = S.Multiply("A", "B", "C")
    onwards = [S.Move("A", S.Shift(1, cycles)), S.Move("B", S.Shift(0, cycle))]
    reduce = S.Move("C", S.Reduce(1, S.line(1, j)), combine="add")
    program = (copies, S.Repeat(most, align), S.Repeat(s - 1, S.Step("shift", multiply, onwards)),
               S.Step("reduce", multiply, reduce))  # fmt: skip
    return S.Schedule("cannon25d", S.Task("product", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers, program,
                      S.Collect("C", S.Place(y, x)))  # fmt: skip
