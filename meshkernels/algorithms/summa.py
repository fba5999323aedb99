"""SUMMA: at time t the owners of panel t of A (a column of cores) and of B (a row) broadcast it to all.

Invariant: at time t every core (y, x) holds A(y, t) and B(t, x) in its panel buffers. Panel t + 1 travels while
panel t is multiplied. Two forms: ``summa`` gives every root a routing path of its own (one multicast, O(P)
colours); ``summa_relay`` hands panels on from neighbour to neighbour (few colours, O(P) routing stages).

References:
    van de Geijn and Watts, SUMMA: Scalable Universal Matrix Multiplication Algorithm, 1997.
"""

from __future__ import annotations

import numpy as np

from meshkernels import schedules as S
from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling


def broadcast_panels(name: str, mesh: Mesh, M: int, K: int, N: int, send: type[S.Multicast]) -> S.Schedule:
    """SUMMA with panels sent by routes of kind ``send``."""
    L = mesh.lcm
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), (mesh.rows, L)), Tiling((K, N), (L, mesh.cols)), Tiling((M, N), mesh.shape)
    y, x = S.line(0, range(mesh.rows)), S.line(1, range(mesh.cols))
    buffers = {
        "A": S.Tiles("A", q, S.Place(y, S.Index(range(L), x=q * np.arange(mesh.cols), step=1))),
        "B": S.Tiles("B", p, S.Place(S.Index(range(L), y=p * np.arange(mesh.rows), step=1), x)),
        "A panel": S.Tiles("A", copies=2), "B panel": S.Tiles("B", copies=2), "C": S.Values(C.tile),
    }

    def panels(first: int) -> list[S.Move]:
        """Panel ``first + t`` on its way: from slot k % q of core k // q of each row, and the same down the columns."""
        k = (np.arange(L) + first) % L
        return [S.Move(operand, send(axis, S.Index(k // n, step=1)), S.Index(k % n, step=1), f"{operand} panel", 0)
                for operand, axis, n in (("A", 1, q), ("B", 0, p))]  # fmt: skip

    multiply = S.Multiply("A panel", "B panel", "C")
    program = (S.Step("broadcast", moves=panels(0)), S.Repeat(L - 1, S.Step("broadcast", multiply, panels(1))),
               S.Step("multiply", multiply))  # fmt: skip
    return S.Schedule(name, S.Task("product", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers, program,
                    S.Collect("C", S.Place(y, x)))  # fmt: skip


@register("gemm", "summa")
def summa(mesh: Mesh, M: int, K: int, N: int) -> S.Schedule:
    """SUMMA with a routing path per root."""
    return broadcast_panels("summa", mesh, M, K, N, S.Multicast)


@register("gemm", "summa_relay")
def summa_relay(mesh: Mesh, M: int, K: int, N: int) -> S.Schedule:
    """SUMMA with panels relayed by software."""
    return broadcast_panels("summa_relay", mesh, M, K, N, S.Relay)
