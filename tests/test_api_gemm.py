"""Matrix products on the mesh: against NumPy within the dot-product bound, and bit for bit between executors."""

from math import gcd

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import meshkernels as mk
from meshkernels.algorithms import known
from tests import oracle

GEMMS = list(known("gemm"))
sides = st.integers(1, 7)
lengths = st.integers(0, 40)


def _mesh(algorithm, rows, cols):
    """A mesh of these sides, or of sides like them that the algorithm takes."""
    return mk.Mesh(rows, rows * gcd(rows, cols)) if algorithm == "cannon25d" else mk.Mesh(rows, cols)


def _operands(rng, M, K, N, dtype, layout):
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    A, B = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    if layout == "fortran":
        return np.asfortranarray(A), np.asfortranarray(B)
    if layout == "strided":
        wide_a, wide_b = np.zeros((2 * M, 3 * K), dtype), np.zeros((K, 2 * N), dtype)
        wide_a[::2, ::3], wide_b[:, ::-2] = A, B
        return wide_a[::2, ::3], wide_b[:, ::-2]
    return A, B


@given(
    st.sampled_from(GEMMS), sides, sides, lengths, lengths, lengths,
    st.sampled_from(["float32", "float64", "float16", "bfloat16"]), st.sampled_from(["c", "fortran", "strided"]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_shape_and_grid(algorithm, rows, cols, M, K, N, dtype, layout, seed):
    A, B = _operands(np.random.default_rng(seed), M, K, N, dtype, layout)
    before = A.copy(), B.copy()
    mesh = _mesh(algorithm, rows, cols)
    fused = mk.gemm(A, B, mesh, algorithm=algorithm)
    lockstep = mk.gemm(A, B, mesh, algorithm=algorithm, method="lockstep")
    assert fused.shape == (M, N) and fused.dtype == A.dtype
    assert fused.tobytes() == lockstep.tobytes(), "the same additions in the same order"
    exact = A.astype(np.float64) @ B.astype(np.float64)
    error = abs(fused.astype(np.float64) - exact)
    if dtype == "float64":
        np.testing.assert_allclose(fused, exact, rtol=1e-13, atol=1e-13)
    else:
        assert np.all(error <= oracle.product_bound(A, B, exact))
    assert np.array_equal(A, before[0]) and np.array_equal(B, before[1]), "inputs are never modified"


@given(sides, sides, lengths, lengths, lengths, st.sampled_from(["float32", "float64", "float16", "bfloat16"]),
       st.integers(0, 999))  # fmt: skip
def test_gemm_t(rows, cols, M, K, N, dtype, seed):
    A, B = _operands(np.random.default_rng(seed), M, K, N, dtype, "c")
    B = np.ascontiguousarray(B.T)
    mesh = mk.Mesh(rows, cols)
    fused, lockstep = mk.gemm_t(A, B, mesh), mk.gemm_t(A, B, mesh, method="lockstep")
    assert fused.tobytes() == lockstep.tobytes()
    exact = A.astype(np.float64) @ B.T.astype(np.float64)
    assert np.all(abs(fused.astype(np.float64) - exact) <= oracle.product_bound(A, B.T, exact))


@pytest.mark.parametrize("P", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(
    ("algorithm", "order"),
    [("meshgemm", oracle.meshgemm_order), ("cannon", oracle.cannon_order), ("summa", oracle.natural_order),
     ("allgather", oracle.natural_order)],
)  # fmt: skip
def test_wafer_numerics_in_the_published_order(algorithm, order, P):
    """float16 rounded after every multiply-add is sensitive to the order of K: it must be the published one."""
    rng = np.random.default_rng(P)
    A, B = (rng.standard_normal(s).astype(np.float16) for s in ((2 * P + 1, 3 * P), (3 * P, 2 * P)))
    expected = oracle.half_product(A, B, P, order)
    for method in ("fused", "lockstep"):
        got = mk.gemm(A, B, mk.Mesh(P), algorithm=algorithm, accumulate="float16", method=method)
        assert got.tobytes() == expected.tobytes()


def test_accumulating_in_float16_costs_accuracy():
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal((64, 64)).astype(np.float16) for _ in range(2))
    exact = A.astype(np.float64) @ B.astype(np.float64)
    error = {a: abs(mk.gemm(A, B, mk.Mesh(4), accumulate=a) - exact).max() for a in ("float32", "float16")}
    assert error["float16"] > 2 * error["float32"]


@pytest.mark.parametrize("algorithm", GEMMS)
@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0), (0, 0, 0)])
def test_empty_matrices(algorithm, shape):
    M, K, N = shape
    for method in ("fused", "lockstep"):
        C = mk.gemm(np.ones((M, K)), np.ones((K, N)), _mesh(algorithm, 3, 2), algorithm=algorithm, method=method)
        assert C.shape == (M, N) and not C.any()


@pytest.mark.parametrize("algorithm", GEMMS)
@pytest.mark.parametrize("method", ["fused", "lockstep"])
def test_nan_and_inf_stay_in_their_row_and_column(algorithm, method):
    """Padding must not spread what is not finite: the same entries as in NumPy are not finite."""
    rng = np.random.default_rng(1)
    A, B = rng.standard_normal((7, 10)).astype("f4"), rng.standard_normal((10, 5)).astype("f4")
    A[2, 9], B[9, 3], B[0, 0] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        expected = A @ B
    got = mk.gemm(A, B, _mesh(algorithm, 4, 3), algorithm=algorithm, method=method)
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    assert np.array_equal(np.isposinf(got), np.isposinf(expected))
    assert np.array_equal(np.isneginf(got), np.isneginf(expected))


def test_mixed_dtypes_promote_like_numpy():
    A, B = np.ones((3, 4), np.float16), np.ones((4, 2), np.float64)
    assert mk.gemm(A, B, mk.Mesh(2)).dtype == (A @ B).dtype == np.float64


def test_out():
    A, B = np.ones((4, 4), np.float32), np.ones((4, 4), np.float32)
    out = np.empty((4, 4), np.float32)
    assert mk.gemm(A, B, mk.Mesh(2), out=out) is out and np.all(out == 4)


@pytest.mark.parametrize("algorithm", ["meshgemm", "summa"])
def test_coprime_sides(algorithm):
    """The logical grid has lcm(rows, cols) K-blocks, here far more than K has elements; nothing depends on it."""
    rng = np.random.default_rng(4)
    A, B = rng.standard_normal((180, 100)).astype("f4"), rng.standard_normal((100, 179)).astype("f4")
    C = mk.gemm(A, B, mk.Mesh(180, 179), algorithm=algorithm)
    assert np.all(abs(C - A.astype(float) @ B.astype(float)) <= oracle.dot_bound(A, B, 100))


def test_wafer_sized_mesh():
    """720 x 720 cores, tile 12: sampled entries against float64."""
    rng = np.random.default_rng(2)
    n = 8640
    A, B = rng.standard_normal((n, n), np.float32), rng.standard_normal((n, n), np.float32)
    C = mk.gemm(A, B, mk.Mesh(720))
    for i, j in rng.integers(0, n, (200, 2)):
        exact = A[i].astype(np.float64) @ B[:, j].astype(np.float64)
        assert abs(C[i, j] - exact) <= oracle.dot_bound(A[i : i + 1], B[:, j : j + 1], n)
