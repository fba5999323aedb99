"""The forms against brute force and hand-worked cases; their closed forms against the exact counts."""

from __future__ import annotations

import numpy as np
import pytest

import perfmodel as pm
from perfmodel import bounds, counts, counts_reduce, forms

UNIT = {"launch": 1000.0, "startup": 100.0, "k_loop": 10.0, "remainder": 1.0, "vector": 0.1, "beat": 0.01}


def test_beats_count_the_words_that_columns_touch():
    """Element i of column j lies in word (m j + i) // 4: count distinct words per column."""
    for m in range(1, 18):
        for n in range(1, 11):
            touched = sum(len({(m * j + i) // 4 for i in range(m)}) for j in range(n))
            assert int(forms.beats(m, n)) == touched, (m, n)


def test_local_product_by_hand():
    """Tiles 3 x 5 and 5 x 2: 5 passes, 1 beyond four, 10 vectors, columns of 3 touch 1 + 2 words, 5 times."""
    assert float(forms.local_product(UNIT, 3, 5, 2)) == pytest.approx(50 + 1 + 1.0 + 0.15)


def test_meshgemm_by_hand():
    """16^3 on 4 x 4: tiles of 4; 2 alignment rounds of 8 words, 4 steps; no transfer outlasts a product."""
    terms = forms.gemm(UNIT, pm.device("wse3"), "meshgemm", 16, 16, 16, 4, 4)
    assert float(terms["overhead"]) == 1000 + 6 * 100
    assert float(terms["transfer"]) == 2 * 8
    assert float(terms["compute"]) == pytest.approx(4 * (40 + 0 + 1.6 + 4 * 4 * 0.01))


def test_a_transfer_that_outlasts_the_product_is_exposed():
    """1000-long columns, one pass of one vector: 500 words against 10.1 + 2.5 cycles of work (and 1 remainder)."""
    terms = forms.gemm(UNIT, pm.device("wse3"), "meshgemm", 4000, 4, 4, 4, 4)
    assert float(terms["compute"] + terms["transfer"]) == pytest.approx(4 * 500 + 2 * 500)


@pytest.mark.parametrize("algorithm", [a for a in counts.GEMMS if a != "gemm_t"])
def test_schedules_have_the_counted_steps_and_hops(algorithm):
    grids = [(p, p) for p in (*range(1, 34), 96, 97)] + [(r, c) for r in range(1, 14) for c in range(1, 14)]
    grids += [(96, 60), (97, 64), (60, 97)]
    for rows, cols in grids:
        counted = counts.gemm(algorithm, 1, 1, 1, rows, cols)
        rounds, steps, hops, stages = (float(v) for v in forms.schedule(algorithm, rows, cols))
        L = int(np.lcm(rows, cols))
        assert steps == L
        if algorithm in counts.RINGS:
            assert rounds + steps == counted.steps
            if rows == cols:
                assert hops * (rounds + steps - 1) == counted.hops
        else:
            messages = 1 if algorithm.startswith("allgather") else L
            assert (hops * messages, stages * messages) == (pytest.approx(counted.hops), pytest.approx(counted.stages))


def test_trees_have_the_counted_hops_and_stages():
    for cores in (1, 2, 3, 7, 16, 30, 97):
        for groups in range(1, cores + 1):
            counted = counts_reduce.allreduce("ktree", cores, 1, groups=groups)
            assert [int(v) for v in forms.ktree(cores, groups)[:2]] == [counted.hops, counted.stages]
        for algorithm in ("chain", "pipeline", "ring"):
            counted = counts_reduce.allreduce(algorithm, cores, 1)
            hops, stages, _ = forms.allreduce(algorithm, cores, None)
            assert (int(hops), int(stages)) == (counted.hops, counted.stages)


def test_default_groups_are_the_published_ones():
    """The launch files of LLaMA3-8B and Qwen2-72B; 512 is the one grid for which they take another divisor."""
    published = {240: 15, 256: 16, 300: 15, 360: 18, 420: 20, 480: 20, 540: 20, 600: 24, 660: 22, 720: 24}
    assert forms.default_groups(list(published)).tolist() == list(published.values())


def test_prefill_counts_its_products_and_alignments():
    """Nine products of P steps and five alignments of P/2 rounds, whatever the sizes."""
    constants = {**dict.fromkeys(UNIT, 0.0), "startup": 1.0}
    terms = forms.prefill(constants, pm.device("wse2"), 64, 128, 32, 8)
    assert float(terms["overhead"]) == 9 * 8 + 5 * 4


def test_decode_rows_of_a_published_launch_file():
    """LLaMA3-8B on 420^2: d = 10, s = 10, f = 35."""
    vectors = forms.decode_rows(4096, 14336, 4096, 420)
    assert sum(int(rows) for rows, _ in vectors) == 7 * 10 + 10 + 35
    assert sum(int(rows * width) for rows, width in vectors) == 4 * 10 * 10 + 2 * 10 * 10 + 3 * 10 * 35


def test_wide_rows_take_their_beats():
    """On few cores a row's vector outlasts its issue: the compute term cannot fall below the compute bound."""
    wse3 = pm.device("wse3")
    for grid in (24, 96, 240):
        p = pm.decode(wse3, pm.model("smollm2-135m"), context=64, grid=grid)
        assert p.terms["compute"] >= p.bounds["compute"]


def test_link_bound_is_the_cut_of_a_cube():
    """2 x 2 cores, n^3: a half must see 3 (n^3/2)^(2/3), holds 3 n^2 / 2, two links take two elements a cycle."""
    n = 64
    expected = (3 * (n**3 / 2) ** (2 / 3) - 1.5 * n * n) / 4
    assert float(bounds.gemm(pm.device("wse3"), n, n, n, 2, 2)["link"]) == pytest.approx(expected)
