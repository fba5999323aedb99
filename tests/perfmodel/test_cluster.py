"""Ranks of a cluster: the formula by hand, the fit on times that are known, a ping-pong on real ranks."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import meshkernels as mk
import perfmodel as pm
from perfmodel import pingpong
from tests.engines.launch import needs_mpi, on_ranks

PING_PONG = "import sys\nfrom perfmodel.__main__ import main\nsys.exit(main(['ping-pong', *sys.argv[1:]]))\n"


def counts(**changes):
    found = {"macs": [0, 0], "bytes_sent": [0, 0], "bytes_received": [0, 0], "messages_sent": [0, 0],
             "messages_received": [0, 0], "rounds": 0}  # fmt: skip
    return found | changes


def test_the_slowest_rank_by_hand():
    chip = pm.device("cluster").replace(alpha=2000, beta=100, word_bytes=4, link_words_per_cycle=0.5, macs_per_cycle=20)
    assert chip.bandwidth == 2e9
    found = pm.on_ranks(counts(macs=[2e6, 4e6], bytes_sent=[8e5, 4e5], bytes_received=[2e5, 1e6],
                               messages_sent=[3, 5], messages_received=[7, 1], rounds=4), chip)  # fmt: skip
    # rank 0: 2e6 / 20 + 4 * 2000 + 7 * 100 + 8e5 / 2 = 508700; rank 1: 2e5 + 8000 + 500 + 5e5
    assert found.terms == {"compute": 2e5, "alpha": 8000, "beta": 500, "transfer": 5e5}
    assert found.cycles == 708500 and found.seconds == pytest.approx(708500e-9) and not found.notes
    assert "extrapolated: 5 ranks" in pm.on_ranks({key: value if key == "rounds" else [*value, 0, 0, 0]
                                                   for key, value in counts().items()}, chip).notes[0]  # fmt: skip


@pytest.mark.parametrize(("changes", "device", "says"), [
    ({}, "wse3", "wse3' is a Device: measure yours"), ({}, "a100", "is a Gpu"), ({"macs": [1]}, "cluster", r"\[1, 2,"),
    ({"macs": [1, -1]}, "cluster", "from 0 to 2"), ({"macs": ["a", "b"]}, "cluster", "must be a number"),
    ({"macs": []}, "cluster", "must be a number"), ({"rounds": -1}, "cluster", "rounds"),
    ({"rounds": float("nan")}, "cluster", "rounds"),
])  # fmt: skip
def test_refusals(changes, device, says):
    with pytest.raises(pm.ModelError, match=says):
        pm.on_ranks(counts(**changes), device)


def test_counts_that_are_missing():
    with pytest.raises(pm.ModelError, match="lack bytes_sent, bytes_received"):
        pm.on_ranks({"macs": [1], "messages_sent": [0], "messages_received": [0], "rounds": 0}, "cluster")
    with pytest.raises(pm.ModelError, match="must be a mapping"):
        pm.on_ranks([1, 2], "cluster")


def test_a_fit_finds_what_made_the_times_and_shows_what_it_leaves():
    times = {n: 3e-6 + n / 5e9 for n in pingpong.SIZES}
    given = {"ranks": 2, "one_way": times, "stream": 2e-7, "rate": 3e10, "copy": 8e9}
    fit = pingpong.fitted(given)
    assert fit["alpha"] == pytest.approx(3e-6) and fit["bandwidth"] == pytest.approx(5e9)
    assert max(abs(row["error"]) for row in fit["rows"]) < 1e-9
    odd = pingpong.fitted(given | {"one_way": times | {1024: 2 * times[1024]}})
    errors = {row["bytes"]: row["error"] for row in odd["rows"]}
    assert min(errors, key=errors.get) == 1024 and -0.55 < errors[1024] < -0.3
    with pytest.raises(pm.ModelError, match="do not grow with the size"):
        pingpong.fitted(given | {"one_way": {n: 1e-3 / (1 + n) for n in pingpong.SIZES}})


def test_what_is_written_is_what_was_fitted(tmp_path):
    fit = pingpong.fitted({"ranks": 6, "one_way": {n: 40e-6 + n / 1e9 for n in pingpong.SIZES}, "stream": 1e-6,
                           "rate": 3e10, "copy": 8e9})  # fmt: skip
    pingpong.write(tmp_path / "rack.toml", fit)
    chip = pm.device(tmp_path / "rack.toml")
    assert isinstance(chip, pm.Cluster) and (chip.name, chip.cores, chip.rows, chip.cols) == ("rack", 6, 2, 3)
    assert chip.alpha == pytest.approx(40_000) and chip.bandwidth == pytest.approx(1e9)
    assert (chip.beta, chip.macs_per_cycle, chip.memory_bytes_per_cycle) == pytest.approx((1000, 30, 8))
    assert chip.quantity("alpha").source == "ping-pong on 6 ranks" and chip.quantity("power_w").estimated


def test_per_rank_agrees_with_the_bytes_between_ranks():
    for name in mk.algorithms()["gemm"]:
        ledger = mk.count(mk.schedule(name, mk.Mesh(4), 13, 14, 9), "float32")
        for ranks in (1, 2, 3, (2, 2), (4, 4)):
            found, moved = ledger.per_rank(ranks), ledger.between(ranks)
            assert (found["bytes_sent"] == moved.sum(axis=1)).all()
            assert (found["bytes_received"] == moved.sum(axis=0)).all()
            assert found["macs"].sum() == ledger.macs.sum()
            assert found["messages_sent"].sum() == found["messages_received"].sum()
            assert (found["messages_sent"].sum() > 0) == (found["rounds"] > 0) == (moved.sum() > 0)
    # a ring of two ranks: one message each way, for A or for B, in each step and each round that aligns
    found = mk.count(mk.schedule("cannon", mk.Mesh(2), 8, 8, 8), "float32").per_rank((1, 2))
    assert found["messages_sent"].tolist() == found["messages_received"].tolist() == [found["rounds"]] * 2


def test_the_simulator_takes_a_cluster():
    """One message of a known size on an otherwise idle connection costs about alpha and its words."""
    chip = pm.device("cluster").replace(rows=2, cols=2, cores=4)
    for width in (1 << 10, 1 << 14):
        schedule = mk.schedule("summa", mk.Mesh(1, 2), width, 2, 2)
        run = mk.simulate(schedule, chip, dtype="float32")
        words = width  # a column of A goes to the other rank in either step
        least = words / chip.link_words_per_cycle
        assert least < run.cycles < 4 * (least + chip.alpha + chip.beta) + 2 * schedule.operands["A"].words * 2
    slower = mk.simulate(schedule, chip.replace(link_words_per_cycle=chip.link_words_per_cycle / 4), dtype="float32")
    assert slower.cycles > run.cycles


def test_ten_thousand_ranks():
    ledger = mk.count(mk.schedule("meshgemm", mk.Mesh(100), 10**5, 10**5, 10**5), "float32")
    found = pm.on_ranks(ledger.per_rank((100, 100)), "cluster")
    assert np.isclose(found.terms["compute"], 10**15 / 10**4 / pm.device("cluster").macs_per_cycle)
    assert "extrapolated: 10000 ranks" in found.notes[0]


@needs_mpi
def test_ping_pong_on_three_ranks_writes_a_device(tmp_path):
    file = tmp_path / "here.toml"
    done = on_ranks(3, PING_PONG, "--save", str(file), "--json", limit=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # one rank prints
    assert found["ranks"] == 3 and len(found["rows"]) == len(pingpong.SIZES)
    chip = pm.device(file)
    assert chip.cores == 3 and chip.alpha == pytest.approx(found["alpha"] * 1e9)
    assert 50 < chip.alpha < 1e6 and 1e7 < chip.bandwidth < 1e12


def test_ping_pong_alone_says_how(monkeypatch):
    done = subprocess.run([sys.executable, "-m", "perfmodel", "ping-pong"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and ("mpiexec -n 2" in done.stderr or
                                                                      "pip install" in done.stderr)  # fmt: skip
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(pm.ModelError, match=r"pip install 'meshkernels\[mpi\]'"):
        pingpong.measure()
