"""Independent references: straight from the published definitions, sharing no code with the library."""

from __future__ import annotations

import numpy as np


def pi(p: int, P: int) -> int:
    """Ring position of core p on the interleaved ring (published closed form)."""
    return p // 2 if p % 2 == 0 else P - (p + 1) // 2


def rho(k: int, P: int) -> int:
    """Core at ring position k of the interleaved ring (published closed form)."""
    k %= P
    return 2 * k if 2 * k <= P - 1 else 2 * (P - k) - 1


def meshgemm_order(P: int, y: int, x: int) -> list[int]:
    """K-blocks in the order in which core (y, x) of a square mesh meets them in MeshGEMM."""
    return [rho(pi(x, P) + pi(y, P) - t, P) for t in range(P)]


def cannon_order(P: int, y: int, x: int) -> list[int]:
    """The same for Cannon on natural rings: A(y, x + y + t)."""
    return [(x + y + t) % P for t in range(P)]


def natural_order(P: int, y: int, x: int) -> list[int]:
    """The same for SUMMA and all-gather."""
    return list(range(P))


def value(named, y: int, x: int, t: int = 0, s: int = 0) -> int:
    """What a number or an `Index` says to core (y, x) in iteration t of the innermost repeat and s of the outer one."""
    if isinstance(named, int):
        return named
    place = (named.y[y] if named.y else 0) + (named.x[x] if named.x else 0) + named.step * t + named.outer * s
    return int(named.table[place % len(named.table)])


def half_product(A: np.ndarray, B: np.ndarray, P: int, order) -> np.ndarray:
    """``A @ B`` of float16 as P x P cores compute it, rounded to float16 after every multiply-add.

    The product of two halves is exact in float32, so each update rounds once to float32 and once to float16.
    """
    M, K, N = *A.shape, B.shape[1]
    mt, kb, nt = -(-M // P), -(-K // P), -(-N // P)
    C = np.zeros((M, N), np.float16)
    for i in range(M):
        for j in range(N):
            acc = np.float16(0)
            for block in order(P, i // mt, j // nt):
                for k in range(block * kb, min(block * kb + kb, K)):
                    acc = np.float16(np.float32(acc) + np.float32(A[i, k]) * np.float32(B[k, j]))
            C[i, j] = acc
    return C


#: Unit roundoff and smallest subnormal of 16-bit storage: what rounding a result once may add to its error.
STORAGE = {"float16": (2.0**-11, 2.0**-24), "bfloat16": (2.0**-8, 2.0**-133)}


def product_bound(A: np.ndarray, B: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error that ``A @ B`` may have: float32 dot products of this length, rounded once to 16-bit storage."""
    relative, absolute = STORAGE.get(A.dtype.name, (0.0, 0.0))
    bound = dot_bound(A.astype(np.float64), B.astype(np.float64), max(A.shape[1], 1))
    return bound + relative * (abs(exact) + bound) + absolute


def dot_bound(A: np.ndarray, B: np.ndarray, K: int) -> np.ndarray:
    """gamma_K |A| |B|: the standard a-priori bound on the error of a float32 dot product of length K."""
    u = np.finfo(np.float32).eps / 2
    return (K * u / (1 - K * u)) * (abs(A).astype(np.float64) @ abs(B).astype(np.float64))
