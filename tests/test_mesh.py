"""Meshes as large as can be held are counted; larger ones are refused before anything is held."""

import math

import numpy as np
import pytest

import meshkernels as mk
from meshkernels.mesh import require_walkable
from perfmodel import counts


@pytest.mark.parametrize(("call", "says"), [
    (lambda: mk.Mesh(8193, 1), "rows = 8193: .* at most 8192"),
    (lambda: mk.Mesh(1, 10**9), "cols = 1000000000: .* at most 8192"),
    (lambda: mk.Mesh(8192, 4096), "33554432 cores: at most 16777216"),
    (lambda: mk.Mesh(10**5000), "rows = a whole number of 16610 bits"),
    (lambda: mk.schedule("meshgemm", mk.Mesh(4096, 4095), 8, 8, 8), "takes 16773120 steps"),
    (lambda: mk.schedule("summa", mk.Mesh(4095, 4096), 8, 8, 8), "choose sides that share a factor"),
])  # fmt: skip
def test_refused(call, says):
    with pytest.raises(mk.MeshError, match=says):
        call()


def test_a_proof_that_would_take_hours_is_refused_at_once():
    with pytest.raises(mk.ScheduleError, match="sides of the mesh that share a factor"):
        mk.gemm_t(np.ones((3, 3), "f4"), np.ones((3, 3), "f4"), mk.Mesh(720, 721))


def test_a_rectangle_whose_sides_share_nothing():
    A = np.random.default_rng(0).standard_normal((300, 300)).astype("f4")
    np.testing.assert_allclose(mk.gemm(A, A, mk.Mesh(200, 201)), A @ A, rtol=1e-3, atol=1e-3)


def test_wafers_and_more_are_not():
    for sides in ((1170, 755), (720, 720), (750, 994), (1169, 751), (4096, 4096), (4096, 1)):
        mesh = mk.Mesh(*sides)
        assert mesh.lcm == math.lcm(*sides)
    for sides in ((720, 720), (64, 63), (24, 16), (4096, 4096), (60, 61)):
        require_walkable(mk.Mesh(*sides))


@pytest.mark.parametrize(("sides", "says"), [
    ((600, 200), "takes 600 steps, .* 120000 cores: choose fewer cores$"),  # the sides share all that they can
    ((700, 701), "choose fewer cores, or sides that share a factor$")])
def test_what_would_take_minutes_to_prove_says_what_would_do(sides, says):
    with pytest.raises(mk.MeshError, match=says):
        require_walkable(mk.Mesh(*sides))


def test_more_roots_than_one_line_has():
    """4,090 + 10 roots on the two axes, made anew each time that the steps are walked."""
    ledger = mk.count(mk.schedule("summa", mk.Mesh(4090, 10), 4090, 10, 10))
    assert ledger.critical_hops == counts.summa_hops(4090, 10)


@pytest.mark.parametrize("sides", [(1, 1), (4, 6), (7, 5), (12, 8), (1, 9), (60, 61)])
def test_the_ways_of_summa_root_by_root(sides):
    rows, cols = sides
    L = math.lcm(rows, cols)
    ways = [max(max(x, cols - 1 - x), max(y, rows - 1 - y))
            for x, y in ((k * cols // L, k * rows // L) for k in range(L))]
    assert counts.summa_hops(rows, cols) == sum(ways)
