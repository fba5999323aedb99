"""Softmax states combined on the mesh: SciPy in float64, extremes, both executors, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

import meshkernels as mk
from meshkernels.algorithms import gemv

EXTREME = [-np.inf, -1e4, -700.0, 0.0, 0.5, 700.0, 1e4]


def states(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``(..., t)`` scores and ``(..., t, d)`` values -> states ``(..., 2 + d)``, by NumPy."""
    m = scores.max(-1, keepdims=True)
    p = np.exp(scores - np.where(np.isneginf(m), 0, m))
    return np.concatenate([m, p.sum(-1, keepdims=True), (p[..., None] * values).sum(-2)], axis=-1)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 1]), st.sampled_from(["ktree", "chain", "pipeline"]),
       st.sampled_from(["float32", "float64"]), st.integers(0, 999))  # fmt: skip
def test_states_against_scipy(rows, cols, axis, reduce, dtype, seed):
    rng = np.random.default_rng(seed)
    found = rng.uniform(0.1, 2.0, (rows, cols, 3, 4)).astype(dtype)
    found[..., 0] = rng.choice([*EXTREME, *rng.uniform(-90, 90, 3)], (rows, cols, 3))
    got = mk.allreduce(found, mk.Mesh(rows, cols), axis=axis, op="logsumexp", reduce=reduce)
    assert got.dtype == found.dtype and got.shape == (mk.Mesh(rows, cols).lines(axis), 3, 4)
    with np.errstate(divide="ignore"):
        exact = logsumexp(found[..., :1].astype(float), axis=axis, b=found[..., 1:].astype(float))
        logs = got[..., :1].astype(float) + np.log(got[..., 1:].astype(float))
    assert np.array_equal(got[..., 0], found[..., 0].max(axis))
    np.testing.assert_allclose(logs, exact, rtol=1e-13 if dtype == "float64" else 1e-6, atol=1e-5)


@pytest.mark.parametrize("masked", [[], [0], [3, 4], [0, 1, 2, 3, 4, 5, 6]], ids=str)
def test_softmax_of_a_column_cut_over_cores(masked):
    """(max, sum, weighted values) of each core give softmax(S) V; cores with nothing but masked scores add nothing."""
    rng, mesh = np.random.default_rng(0), mk.Mesh(7, 1)
    S, V = rng.standard_normal((2, 7, 5)) * 30, rng.standard_normal((7, 5, 3))
    S[:, masked] = -np.inf
    local = states(S, V)  # (heads, 7, 5)
    got = mk.allreduce(local.swapaxes(0, 1)[:, None], mesh, op="logsumexp")[0]
    if len(masked) == 7:
        assert np.isneginf(got[:, 0]).all() and not got[:, 1:].any()
    else:
        expected = softmax(S.reshape(2, -1), axis=1) @ V.reshape(-1, 3)
        np.testing.assert_allclose(got[:, 2:] / got[:, 1:2], expected, rtol=1e-12, atol=1e-15)


def test_what_is_no_number_is_kept():
    values = np.array([[[1.0, 2.0]], [[np.nan, 1.0]], [[np.inf, 1.0]]])
    assert np.isnan(mk.allreduce(values, mk.Mesh(3, 1), op="logsumexp")).all()
    assert mk.allreduce(values[[0, 2, 2]], mk.Mesh(3, 1), op="logsumexp").tolist() == [[np.inf, 2.0]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("grid", [(1, 1), (5, 2), (1, 7)], ids=str)
def test_both_executors_and_the_ledger(grid, dtype):
    pytest.importorskip("ml_dtypes")
    mesh = mk.Mesh(*grid)
    schedule = gemv.allreduce(mesh, 5, axis=1, op="logsumexp", height=2)
    x = np.random.default_rng(1).uniform(0.5, 3, schedule.operands["x"].shape).astype(dtype)
    accumulate = "float16" if dtype == "float16" else None
    fused, lockstep = (mk.run(schedule, {"x": x}, method=m, accumulate=accumulate) for m in ("fused", "lockstep"))
    assert fused.tobytes() == lockstep.tobytes()
    added = mk.count(gemv.allreduce(mesh, 5, axis=1, height=2))
    counted = mk.count(schedule)
    assert (counted.words, counted.critical_hops, counted.stages) == (added.words, added.critical_hops, added.stages)
    assert mk.Schedule.from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize("shape", [(2, 3, 0), (2, 3, 0, 4), (2, 3, 4, 0)], ids=str)
def test_nothing_to_combine(shape):
    for axis in (0, 1):
        got = mk.allreduce(np.ones(shape), mk.Mesh(2, 3), axis=axis)
        assert got.shape == ((3, 2)[axis], *shape[2:])


def test_half_of_a_state_is_refused():
    with pytest.raises(mk.MeshError, match="a softmax state is whole; use 'ktree'"):
        mk.allreduce(np.ones((2, 1, 8)), mk.Mesh(2, 1), op="logsumexp", reduce="ring")
    summed = gemv.allreduce(mk.Mesh(2, 1), 8, reduce="ring")
    text = summed.to_json().replace('"combine":"add"', '"combine":"logsumexp"')
    with pytest.raises(mk.ScheduleError, match="logsumexp combines whole rows of 8, not parts of 4"):
        mk.Schedule.from_json(text.replace('"kind":"allreduce"', '"kind":"allreduce","op":"logsumexp"'))
    with pytest.raises(mk.MeshError, match="at least 1 element"):
        mk.allreduce(np.ones((2, 1, 0)), mk.Mesh(2, 1), op="logsumexp")
    with pytest.raises(mk.MeshError, match="known: 'add', 'max', 'logsumexp'"):
        mk.allreduce(np.ones((2, 1, 1)), mk.Mesh(2, 1), op="sum")
    product = mk.schedule("ktree", mk.Mesh(2), 4, 4)
    with pytest.raises(mk.ScheduleError, match=r"task\.op is 'logsumexp'"):
        mk.verify(replace(product, task=replace(product.task, op="logsumexp")))
