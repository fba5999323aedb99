"""All-gather GEMM: every core first collects its whole row of A and its whole column of B, then multiplies.

Invariant: after the only communication step core (y, x) holds A(y, :) and B(:, x). Memory per core is O(1/P)
of the matrices instead of O(1/P^2). Two forms, as for SUMMA: a routing path per root, or relays.
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
    Schedule,
    Step,
    Task,
    Tiles,
    Values,
    line,
)


def gather_all(name: str, mesh: Mesh, M: int, K: int, N: int, send: type[Multicast]) -> Schedule:
    """All-gather GEMM with blocks sent by routes of kind ``send``."""
    L = mesh.lcm
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), (mesh.rows, L)), Tiling((K, N), (L, mesh.cols)), Tiling((M, N), mesh.shape)
    y, x = line(0, range(mesh.rows)), line(1, range(mesh.cols))
    buffers = {
        "A": Tiles("A", q, Place(y, Index(range(L), x=q * np.arange(mesh.cols), step=1))),
        "B": Tiles("B", p, Place(Index(range(L), y=p * np.arange(mesh.rows), step=1), x)),
        "A row": Tiles("A", L), "B column": Tiles("B", L), "C": Values(C.tile),
    }
    rows = [Move("A", send(1, k // q), k % q, "A row", k) for k in range(L)]
    cols = [Move("B", send(0, k // p), k % p, "B column", k) for k in range(L)]
    program = (Step("gather", moves=rows + cols),
               Step("multiply", [Multiply("A row", "B column", "C", k, k) for k in range(L)]))  # fmt: skip
    return Schedule(name, Task("product", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers, program,
                    Collect("C", Place(y, x)))  # fmt: skip


@register("gemm", "allgather")
def allgather(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """All-gather GEMM with a routing path per root."""
    return gather_all("allgather", mesh, M, K, N, Multicast)


@register("gemm", "allgather_relay")
def allgather_relay(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """All-gather GEMM with blocks relayed by software."""
    return gather_all("allgather_relay", mesh, M, K, N, Relay)
