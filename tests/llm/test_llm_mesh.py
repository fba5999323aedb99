"""Products, reductions and attention kernels as a block uses them give the bits that the stepping mesh gives."""

import numpy as np
import pytest
from llama_reference import Synthetic, tiny

import meshkernels as mk
from meshkernels.kernels import attention as kernels
from meshkernels.kernels import elementwise
from meshkernels.kernels import team as team_module
from meshkernels.kernels.pack import columns
from meshkernels.kernels.team import Team
from meshkernels.llm import Llama, Scheduled

GRIDS = [(1, 1), (2, 3), (5, 5), (8, 4), (24, 24)]
DRAW = np.random.default_rng(0).standard_normal


def array(*shape: int) -> np.ndarray:
    return DRAW(shape).astype(np.float32)


def exponentials(x: np.ndarray) -> np.ndarray:
    """Those of float32 numbers, which `tests/kernels/test_program.py` holds against NumPy's."""
    found = x.copy()
    elementwise.exponentials(found.reshape(-1), False)
    return found


def present(bounds: np.ndarray, mesh: mk.Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The additions of an all-reduce along y, of rows of cores with entries."""
    dst, src, root = Scheduled(mesh, (4,), 0).order
    found = np.empty_like(dst), np.empty_like(src), np.empty(3, np.int64)
    kernels.present(bounds, dst, src, root, *found)
    return found


def half(*shape: int) -> np.ndarray:
    """float16 values in a float32 array, as the model keeps them."""
    return array(*shape).astype(np.float16).astype(np.float32)


def gemv(W, mesh, axis, accumulate="float32", team=None):
    """A GEMV as decode prepares it."""
    return Scheduled(mesh, W.shape, axis).prepared(columns(W), team or Team(1), accumulate)


def product(A, B, mesh, algorithm="meshgemm"):
    """A matrix product as prefill does it."""
    return Scheduled(mesh, (*A.shape, B.shape[algorithm == "meshgemm"]), algorithm=algorithm).multiply(A, B)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_gemv(grid, axis):
    mesh, x, W = mk.Mesh(*grid), array(37), array(37, 51)
    expected = mk.gemv(x, W, mesh, axis=axis, method="lockstep")
    assert np.array_equal(gemv(W, mesh, axis)(x[None])[0], expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_gemv_by_a_team(threads, monkeypatch):
    monkeypatch.setattr(team_module, "_cores", lambda: threads)  # more than there are: they take turns
    mesh, team = mk.Mesh(5), Team(threads)
    weights = [array(37, n) for n in (1, 15, 576, 9001)]
    products = [gemv(W, mesh, 0, team=team) for W in weights]
    xs = [array(37) for _ in range(20)]
    expected = [[mk.gemv(x, W, mesh) for W in weights] for x in xs]
    with team.awake():
        for x, results in zip(xs, expected):
            for product, result in zip(products, results):
                assert np.array_equal(product(x[None])[0], result)
    asleep = products[-1](xs[0][None])[0]  # the leader alone does it all
    assert np.array_equal(asleep, expected[0][-1])


@pytest.mark.parametrize("cores, asked, threads", [(1, 4, 1), (2, 4, 2), (8, 3, 3)])
def test_a_team_is_no_larger_than_the_cores_it_may_use(monkeypatch, cores, asked, threads):
    monkeypatch.setattr(team_module.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert Team(asked).threads == threads


@pytest.mark.parametrize("grid", GRIDS[:4], ids=str)
def test_gemv_in_float16(grid):
    mesh, x, W = mk.Mesh(*grid), half(37), half(37, 51)
    expected = mk.gemv(x.astype(np.float16), W.astype(np.float16), mesh, accumulate="float16", method="lockstep")
    assert np.array_equal(gemv(W, mesh, 0, "float16")(x[None])[0], expected)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gemm_and_gemm_t(grid):
    mesh, X, W, K = mk.Mesh(*grid), array(13, 22), array(22, 31), array(17, 22)
    weighted = Scheduled(mesh, (13, 22, 31), algorithm="meshgemm").prepared(columns(W), Team(1))
    assert np.array_equal(weighted(X), mk.gemm(X, W, mesh, method="lockstep"))
    assert np.array_equal(product(X, W, mesh), mk.gemm(X, W, mesh, method="lockstep"))
    for name in ("gemm_t", "meshgemm_t"):
        assert np.array_equal(product(X, K, mesh, name), mk.gemm_t(X, K, mesh, algorithm=name, method="lockstep"))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_allreduce(grid, axis):
    mesh, partials = mk.Mesh(*grid), array(grid[axis], 9)
    values = np.expand_dims(partials, 1 - axis).repeat(grid[1 - axis], 1 - axis)
    expected = mk.allreduce(values, mesh, axis=axis)
    assert np.array_equal(Scheduled(mesh, (9,), axis).combine(partials.copy()), expected[0])


@pytest.mark.parametrize("rows", [1, 3, 8, 24])
def test_square_sums_are_a_gemv_with_itself(rows):
    mesh, x = mk.Mesh(rows, 1), array(1, 100)
    expected = mk.gemv(x[0], np.ascontiguousarray(x.T), mesh, method="lockstep")
    sums = np.empty((rows, 1), np.float32)
    kernels.square_sums(0, 1, x, -(-100 // rows), False, sums)
    assert np.array_equal(Scheduled(mesh, (1,), 0).combine(sums), expected)


@pytest.mark.parametrize("cols", [1, 2, 3, 8])
@pytest.mark.parametrize("tokens", [1, 9, 600])
def test_scores_are_gemvs_along_x(cols, tokens):
    mesh, width = mk.Mesh(2, cols), 4
    q, keys = array(4, cols * width), array(2, cols * width, tokens)  # two query heads share a key head
    found, order = np.empty((4, tokens), np.float32), Scheduled(mesh, (1,), 1).order
    for h in range(4):
        kernels.scores(h, q, keys, np.array([0, tokens]), width, *order, np.float32(0.5), False, found)
        expected = mk.gemv(q[h], keys[h // 2], mesh, axis=1, method="lockstep") * np.float32(0.5)
        assert np.array_equal(found[h], expected)


@pytest.mark.parametrize("rows, each", [(1, 7), (2, 4), (5, 3), (24, 2)])
def test_sum_and_mix_are_gemvs_along_y(rows, each):
    """With level rows the cache is cut as a GEMV cuts it."""
    mesh, tokens, bounds = mk.Mesh(rows, 2), rows * each, each * np.arange(rows + 1)
    p, values, order = np.abs(array(4, tokens)), array(2, tokens, 6), present(bounds, mesh)
    found, normal = np.empty((4, 6), np.float32), p.copy()
    for h in range(4):
        kernels.softmax(h, normal, bounds, *order, False, False)
        kernels.mix(h, p, values, bounds, *order, False, found)
        e = exponentials(p[h] - p[h].max())
        total = mk.gemv(e, np.ones((tokens, 1), np.float32), mesh, method="lockstep")[0]
        assert np.array_equal(normal[h], e * (np.float32(1) / total))
        assert np.array_equal(found[h], mk.gemv(p[h], values[h // 2], mesh, method="lockstep"))


@pytest.mark.parametrize("ends", [(3, 3, 8, 9), (0, 0, 1, 2), (5,)], ids=str)
def test_rows_of_any_length_are_combined_as_the_all_reduce_combines_them(ends):
    """Partial values of each row of cores, by NumPy, one after the other; then the verb."""
    mesh, S = mk.Mesh(len(ends), 3), array(2, ends[-1])
    parts = [S[:, begin:end] for begin, end in zip([0, *ends], ends)]

    def everywhere(partials, op):
        return mk.allreduce(np.repeat(np.array(partials, np.float32)[:, None], 3, 1), mesh, axis=0, op=op)[0]

    largest = everywhere([part.max(1, initial=-np.inf) for part in parts], "max")
    parts = [exponentials(part - largest[:, None]) for part in parts]
    sums = everywhere([part.cumsum(1, dtype=np.float32)[:, -1] if part.size else [0, 0] for part in parts], "add")
    for h in range(2):
        kernels.softmax(h, S, np.array([0, *ends]), *present(np.array([0, *ends]), mesh), False, False)
    assert np.array_equal(S, np.concatenate(parts, axis=1) * (np.float32(1) / sums)[:, None])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_embedding_is_the_all_reduce_of_one_row_and_zeros(grid):
    """Bit by bit: of the cores of a line one has the row, and zeros of either sign end as the mesh leaves them."""
    source = Synthetic(tiny())
    source._tensors["token_embd.weight"][::2, ::3] = -0.0
    model, mesh, token = Llama(source, mk.Mesh(*grid)), mk.Mesh(*grid), 4
    seen = {}
    model.hooks.append(lambda block, op, values: seen.setdefault(op.name, values[op.writes[0]]))
    model.decode(token)
    row = source.tensor("token_embd.weight")[token]
    tile = -(-len(row) // mesh.rows)
    values = np.zeros((*mesh.shape, tile), np.float32)  # core (y, x): features of row y, rows of the table of column x
    owner = token // -(-model.config.vocab // mesh.cols)
    for y in range(mesh.rows):
        mine = row[y * tile : y * tile + tile]
        values[y, owner, : len(mine)] += mine
    found = mk.allreduce(values, mesh, axis=1).ravel()[: len(row)]  # whatever is beyond its end is padding
    assert seen["embedding"][0].tobytes() == found.tobytes()


@pytest.mark.parametrize("cols, length", [(1, 5), (3, 10), (8, 8), (5, 12), (4, 70)])
def test_causal_softmax(cols, length):
    S = array(2, length, length)
    scaled = S * np.float32(0.5)
    expected = np.where(np.tri(length, dtype=bool), scaled, -np.inf).astype(np.float64)
    expected = np.exp(expected - expected.max(-1, keepdims=True))
    order = Scheduled(mk.Mesh(1, cols), (1,), 1).order
    for item in range(3):
        kernels.causal_softmax(item, 3, S, np.float32(0.5), -(-length // cols), *order, False, False)
    np.testing.assert_allclose(S, expected / expected.sum(-1, keepdims=True), rtol=2e-6)
    assert not S[:, ~np.tri(length, dtype=bool)].any()
    last = exponentials(scaled[:, -1] - scaled[:, -1].max(-1, keepdims=True))
    for found, row in zip(S[:, -1], last):
        total = mk.gemv(row, np.ones((length, 1), np.float32), mk.Mesh(1, cols), axis=1, method="lockstep")[0]
        assert np.array_equal(found, row * (np.float32(1) / total))
