"""Results in a notebook and across processes: equal by value, hashable, picklable, short as text, tables as HTML."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import meshkernels as mk
import perfmodel as pm
from meshkernels.fabric import machine

MESH = mk.Mesh(6)


def schedule(size=12):
    return mk.schedule("meshgemm", MESH, size, size, size)


MAKERS = {
    "mesh": lambda: MESH, "ring": lambda: mk.Ring.interleaved(6), "tiling": lambda: mk.Tiling((4, 4), (2, 2)),
    "schedule": schedule, "proof": lambda: mk.verify(schedule()), "ledger": lambda: mk.count(schedule()),
    "routes": lambda: mk.count(schedule()).routes[0], "compliance": lambda: mk.compliance(schedule(), "wse2"),
    "run": lambda: mk.simulate(schedule(), "wse3"), "machine": lambda: machine("wse3"),
    "faults": lambda: mk.Faults(cores=[(1, 1)]),
    "device": lambda: pm.device("wse2"), "gpu": lambda: pm.device("a100"), "model": lambda: pm.model("llama3-8b"),
    "changed": lambda: pm.device("wse2").replace(alpha=2),
    "point": lambda: pm.gemm("wse3", 5760, 5760, 5760, grid=720),
    "points": lambda: pm.gemv("wse3", 5760, 5760, grid=np.array([240, 480])),
    "decode": lambda: pm.decode("wse2", "llama3-8b", context=4096, grid=360),
    "generate": lambda: pm.generate("wse2", "llama3-8b", prompt=100, new=10, prefill_grid=660, decode_grid=360),
    "time": lambda: pm.time(mk.count(schedule()), "wse3"),
    "measurements": lambda: pm.measurements("wse2_decode"), "fit": lambda: pm.fit("wse2_decode"),
    "held out": lambda: pm.fit("wse2_decode").cross_validate("model"),
    "sweep": lambda: pm.sweep("wse2", lambda chip: pm.gemv(chip, 4096, 4096, grid=480), alpha=[1, 2]),
    "need": lambda: pm.need("wse3", "llama3-70b", tokens_per_s=5000),
    "capacity": lambda: pm.capacity("wse2", "llama3-8b", grid=360),
    "pipeline": lambda: pm.pipeline("wse2", "llama3-8b", tokens=64, grid=360),
    "choice": lambda: pm.best_groups("wse2", 90),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_equal_by_value_short_and_picklable(name):
    one, two = MAKERS[name](), MAKERS[name]()
    again = pickle.loads(pickle.dumps(one))
    assert one == two == again and one != "something else"
    if name != "need":  # holds dictionaries
        assert len({one, two, again}) == 1
    assert len(repr(one)) < 600 and "\n" not in repr(one).replace(",\n", ",")


@pytest.mark.parametrize(("one", "other"), [
    (mk.count(schedule()), mk.count(schedule(18))), (mk.count(schedule()), mk.count(schedule(), np.float32)),
    (mk.Ring.natural(6), mk.Ring.interleaved(6)), (mk.simulate(schedule(), "wse3"), mk.simulate(schedule(), "wse2")),
    (pm.gemv("wse3", 64, 64, grid=8), pm.gemv("wse3", 64, 65, grid=8)),
    (pm.measurements("wse3_shift"), pm.measurements("wse3_shift").part(np.arange(124) < 9)),
])  # fmt: skip
def test_different_where_something_differs(one, other):
    assert one != other and hash(one) != hash(other)


def test_a_hash_is_not_carried_to_another_process():
    """Python salts the hashes of bytes in each process."""
    ledger = mk.count(schedule())
    hash(ledger)
    script = "import pickle, sys; a = pickle.load(sys.stdin.buffer); import meshkernels as mk\n" \
             "b = mk.count(mk.schedule('meshgemm', 6, 12, 12, 12)); assert a == b and len({a, b}) == 1"
    subprocess.run([sys.executable, "-c", script], input=pickle.dumps(ledger), check=True)


@pytest.mark.parametrize("name", ["point", "points", "decode", "generate"])
def test_a_pickled_prediction_keeps_its_uncertainty(name):
    one = MAKERS[name]()
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(one))))
    np.testing.assert_array_equal(again.interval, one.interval)
    assert again.phases == one.phases and again.as_dict() == one.as_dict()
    if name != "points":
        assert pm.sensitivity(again) == pm.sensitivity(one)
    with pytest.raises(pm.ModelError, match="a pickled prediction knows one change of one percent at a time"):
        again.uses[0].cycles({key: 2 * value for key, value in again.uses[0].kernel.values.items()})


@pytest.mark.parametrize(("name", "shows"), [
    ("ledger", ["meshgemm on 6 x 6 cores", "<td>critical_hops</td><td>16</td>"]),
    ("compliance", ["meshgemm on wse2: complies", "<td>bytes per core</td>", "<th>limit</th>"]),
    ("point", ["5760 x 5760 x 5760", "<td>compute</td>", "90% interval", "<p>extrapolated: grid 720"]),
    ("points", ["(2,) points"]), ("schedule", ["meshgemm"]),
    ("run", ["Run(meshgemm on 6 x 6 cores of wse3", "<td>makespan</td>", "<td>startups</td>", "<th>cycles</th>"]),
])  # fmt: skip
def test_html(name, shows):
    html = MAKERS[name]()._repr_html_()
    assert all(text in html for text in shows), html


def test_html_escapes_names():
    table = mk.Compliance("<script>", "a & b", ())._repr_html_()
    assert "&lt;script&gt; on a &amp; b" in table and "<script>" not in table


def test_frames():
    pytest.importorskip("pandas")
    ledger = mk.count(mk.schedule("meshgemm", mk.Mesh(2, 3), 6, 6, 6))
    cores, steps = ledger.to_frame(), ledger.to_frame("steps")
    assert cores.index.names == ["row", "column"] and len(cores) == 6 and len(steps) == ledger.steps
    assert cores.loc[1, 2].macs == ledger.macs[1, 2]
    assert [cores[f"bytes_{way}"].sum() for way in ("east", "west", "south", "north")] == \
        ledger.link_bytes.sum(axis=(1, 2)).tolist()
    assert steps.hops.sum() == ledger.critical_hops and steps.bytes.tolist() == ledger.to_dict()["step_bytes"]
    with pytest.raises(mk.MeshError, match="of = 'links': a frame has a row for each of the"):
        ledger.to_frame("links")


def test_without_pandas_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install 'meshkernels\\[pandas\\]'"):
        mk.count(schedule()).to_frame()
