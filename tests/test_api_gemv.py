"""Matrix-vector products and all-reduces: NumPy, the published order of additions, and both executors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import meshkernels as mk
from meshkernels.algorithms import known
from meshkernels.readers.lockstep import walk
from tests import oracle

REDUCTIONS = list(known("reduce"))


@given(
    st.sampled_from(REDUCTIONS), st.integers(1, 9), st.integers(1, 9), st.integers(0, 60), st.integers(0, 60),
    st.sampled_from([0, 1]), st.sampled_from(["float32", "float64", "float16"]), st.integers(0, 999),
)  # fmt: skip
def test_any_shape_and_grid(reduce, rows, cols, K, N, axis, dtype, seed):
    rng = np.random.default_rng(seed)
    x, W = rng.standard_normal(K).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    mesh = mk.Mesh(rows, cols)
    fused = mk.gemv(x, W, mesh, reduce=reduce, axis=axis)
    lockstep = mk.gemv(x, W, mesh, reduce=reduce, axis=axis, method="lockstep")
    assert fused.shape == (N,) and fused.dtype == x.dtype
    assert fused.tobytes() == lockstep.tobytes()
    exact = x.astype(np.float64) @ W.astype(np.float64)
    assert np.all(abs(fused.astype(np.float64) - exact) <= oracle.product_bound(x[None], W, exact[None])[0])


@st.composite
def _groups(draw):
    P, levels = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    counts = []
    for _ in range(levels - 1):
        counts.append(draw(st.integers(1, counts[-1] if counts else P)))
    return P, levels, tuple(counts)


@given(_groups(), st.sampled_from(["add", "max"]), st.sampled_from([0, 1]), st.booleans())
def test_ktree_of_any_levels_and_uneven_groups(tree, op, axis, broadcast):
    P, levels, groups = tree
    rng = np.random.default_rng(P)
    mesh = mk.Mesh(P, 3) if axis == 0 else mk.Mesh(3, P)
    values = rng.integers(-50, 50, (*mesh.shape, 4)).astype(np.float32)  # sums are exact: any order gives them
    got = mk.allreduce(values, mesh, axis=axis, op=op, levels=levels, groups=groups, broadcast=broadcast)
    assert np.array_equal(got, values.sum(axis) if op == "add" else values.max(axis))


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1])
def test_broadcast_reaches_every_core(reduce, axis):
    """Not only the root that the result is collected from."""
    from meshkernels.algorithms.gemv import allreduce
    from meshkernels.readers.lockstep import move_values, spread
    from meshkernels.schedules.motion import Arrivals

    mesh = mk.Mesh(5, 7)
    plan = allreduce(mesh, 9, axis=axis, reduce=reduce)
    values = np.random.default_rng(0).integers(-9, 9, (5, 7, 1, 9)).astype(np.float64)
    buffer = plan.buffers["y"]
    state = {"y": spread(values, buffer.pieces, buffer.shape[1]).copy()}
    arrivals = Arrivals(mesh)
    for step in plan.steps:
        move_values(arrivals, step, state)
    on_cores = np.moveaxis(state["y"], 0, 3).reshape(5, 7, -1)[..., :9]
    expected = np.broadcast_to(values[:, :, 0].sum(axis, keepdims=True), (5, 7, 9))
    assert np.array_equal(on_cores, expected)


def _two_phase(partials: np.ndarray, G: int) -> np.float16:
    """The published two-phase tree, in float16, over groups of equal size; partials: (P,)."""
    def group_sum(v, r):  # the root adds the stream from below (higher index) first, then the one from above
        below = v[-1] if r < len(v) - 1 else None
        for i in range(len(v) - 2, r, -1):
            below = np.float16(below + v[i])
        above = v[0] if r > 0 else None
        for i in range(1, r):
            above = np.float16(above + v[i])
        total = v[r]
        for stream in (below, above):
            if stream is not None:
                total = np.float16(total + stream)
        return total

    g = len(partials) // G
    roots = [group_sum(list(partials[i * g : (i + 1) * g]), g // 2) for i in range(G)]
    return group_sum(roots, G // 2)


@pytest.mark.parametrize(("P", "G"), [(8, 2), (12, 3), (12, 4), (15, 5), (16, 4), (6, 6), (7, 1)])
def test_published_order_of_the_two_phase_tree(P, G):
    """float16 addition is not associative: the tree must add in the published order."""
    rng = np.random.default_rng(P + G)
    values = (rng.standard_normal((P, 1, 50)) * 10.0 ** rng.integers(-2, 3, (P, 1, 50))).astype(np.float16)
    got = mk.allreduce(values, mk.Mesh(P, 1), groups=G, accumulate="float16")
    expected = np.array([_two_phase(values[:, 0, j], G) for j in range(50)], np.float16)
    assert got[0].tobytes() == expected.tobytes()


def test_axis_one_reads_the_transposed_placement():
    """Alternating the axis chains products without moving a vector between axes."""
    plan = mk.schedule("ktree", mk.Mesh(2, 3), 6, 4, axis=1)
    _, _, holds = next(walk(plan))
    tile = holds["W"][1, 2, 0]  # core (y, x) = (1, 2) holds input block x = 2, output block y = 1
    assert divmod(int(tile), plan.operands["W"].grid[1]) == (2, 1)
    assert plan.operands["x"].grid == (1, 3)


def test_integer_sums_are_exact_through_long_trees():
    x, W = np.ones(1000), np.arange(2000.0).reshape(1000, 2)
    for groups in (1, 2, 7, 30, 100):
        y = mk.gemv(x, W, mk.Mesh(100, 2), groups=groups)
        assert np.array_equal(y, x @ W)
