"""SUMMA: at time t the owners of panel t of A (a column of cores) and of B (a row) broadcast it to all.

Invariant: at time t every core (y, x) holds A(y, t) and B(t, x) in its panel buffers. Panel t + 1 travels while
panel t is multiplied. Two forms: ``summa`` gives every root a routing path of its own (one multicast, O(P)
colours); ``summa_relay`` hands panels on from neighbour to neighbour (few colours, O(P) routing stages).

References:
    van de Geijn and Watts, SUMMA: Scalable Universal Matrix Multiplication Algorithm, 1997.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling
from meshkernels.schedule import (
    LazySteps,
    Move,
    Multiply,
    RingOrder,
    Schedule,
    Step,
    Tiles,
    Values,
    collect_rows,
    place,
)
from meshkernels.traffic import Traffic, multicast, relay


def broadcast_panels(name: str, mesh: Mesh, M: int, K: int, N: int, send: Callable[..., Traffic]) -> Schedule:
    """SUMMA with panels sent by ``send(root, size)``."""
    L = mesh.lcm
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), (mesh.rows, L)), Tiling((K, N), (L, mesh.cols)), Tiling((M, N), mesh.shape)
    y, x = np.arange(mesh.rows)[:, None, None], np.arange(mesh.cols)[None, :, None]

    def broadcast(k: int) -> Step:
        """Panel k travels while panel k - 1 is multiplied; the first step only sends, the last only multiplies."""
        multiply = Multiply("A panel", "B panel", "C", range(k - 1, k)) if k > 0 else None
        if k == L:
            return Step("multiply", multiply)
        along_row = Move("A", 1, (send(k // q, mesh.cols),), piece=k % q, into="A panel", slot=0)
        along_col = Move("B", 0, (send(k // p, mesh.rows),), piece=k % p, into="B panel", slot=0)
        return Step("broadcast", multiply, (along_row, along_col))

    return Schedule(
        name, mesh, {"A": A, "B": B}, C,
        {"A": Tiles("A", q, place(mesh, A, y, x * q + np.arange(q))),
         "B": Tiles("B", p, place(mesh, B, y * p + np.arange(p), x)),
         "A panel": Tiles("A", copies=2), "B panel": Tiles("B", copies=2), "C": Values(C.tile)},
        LazySteps(L + 1, broadcast), collect_rows(mesh),
        order=RingOrder(np.arange(L), A.tile[1], 0 * y.ravel(), 0 * x.ravel(), *C.tile),
    )  # fmt: skip


@register("gemm", "summa")
def summa(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """SUMMA with a routing path per root."""
    return broadcast_panels("summa", mesh, M, K, N, multicast)


@register("gemm", "summa_relay")
def summa_relay(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """SUMMA with panels relayed by software."""
    return broadcast_panels("summa_relay", mesh, M, K, N, relay)
