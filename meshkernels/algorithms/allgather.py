"""All-gather GEMM: every core first collects its whole row of A and its whole column of B, then multiplies.

Invariant: after the only communication step core (y, x) holds A(y, :) and B(:, x). Memory per core is O(1/P)
of the matrices instead of O(1/P^2). Two forms, as for SUMMA: a routing path per root, or relays.
"""

from __future__ import annotations

import numpy as np

from meshkernels import schedules as S
from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling


def gather_all(name: str, mesh: Mesh, M: int, K: int, N: int, send: type[S.Multicast]) -> S.Schedule:
    """All-gather GEMM with blocks sent by routes of kind ``send``."""
    L = mesh.lcm
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), (mesh.rows, L)), Tiling((K, N), (L, mesh.cols)), Tiling((M, N), mesh.shape)
    y, x = S.line(0, range(mesh.rows)), S.line(1, range(mesh.cols))
    buffers = {
        "A": S.Tiles("A", q, S.Place(y, S.Index(range(L), x=q * np.arange(mesh.cols), step=1))),
        "B": S.Tiles("B", p, S.Place(S.Index(range(L), y=p * np.arange(mesh.rows), step=1), x)),
        "A row": S.Tiles("A", L), "B column": S.Tiles("B", L), "C": S.Values(C.tile),
    }
    rows = [S.Move("A", send(1, k // q), k % q, "A row", k) for k in range(L)]
    cols = [S.Move("B", send(0, k // p), k % p, "B column", k) for k in range(L)]
    program = (S.Step("gather", moves=rows + cols),
               S.Step("multiply", [S.Multiply("A row", "B column", "C", k, k) for k in range(L)]))  # fmt: skip
    return S.Schedule(name, S.Task("product", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers, program,
                    S.Collect("C", S.Place(y, x)))  # fmt: skip


@register("gemm", "allgather")
def allgather(mesh: Mesh, M: int, K: int, N: int) -> S.Schedule:
    """All-gather GEMM with a routing path per root."""
    return gather_all("allgather", mesh, M, K, N, S.Multicast)


@register("gemm", "allgather_relay")
def allgather_relay(mesh: Mesh, M: int, K: int, N: int) -> S.Schedule:
    """All-gather GEMM with blocks relayed by software."""
    return gather_all("allgather_relay", mesh, M, K, N, S.Relay)
