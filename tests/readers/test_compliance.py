"""PLMR verdicts and enforced limits."""

from dataclasses import replace

import numpy as np
import pytest

import meshkernels as mk
import perfmodel
from meshkernels import schedules as S


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


def test_a_combination_that_moves_nothing_buys_no_latency():
    P = 64
    cannon = mk.schedule("cannon", mk.Mesh(P), P, P, P)
    own = S.Move("C", S.Reduce(1, S.line(1, range(P))), combine="add")

    def padded(node):
        if isinstance(node, S.Repeat):
            return replace(node, body=tuple(map(padded, node.body)))
        return replace(node, moves=(*node.moves, own)) if node.compute else node

    padded_cannon = replace(cannon, buffers=cannon.buffers | {"C": replace(cannon.buffers["C"], copies=2)},
                            program=tuple(map(padded, cannon.program)))  # fmt: skip
    assert mk.compliance(padded_cannon, "wse2").verdicts[1] == mk.compliance(cannon, "wse2").verdicts[1]


def test_a_computation_of_nothing_buys_no_latency():
    """A vector is added up one core after the other, with a copy to nowhere in each step: still one reduction."""
    P, line = 64, S.line(0, range(64))

    def one_after_the_other(compute):
        steps = [S.Step("load", S.Copy("x", "y"))]
        for k in range(1, P):
            send = S.Permute(S.line(0, [0 if core == k else -1 for core in range(P)]), 0)
            steps.append(S.Step("add", compute, S.Move("y", send, combine="add")))
        buffers = {"x": S.Tiles("x", home=S.Place(line, 0)), "y": S.Values((1, 1), copies=2), "z": S.Values((1, 1))}
        return S.Schedule("naive", S.Task("allreduce", ("x",)), mk.Mesh(P, 1), {"x": mk.Tiling((P, 1), (P, 1))},
                          mk.Tiling((1, 1), (1, 1)), buffers, tuple(steps),
                          S.Collect("y", S.Place(S.line(0, [0] + [-1] * (P - 1)), 0)))  # fmt: skip

    for compute in ((), (S.Copy("x", "z"),)):
        latency = mk.compliance(one_after_the_other(compute), "wse2").verdicts[1]
        assert not latency.ok and latency.limit < 300
