"""A fit predicts, replaces the calibration of a call, and becomes a device; sweeps in seconds, or as columns."""

from __future__ import annotations

import json

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.__main__ import main

GEMM = pm.measurements("wse3_meshgemm")


@pytest.fixture(scope="module")
def slow():
    """The published sweep as it would be on a chip twice as slow in everything but its links."""
    import dataclasses

    return pm.fit(dataclasses.replace(GEMM, name="mine", measured=2 * GEMM.measured))


def test_a_fit_predicts(slow):
    x = {name: values[:5] for name, values in GEMM.columns.items()}
    assert slow.predict(**x) == pytest.approx(2 * GEMM.measured[:5], rel=0.05)
    assert slow.predict(P=16, M=16, K=16, N=16) == pytest.approx(
        float(pm.gemm("wse3", 16, 16, 16, grid=16, constants=slow).cycles))
    with pytest.raises(pm.ModelError, match="takes P, M, K, N; got P"):
        slow.predict(P=16)


def test_a_fit_replaces_the_calibration(slow):
    mine, packaged = (pm.gemm("wse3", 3200, 3200, 3200, grid=400, constants=c) for c in (slow, None))
    assert 1.7 < mine.cycles / packaged.cycles < 2.1
    assert any("given by the fit of mine" in note for note in mine.notes)
    faster = pm.gemm(pm.device("wse3").replace(memory_bytes_per_cycle=32), 3200, 3200, 3200, grid=400, constants=slow)
    assert faster.cycles < mine.cycles  # the beat scales from the device of the fit to this one
    with pytest.raises(pm.ModelError, match="has constants of 'gemm', not of 'gemv'"):
        pm.gemv("wse3", 8, 8, grid=4, constants=slow)
    with pytest.raises(pm.UnknownName, match="did you mean 'beat'"):
        pm.gemm("wse3", 8, 8, 8, grid=4, constants={"beet": 1.0})
    with pytest.raises(pm.ModelError, match="neither a Fit nor a mapping"):
        pm.gemm("wse3", 8, 8, 8, grid=4, constants=7)


def test_a_fit_becomes_a_device(slow, tmp_path):
    path = slow.save(tmp_path / "mine.toml")
    chip = pm.device(path)
    assert (chip.name, chip.base) == ("mine", "wse3")
    by_file = pm.gemm(chip, 3200, 3200, 3200, grid=400)
    by_fit = pm.gemm("wse3", 3200, 3200, 3200, grid=400, constants=slow)
    assert by_file.cycles == pytest.approx(float(by_fit.cycles))
    assert pm.gemv(chip, 800, 800, grid=400).cycles == pm.gemv("wse3", 800, 800, grid=400).cycles
    # a change of the loaded device scales its own constants too
    twice = pm.gemm(chip.replace(memory_bytes_per_cycle=8), 3200, 3200, 3200, grid=400)
    assert twice.cycles > by_file.cycles
    for wrong, message in (("mine.json", "must end in .toml"), ("no/such/mine.toml", "cannot write")):
        with pytest.raises(pm.ModelError, match=message):
            slow.save(tmp_path / wrong)
    with pytest.raises(pm.ModelError, match="of no kernel on a mesh"):
        pm.fit("t10_decode").save(tmp_path / "t10.toml")


def test_constants_may_be_fixed(capsys, tmp_path):
    fitted = pm.fit(GEMM, fix={"beat": 1.0})
    assert "beat" not in fitted.params and fitted.fixed["beat"] == 1.0
    target = tmp_path / "mine.toml"
    fixed = ["--fix", "beat=1.0", "--fix", "launch=80"]
    assert main(["fit", "wse3_meshgemm", *fixed, "--save", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["params"]) == {"startup", "k_loop", "remainder", "vector"} and found["written"] == str(target)
    assert pm.device(target).base == "wse3"
    few = {"P": [4, 4], "M": [8, 16], "K": [8, 8], "N": [8, 8], "cycles": [900.0, 1000.0]}
    with pytest.raises(pm.ModelError, match=r"--fix launch="):
        pm.fit(few)
    assert pm.fit(few, fix={"k_loop": 38, "remainder": 4, "vector": 1.4, "beat": 1, "startup": 77}).params["launch"] > 0


class Frame:
    """What is used of a pandas DataFrame."""

    def __init__(self, columns):
        self.table = {name: np.asarray(values) for name, values in columns.items()}
        self.columns = list(columns)

    def __getitem__(self, name):
        return self.table[name]

    def to_dict(self):
        raise AssertionError("rows of a sweep are read by column")


def test_columns_and_seconds():
    cycles = {**{name: values.tolist() for name, values in GEMM.columns.items()}, "cycles": GEMM.measured.tolist()}
    seconds = {name: values for name, values in cycles.items() if name != "cycles"}
    seconds["seconds"] = (GEMM.measured / 1.1e9).tolist()
    for table in (cycles, seconds, Frame(cycles)):
        found = pm.measurements(table, "wse3")
        assert found.kind == "gemm" and found.measured == pytest.approx(GEMM.measured)
    assert pm.fit(Frame(seconds)).params == pytest.approx(pm.fit(GEMM).params, rel=1e-6)
    chip = pm.device("wse3").replace(clock_hz=2.2e9)
    assert pm.measurements(seconds, chip).measured == pytest.approx(2 * GEMM.measured)
    for table, message in (({"P": [4], "M": [4], "K": [4], "N": [4]}, r"lacks the column cycles \(or seconds\)"),
                           ({"P": [4], "M": [4], "cycles": [9]}, "lacks the column"),
                           ({"P": [4, 4, 4], "M": [4, 4], "K": 4, "N": 4, "cycles": 9}, "do not go together"),
                           ({"P": [], "M": [], "K": [], "N": [], "cycles": []}, "rows")):
        with pytest.raises(pm.ModelError, match=message):
            pm.measurements(table)


def test_few_rows_are_called_an_interpolation():
    assert any("6 rows for 4 constants" in text or "an interpolation" in text
               for text in pm.fit("a100_prefill").warnings)


def test_this_machines_steps(tmp_path):
    """seconds = 1 us + flops / 10 G + 2 us a step: steps of a call in its extra info."""
    path = tmp_path / "bench.json"
    entries = [{"name": f"b{f:g},{s}", "stats": {"median": 1e-6 + f / 1e10 + 2e-6 * s},
                "extra_info": {"flops": f, "steps": s}} for f in (1e5, 1e6, 1e8) for s in (4, 64, 700)]
    path.write_text(json.dumps({"benchmarks": entries}))
    assert pm.fit(path).params == pytest.approx({"overhead": 1e-6, "per_flop": 1e-10, "per_step": 2e-6}, rel=1e-4)


def test_uncertainty_is_saved_with_the_constants(tmp_path):
    """A device file predicts what its fit does, with the same interval and range; a second file keeps the first's."""
    some = pm.fit(GEMM.part(GEMM.columns["P"] <= 208), fix={"beat": 1.0})
    path = some.save(tmp_path / "mine.toml")
    by_fit = pm.gemm("wse3", 800, 800, 800, grid=400, constants=some)
    by_file = pm.gemm(str(path), 800, 800, 800, grid=400)
    assert by_file.interval == pytest.approx(by_fit.interval) and by_file.cycles == by_fit.cycles
    assert by_file.uncertainty != pytest.approx(pm.gemm("wse3", 800, 800, 800, grid=400).uncertainty)
    assert any("grid 400 lies outside 16 to 208" in note for note in by_file.notes)
    (tmp_path / "more.toml").write_text(f'base = "{path}"\nalpha = 3\n[constants.shift]\nstartup = 80.0\n')
    more = pm.device(tmp_path / "more.toml")
    expected = pm.gemm(pm.device(path).replace(alpha=3), 800, 800, 800, grid=400).cycles
    assert pm.gemm(more, 800, 800, 800, grid=400).cycles == expected > by_file.cycles
    assert pm.shift(more, (8, 8), steps=4, grid=24).terms["overhead"] == pytest.approx(40 + 4 * 80)
    faster = pm.device(path).replace(memory_bytes_per_cycle=32)  # scaled constants were not held against anything
    assert pm.gemm(faster, 800, 800, 800, grid=400).uncertainty > 0.1


@pytest.mark.parametrize(("about", "message"), [
    ("held_out = -1", "held_out = -1 is outside"), ("heldout = 1", "did you mean 'held_out'"),
    ("stderr = 3", "stderr"), ("stderr = { beat = 0.1 }", "unknown stderr"), ("stderr = { startup = nan }", "finite"),
    ("stderr = { startup = 0.1 }\ncorrelation = [[1.0, 0.5]]", "made of 1 numbers a row"),
    ("stderr = { startup = 0.1 }\ncorrelation = [[2.0]]", "outside -1 to 1"), ("range = { grid = [1] }", "2 numbers"),
    ("range = { grid = [2, 1] }", "ends before it begins"),
])
def test_what_a_file_says_of_its_constants_is_checked(tmp_path, about, message):
    path = tmp_path / "mine.toml"
    path.write_text(f'base = "wse3"\n[constants.gemm]\nstartup = 80.0\n[constants.gemm.about]\n{about}\n')
    with pytest.raises(pm.ModelError, match=message):
        pm.device(path)
