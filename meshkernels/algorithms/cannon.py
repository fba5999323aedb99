"""Cannon's algorithm: compute-shift on a ring of cores per row and per column.

Invariant: at time t core (y, x) holds A(y, k) and B(k, x) with k = (pi(y) + pi(x) - t) mod P in ring positions
pi. All cores of a row hold different k, so one shift along the ring per step renews every tile, and after P
steps each core has met each k once. On a rows x cols mesh K is cut into L = lcm(rows, cols) blocks, q = L/cols
of them in a tile of A and p = L/rows in a tile of B; core (y, x) starts at block p pi(y) + q pi(x) and a row
(column) shifts only when the next block lies in its neighbour's tile: no tile moves more often than it must.

References:
    L. E. Cannon, A Cellular Computer to Implement the Kalman Filter Algorithm, 1969.
"""

from __future__ import annotations

import numpy as np

from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling
from meshkernels.rings import Ring
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
from meshkernels.traffic import shift


def compute_shift(name: str, mesh: Mesh, M: int, K: int, N: int, along_x: Ring, along_y: Ring) -> Schedule:
    """Compute-shift GEMM with tiles of A moving along ``along_x`` in every row, of B along ``along_y``."""
    L = mesh.lcm
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), (mesh.rows, L)), Tiling((K, N), (L, mesh.cols)), Tiling((M, N), mesh.shape)
    y, x = np.arange(mesh.rows)[:, None, None], np.arange(mesh.cols)[None, :, None]

    # A lies in its natural order: core x holds blocks x q .. x q + q - 1. That names the blocks of the ring.
    ring = (along_x.order[:, None] * q + np.arange(q)).ravel()
    start_y, start_x = p * along_y.position, q * along_x.position
    a_home = place(mesh, A, y, x * q + np.arange(q))
    b_home = place(mesh, B, ring[start_y[:, None, None] + np.arange(p)], x)

    # Alignment: row y turns its ring of A until core (y, x) holds the tile with block start_y + start_x.
    skew_a, skew_b = start_y // q % mesh.cols, start_x // p % mesh.rows
    both_x, both_y = (shift(along_x), shift(along_x.reversed())), (shift(along_y), shift(along_y.reversed()))
    rounds = int(max(_turns(skew_a, mesh.cols).max(), _turns(skew_b, mesh.rows).max()))

    def align(r: int) -> Step:
        turn_a = Move("A", 1, both_x, _direction(skew_a, mesh.cols, r))
        turn_b = Move("B", 0, both_y, _direction(skew_b, mesh.rows, r))
        return Step("align", moves=(turn_a, turn_b))

    def compute_and_shift(t: int) -> Step:
        next_a = Move("A", 1, both_x, np.where((start_y - t) % q == 0, 0, -1))
        next_b = Move("B", 0, both_y, np.where((start_x - t) % p == 0, 0, -1))
        moves = (next_a, next_b) if t < L - 1 else ()  # the last tiles stay: nobody needs them again
        return Step("shift", Multiply("A", "B", "C", range(t, t + 1)), moves)

    return Schedule(
        name, mesh, {"A": A, "B": B}, C,
        {"A": Tiles("A", q, a_home, copies=2), "B": Tiles("B", p, b_home, copies=2), "C": Values(C.tile)},
        LazySteps(rounds + L, lambda i: align(i) if i < rounds else compute_and_shift(i - rounds)),
        collect_rows(mesh),
        order=RingOrder(ring[-np.arange(L)], A.tile[1], -start_y % L, -start_x % L, *C.tile),
    )  # fmt: skip


def _turns(skew: np.ndarray, size: int) -> np.ndarray:
    """Ring steps that each line needs, the shorter way round."""
    return np.minimum(skew, size - skew)


def _direction(skew: np.ndarray, size: int, done: int) -> np.ndarray:
    """Which way each line turns in round ``done``: 0 forwards, 1 backwards (takes ``skew`` steps), -1 idle."""
    backwards = skew <= size - skew
    return np.where(_turns(skew, size) <= done, -1, np.where(backwards, 1, 0))


@register("gemm", "cannon")
def cannon(mesh: Mesh, M: int, K: int, N: int) -> Schedule:
    """Cannon on natural rings: each shift waits for the one tile that wraps round, P-1 hops."""
    return compute_shift("cannon", mesh, M, K, N, Ring.natural(mesh.cols), Ring.natural(mesh.rows))
