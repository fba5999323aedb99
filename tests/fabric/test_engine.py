"""The simulator against the ledger, against itself without its quick pass, and what it refuses."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import meshkernels as mk
import perfmodel
from meshkernels import schedules as S
from meshkernels.fabric import machine
from meshkernels.fabric.engine import Engine

SHAPES = {"gemm": (16, 24, 32), "gemm_t": (16, 24, 32), "reduce": (24, 30), "transpose": (16, 24), "alltoall": (5,)}
BUILT_IN = [(name, mesh, SHAPES[family]) for family, names in mk.algorithms().items() for name in names
            for mesh in (mk.Mesh(6), mk.Mesh(3, 6), mk.Mesh(1, 4), mk.Mesh(2))]  # fmt: skip


def built(name, mesh, shape):
    try:
        return mk.schedule(name, mesh, *shape)
    except mk.MeshError as refusal:
        pytest.skip(str(refusal))


@pytest.mark.parametrize("name, mesh, shape", BUILT_IN)
def test_loads_are_the_ledgers(name, mesh, shape):
    schedule = built(name, mesh, shape)
    run, counted = mk.simulate(schedule, "wse3", limits=False), mk.count(schedule)
    assert np.array_equal(run.link_bytes, counted.link_bytes)
    assert np.array_equal(run.link_messages, counted.link_messages)
    assert (run.messages, run.link_bytes.sum()) == (counted.messages, counted.link_bytes.sum())


@pytest.mark.parametrize("name, mesh, shape", BUILT_IN)
def test_terms_and_path(name, mesh, shape):
    run = mk.simulate(built(name, mesh, shape), "wse3", limits=False)
    assert sum(run.terms.values()) == pytest.approx(run.makespan, abs=1e-6)
    path = run.critical_path
    assert path[-1].end == run.makespan
    assert all(a.end == b.start for a, b in pairwise(path)) and all(e.end > e.start for e in path)


@pytest.mark.parametrize("name, mesh, shape", [
    ("meshgemm", mk.Mesh(9), (18, 9, 27)), ("meshgemm", mk.Mesh(4, 6), (16, 16, 32)), ("cannon", mk.Mesh(8), (8, 8, 8)),
    ("cannon", mk.Mesh(4, 6), (16, 16, 32)), ("meshgemm_t", mk.Mesh(4, 6), (16, 16, 32)),
    ("meshgemm", mk.Mesh(20), (160, 20, 160)),
])  # fmt: skip
def test_the_quick_pass_changes_nothing(name, mesh, shape):
    seen = []
    for quick in (True, False):
        engine = Engine(mk.schedule(name, mesh, *shape), machine("wse3"), 2, 2)
        engine.quick, ends = quick, []
        engine.run(lambda i, e, ends=ends: ends.append(e.end.copy()))
        seen.append((np.array(ends), engine))
    (quick, a), (slow, b) = seen
    assert np.allclose(quick, slow, rtol=0, atol=1e-6)
    assert np.array_equal(a.links.bytes, b.links.bytes) and np.array_equal(a.links.messages, b.links.messages)
    assert np.allclose(a.links.taken, b.links.taken) and np.allclose(a.sending, b.sending)


def test_utilisation_is_a_share():
    run = mk.simulate(mk.schedule("summa", mk.Mesh(8), 32, 32, 32), "wse3")
    for share in run.utilisation.values():
        assert share.min() >= 0 and share.max() <= 1
    assert np.array_equal(run.utilisation["computing"] * run.makespan, run.computing)


def test_twice_the_same():
    a, b = (mk.simulate(mk.schedule("allgather", mk.Mesh(6), 12, 12, 12), "wse3") for _ in range(2))
    assert np.array_equal(a.ends, b.ends) and a.terms == b.terms


def test_refusals():
    schedule = mk.schedule("meshgemm", mk.Mesh(4), 8, 8, 8)
    with pytest.raises(TypeError, match="simulate plays a Schedule, not int"):
        mk.simulate(3, "wse3")  # type: ignore[arg-type]
    with pytest.raises(mk.FabricError, match="blackhole cannot be simulated: no turn, setup, arithmetic, copy"):
        mk.simulate(schedule, "blackhole")
    with pytest.raises(mk.DeviceLimitError, match=r"needs .* bytes; a core of wse3 has 49,152"):
        mk.simulate(mk.schedule("allgather", mk.Mesh(4), 400, 400, 400), "wse3")
    with pytest.raises(mk.DeviceLimitError, match="needs 32 colours; wse3 has 24; limits=False"):
        mk.simulate(mk.schedule("summa", mk.Mesh(16), 16, 16, 16), "wse3")
    with pytest.raises(mk.DeviceLimitError, match="does not fit"):
        mk.simulate(mk.schedule("ktree", mk.Mesh(1000), 1000, 1000), "wse3")
    with pytest.raises(perfmodel.errors.UnknownName):
        mk.simulate(schedule, "wse9")
    with pytest.raises(TypeError, match="elements are real numbers of 1 to 8 bytes"):
        mk.simulate(schedule, "wse3", dtype="U3")
    with pytest.raises(TypeError, match="dtype = 'half-ish' is no dtype"):
        mk.simulate(schedule, "wse3", dtype="half-ish")


def test_every_constant_has_a_source():
    fields = ("hop", "word", "turn", "ramp", "stage", "setup", "arithmetic", "startup", "launch", "copy", "die")
    for name in ("wse2", "wse3"):
        assert all(machine(name).sources[field] for field in fields)


@pytest.mark.parametrize("kind", ["product", "a task of my own"])
def test_steps_that_leave_the_mesh_are_refused(kind):
    """Compiled code checks no index; a task that nothing proves is played all the same."""
    summa = mk.schedule("summa", mk.Mesh(4), 8, 8, 8)
    away = S.Step("away", moves=S.Move("A", S.Multicast(1, S.line(1, [99_999] * 4)), 0, "A panel", 0))
    with pytest.raises(mk.ScheduleError, match="cores 99999 to 99999 of a line are named"):
        mk.simulate(dataclasses.replace(summa, task=S.Task(kind, ("A", "B")), program=(away,)))


def test_a_slower_hop_makes_nothing_faster():
    """The start-up of a step contains the way of its messages: with the hop it gets longer, too."""
    for name in ("meshgemm", "summa"):
        schedule = mk.schedule(name, mk.Mesh(6), 12, 12, 12)
        runs = [mk.simulate(schedule, perfmodel.device("wse3").replace(alpha=alpha)) for alpha in (1, 2, 4, 8)]
        assert all(a.cycles <= b.cycles and a.makespan <= b.makespan for a, b in pairwise(runs))


@pytest.mark.parametrize("faults, says", [
    (3, "faults = 3: mk.Faults"), (lambda: mk.Faults(cores=[3]), r"cores = \[3\]: pairs"),
    (lambda: mk.Faults(cores=[(1.5, 2)]), "pairs"), (lambda: mk.Faults(links=[((0, 0),)]), "a list of pairs of cores"),
    (lambda: mk.Faults(fabric=5), "fabric = "),
])  # fmt: skip
def test_faults_that_are_none(faults, says):
    with pytest.raises((mk.FabricError, TypeError), match=says):
        mk.simulate(mk.schedule("meshgemm", mk.Mesh(4), 4, 4, 4), faults=faults() if callable(faults) else faults)


def test_cycles_are_those_of_a_launch_among_many():
    """By brute force: thirty launches, each core from where it ended, a set-up between two of them."""
    for name in ("meshgemm", "summa", "gemm_t", "ktree"):
        schedule = mk.schedule(name, mk.Mesh(8), *(16,) * (2 if name == "ktree" else 3))
        engine = Engine(schedule, machine("wse3"), 2, 2)
        engine.run()
        ends = []
        for _ in range(30):
            engine.follow()
            ends.append(engine.end.copy())
        assert mk.simulate(schedule, "wse3").cycles == pytest.approx((ends[-1] - ends[9]).mean() / 20, rel=2e-3)


def test_cores_that_never_meet_have_cycles_of_their_own():
    """A row sums with its neighbours only: cycles are a mean over rows, not those of the slowest."""
    place = S.Place(S.line(0, range(2)), S.line(1, range(4)))
    tiling = mk.Tiling((2, 32), (2, 4))
    source = S.Index([-1, 0, 0, 0, -1, -1, -1, -1], y=[0, 4], x=range(4))  # row 1 rests
    step = S.Step("send", moves=[S.Move("a", S.Multicast(1, source), 0, "b", 0)])
    buffers = {"a": S.Tiles("A", 1, place), "b": S.Tiles("A")}
    schedule = S.Schedule("half", S.Task("mine", ("A",)), mk.Mesh(2, 4), {"A": tiling}, tiling, buffers, (step,),
                          S.Collect("b", place))  # fmt: skip
    run = mk.simulate(schedule, "wse3")
    assert 15 <= run.cycles < run.makespan and (run.ends[1] == 0).all()


def test_storage_type_of_the_device():
    schedule = mk.schedule("cannon", mk.Mesh(4), 8, 8, 8)
    assert np.array_equal(mk.simulate(schedule).link_bytes, mk.count(schedule, np.float16).link_bytes)
    assert mk.simulate(schedule, dtype="float32").link_bytes.sum() == 2 * mk.simulate(schedule).link_bytes.sum()


@st.composite
def drawn(draw):
    """Any built-in algorithm on any small mesh."""
    family = draw(st.sampled_from(sorted(SHAPES)))
    name = draw(st.sampled_from(sorted(mk.algorithms()[family])))
    sides = st.integers(1, 7)
    mesh, sizes = mk.Mesh(draw(sides), draw(sides)), [draw(st.integers(1, 20)) for _ in SHAPES[family]]
    return name, mesh, sizes, draw(st.sampled_from(["float16", "float32", "float64"]))


@settings(max_examples=60, deadline=None)
@given(drawn())
def test_loads_of_any_schedule(given):
    name, mesh, sizes, dtype = given
    try:
        schedule = mk.schedule(name, mesh, *sizes)
    except mk.MeshError:
        return
    run, counted = mk.simulate(schedule, "wse3", dtype=dtype, limits=False), mk.count(schedule, dtype)
    assert np.array_equal(run.link_bytes, counted.link_bytes)
    assert np.array_equal(run.link_messages, counted.link_messages) and run.messages == counted.messages
    assert sum(run.terms.values()) == pytest.approx(run.makespan, abs=1e-6) and run.cycles >= 0
