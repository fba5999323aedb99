"""PLMR verdicts and enforced limits."""

import numpy as np
import pytest

import meshkernels as mk
import perfmodel


def _fails(name, n=4096, P=64, **options):
    shape = (n, n) if name in ("ktree", "chain", "pipeline", "ring") else (n, n, n)
    return mk.compliance(mk.schedule(name, mk.Mesh(P), *shape, **options), "wse2").fails


def test_the_papers_table():
    """Which letter each algorithm fails, on a mesh large enough to tell (paper: section 4, table)."""
    assert _fails("meshgemm") == ""
    assert _fails("cannon") == "L"
    assert _fails("summa", n=1024) == "LR" and _fails("summa_relay", n=1024) == "L"
    assert set(_fails("allgather")) == set("LMR") and set(_fails("allgather_relay")) == set("LM")
    assert _fails("ktree", n=1024, P=512) == ""
    assert _fails("chain", n=1024, P=512) == _fails("pipeline", n=1024, P=512) == _fails("ring", n=1024, P=512) == "L"


def test_values_and_limits():
    table = mk.compliance(mk.count(mk.schedule("meshgemm", mk.Mesh(64), 4096, 4096, 4096)), perfmodel.device("wse2"))
    assert table["M"].measured == 2 * 5 * 64 * 64 and table["M"].limit == 48 * 1024
    assert table["R"].measured == 12 and table["R"].limit == 24
    assert table["P"].measured == 1.0 and table.compliant
    assert "complies" in str(table) and all(letter in str(table) for letter in "PLMR")


def test_idle_cores_fail_parallelism():
    assert "P" in mk.compliance(mk.schedule("meshgemm", mk.Mesh(32), 8, 32, 8), "wse2").fails


def test_a_tile_over_the_memory_is_refused():
    """2 bytes x (two copies of 1024 x 16 and of 16 x 1024, and 1024 x 1024 sums)."""
    A = np.zeros((4096, 64), np.float16)
    with pytest.raises(mk.DeviceLimitError, match=r"core \(0, 0\).* needs 2,228,224 bytes.* has 49,152"):
        mk.gemm(A, np.zeros((64, 4096), np.float16), mk.Mesh(4), device="wse2", accumulate="float16")


def test_too_many_colours_are_refused():
    A = np.zeros((16, 16), np.float32)
    with pytest.raises(mk.DeviceLimitError, match=r"core \(\d+, \d+\) needs 32 colours; wse2 has 24"):
        mk.gemm(A, A, mk.Mesh(16), algorithm="summa", device="wse2")
    mk.gemm(A, A, mk.Mesh(12), algorithm="summa", device="wse2")  # 24 colours: just fits


def test_a_grid_over_the_fabric_is_refused():
    with pytest.raises(mk.DeviceLimitError, match="grid of 2000 x 1 cores does not fit wse2"):
        mk.gemv(np.ones(4, "f4"), np.ones((4, 4), "f4"), mk.Mesh(2000, 1), device="wse2")


def test_a_gpu_is_no_mesh():
    with pytest.raises(TypeError, match="not a mesh of cores"):
        mk.compliance(mk.schedule("cannon", mk.Mesh(2), 2, 2, 2), "a100")


def test_idle_steps_do_not_buy_latency():
    from dataclasses import replace

    from meshkernels.schedules import Repeat, Step

    slow = mk.schedule("cannon", mk.Mesh(16), 64, 64, 64)
    padded = replace(slow, program=(*slow.program, Repeat(2000, Step("rest"))))
    assert mk.compliance(padded, "wse2").fails == mk.compliance(slow, "wse2").fails == "L"


def test_a_reduction_buys_its_latency_once():
    """2.5D on natural rings: 32 steps of up to 63 hops, and one reduction over 128 cores. The limit is two hops a step
    that moves (34 of alignment and copies, 31 shifts), and for the reduction 2 (128 + 60 sqrt 128), twice over."""
    natural, interleaved = (mk.compliance(mk.schedule("cannon25d", mk.Mesh(64, 128), 256, 256, 256, ring=ring), "wse2")
                            for ring in ("natural", "interleaved"))
    assert natural["L"].limit < 520 and natural["L"].measured > 4000 and "L" in natural.fails
    assert "L" not in interleaved.fails


def test_off_the_fabric_says_so():
    table = mk.compliance(mk.schedule("ktree", mk.Mesh(2000, 1), 4000, 4), "wse2")
    assert "P" in table.fails and "2000 x 1 on a fabric of" in table["P"].what
