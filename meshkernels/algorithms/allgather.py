"""All-gather GEMM: every core first collects its whole row of A and its whole column of B, then multiplies.

Invariant: after the only communication step core (y, x) holds A(y, :) and B(:, x). Memory per core is O(1/P)
of the matrices instead of O(1/P^2). Two forms, as for SUMMA: a routing path per root, or relays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling
from meshkernels.schedule import Move, Multiply, RingOrder, Schedule, Step, Tiles, Values, collect_rows, place
from meshkernels.traffic import Traffic, multicast, relay


def gather_all(name: str, mesh: Mesh, M: int, K: int, N: int, send: Callable[..., Traffic]) -> Schedule:
    """All-gather GEMM with blocks sent by ``send(root, size)``."""
    L = mesh.lcm
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), (mesh.rows, L)), Tiling((K, N), (L, mesh.cols)), Tiling((M, N), mesh.shape)
    y, x = np.arange(mesh.rows)[:, None, None], np.arange(mesh.cols)[None, :, None]

    rows = [Move("A", 1, (send(k // q, mesh.cols),), piece=k % q, into="A row", slot=k) for k in range(L)]
    cols = [Move("B", 0, (send(k // p, mesh.rows),), piece=k % p, into="B column", slot=k) for k in range(L)]
    steps = (
        Step("gather", moves=(*rows, *cols)),
        Step("multiply", Multiply("A row", "B column", "C", range(L))),
    )
    return Schedule(
        name, mesh, {"A": A, "B": B}, C,
        {"A": Tiles("A", q, place(mesh, A, y, x * q + np.arange(q))),
         "B": Tiles("B", p, place(mesh, B, y * p + np.arange(p), x)),
         "A row": Tiles("A", L), "B column": Tiles("B", L), "C": Values(C.tile)},
        steps, collect_rows(mesh),
        order=RingOrder(np.arange(L), A.tile[1], 0 * y.ravel(), 0 * x.ravel(), *C.tile),
    )  # fmt: skip


@register("gemm", "allgather")
def allgather(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """All-gather GEMM with a routing path per root."""
    return gather_all("allgather", mesh, M, K, N, multicast)


@register("gemm", "allgather_relay")
def allgather_relay(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """All-gather GEMM with blocks relayed by software."""
    return gather_all("allgather_relay", mesh, M, K, N, relay)
