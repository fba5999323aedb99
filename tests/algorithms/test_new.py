"""HSUMMA, 2.5D, MeshGEMM-T, transpose and all-to-all: against NumPy, counts by hand, verdicts; `mk.run` and options."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import meshkernels as mk
from meshkernels.algorithms import _FAMILIES
from tests import oracle

sizes = st.integers(0, 25)


def _both(call):
    fused, lockstep = call(method="fused"), call(method="lockstep")
    assert fused.tobytes() == lockstep.tobytes()
    return fused


@given(st.sampled_from([(1, 1), (2, 2), (2, 4), (3, 3), (3, 9), (4, 4), (4, 8), (4, 16)]),
       st.sampled_from(["natural", "interleaved"]), sizes, sizes, sizes, st.integers(0, 99))  # fmt: skip
def test_cannon25d(grid, ring, M, K, N, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((M, K)).astype("f4"), rng.standard_normal((K, N)).astype("f4")
    C = _both(lambda **more: mk.gemm(A, B, mk.Mesh(*grid), algorithm="cannon25d", ring=ring, **more))
    assert np.all(abs(C - A.astype(float) @ B) <= oracle.dot_bound(A, B, max(K, 1)))


@given(st.integers(1, 8), st.integers(1, 8), sizes, sizes, sizes, st.integers(0, 99))
def test_hsumma_with_any_groups(rows, cols, M, K, N, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((M, K)).astype("f4"), rng.standard_normal((K, N)).astype("f4")
    mesh = mk.Mesh(rows, cols)
    plain = mk.gemm(A, B, mesh, algorithm="summa")
    for groups in (None, *(n for n in range(1, 9) if rows % n == cols % n == 0)):
        C = _both(lambda groups=groups, **more: mk.gemm(A, B, mesh, algorithm="hsumma", groups=groups, **more))
        assert C.tobytes() == plain.tobytes(), "the order of SUMMA"


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    sizes,
    sizes,
    sizes,
    st.sampled_from(["float32", "float16", "float64"]),
    st.integers(0, 99),
)
def test_meshgemm_t(rows, cols, M, K, N, dtype, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((N, K)).astype(dtype)
    C = _both(lambda **more: mk.gemm_t(A, B, mk.Mesh(rows, cols), algorithm="meshgemm_t", **more))
    exact = A.astype(float) @ B.T.astype(float)
    if dtype == "float64":
        np.testing.assert_allclose(C, exact, rtol=1e-13, atol=1e-13)
    else:
        assert np.all(abs(C.astype(float) - exact) <= oracle.product_bound(A, B.T, exact))


@given(st.integers(1, 7), st.integers(1, 7), sizes, sizes, st.sampled_from(["float32", "float16", "float64"]))
def test_transpose(rows, cols, M, N, dtype):
    A = np.random.default_rng(M).standard_normal((M, N)).astype(dtype)
    assert np.array_equal(_both(lambda **more: mk.transpose(A, mk.Mesh(rows, cols), **more)), A.T)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 5), st.sampled_from([0, 1]))
def test_alltoall(rows, cols, n, axis):
    P = (rows, cols)[axis]
    values = np.random.default_rng(n).standard_normal((rows, cols, P, n))
    got = _both(lambda **more: mk.alltoall(values, mk.Mesh(rows, cols), axis=axis, **more))
    for y, x, j in np.ndindex(rows, cols, P):  # core (y, x) got from the j-th core of its line what that had for it
        sent = values[j, x, y] if axis == 0 else values[y, j, x]
        assert np.array_equal(got[y, x, j], sent)


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (7, 3), (3, 7), (8, 2), (2, 8), (6, 4), (24, 8)], ids=str)
def test_what_meshgemm_t_leaves_skewed_meshgemm_takes(grid):
    """S = Q K^T lies where the alignment of S V wants it: two rounds of alignment fewer, the same bits."""
    mesh, rng = mk.Mesh(*grid), np.random.default_rng(0)
    Q, K, V = (rng.standard_normal(shape).astype("f4") for shape in ((13, 9), (17, 9), (17, 11)))
    first = mk.schedule("meshgemm_t", mesh, 13, 9, 17, skewed="C")
    then = mk.schedule("meshgemm", mesh, 13, 17, 11, skewed="A")
    mk.verify(first), mk.verify(then)
    shape = (*mesh.shape, first.slots("C"))
    for left, taken in zip(first.collect.place.at(mesh, shape[2]), then.buffers["A"].home.at(mesh, shape[2])):
        assert np.array_equal(np.broadcast_to(left, shape), np.broadcast_to(taken, shape))
    S = _both(lambda **more: mk.run(first, {"A": Q, "B": K}, **more))
    assert S.tobytes() == mk.gemm_t(Q, K, mesh).tobytes()
    O = _both(lambda **more: mk.run(then, {"A": S, "B": V}, **more))
    assert O.tobytes() == mk.gemm(S, V, mesh).tobytes()
    both = mk.schedule("meshgemm", mesh, 13, 17, 11, skewed="AB")
    mk.verify(both)
    assert len(both.steps) == mesh.lcm and _both(lambda **more: mk.run(both, {"A": S, "B": V}, **more)).tobytes() == (
        O.tobytes())
    aligned = [mk.schedule("meshgemm_t", mesh, 13, 9, 17), mk.schedule("meshgemm", mesh, 13, 17, 11)]
    fewer = [len(whole.steps) - len(short.steps) for whole, short in zip(aligned, (first, then))]
    assert fewer[0] == max(min(t, mesh.cols - t) for t in range(mesh.cols) if mesh.cols > 1 or t == 0)


@pytest.mark.parametrize("cols", range(1, 9))
@pytest.mark.parametrize("rows", range(1, 9))
def test_meshgemm_t_has_an_order_on_every_grid(rows, cols):
    """Where a tile of C has several blocks, they begin one after the other, between the blocks of K."""
    order = mk.verify(mk.schedule("meshgemm_t", mk.Mesh(rows, cols), 9, 9, 9)).order
    assert isinstance(order, mk.schedules.RingOrder) and sorted(order.blocks[order.blocks >= 0]) == list(range(cols))


# ------------------------------------------------------------------------------------------------- counts by hand
@pytest.mark.parametrize("P", [3, 4, 5, 8])
def test_meshgemm_t_by_hand(P):
    """P // 2 rounds align B, P - 1 shifts of B and of C, one more of C, P // 2 align C: none further than two hops."""
    ledger = mk.count(mk.schedule("meshgemm_t", mk.Mesh(P), 2 * P, 3 * P, 2 * P))
    turns = sum(min(oracle.pi(i, P), P - oracle.pi(i, P)) for i in range(P))
    assert (ledger.steps, ledger.hops_per_step, ledger.stages) == (2 * (P // 2) + P, 2, 0)
    assert ledger.words == P * (turns + P * (P - 1)) * 6 + P * (turns + P * P) * 4
    assert ledger.macs.tolist() == [[2 * 3 * 2 * P] * P] * P
    assert ledger.peak_bytes_per_core == 2 * (6 + 2 * 6 + 2 * 4)
    assert mk.compliance(mk.schedule("meshgemm_t", mk.Mesh(64), 256, 256, 256), "wse2").compliant


@pytest.mark.parametrize(("P", "G"), [(4, 2), (9, 3), (16, 4)])
def test_hsumma_by_hand(P, G):
    """A panel goes between G groups, P - P / G hops at most, then within P / G cores: each of P panels, on P lines."""
    g = P // G
    ledger = mk.count(mk.schedule("hsumma", mk.Mesh(P), P, P, P, groups=G))
    assert ledger.steps == P + 2
    assert ledger.hops_per_step == max(P - g, g - 1)
    assert ledger.words == 2 * P * P * (1 + G)
    assert ledger.stages == 0 and ledger.macs.sum() == P**3
    assert ledger.colours == 2 * (P + g), "P paths between groups and g within, on either axis"
    assert "L" in mk.compliance(mk.schedule("hsumma", mk.Mesh(64), 256, 256, 256), "wse2").fails


@pytest.mark.parametrize(("P", "c"), [(4, 1), (4, 2), (4, 4), (8, 2), (9, 3)])
def test_cannon25d_by_hand(P, c):
    """Each layer takes P / c steps; then P rows add up c partial sums at each of P places: c - 1 streamed to one."""
    ledger = mk.count(mk.schedule("cannon25d", mk.Mesh(P, c * P), P, P, P))
    moving = ledger.step_hops[1:-1]
    assert ledger.macs.tolist() == [[P // c] * (c * P)] * P
    assert moving.max(initial=0) <= 2 and ledger.step_hops[-1] == (c - 1) * P and ledger.step_stages[-1] == c - 1
    assert len(moving) - (P // c - 1) <= P // 2
    assert ledger.steps == 1 + len(moving) + 1


@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (4, 4), (5, 5)])
def test_transpose_by_hand(grid):
    """Core (y, x) sends its tile |y - x| links along the row and as many down the column."""
    P = grid[0]
    ledger = mk.count(mk.schedule("transpose", mk.Mesh(*grid), 2 * P, 3 * P))
    assert (ledger.steps, ledger.critical_hops, ledger.stages) == (1, 2 * (P - 1), 0)
    assert ledger.messages == P * (P - 1) and ledger.words == 6 * P * (P - 1)
    assert ledger.word_hops == 6 * sum(2 * abs(y - x) for y in range(P) for x in range(P))
    assert mk.compliance(ledger, "wse2").verdicts


@pytest.mark.parametrize("grid", [(3, 4), (1, 6), (5, 1), (4, 4)])
def test_alltoall_by_hand(grid):
    """P - 1 rounds; in round s the messages that wrap go P - s links, the others s."""
    for axis in (0, 1):
        P, lines = grid[axis], grid[1 - axis]
        ledger = mk.count(mk.schedule("alltoall", mk.Mesh(*grid), 3, axis=axis))
        assert ledger.steps == 1 + (P - 1) + 1
        assert ledger.step_hops.tolist() == [0, *(max(s, P - s) for s in range(1, P)), 0]
        assert ledger.messages == lines * P * (P - 1) and ledger.words == 3 * ledger.messages
        assert ledger.word_hops == 3 * lines * sum(abs(i - j) for i in range(P) for j in range(P))


# --------------------------------------------------------------------------------------------- run, options, names
def test_run_anything_that_one_has_in_hand():
    A, B = np.random.default_rng(0).standard_normal((2, 6, 6)).astype("f4")
    plan = mk.schedule("cannon25d", mk.Mesh(2, 4), 6, 6, 6, ring="natural")
    seen = []
    C, ledger = mk.run(plan, {"A": A, "B": B}, method="lockstep", observe=seen.append, ledger=True)
    assert len(seen) == len(plan.steps) and ledger.schedule is plan
    assert C.tobytes() == mk.gemm(A, B, mk.Mesh(2, 4), algorithm="cannon25d", ring="natural").tobytes()
    assert C.tobytes() == mk.gemm(A, B, mk.Mesh(2, 4), algorithm=plan).tobytes()
    out = np.empty((6, 6), np.float32)
    assert mk.run(plan, {"A": A, "B": B}, out=out) is out and out.tobytes() == C.tobytes()
    placed = mk.place(B, mk.Mesh(3))
    cannon = mk.schedule("cannon", mk.Mesh(3), 6, 6, 6)
    assert mk.run(cannon, {"A": A, "B": placed}).tobytes() == mk.run(cannon, {"A": A, "B": B}).tobytes()


def test_a_name_is_registered_again():
    build = _FAMILIES["gemm"]["summa"]
    mk.register("gemm", "mine")(build)
    try:
        A = np.eye(4)
        mk.gemm(A, A, mk.Mesh(2), algorithm="mine")
        with pytest.raises(mk.MeshError, match="replace=True takes its place"):
            mk.register("gemm", "mine")
        mk.register("gemm", "mine", replace=True)(_FAMILIES["gemm"]["cannon"])
        _, ledger = mk.gemm(A, A, mk.Mesh(2), algorithm="mine", ledger=True)
        assert ledger.schedule.name == "cannon", "no schedule of the old one is remembered"
        assert "mine" in mk.algorithms()["gemm"]
    finally:
        del _FAMILIES["gemm"]["mine"]
    assert mk.algorithms()["gemm_t"] == ("gemm_t", "meshgemm_t")
