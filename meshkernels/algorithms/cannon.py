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

from meshkernels import schedules as S
from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling
from meshkernels.rings import Ring


def compute_shift(name: str, mesh: Mesh, M: int, K: int, N: int, along_x: Ring, along_y: Ring,
                  skewed: str = "") -> S.Schedule:  # fmt: skip
    """Compute-shift GEMM with tiles of A moving along ``along_x`` in every row, of B along ``along_y``.

    Args:
        name: of the algorithm.
        mesh: the cores.
        M: rows of A.
        K: columns of A, rows of B.
        N: columns of B.
        along_x: the ring of every row.
        along_y: the ring of every column.
        skewed: operands that lie aligned from the start ("A", "B", "AB"), as `meshgemm_t` leaves and aligns its own.

    Returns:
        The schedule.
    """
    L = mesh.lcm
    q, p = L // mesh.cols, L // mesh.rows
    A, B, C = Tiling((M, K), (mesh.rows, L)), Tiling((K, N), (L, mesh.cols)), Tiling((M, N), mesh.shape)
    y, x = S.line(0, range(mesh.rows)), S.line(1, range(mesh.cols))

    # A lies in its natural order: core x holds blocks x q .. x q + q - 1. That names the blocks of the ring.
    ring = (along_x.order[:, None] * q + np.arange(q)).ravel()
    start_y, start_x = p * along_y.position, q * along_x.position
    across = S.Index(range(L), x=q * np.arange(mesh.cols), step=1)
    if "A" in skewed:
        across = S.Index(ring, y=start_y // q * q, x=start_x, step=1)
    down = S.Index(ring, y=start_y, x=start_x // p * p if "B" in skewed else (), step=1)
    buffers = {
        "A": S.Tiles("A", q, S.Place(y, across), copies=2), "B": S.Tiles("B", p, S.Place(down, x), copies=2),
        "C": S.Values(C.tile),
    }

    # Alignment: row y turns its ring of A until core (y, x) holds the tile with block start_y + start_x.
    turns_a, turns_b = (turns(skew, size) for skew, size in (
        (start_y // q % mesh.cols, mesh.cols), (start_x // p % mesh.rows, mesh.rows)))
    turns_a, turns_b = turns_a * ("A" not in skewed), turns_b * ("B" not in skewed)
    most = int(max(abs(turns_a).max(), abs(turns_b).max()))
    align = S.Step("align", moves=(S.Move("A", S.Shift(1, along_x, rounds(0, turns_a, most))),
                                 S.Move("B", S.Shift(0, along_y, rounds(1, turns_b, most)))))  # fmt: skip

    # Core (y, x) multiplies block start_y + start_x - t; a tile moves on when its first block has been used.
    multiply = S.Multiply("A", "B", "C", *(
        S.Index(range(n), y=start_y, x=start_x, step=-1) if n > 1 else 0 for n in (q, p)))
    onwards = (S.Move("A", S.Shift(1, along_x, every(q, y=start_y))),
               S.Move("B", S.Shift(0, along_y, every(p, x=start_x))))  # fmt: skip
    last = S.Step("shift", S.settled(multiply, L - 1))  # the last tiles stay: nobody needs them again
    program = (S.Repeat(most, align), S.Repeat(L - 1, S.Step("shift", multiply, onwards)), last)
    return S.Schedule(name, S.Task("product", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers, program,
                    S.Collect("C", S.Place(y, x)))  # fmt: skip


def turns(skew: np.ndarray, size: int) -> np.ndarray:
    """Ring steps that each line needs, the shorter way round: negative is backwards."""
    return np.where(skew <= size - skew, -skew, size - skew)


def every(n: int, **start: np.ndarray) -> int | S.Index:
    """1 in every n-th iteration t, those in which ``start - t`` is a multiple of n, and 0 in the others."""
    return S.Index((1, *[0] * (n - 1)), **start, step=-1) if n > 1 else 1


def rounds(axis: int, by: np.ndarray, most: int) -> S.Index:
    """Line i shifts by one, in the direction of ``by[i]``, in the first ``abs(by[i])`` of ``most`` rounds."""
    table = np.repeat((1, 0, -1, 0), max(most, 1))
    start = np.where(by < 0, 2, 0) * max(most, 1) + max(most, 1) - abs(by)
    return S.Index(table, **{"yx"[axis]: start}, step=1)


@register("gemm", "cannon")
def cannon(mesh: Mesh, M: int, K: int, N: int) -> S.Schedule:
    """Cannon on natural rings: each shift waits for the one tile that wraps round, P-1 hops."""
    return compute_shift("cannon", mesh, M, K, N, Ring.natural(mesh.cols), Ring.natural(mesh.rows))
