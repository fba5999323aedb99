"""The README tells the truth: its code runs, and the algorithm it adds is executed, counted and judged."""

import re
from pathlib import Path

import numpy as np
import pytest

import meshkernels as mk
from bench.readme import BLOCK, FILES, output
from meshkernels.algorithms import _FAMILIES
from meshkernels.algorithms.reduction import Reduction
from meshkernels.schedules import Move, Multicast, Permute, Reduce, RingOrder, Step, Values, line
from tests.handmade import any_order

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def _block(containing: str) -> str:
    (block,) = (b for b in BLOCKS if containing in b)
    return block


def test_api_on_one_screen():
    names: dict = {}
    exec(_block("mk.gemm_t(A, A, mesh)"), names)
    np.testing.assert_allclose(names["C"], names["A"] @ names["B"], rtol=1e-5)


def test_prediction_on_one_screen():
    names: dict = {}
    for block in (block for block in BLOCKS if "pm." in block):
        exec(block, names)
    assert names["t"].seconds > 0 and names["found"].cycles.shape == (3, 2)


def test_length_and_links():
    """Short, and no dead link; what it shows is there."""
    assert len(README.splitlines()) <= 250
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert "plots/gallery/rings.png" in links and "bench/results/README.md" in links
    for path in FILES:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert link.startswith("https://") or (path.parent / link).exists(), f"{path.name}: {link}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_generated_tables_are_the_commands_output(path):
    blocks = BLOCK.findall(path.read_text())
    assert blocks
    for command, text in blocks:
        now, number = output(command), r"\d+(?:\.\d+)?"
        assert re.sub(number, "#", text) == re.sub(number, "#", now), f"python -m {command}: run make readme"
        for then, value in zip(re.findall(number, text), re.findall(number, now)):
            unit = 10.0 ** -len(then.partition(".")[2])  # one unit of the last printed digit
            assert abs(float(then) - float(value)) <= 1.01 * unit, f"python -m {command}: run make readme"


@pytest.fixture
def fox():
    names: dict = {}
    exec(_block("def fox"), names)
    yield names["fox"]
    del _FAMILIES["gemm"]["fox"]


def test_an_algorithm_in_one_function(fox):
    """One new function, and every reader works: both executors, the ledger, the compliance table."""
    rng = np.random.default_rng(0)
    for P, (M, K, N) in ((1, (2, 3, 4)), (4, (9, 10, 7)), (5, (11, 23, 5))):
        A, B = rng.standard_normal((M, K)).astype("f4"), rng.standard_normal((K, N)).astype("f4")
        mesh = mk.Mesh(P)
        fused, ledger = mk.gemm(A, B, mesh, algorithm="fox", ledger=True)
        assert fused.tobytes() == mk.gemm(A, B, mesh, algorithm="fox", method="lockstep").tobytes()
        np.testing.assert_allclose(fused, A @ B, rtol=1e-4, atol=1e-5)
        order = mk.verify(mk.schedule("fox", mesh, M, K, N)).order
        assert isinstance(order, RingOrder) and sorted(order.blocks.tolist()) == list(range(P)), "derived, not declared"
    assert len(_block("def fox").strip().splitlines()) <= 20
    assert ledger.hops_per_step == P - 1 and ledger.macs.sum() == M * K * N
    assert mk.compliance(ledger, "wse2").fails == "L"
    with pytest.raises(mk.MeshError, match="fox needs a square mesh, not 2 x 3"):
        mk.gemm(A, B, mk.Mesh(2, 3), algorithm="fox")


def test_a_schedule_without_an_order_still_runs():
    """An arbitrary order of K: no compact description, executed step by step by default."""
    A, B = np.random.default_rng(1).integers(-9, 9, (2, 8, 8)).astype(np.float32)
    plan = any_order(mk.Mesh(4), 8, 8, 8)
    assert mk.verify(plan).order is None
    got, ledger = mk.run(plan, {"A": A, "B": B}, ledger=True)
    assert np.array_equal(got, A @ B) and ledger.macs.sum() == 512
    assert got.tobytes() == mk.gemm(A, B, mk.Mesh(4), algorithm=plan, method="lockstep").tobytes()


def _scan(mesh, axis, width, *, op="add", broadcast=True):
    """A reduction unlike the built-in ones: log-step messages that combine, the sum ending on the last core."""
    size, steps, distance = mesh.length(axis), [], 1
    own = [line(axis, range(mesh.length(axis))) for axis in (0, 1)]
    while distance < size:
        own[axis] = line(axis, [i + distance if i + distance < size else -1 for i in range(size)])
        steps.append(Step("scan", moves=Move("y", Permute(*own), combine=op)))
        distance *= 2
    return Reduction(Values((1, width), copies=2), tuple(steps), size - 1)


def _chain_and_hand_on(mesh, axis, width, *, op="add", broadcast=True):
    """The sum is complete on core 0, which hands it to core 1: the moves that do not combine matter too."""
    collect = Step("chain", moves=Move("y", Reduce(axis, 0), combine=op))
    to_one = line(axis, [0 if i == 1 else -1 for i in range(mesh.length(axis))])
    hand_on = Step("hand on", moves=Move("y", Multicast(axis, to_one)))
    return Reduction(Values((1, width), copies=2), (collect, hand_on), 1)


@pytest.mark.parametrize("build", [_scan, _chain_and_hand_on])
def test_a_new_reduction_is_executed_as_it_says(build):
    mk.register("reduce", "mine")(build)
    try:
        x, W = np.arange(8.0), np.arange(24.0).reshape(8, 3)
        for axis, mesh in ((0, mk.Mesh(8, 2)), (1, mk.Mesh(2, 8))):
            for method in ("fused", "lockstep"):
                assert np.array_equal(mk.gemv(x, W, mesh, reduce="mine", axis=axis, method=method), x @ W)
    finally:
        del _FAMILIES["reduce"]["mine"]


def test_names_are_taken_once():
    with pytest.raises(mk.MeshError, match="'cannon' is registered already"):
        mk.register("gemm", "cannon")
    with pytest.raises(mk.MeshError, match="'cannon' is registered already in 'gemm'"):
        mk.register("gemm_t", "cannon", replace=True)
    with pytest.raises(mk.MeshError, match="unknown family 'gem'; known: 'gemm'"):
        mk.register("gem", "x")
