"""Weights placed once: the same bits as weights handed over each time, and clear refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import meshkernels as mk
from meshkernels.kernels import host


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 30), st.integers(1, 30),
       st.sampled_from(["float16", "float32", "float64"]), st.integers(0, 99))  # fmt: skip
def test_same_bits_as_unplaced(rows, cols, K, N, dtype, seed):
    rng = np.random.default_rng(seed)
    mesh, W = mk.Mesh(rows, cols), rng.standard_normal((K, N)).astype(dtype)
    placed = mk.place(W, mesh)
    for M in (1, 5, 17):  # one arrangement serves any number of rows
        A = rng.standard_normal((M, K)).astype(dtype)
        for algorithm in ("meshgemm", "summa", "cannon"):
            got = mk.gemm(A, placed, mesh, algorithm=algorithm)
            assert got.tobytes() == mk.gemm(A, W, mesh, algorithm=algorithm, method="lockstep").tobytes()
    x = rng.standard_normal(K).astype(dtype)
    for axis in (0, 1):
        got = mk.gemv(x, placed, mesh, axis=axis)
        assert got.tobytes() == mk.gemv(x, W, mesh, axis=axis, method="lockstep").tobytes()


def test_arranged_once():
    placed = mk.place(np.ones((8, 8), np.float32), mk.Mesh(4))
    for _ in range(3):
        mk.gemm(np.ones((2, 8), np.float32), placed, mk.Mesh(4))
        mk.gemv(np.ones(8, np.float32), placed, mk.Mesh(4))
    assert len(placed._arranged) == 2


def test_mixed_dtypes_promote():
    placed = mk.place(np.ones((4, 4), np.float32), mk.Mesh(2))
    assert mk.gemm(np.ones((2, 4)), placed, mk.Mesh(2)).dtype == np.float64


def test_another_mesh_is_refused():
    placed = mk.place(np.ones((4, 4), np.float32), mk.Mesh(2))
    with pytest.raises(mk.MeshError, match=r"placed on Mesh\(rows=2, cols=2\), the product runs on Mesh\(rows=4"):
        mk.gemm(np.ones((4, 4), np.float32), placed, mk.Mesh(4))
    with pytest.raises(TypeError, match="W has dtype int32"):
        mk.place(np.ones((4, 4), np.int32), mk.Mesh(2))
    with pytest.raises(mk.MeshError, match="3 dimensions"):
        mk.place(np.ones((1, 2, 3)), mk.Mesh(2))


@pytest.mark.parametrize("width", ["avx2", "portable"])
def test_another_width_of_vectors_arranges_anew(width):
    rng = np.random.default_rng(3)
    mesh, W, A = mk.Mesh(3), rng.standard_normal((20, 50)).astype("f4"), rng.standard_normal((7, 20)).astype("f4")
    placed = mk.place(W, mesh)
    product, vector = mk.gemm(A, placed, mesh), mk.gemv(A[0], placed, mesh)
    with host.force_simd(width):
        assert mk.gemm(A, placed, mesh).tobytes() == product.tobytes()
        assert mk.gemv(A[0], placed, mesh).tobytes() == vector.tobytes()
