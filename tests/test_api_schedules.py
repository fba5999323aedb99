"""Schedules that a user has in hand, given to the verbs."""

from dataclasses import replace

import numpy as np
import pytest

import meshkernels as mk
from meshkernels import schedules as S
from meshkernels.algorithms import _FAMILIES, chain

rng = np.random.default_rng(3)


def _renamed(given, names):
    """The same schedule with its operands called otherwise."""
    return replace(given, task=replace(given.task, operands=tuple(names[n] for n in given.task.operands)),
                   operands={names[n]: tiling for n, tiling in given.operands.items()},
                   buffers={n: replace(b, operand=names[b.operand]) if isinstance(b, S.Tiles) else b
                            for n, b in given.buffers.items()})  # fmt: skip


@pytest.mark.parametrize("names", [{"A": "B", "B": "A"}, {"A": "left", "B": "right"}])
@pytest.mark.parametrize("method", ["fused", "lockstep"])
def test_a_schedule_may_call_its_operands_as_it_likes(names, method):
    """The verb passes them in the order of the task, which says what is computed."""
    A, B = rng.integers(-9, 9, (2, 6, 6)).astype(float)
    mine = _renamed(mk.schedule("cannon", mk.Mesh(3), 6, 6, 6), names)
    np.testing.assert_array_equal(mk.gemm(A, B, mk.Mesh(3), algorithm=mine, method=method), A @ B)
    mine = _renamed(mk.schedule("meshgemm_t", mk.Mesh(3), 6, 6, 6), names)
    np.testing.assert_array_equal(mk.gemm_t(A, B, mk.Mesh(3), algorithm=mine, method=method), A @ B.T)


def test_a_name_that_is_registered_again_reduces_by_the_new_builder():
    values, mesh = np.ones((4, 4, 3)), mk.Mesh(4)
    try:
        mk.register("reduce", "again")(lambda *given, **options: chain.two_sided(*given, **options))
        assert mk.allreduce(values, mesh, reduce="again", ledger=True)[1].critical_hops == 2 + 2
        mk.register("reduce", "again", replace=True)(lambda *given, **options: chain.pipeline(*given, **options))
        assert mk.allreduce(values, mesh, reduce="again", ledger=True)[1].critical_hops == 3 + 3
    finally:
        _FAMILIES["reduce"].pop("again", None)


def test_meshes_by_number_and_pair():
    A, W = rng.standard_normal((2, 6, 6))
    for given, mesh in ((3, mk.Mesh(3)), ((3, 2), mk.Mesh(3, 2)), (np.int64(2), mk.Mesh(2))):
        assert mk.gemm(A, W, given).tobytes() == mk.gemm(A, W, mesh).tobytes()
        assert mk.gemv(A[0], mk.place(W, given), given).tobytes() == mk.gemv(A[0], W, mesh).tobytes()
        assert mk.schedule("summa", given, 6, 6, 6) == mk.schedule("summa", mesh, 6, 6, 6)
    assert mk.allreduce(np.ones((2, 3, 1)), (2, 3)).tolist() == [[2.0]] * 3
    assert mk.alltoall(np.ones((2, 3, 3, 1)), (2, 3)).shape == (2, 3, 3, 1)


def test_the_nearest_algorithm_is_named():
    with pytest.raises(mk.MeshError, match=r"unknown gemm algorithm 'meshgem'; known: .*; did you mean 'meshgemm'"):
        mk.gemm(np.eye(2), np.eye(2), 2, algorithm="meshgem")
