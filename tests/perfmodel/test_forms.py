"""The forms against brute force and hand-worked cases; their closed forms against the exact counts."""

from __future__ import annotations

import numpy as np
import pytest

import perfmodel as pm
from perfmodel import bounds, counts, counts_path, counts_reduce, forms, forms_gemm

UNIT = {"launch": 1000.0, "startup": 100.0, "k_loop": 10.0, "remainder": 1.0, "vector": 0.1, "beat": 0.01}


def test_beats_count_the_words_that_columns_touch():
    """Element i of column j lies in word (m j + i) // 4: count distinct words per column."""
    for m in range(1, 18):
        for n in range(1, 11):
            touched = sum(len({(m * j + i) // 4 for i in range(m)}) for j in range(n))
            assert int(forms_gemm.beats(m, n)) == touched, (m, n)


def test_local_product_by_hand():
    """Tiles 3 x 5 and 5 x 2: 5 passes, 1 beyond four, 10 vectors, columns of 3 touch 1 + 2 words, 5 times."""
    assert float(forms_gemm.local_product(UNIT, 3, 5, 2)) == pytest.approx(50 + 1 + 1.0 + 0.15)


def test_meshgemm_by_hand():
    """16^3 on 4 x 4: tiles of 4; 2 alignment rounds of 8 words, 4 steps; no transfer outlasts a product."""
    terms = forms_gemm.gemm(UNIT, pm.device("wse3"), "meshgemm", 16, 16, 16, 4, 4)
    assert float(terms["overhead"]) == 1000 + 6 * 100
    assert float(terms["transfer"]) == 2 * 8 * 1.125  # cycles per word on the silicon
    assert float(terms["alpha"]) == 2 * 2 * 2.0
    assert float(terms["compute"]) == pytest.approx(4 * (40 + 0 + 1.6 + 4 * 4 * 0.01))


def test_a_transfer_that_outlasts_the_product_is_exposed():
    """1000-long columns, one pass of one vector: 500 words against 10.1 + 2.5 cycles of work (and 1 remainder)."""
    terms = forms_gemm.gemm(UNIT, pm.device("wse3"), "meshgemm", 4000, 4, 4, 4, 4)
    message = 500 * 1.125 + 2 * 2
    assert float(terms["compute"] + terms["transfer"] + terms["alpha"]) == pytest.approx((4 + 2) * message)


@pytest.mark.parametrize("algorithm", [a for a in counts.GEMMS if a != "gemm_t"])
def test_paths_of_arrays_have_the_counted_steps_and_hops(algorithm):
    """The vectorised path against the counts, which equal the ledger (test_counts)."""
    grids = [(p, p) for p in (*range(1, 34), 96, 97)] + [(r, c) for r in range(1, 14) for c in range(1, 14)]
    grids += [(96, 60), (97, 64), (60, 97)]
    many = counts_path.path(algorithm, *np.array(grids).T)
    for at, (rows, cols) in enumerate(grids):
        counted = counts.gemm(algorithm, 1, 1, 1, rows, cols)
        way = counts_path.Path(*(float(np.broadcast_to(part, len(grids))[at]) for part in many))
        assert way.steps == np.lcm(rows, cols)
        assert way.rounds + (1 if algorithm.startswith("allgather") else way.steps) == counted.steps
        assert way.round_hops + way.turns * way.hops == pytest.approx(counted.hops)
        assert way.round_stages + way.turns * way.stages == pytest.approx(counted.stages)


def test_trees_have_the_counted_hops_and_stages():
    for cores in (1, 2, 3, 7, 16, 30, 97):
        for groups in range(1, cores + 1):
            counted = counts_reduce.allreduce("ktree", cores, 1, groups=groups)
            assert [int(v) for v in counts_reduce.path("ktree", cores, groups)[:2]] == [counted.hops, counted.stages]
        for algorithm in ("chain", "pipeline", "ring"):
            counted = counts_reduce.allreduce(algorithm, cores, 1)
            hops, stages, _ = counts_reduce.path(algorithm, cores, None)
            assert (int(hops), int(stages)) == (counted.hops, counted.stages)


def test_groups_of_decode_are_the_published_ones():
    """The launch files of LLaMA3-8B and Qwen2-72B; 512 is the one grid for which they take another divisor."""
    published = {240: 15, 256: 16, 300: 15, 360: 18, 420: 20, 480: 20, 540: 20, 600: 24, 660: 22, 720: 24}
    assert counts_reduce.published_groups(list(published)).tolist() == list(published.values())


@pytest.mark.parametrize("device", ["wse2", "wse3", "dojo"])
def test_default_groups_are_those_of_the_schedule_that_runs(device):
    """`mk.gemv` and `pm.gemv` without groups mean the same tree, and none has fewer cycles: counted core by core."""
    from meshkernels.algorithms.ktree import checked_groups, hops_and_stages

    chip = pm.device(device)
    predicted = pm.gemv(chip, 1, 1, grid=(np.arange(1, 91), 1)).terms
    for cores in range(1, 1001):
        groups = counts_reduce.default_groups(cores, chip.alpha, chip.beta)
        assert checked_groups(cores, 2, None, chip.alpha, chip.beta) == (groups,)
        if cores <= 90:
            counted = [hops_and_stages(cores, (g,)) for g in range(1, cores + 1)]
            cost = [chip.alpha * hops + chip.beta * stages for hops, stages in counted]
            assert cost[groups - 1] == min(cost), cores
            assert predicted["alpha"][cores - 1] == pytest.approx(chip.alpha * counted[groups - 1][0]), cores


def test_prefill_counts_its_products_and_alignments():
    """Nine products of P steps and five alignments of P/2 rounds, whatever the sizes."""
    constants = {**dict.fromkeys(UNIT, 0.0), "startup": 1.0}
    terms = forms.prefill(constants, pm.device("wse2"), 64, 128, 32, 8)
    assert float(terms["overhead"]) == 9 * 8 + 5 * 4


def test_decode_phases_of_a_published_launch_file():
    """LLaMA3-8B on 420^2: d = 10, s = 10, f = 35; ten all-reduces, two of them fused."""
    phases = forms.decode_phases(4096, 14336, 4096, 420)
    assert sum(int(phase.rows) for phase in phases) == 7 * 10 + 10 + 35
    assert sum(int(phase.rows * phase.width) for phase in phases) == 4 * 10 * 10 + 2 * 10 * 10 + 3 * 10 * 35
    assert sum(phase.allreduces for phase in phases) == forms.ALLREDUCES == 10
    assert [int(phase.words) for phase in phases] == [1, 30, 10, 1, 10, 10, 70, 10]


def test_phases_of_decode_add_up():
    p = pm.decode("wse2", "llama3-8b", context=4096, grid=420)
    for term in ("compute", "communication"):
        assert sum(phase[term] for phase in p.phases.values()) == pytest.approx(float(p.terms[term]))
    assert sum(p.parts["communication"].values()) == pytest.approx(float(p.terms["communication"]))


def test_wide_rows_take_their_beats():
    """On few cores a row's vector outlasts its issue: the compute term cannot fall below the compute bound."""
    wse3 = pm.device("wse3")
    for grid in (24, 96, 240):
        p = pm.decode(wse3, pm.model("smollm2-135m"), context=64, grid=grid)
        assert p.terms["compute"] >= p.bounds["compute"]


def test_link_bound_is_the_cut_of_a_cube():
    """2 x 2 cores, n^3: a half must see 3 (n^3/2)^(2/3), holds 3 n^2 / 2, two links take two elements a cycle."""
    n = 64
    expected = (3 * (n**3 / 2) ** (2 / 3) - 1.5 * n * n) / 4 * 1.125  # cycles per word
    assert float(bounds.gemm(pm.device("wse3"), n, n, n, 2, 2)["link"]) == pytest.approx(expected)
