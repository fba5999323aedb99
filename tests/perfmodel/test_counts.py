"""The model's counts: small cases worked out by hand, and equality with the ledger of the schedules."""

from __future__ import annotations

import itertools

import pytest

import meshkernels as mk
import perfmodel as pm
from meshkernels.readers.ledger import count
from perfmodel import counts, counts_reduce

FIELDS = ["steps", "hops", "stages", "words", "word_hops", "colours", "bytes_per_core"]


def of_ledger(algorithm: str, mesh: mk.Mesh, *shape: int, **options) -> dict[str, int]:
    """The same counts, read off the schedule."""
    ledger = count(mk.schedule(algorithm, mesh, *shape, **options))
    names = {"hops": "critical_hops", "bytes_per_core": "peak_bytes_per_core"}
    return {field: getattr(ledger, names.get(field, field)) for field in FIELDS}


def fields(counted: counts.Counts) -> dict[str, int]:
    return {field: getattr(counted, field) for field in FIELDS}


def test_meshgemm_4x4_by_hand():
    """4 cores a side, 2 x 2 tiles: pi = 0 3 1 2, so rows turn 0, 1, 1, 2 times; then 4 products, 3 shifts.

    5 = 2 + 3 steps of 2 hops; 4 lines x 2 axes x 4 tiles of 4 words in each of 3 shifts, and 4 turns x 4 tiles
    x 2 axes; every shift of a line crosses 2 (4 - 1) links.
    """
    got = counts.gemm("meshgemm", 8, 8, 8, 4)
    shifts = 2 * (4 * 3 + 4)
    assert (got.steps, got.hops, got.stages) == (2 + 4, 2 * 5, 0)
    assert (got.words, got.word_hops) == (shifts * 4 * 4, shifts * 4 * 6)
    assert got.colours == 12
    assert got.bytes_per_core == 2 * (2 * 4 + 2 * 4 + 4)


def test_cannon_pays_the_wrap_and_summa_the_line():
    assert counts.gemm("cannon", 8, 8, 8, 4).hops == 3 * 5
    summa = counts.gemm("summa_relay", 8, 8, 8, 4)
    assert (summa.steps, summa.hops, summa.stages) == (5, 3 + 2 + 2 + 3, 10)
    assert counts.gemm("summa", 8, 8, 8, 4).colours == 8


@pytest.mark.parametrize(("cores", "groups", "hops", "stages"), [
    (720, 24, 750, 27), (240, 15, 240, 15), (420, 20, 440, 20), (16, 2, 24, 5), (16, 8, 18, 5),
])
def test_ktree_published_hops_and_stages(cores, groups, hops, stages):
    got = counts_reduce.allreduce("ktree", cores, 1, groups=groups)
    assert (got.hops, got.stages) == (hops, stages)


def test_reduction_baselines_by_hand():
    pipeline = counts_reduce.allreduce("pipeline", 10, 3)
    assert (pipeline.hops, pipeline.stages, pipeline.words, pipeline.colours) == (18, 9, 10 * 3, 3)
    ring = counts_reduce.allreduce("ring", 10, 25)
    assert (ring.steps, ring.hops, ring.stages, ring.words) == (18, 36, 9, 18 * 10 * 3)


GRIDS = [(1, 1), (1, 3), (2, 2), (3, 3), (4, 4), (5, 5), (8, 8), (9, 9), (2, 3), (3, 2), (4, 2), (2, 4), (4, 6), (6, 4),
         (5, 7), (12, 8), (1, 6), (16, 16), (17, 17)]
SHAPES = [(24, 24, 24), (17, 29, 31), (5, 64, 7)]


@pytest.mark.parametrize("algorithm", counts.GEMMS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gemm_counts_equal_the_ledger(algorithm, grid):
    for shape in SHAPES:
        got = counts.gemm(algorithm, *shape, *grid)
        assert fields(got) == of_ledger(algorithm, mk.Mesh(*grid), *shape), shape
        products = count(mk.schedule(algorithm, mk.Mesh(*grid), *shape)).to_dict()["step_products"]
        assert got.macs_per_core == sum(m * k * n for step in products for m, k, n in step)  # of padded tiles, as timed


@pytest.mark.parametrize("algorithm", ["meshgemm", "cannon", "summa"])
def test_gemm_counts_equal_the_ledger_on_a_large_grid(algorithm):
    got = counts.gemm(algorithm, 300, 301, 299, 96, 60)
    assert fields(got) == of_ledger(algorithm, mk.Mesh(96, 60), 300, 301, 299)


@pytest.mark.parametrize("reduce", counts_reduce.REDUCES)
@pytest.mark.parametrize("grid", [(1, 4), (2, 2), (3, 3), (7, 4), (16, 16), (30, 5), (64, 2)], ids=str)
def test_gemv_counts_equal_the_ledger(reduce, grid):
    groups = [g for g in (1, 2, 3, 5, 8) if g <= grid[0]] if reduce == "ktree" else [None]
    for shape, group in itertools.product([(24, 24), (31, 17)], groups):
        options = {} if group is None else {"groups": group}
        got = counts_reduce.gemv(*shape, *grid, reduce=reduce, **options)
        assert fields(got) == of_ledger(reduce, mk.Mesh(*grid), *shape, **options), (shape, group)


@pytest.mark.parametrize("groups", [(9, 3), (20, 4), (7, 7), (50, 5)])
def test_three_levels_equal_the_ledger(groups):
    got = counts_reduce.gemv(64, 32, 50, 3, groups=groups)
    assert fields(got) == of_ledger("ktree", mk.Mesh(50, 3), 64, 32, levels=3, groups=groups)


def test_refusals_name_the_value():
    with pytest.raises(pm.UnknownName, match=r"'meshgem'.*did you mean 'meshgemm'"):
        counts.gemm("meshgem", 8, 8, 8, 4)
    with pytest.raises(pm.ModelError, match="K = 0"):
        counts.gemm("meshgemm", 8, 0, 8, 4)
    with pytest.raises(pm.ModelError, match="groups = 9 must lie between 1 and 4"):
        counts_reduce.allreduce("ktree", 4, 1, groups=9)
