"""The time of any schedule from its counts alone, held against the predictions of the built-in algorithms."""

from __future__ import annotations

import pytest

import meshkernels as mk
import perfmodel as pm
from meshkernels import schedules as S
from perfmodel import counts, parameters

SHAPES = {(16, 16): (64, 64, 64), (24, 24): (192, 24, 96), (12, 8): (96, 96, 48), (40, 40): (40, 40, 40)}


def counted(algorithm, grid, *shape, **options):
    return mk.count(mk.schedule(algorithm, mk.Mesh(*grid), *shape, **options)).to_dict()


@pytest.mark.parametrize("algorithm", counts.GEMMS)
@pytest.mark.parametrize("grid", SHAPES, ids=str)
def test_counts_give_the_predicted_time(algorithm, grid):
    """The forms average the distance over the roots of SUMMA, and send a last shift that the schedule leaves out."""
    shape = SHAPES[grid]
    found = pm.time(counted(algorithm, grid, *shape), "wse3")
    expected = pm.gemm("wse3", *shape, grid=grid, algorithm=algorithm)
    assert found.cycles == pytest.approx(float(expected.cycles), rel=0.025 if algorithm == "summa_relay" else 0.005)
    assert sum(found.terms.values()) == pytest.approx(found.cycles)


@pytest.mark.parametrize("groups", [None, 2, 4, 5, 8])
def test_counts_of_a_gemv_give_its_time(groups):
    """Without groups both take the same tree."""
    options = {} if groups is None else {"groups": groups}
    found = pm.time(counted("ktree", (40, 40), 320, 160, **options), "wse3")
    assert found.cycles == pytest.approx(float(pm.gemv("wse3", 320, 160, grid=40, groups=groups).cycles))


@pytest.mark.parametrize("reduce", ["chain", "pipeline", "ring"])
def test_counts_of_other_reductions_give_their_time(reduce):
    for grid, M, N in ((40, 320, 160), (64, 640, 2048), (8, 16, 512)):
        for chip in ("wse2", "wse3"):
            found = pm.time(counted(reduce, (grid, grid), M, N), chip)
            assert found.cycles == pytest.approx(float(pm.gemv(chip, M, N, grid=grid, reduce=reduce).cycles))


def test_a_matrix_by_the_vectors_of_a_gemv():
    """Three rows of a left operand are three vectors by the same tile: thrice its vector instructions."""
    one = {"rows": 4, "cols": 1, "steps": 1, "step_hops": [0], "step_stages": [0], "step_bytes": [0],
           "step_products": [[[1, 5, 7]]]}
    three = {**one, "step_products": [[[3, 5, 7]]]}
    assert pm.time(three, "wse3", kernel="gemv").terms["compute"] == 3 * pm.time(one, "wse3").terms["compute"]


def test_meshgemm_by_hand():
    """4 x 4 cores, tiles of 4: two alignments of 8 words over 2 hops, four products, three shifts behind them."""
    c = {"launch": 1000.0, "startup": 100.0, "k_loop": 10.0, "remainder": 1.0, "vector": 0.1, "beat": 0.01}
    found = pm.time(counted("meshgemm", (4, 4), 16, 16, 16), "wse2", constants=c)
    product = 4 * 10 + 16 * 0.1 + 16 * 0.01
    assert found.cycles == pytest.approx(1000 + 6 * 100 + 2 * (8 + 2) + 4 * product)


def test_streams_by_hand():
    """Two steps of a product and a stream of 8 words over 3 hops and stages: the streams wait for the products, the way
    is paid once; a message of the step that is longer than its stream hides beside the product."""
    c = {"launch": 0.0, "startup": 100.0, "k_loop": 10.0, "remainder": 0.0, "vector": 0.0, "beat": 0.0}
    steps = {"rows": 4, "cols": 4, "steps": 2, "step_hops": [3, 3], "step_stages": [3, 3], "step_bytes": [32, 32],
             "step_products": [[[4, 4, 4]], [[4, 4, 4]]], "step_streams": [32, 32]}
    way = 3 * (pm.device("wse2").alpha + pm.device("wse2").beta)
    assert pm.time(steps, "wse2", constants=c).cycles == pytest.approx(2 * (100 + 40 + 8) + way)
    beside = {**steps, "step_bytes": [120, 120]}
    assert pm.time(beside, "wse2", constants=c).cycles == pytest.approx(2 * (100 + 40 + 8) + way)
    assert not any(counted("meshgemm_t", (4, 4), 8, 8, 8)["step_streams"])  # C goes on, and is added to
    # partial sums of a step, 2 x 2 numbers of 2 bytes, that only the end reads
    assert counted("gemm_t", (4, 4), 8, 8, 8)["step_streams"] == [8] * 4
    assert counted("gemm_t", (4, 1), 8, 8, 8)["step_streams"] == [0] * 4


def test_an_algorithm_of_ones_own_has_a_time():
    """Fox's broadcast-multiply-roll, as in the README: each step broadcasts, then multiplies and rolls."""
    n, mesh = 48, mk.Mesh(12)
    A, B, C = (mk.Tiling((n, n), mesh.shape) for _ in range(3))
    ring, cores = mk.Ring.interleaved(mesh.rows), range(mesh.rows)
    here = S.Place(S.line(0, cores), S.line(1, cores))
    buffers = {"A": S.Tiles("A", home=here), "panel": S.Tiles("A"), "B": S.Tiles("B", home=here, copies=2),
               "C": S.Values(C.tile)}
    owner = S.Index(ring.order, y=ring.position, step=-1)
    broadcast = S.Step("broadcast", moves=S.Move("A", S.Multicast(1, owner), into="panel"))
    roll = S.Step("multiply, roll", S.Multiply("panel", "B", "C"), S.Move("B", S.Shift(0, ring)))
    fox = S.Schedule("fox", S.Task("product", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers,
                     (S.Repeat(mesh.rows, (broadcast, roll)),), S.Collect("C", here))
    found = pm.time(mk.count(fox).to_dict(), "wse3")
    mesh_gemm = pm.time(counted("meshgemm", (12, 12), n, n, n), "wse3")
    assert found.cycles > mesh_gemm.cycles and found.cycles >= found.lower_bound
    startup = parameters.kernel("wse3", "gemm").values["startup"]  # 12 broadcasts and rolls against 6 + 12 steps
    assert found.terms["overhead"] == pytest.approx(mesh_gemm.terms["overhead"] + (24 - 18) * startup)


def test_sums_stand_for_lists():
    sums = {"rows": 4, "cols": 4, "steps": 4, "critical_hops": 8, "stages": 2, "bytes_per_link": 64,
            "macs_per_core": 256}
    found = pm.time(sums, "wse3")
    assert any("given as multiply-adds" in note for note in found.notes)
    assert found.terms["compute"] == pytest.approx(256 / 4)  # one beat of four per cycle
    assert pm.time({**sums, "macs_per_core": [[0, 256], [7, 3]]}, "wse3").cycles == found.cycles


RING = {"rows": 4, "cols": 4, "steps": 2, "step_hops": [2, 2], "step_stages": [0, 0], "step_bytes": [32, 32],
        "step_products": [[[4, 4, 4]], [[4, 4, 4]]]}


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"steps": None}, pm.ModelError, "steps = None"), ({"rows": 4000}, pm.DoesNotFit, "larger than the 1170 x 755"),
    ({"step_hops": [2]}, pm.ModelError, r"step_hops has shape \(1,\), expected \(2,\)"),
    ({"step_hops": [2, -1]}, pm.ModelError, "step_hops must be from 0"),
    ({"step_products": [[[4, 4]], []]}, pm.ModelError, "step_products must hold"),
    ({"step_products": [[[4, 4, 0.5]], []]}, pm.ModelError, "step_products must hold whole numbers"),
    ({"step_bytes": "many"}, pm.ModelError, "step_bytes = 'many' must be numbers"),
    ({"peak_bytes_per_core": 50000}, pm.DoesNotFit, "need 50000 bytes per core; wse3 has 49152"),
])
def test_refusals(change, error, message):
    with pytest.raises(error, match=message):
        pm.time({**RING, **change}, "wse3")
    for missing in ("rows", "steps", "step_products"):
        with pytest.raises(pm.ModelError, match=f"lack '{missing}'"):
            pm.time({key: value for key, value in RING.items() if key != missing}, "wse3")
    with pytest.raises(pm.ModelError, match="must be a mapping"):
        pm.time(7, "wse3")
    with pytest.raises(pm.UnknownName, match="unknown device"):
        pm.time(RING, "wse9")


def test_colours_beyond_the_device_are_noted():
    assert any("40 routing paths; wse3 has 24" in note for note in pm.time({**RING, "colours": 40}, "wse3").notes)
