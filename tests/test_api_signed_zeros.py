"""Zeros have signs: a sum that underflows to -0.0 becomes +0.0 where a core adds the products of its padding.

All operands here are zeros of both signs and numbers whose products underflow, mixed with ones.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import meshkernels as mk
from meshkernels.algorithms import known
from meshkernels.kernels import chains, gemv, pack, ring
from meshkernels.kernels.pack import columns
from meshkernels.kernels.team import Team
from meshkernels.llm import Scheduled
from tests.handmade import fitting
from tests.kernels.test_products import chain, random_order, ring_oracle, same_bits

#: Per dtype: a number whose square is below the smallest that can be stored, or kept as a sum.
TINY = {"float32": 1e-30, "float64": 1e-200, "float16": 6e-5, "bfloat16": 1e-30}


def faint(rng, shape, dtype):
    """Mostly numbers whose products are zeros of either sign."""
    tiny = TINY[dtype]
    values = np.array([0, -0.0, tiny, -tiny, tiny / 1000, -tiny / 1000, 1, -1])
    chosen = rng.choice(values, size=shape, p=rng.dirichlet(np.full(8, 0.5)))
    return chosen.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def signed(x):
    """How many zeros are negative."""
    return int((np.signbit(x.astype("f8")) & (x == 0)).sum())


def test_the_zero_is_the_one_of_the_mesh():
    """Core (0, 0) multiplies by -1e-60, core (0, 1) of the ring by padding: -0.0 + 0.0 = 0.0. A full block has none."""
    A, B = np.array([[-1e-30]], np.float32), np.array([[1e-30]], np.float32)
    for method in ("fused", "lockstep"):
        assert not signed(mk.gemm(A, B, mk.Mesh(2), method=method))
        assert not signed(mk.gemv(A[0], B, mk.Mesh(2), method=method))
        assert signed(mk.gemm(A, B, mk.Mesh(1), method=method)) == 1


@pytest.mark.parametrize("seed", range(8))
def test_both_executors_agree(seed):
    rng = np.random.default_rng(seed)
    negative = 0
    for _ in range(40):
        mesh, (M, K, N) = mk.Mesh(*rng.integers(1, 8, 2)), rng.integers(1, 20, 3)
        dtype = str(rng.choice(list(TINY)))
        options = {"accumulate": "float16"} if dtype == "float16" and rng.random() < 0.5 else {}
        A, B = faint(rng, (M, K), dtype), faint(rng, (K, N * 20 if rng.random() < 0.1 else N), dtype)
        verb = str(rng.choice(["gemm", "gemm_t", "gemv"]))
        if verb == "gemm":
            options["algorithm"] = str(rng.choice(fitting("gemm", mesh)))
        elif verb == "gemm_t":
            B = B.T
        else:
            A = A[0]
            options |= {"reduce": str(rng.choice(list(known("reduce")))), "axis": int(rng.integers(2))}
        lockstep = getattr(mk, verb)(A, B, mesh, method="lockstep", **options)
        for right in (B, mk.place(B, mesh)) if verb != "gemm_t" else (B,):
            same_bits(getattr(mk, verb)(A, right, mesh, **options), lockstep)
        negative += signed(lockstep)
    assert negative, "some sums must end at -0.0, or this tests nothing"


@pytest.mark.parametrize("dtype, accumulate", [("float32", None), ("float16", "float16"), ("bfloat16", None)])
def test_sums_go_through_the_padding_of_their_block(dtype, accumulate):
    """Ring orders, two-sided chains and split sums against chains over operands that are padded with zeros."""
    rng = np.random.default_rng(5)
    for _ in range(12):
        M, K, N, rows, cols, L = rng.integers(1, 9, 6)
        A, B = faint(rng, (M, K), dtype), faint(rng, (K, N), dtype)
        order = random_order(rng, M, K, N, rows, cols, L)
        more = L * order.block - K
        padded_A, padded_B = np.pad(A, ((0, 0), (0, more))), np.pad(B, ((0, more), (0, 0)))
        expected = ring_oracle(padded_A, padded_B, order, accumulate).astype(A.dtype)
        same_bits(ring.ring_product(A, B, order, accumulate=accumulate), expected)

        parts = [chain(padded_A, padded_B, range(b * order.block, (b + 1) * order.block), accumulate) for b in range(L)]
        got = gemv.gemv_sums(A[0], pack.columns(B), L, accumulate=accumulate)
        same_bits(np.ascontiguousarray(got), np.stack(parts)[:, 0])
        at_last = parts[0]
        for part in parts[1:]:
            at_last = at_last + part
            at_last = at_last.astype(np.float16).astype("f4") if accumulate else at_last
        got = chains.chain_product(A, B.T, np.full(N, L - 1), L, accumulate=accumulate)
        same_bits(got, at_last.astype(A.dtype))


def test_products_of_the_language_model_agree():
    rng = np.random.default_rng(6)
    for _ in range(100):
        mesh, (M, K, N), axis = mk.Mesh(*rng.integers(1, 9, 2)), rng.integers(1, 25, 3), int(rng.integers(2))
        X, W = faint(rng, (M, K), "float32"), faint(rng, (K, N), "float32")
        product = Scheduled(mesh, W.shape, axis).prepared(columns(W), Team(1))
        same_bits(product(X[:1])[0], mk.gemv(X[0], W, mesh, axis=axis, method="lockstep"))
        found = Scheduled(mesh, (M, K, N), algorithm="meshgemm").multiply(X, W)
        same_bits(found, mk.gemm(X, W, mesh, method="lockstep"))
        W = np.ascontiguousarray(W.T)
        found = Scheduled(mesh, (M, K, N), algorithm="gemm_t").multiply(X, W)
        same_bits(found, mk.gemm_t(X, W, mesh, algorithm="gemm_t", method="lockstep"))
