"""Dead cores and links: counts by hand, loads that stay the ledger's, refusals."""

import numpy as np
import pytest

import meshkernels as mk
from meshkernels.fabric import machine, play
from meshkernels.fabric.faults import around
from meshkernels.fabric.messages import FIRST, STOP
from meshkernels.fabric.yields import scan
from tests.fabric.test_hand import COSTS


def links(mesh, faults):
    """Latency of each link of the mesh, ``(4, rows, cols)``; 0 where it has none."""
    found = around(mesh, faults, COSTS)
    ways = [found.path[int(a) : int(b), 1].sum() for a, b in found.state[[FIRST, STOP]].T]
    return np.array(ways).reshape(4, *mesh.shape)


def test_nothing_dead():
    schedule = mk.schedule("cannon", mk.Mesh(6), 12, 12, 12)
    plain, laid = (mk.simulate(schedule, "wse3", faults=faults) for faults in (None, mk.Faults()))
    assert np.allclose(plain.ends, laid.ends, rtol=0, atol=1e-6)


def test_a_dead_link_is_gone_around():
    """East, not possible, becomes south, east, north: three hops of 2 and two turns of 20."""
    found = links(mk.Mesh(2), mk.Faults(links=[((0, 0), (0, 1))], fabric=(2, 2)))
    assert found[0, 0, 0] == found[1, 0, 1] == 3 * 2 + 2 * 20
    assert found[0, 1, 0] == found[2, 0, 0] == 2


def test_a_row_shifts_past_a_dead_core():
    """Core (1, 1) stands where (1, 2) would: from (1, 0) around the dead one, 4 hops; from (0, 1) a step aside."""
    found = links(mk.Mesh(3), mk.Faults(cores=[(1, 1)], fabric=(3, 4)))
    assert found[0, 1, 0] == 4 * 2 + 2 * 20
    assert found[0, 1, 1] == 2
    assert found[2, 0, 1] == 2 * 2 + 20


def test_loads_are_still_the_ledgers():
    schedule = mk.schedule("meshgemm", mk.Mesh(8), 16, 16, 16)
    run = mk.simulate(schedule, "wse3", faults=mk.Faults(cores=[(3, 7)], links=[((0, 0), (0, 1))]))
    assert np.array_equal(run.link_bytes, mk.count(schedule).link_bytes)
    assert run.makespan > mk.simulate(schedule, "wse3").makespan
    assert run.critical_path[-1].end == run.makespan
    assert sum(run.terms.values()) == pytest.approx(run.makespan)


def test_random_maps():
    """One core in a hundred dead on a fabric of 26 x 26: 24 x 24 cores stand, each on a living one of its own."""
    schedule = mk.schedule("meshgemm", mk.Mesh(24), 48, 48, 48)
    whole = play(schedule, machine("wse3")).cycles
    rng = np.random.default_rng(0)
    for _ in range(3):
        dead = [divmod(int(c), 26) for c in rng.choice(26 * 26, 7, replace=False)]
        slower = play(schedule, machine("wse3"), faults=mk.Faults(dead, fabric=(26, 26))).cycles / whole
        assert 1 <= slower < 2


@pytest.mark.parametrize("faults, says", [
    (mk.Faults(cores=[(9, 0)], fabric=(4, 4)), r"core \(9, 0\) of the fault map is not on a fabric of 4 x 4"),
    (mk.Faults(links=[((0, 0), (1, 1))]), "which are no neighbours"),
    (mk.Faults(fabric=(3, 4)), "does not fit a fabric of 3 x 4"),
    (mk.Faults(cores=[(0, 0)], fabric=(4, 4)), r"core \(0, 3\) of the mesh has no living core"),
    (mk.Faults(links=[((0, 0), (0, 1)), ((0, 0), (1, 0))], fabric=(4, 4)), r"core \(0, 0\) cannot reach core \(0, 1\)"),
])  # fmt: skip
def test_refusals(faults, says):
    with pytest.raises(mk.FabricError, match=says):
        mk.simulate(mk.schedule("meshgemm", mk.Mesh(4), 4, 4, 4), "wse3", faults=faults)


def test_scan():
    schedule = mk.schedule("meshgemm", mk.Mesh(12), 24, 24, 24)
    found = scan(schedule, "wse3", (14, 14), maps=4)
    assert np.array_equal(found, scan(schedule, "wse3", (14, 14), maps=4), equal_nan=True)
    assert (found >= 1).all() and found.max() > 1
    assert np.isnan(scan(schedule, "wse3", (12, 12), maps=1)).all()
