"""Stepping through the mesh and the fused kernels, compared as integers: underflow, signed zeros, infinities too."""

from __future__ import annotations

import numpy as np

import meshkernels as mk
from meshkernels.algorithms import known
from tests.fuzz import judge
from tests.fuzz.operands import in_child
from tests.fuzz.ready import DTYPES, dtype
from tests.handmade import fitting

QUICK = 16
REDUCES = list(known("reduce"))
#: Products of a case: they share a child.
PRODUCTS = 60


def values(random: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Ordinary numbers; or some that underflow, cancel, or are zeros of either sign."""
    drawn = random.standard_normal(shape)
    how = random.integers(5)
    if how == 1:
        info = np.finfo(np.float64 if name == "float64" else np.float16 if name == "float16" else np.float32)
        drawn *= float(info.tiny) ** random.uniform(0.4, 0.7)
    elif how == 2:
        drawn = np.where(random.random(shape) < 0.7, random.choice([0.0, -0.0], shape), drawn)
    elif how == 3:
        drawn = random.integers(-2, 3, shape) * random.choice([1.0, -1.0, -0.0], shape)
    elif how == 4:
        drawn = np.where(random.random(shape) < 0.5, 10.0 ** random.uniform(-50, 0, shape) * drawn, -0.0)
    return drawn.astype(dtype(name))


def integers(array: np.ndarray) -> np.ndarray:
    """The bits; of a NaN only that it is one."""
    with np.errstate(all="ignore"):
        return np.where(np.isnan(array.astype(np.float64)), 1, array.view(f"u{array.itemsize}"))


def _compare(random: np.random.Generator) -> None:
    name, kind = DTYPES[random.integers(4)], random.integers(3)
    mesh = mk.Mesh(*(int(random.integers(1, 8)) for _ in range(2)))
    M, K, N = (int(2 ** random.uniform(0, 4.5)) - (random.random() < 0.03) for _ in range(3))
    A, B = values(random, (M, K), name), values(random, (K, N), name)
    more: dict = {"accumulate": "float16"} if name == "float16" and random.random() < 0.4 else {}
    if kind == 0:
        more["algorithm"] = random.choice(fitting("gemm", mesh))
        fused, stepped = (mk.gemm(A, B, mesh, method=m, **more) for m in ("fused", "lockstep"))
    elif kind == 1:
        B = np.ascontiguousarray(B.T)
        fused, stepped = (mk.gemm_t(A, B, mesh, method=m, **more) for m in ("fused", "lockstep"))
    else:
        more |= {"reduce": REDUCES[random.integers(len(REDUCES))], "axis": int(random.integers(2)),
                 "broadcast": bool(random.integers(2))}
        if more["reduce"] == "ring":  # which has no root
            del more["broadcast"]
        x = values(random, (K,), name)
        fused, stepped = (mk.gemv(x, B, mesh, method=m, **more) for m in ("fused", "lockstep"))
    wrong = integers(fused) != integers(stepped)
    if wrong.any():
        at = tuple(int(i[0]) for i in np.nonzero(wrong))
        raise judge.Failure(f"{('gemm', 'gemm_t', 'gemv')[kind]} {M} x {K} x {N} of {name} on {mesh}, {more}: "
                            f"{wrong.sum()} differ, first {at}: fused {fused[at]!r}, stepped {stepped[at]!r}")


def case(number: int, random: np.random.Generator):
    def call() -> None:
        with np.errstate(all="ignore"):
            for _ in range(PRODUCTS):
                _compare(random)

    return f"{PRODUCTS} products", in_child(call, seconds=200)  # kernels may have to be compiled
