"""Stepping through the mesh: what an observer sees is what the algorithm's invariant says."""

import numpy as np
import pytest

import meshkernels as mk
from meshkernels.algorithms import known
from meshkernels.readers import lockstep
from tests import oracle


def test_invariant_of_meshgemm_at_every_step():
    """At time t core (y, x) holds A(y, k) and B(k, x) with k = rho(pi(y) + pi(x) - t)."""
    P, seen = 5, []

    def look(snapshot):
        if not snapshot.step.compute:
            return
        t = len(seen)
        k = np.array([[oracle.rho(oracle.pi(y, P) + oracle.pi(x, P) - t, P) for x in range(P)] for y in range(P)])
        y, x = np.indices((P, P))
        assert np.array_equal(snapshot.holds["A"][..., 0], y * P + k)
        assert np.array_equal(snapshot.holds["B"][..., 0], k * P + x)
        seen.append(snapshot.values["C"].copy())

    A, B = np.random.default_rng(0).standard_normal((2, 10, 10))
    C = mk.gemm(A, B, mk.Mesh(P), method="lockstep", observe=look)
    assert len(seen) == P
    assert np.array_equal(seen[-1][0].swapaxes(1, 2).reshape(10, 10), C), "partial sums grow into the result"


@pytest.mark.parametrize("name", [*known("gemm"), *known("gemm_t")])
@pytest.mark.parametrize("grid", [(4, 4), (3, 6), (4, 6)])
def test_tiles_that_really_move_give_the_same_bits(name, grid):
    """Handles stand for tiles: moving the numbers themselves from core to core changes nothing."""
    A, B = np.random.default_rng(0).standard_normal((2, 12, 12)).astype(np.float32)
    plan = mk.schedule(name, mk.Mesh(*((4, 8) if name == "cannon25d" else grid)), 12, 12, 12)
    by_handle, by_copy = (lockstep.run(plan, {"A": A, "B": B}, A.dtype, copy_tiles=c) for c in (False, True))
    assert by_handle.tobytes() == by_copy.tobytes()
    np.testing.assert_allclose(by_copy, A @ (B.T if name in known("gemm_t") else B), rtol=1e-4, atol=1e-5)


def test_snapshots_are_read_only():
    def meddle(snapshot):
        snapshot.holds["A"][...] = 0

    with pytest.raises(ValueError, match="read-only"):
        mk.gemm(np.eye(4), np.eye(4), mk.Mesh(2), method="lockstep", observe=meddle)
