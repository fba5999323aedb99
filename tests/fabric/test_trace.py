"""Traces are read back; the commands."""

import collections
import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import meshkernels as mk
from meshkernels.__main__ import main


def traced(run, path, **more):
    run.trace(path, **more)
    return json.loads(path.read_text())["traceEvents"]


@pytest.mark.parametrize("name", ["meshgemm", "summa", "gemm_t"])
def test_slices_and_flows(name, tmp_path):
    run = mk.simulate(mk.schedule(name, mk.Mesh(4), 16, 16, 16), "wse3")
    events = traced(run, tmp_path / "trace.json")
    busy = np.zeros(run.schedule.mesh.shape)
    slices = [e for e in events if e["ph"] == "X"]
    for e in slices:
        busy[e["pid"], e["tid"]] += e["args"]["cycles"]
    assert np.allclose(busy, run.utilisation["computing"] * run.makespan, rtol=1e-6)
    by_core = collections.defaultdict(list)
    for e in slices:
        by_core[e["pid"], e["tid"]].append((e["ts"], e["ts"] + e["dur"]))
    for spans in by_core.values():  # one after the other
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(spans))
    begun, ended = ({e["id"]: e for e in events if e["ph"] == kind} for kind in "sf")
    assert begun.keys() == ended.keys() and begun
    assert all(begun[n]["ts"] <= ended[n]["ts"] for n in begun)
    names = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert len(names) == 16


def test_same_bytes_and_selection(tmp_path):
    for n in range(2):
        mk.simulate(mk.schedule("cannon", mk.Mesh(4), 8, 8, 8), "wse3").trace(tmp_path / f"{n}")
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    run = mk.simulate(mk.schedule("cannon", mk.Mesh(4), 8, 8, 8), "wse3")
    events = traced(run, tmp_path / "some", cores=[(0, 0), (0, 3)])
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} == {(0, 0), (0, 3)}
    with pytest.raises(mk.FabricError, match=r"core \(4, 0\) is not on a mesh of 4 x 4"):
        run.trace(tmp_path / "none", cores=[(4, 0)])


def test_a_trace_that_would_be_too_large(tmp_path):
    run = mk.simulate(mk.schedule("ktree", mk.Mesh(720), 720, 720), "wse3")
    with pytest.raises(mk.FabricError, match=r"518,400 cores would have about [\d,]+ events, .* GB; .* choose cores"):
        run.trace(tmp_path / "trace.json")


def test_simulate_command(capsys):
    assert main(["simulate", "summa", "--grid", "8", "--shape", "32", "32", "32", "--device", "wse3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"cycles", "makespan", "seconds", "terms", "messages", "messages_per_s", "link_utilisation"} <= set(found)
    assert found["cycles"] == mk.simulate(mk.schedule("summa", mk.Mesh(8), 32, 32, 32), "wse3").cycles
    assert main(["simulate", "ktree", "--grid", "24", "--groups", "4", "--shape", "48", "48"]) == 0
    assert "links busy" in capsys.readouterr().out
    assert main(["simulate", "shift", "--grid", "16", "--steps", "4", "--tile", "8", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cycles"] == pytest.approx(626.48, rel=0.13)  # measured


def test_trace_command(tmp_path, capsys):
    out = tmp_path / "trace.json"
    assert main(["trace", "meshgemm", "--grid", "4", "--tile", "8", "--device", "wse3", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["traceEvents"]
    assert "cycles of meshgemm" in capsys.readouterr().out


@pytest.mark.parametrize("line, says", [
    ("simulate nothing --grid 4 --shape 4 4 4", "unknown algorithm 'nothing'"),
    ("simulate meshgemm --grid 4", "give --shape or --tile"),
    ("simulate meshgemm --grid 4 --tile 1 2", "--tile takes one or three numbers, not 2"),
    ("simulate shift --grid 4 --steps 2", "shift takes --grid P --steps L --tile H W"),
    ("simulate summa --grid 16 --tile 1 --strict", "needs 32 colours; wse3 has 24"),
    ("simulate meshgemm --grid 4 --tile 1 --device dojo", "dojo cannot be simulated"),
    ("trace meshgemm --grid 4 --tile 1 --cores 1", "--cores takes ROW,COLUMN pairs, not 1"),
])  # fmt: skip
def test_bad_input(line, says, capsys):
    assert main(line.split()) == 2
    assert says in capsys.readouterr().err


def test_animate_command(tmp_path, capsys):
    out = tmp_path / "cannon.gif"
    assert main(["animate", "cannon", "--grid", "3", "--frames", "6", "--out", str(out)]) == 0
    with Image.open(out) as image:
        assert image.format == "GIF" and 2 <= image.n_frames <= 6  # equal pictures are one
    assert main(["animate", "ktree", "--grid", "20", "--out", str(out)]) == 2
    assert "20 x 20 cores: at most 256" in capsys.readouterr().err
