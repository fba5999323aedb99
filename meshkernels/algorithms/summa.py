"""SUMMA: at time t the owners of panel t of A (a column of cores) and of B (a row) broadcast it to all.

Invariant: at time t every core (y, x) holds A(y, t) and B(t, x) in its panel buffers. Panel t + 1 travels while
panel t is multiplied. Two forms: ``summa`` gives every root a routing path of its own (one multicast, O(P)
colours); ``summa_relay`` hands panels on from neighbour to neighbour (few colours, O(P) routing stages).

References:
    van de Geijn and Watts, SUMMA: Scalable Universal Matrix Multiplication Algorithm, 1997.
"""

from __future__ import annotations

import numpy as np

from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling
from meshkernels.schedules import (
    Collect,
    Index,
    Move,
    Multicast,
    Multiply,
    Place,
    Relay,
    Repeat,
    Schedule,
    Step,
    Task,
    Tiles,
    Values,
    line,
)


def broadcast_panels(name: str, mesh: Mesh, M: int, K: int, N: int, send: type[Multicast]) -> Schedule:
    """SUMMA with panels sent by routes of kind ``send``."""
    L = mesh.lcm
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), (mesh.rows, L)), Tiling((K, N), (L, mesh.cols)), Tiling((M, N), mesh.shape)
    y, x = line(0, range(mesh.rows)), line(1, range(mesh.cols))
    buffers = {
        "A": Tiles("A", q, Place(y, Index(range(L), x=q * np.arange(mesh.cols), step=1))),
        "B": Tiles("B", p, Place(Index(range(L), y=p * np.arange(mesh.rows), step=1), x)),
        "A panel": Tiles("A", copies=2), "B panel": Tiles("B", copies=2), "C": Values(C.tile),
    }

    def panels(first: int) -> list[Move]:
        """Panel ``first + t`` on its way: from slot k % q of core k // q of each row, and the same down the columns."""
        k = (np.arange(L) + first) % L
        return [Move(operand, send(axis, Index(k // n, step=1)), Index(k % n, step=1), f"{operand} panel", 0)
                for operand, axis, n in (("A", 1, q), ("B", 0, p))]  # fmt: skip

    multiply = Multiply("A panel", "B panel", "C")
    program = (Step("broadcast", moves=panels(0)), Repeat(L - 1, Step("broadcast", multiply, panels(1))),
               Step("multiply", multiply))  # fmt: skip
    return Schedule(name, Task("product", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers, program,
                    Collect("C", Place(y, x)))  # fmt: skip


@register("gemm", "summa")
def summa(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """SUMMA with a routing path per root."""
    return broadcast_panels("summa", mesh, M, K, N, Multicast)


@register("gemm", "summa_relay")
def summa_relay(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """SUMMA with panels relayed by software."""
    return broadcast_panels("summa_relay", mesh, M, K, N, Relay)
