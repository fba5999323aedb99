"""Each published defect of the original kernels, as a test that would have caught it."""

import numpy as np
import pytest

import meshkernels as mk
from meshkernels.readers.lockstep import walk
from tests import oracle

rng = np.random.default_rng(7)


@pytest.mark.parametrize("method", ["fused", "lockstep"])
def test_repeats_give_the_same_result(method):
    """Original: every run after the first is wrong (state of the alignment is used up)."""
    A, B = rng.standard_normal((12, 12)), rng.standard_normal((12, 12))
    runs = [mk.gemm(A, B, mk.Mesh(4), method=method) for _ in range(3)]
    assert np.array_equal(runs[0], runs[1]) and np.array_equal(runs[1], runs[2])
    np.testing.assert_allclose(runs[0], A @ B, rtol=1e-12)


@pytest.mark.parametrize("P", [3, 4, 5])
def test_odd_tile_areas_keep_their_last_element(P):
    """Original: tiles of 3 x 3 lose an element to messages truncated to even lengths."""
    A, B = rng.integers(-4, 5, (3 * P, 3 * P)).astype(float), rng.integers(-4, 5, (3 * P, 3 * P)).astype(float)
    assert np.array_equal(mk.gemm(A, B, mk.Mesh(P), method="lockstep"), A @ B)


@pytest.mark.parametrize("P", [1, 2])
@pytest.mark.parametrize("method", ["fused", "lockstep"])
def test_one_and_two_cores_a_side(P, method):
    """Original: P = 1 runs off the edge, P = 2 permutes W wrongly."""
    A, B = rng.integers(-4, 5, (6, 6)).astype(float), rng.integers(-4, 5, (6, 6)).astype(float)
    assert np.array_equal(mk.gemm(A, B, mk.Mesh(P), method=method), A @ B)


@pytest.mark.parametrize("groups", [1, 8])
def test_one_group_and_groups_of_one(groups):
    """Original: deadlock at G = 1 and at g = 1."""
    x, W = rng.integers(-4, 5, 16).astype(float), rng.integers(-4, 5, (16, 5)).astype(float)
    for method in ("fused", "lockstep"):
        assert np.array_equal(mk.gemv(x, W, mk.Mesh(8, 2), groups=groups, method=method), x @ W)


def test_groups_that_do_not_divide_the_column():
    """Original: cores beyond groups x size are silently left out."""
    x, W = np.ones(23), np.ones((23, 1))
    for groups in range(1, 24):
        assert mk.gemv(x, W, mk.Mesh(23, 1), groups=groups) == 23


def test_n_differs_from_k():
    """Original issue #7: M = 4, K = 4, N = 128 failed at run time, and results did not match."""
    A, B = rng.integers(-4, 5, (4, 4)).astype(float), rng.integers(-4, 5, (4, 128)).astype(float)
    for method in ("fused", "lockstep"):
        assert np.array_equal(mk.gemm(A, B, mk.Mesh(4), method=method), A @ B)


def test_alternating_axes_need_their_own_placement():
    """Original decode: W_O and W_down are uploaded in the plain placement, so every second product is wrong."""
    x = rng.integers(-3, 4, 12).astype(float)
    first, second = rng.integers(-3, 4, (12, 10)).astype(float), rng.integers(-3, 4, (10, 12)).astype(float)
    mesh = mk.Mesh(4, 5)
    for method in ("fused", "lockstep"):
        hidden = mk.gemv(x, first, mesh, axis=0, method=method)
        assert np.array_equal(mk.gemv(hidden, second, mesh, axis=1, method=method), x @ first @ second)
    plan = mk.schedule("ktree", mesh, 10, 12, axis=1)
    _, _, holds = next(walk(plan))
    in_block, out_block = np.divmod(holds["W"][..., 0], plan.operands["W"].grid[1])
    assert np.array_equal(in_block, np.broadcast_to(np.arange(5), (4, 5)))
    assert np.array_equal(out_block, np.broadcast_to(np.arange(4)[:, None], (4, 5)))


def test_the_maximum_of_negative_numbers():
    """Original softmax: the running maximum starts at 0."""
    values = -1 - rng.random((6, 3, 4))
    assert np.array_equal(mk.allreduce(values, mk.Mesh(6, 3), op="max"), values.max(axis=0))


def test_no_superfluous_last_exchange():
    """Original: the last step of the main loop still shifts both operands."""
    assert mk.schedule("meshgemm", mk.Mesh(6), 6, 6, 6).steps[-1].moves == ()


def test_rows_stop_turning_when_aligned():
    """Original: every row runs all P // 2 rounds of the skew, needed or not."""
    steps = mk.schedule("meshgemm", mk.Mesh(8), 8, 8, 8).steps
    turns = [step.moves[0].route.by for step in steps if step.label == "align"]
    busy = [sum(oracle.value(by, y, 0) != 0 for y in range(8)) for by in turns]
    assert busy == [7, 5, 3, 1]
