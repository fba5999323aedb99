"""Fitting: recovers what data was made from, says what it cannot know, and holds up on rows it did not see."""

from __future__ import annotations

import dataclasses
import json
import tomllib

import numpy as np
import pytest

import perfmodel as pm
from perfmodel import calibrate, forms_gemm, parameters
from perfmodel.terms import total

TRUTH = {"launch": 60.0, "startup": 90.0, "k_loop": 30.0, "remainder": 5.0, "vector": 2.0, "beat": 1.5}


def sweep(path, grids, tiles, noise=0.0, seed=0):
    """A MeshGEMM sweep computed, step by step, from known constants."""
    rng = np.random.default_rng(seed)
    lines = ["P,M,K,N,cycles"]
    for p in grids:
        for m in tiles:
            for k in tiles:
                for n in tiles:
                    words = sum(len({(m * j + i) // 4 for i in range(m)}) for j in range(n))
                    work = k * TRUTH["k_loop"] + k % 4 * TRUTH["remainder"] + k * n * TRUTH["vector"]
                    work += k * words * TRUTH["beat"]
                    message = 1.125 * -(-m * k // 2) + 2 * min(2, p - 1)  # words and hops of an alignment round
                    cycles = TRUTH["launch"] + (p // 2 + p) * TRUTH["startup"] + p * work + p // 2 * message
                    lines.append(f"{p},{p * m},{p * k},{p * n},{cycles * (1 + noise * rng.standard_normal())!r}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_exact_data_gives_back_its_constants(tmp_path):
    fitted = pm.fit(pm.measurements(sweep(tmp_path / "s.csv", (4, 30, 100), (1, 2, 3, 5, 8))))
    assert fitted.params == pytest.approx(TRUTH, rel=1e-5)
    assert np.abs(fitted.residuals).max() < 1e-7


def test_noisy_data_gives_constants_within_their_errors(tmp_path):
    fitted = pm.fit(pm.measurements(sweep(tmp_path / "s.csv", (4, 30, 100), (1, 2, 3, 5, 8), noise=0.01)))
    for name, value in TRUTH.items():
        assert abs(fitted.params[name] - value) < 4 * fitted.stderr[name], name
        assert 0 < fitted.stderr[name] < value
    assert np.allclose(np.diag(fitted.correlation), 1)
    assert np.abs(fitted.correlation).max() < 1 + 1e-9


def test_outliers_do_not_drag_the_fit(tmp_path):
    path = sweep(tmp_path / "s.csv", (4, 30, 100), (1, 2, 3, 5, 8))
    lines = path.read_text().splitlines()
    for at in (10, 200, 300):
        *head, cycles = lines[at].split(",")
        lines[at] = ",".join([*head, str(float(cycles) * 3)])
    path.write_text("\n".join(lines))
    assert pm.fit(pm.measurements(path)).params == pytest.approx(TRUTH, rel=0.02)


def test_what_the_data_cannot_tell_apart_is_refused(tmp_path):
    with pytest.raises(pm.ModelError, match=r"cannot tell .*, .* apart.* --fix \w+="):
        pm.fit(pm.measurements(sweep(tmp_path / "s.csv", (4, 30, 100), (1, 2))))
    with pytest.raises(pm.ModelError, match=r"has 1 rows; 6 constants .* at least 7"):
        pm.fit(pm.measurements(sweep(tmp_path / "t.csv", (4,), (2,))))


def test_with_every_constant_held_a_fit_is_their_error():
    """Nothing is left to fit: residuals and left-out rows are those of the values given."""
    data = pm.measurements("wse3_shift")
    held = pm.fit(data, fix={"startup": 70.0})
    assert (held.params, held.stderr, held.correlation.shape) == ({}, {}, (0, 0))
    assert held.values["startup"] == 70.0 and np.array_equal(held.cross_validate("grid").errors, held.residuals)
    first = data.columns["L"] == 1
    tiles = data.columns["tile_rows"][first] * data.columns["tile_cols"][first]
    by_hand = (42 + 70 + 2 * 1.125 * np.ceil(tiles / 2)) / data.measured[first] - 1
    assert held.residuals[first] == pytest.approx(by_hand)


def test_a_constant_that_is_not_there_is_flagged(tmp_path, monkeypatch):
    monkeypatch.setitem(TRUTH, "remainder", 0.0)
    fitted = pm.fit(pm.measurements(sweep(tmp_path / "s.csv", (4, 30, 100), (1, 2, 3, 5, 8), noise=0.01)))
    assert any(warning.startswith("remainder") for warning in fitted.warnings)


def test_cross_validation_predicts_the_group_left_out(tmp_path):
    """A grid whose rows are all doubled is missed by about half when it is left out, and only then."""
    path = sweep(tmp_path / "s.csv", (4, 30, 100, 200, 300), (1, 2, 3, 5))
    lines = path.read_text().splitlines()
    for at, line in enumerate(lines):
        if line.startswith("100,"):
            *head, cycles = line.split(",")
            lines[at] = ",".join([*head, str(2 * float(cycles))])
    path.write_text("\n".join(lines))
    data = pm.measurements(path)
    errors = pm.fit(data).cross_validate("grid").errors
    assert errors[data.columns["P"] == 100] == pytest.approx(-0.5, abs=0.01)
    with pytest.raises(pm.UnknownName, match=r"'gird'.*did you mean 'grid'"):
        pm.fit(data).cross_validate("gird")


# ------------------------------------------------------------------------------------- the packaged measurements

def test_wse3_meshgemm_out_of_sample():
    fitted = pm.fit(pm.measurements("wse3_meshgemm"))
    assert not fitted.warnings
    for by in ("grid", "tile"):
        held_out = fitted.cross_validate(by)
        assert held_out.mean <= 0.01 and held_out.worst <= 0.04, by


@pytest.mark.parametrize("side", [0, 2], ids=["M", "N"])
def test_wse3_meshgemm_extrapolates_from_tiles_up_to_3(side):
    """Every tile of 8 in one dimension left out: beyond the range fitted by more than a factor of two."""
    data = pm.measurements("wse3_meshgemm")
    large = np.array([label.split("x")[side] == "8" for label in data.labels["tile"]])
    columns = {name: values[~large] for name, values in data.columns.items()}
    labels = {name: values[~large] for name, values in data.labels.items()}
    fitted = pm.fit(pm.Measurements(data.name, data.kind, data.device, columns, data.measured[~large], labels))
    x = {name: values[large] for name, values in data.columns.items()}
    wse3 = pm.device("wse3")
    terms = forms_gemm.gemm({**fitted.params, **fitted.fixed}, wse3, "meshgemm", x["M"], x["K"], x["N"], x["P"], x["P"])
    errors = np.abs(total(terms) / data.measured[large] - 1)
    assert errors.max() < 0.05 and errors.mean() < 0.02


def test_wse3_meshgemv_out_of_sample():
    data = pm.measurements("wse3_meshgemv")
    fitted = pm.fit(data)
    above = data.columns["P"] > 16
    for by in ("grid", "tile"):
        errors = np.abs(fitted.cross_validate(by).errors[above])
        assert errors.mean() <= 0.005 and errors.max() <= 0.016, by
    assert fitted.params["alpha"] == pytest.approx(2.0, rel=0.02)
    assert fitted.params["beta"] == pytest.approx(10.0, rel=0.02)


@pytest.mark.parametrize("name", ["wse2_prefill", "wse2_decode"])
@pytest.mark.parametrize("by", ["grid", "model"])
def test_wse2_inference_out_of_sample(name, by):
    held_out = pm.fit(pm.measurements(name)).cross_validate(by)
    assert held_out.mean <= 0.025 and held_out.worst <= 0.06


@pytest.mark.parametrize("name", ["t10_prefill", "t10_decode", "ladder_prefill", "ladder_decode", "a100_prefill",
                                  "a100_decode"])
def test_competitors_out_of_sample(name):
    assert pm.fit(pm.measurements(name)).cross_validate("model").mean <= 0.15


def test_the_packaged_constants_are_these_fits():
    packaged = tomllib.loads(parameters.FILE.read_text(encoding="utf-8"))
    fresh = calibrate.calibrate()
    assert {f"{a}.{b}" for a, b in fresh} == {f"{a}.{b}" for a, kinds in packaged.items() for b in kinds}
    for (owner, name), entries in fresh.items():
        for key, entry in entries.items():
            if key == "about":
                assert packaged[owner][name][key]["held_out"] == pytest.approx(entry["held_out"], rel=0.05)
            elif key == "range":
                assert packaged[owner][name][key] == entry
            else:
                assert packaged[owner][name][key]["value"] == pytest.approx(entry["value"], rel=1e-4, abs=1e-9)


# ------------------------------------------------------------------------------------------------ files of a user

@pytest.mark.parametrize(("text", "message"), [
    ("P,M,K,cycles\n4,4,4,9\n", "lacks the column N of a gemm sweep; it has P, M, K, cycles"),
    ("P,M,K,N,cycles\n4,4,4,4,-9\n", r"row 2: cycles = -9 must be positive"),
    ("P,M,K,N,cycles\n4,4,4,4,nan\n", r"row 2: cycles = nan must be positive"),
    ("P,M,K,N,cycles\n4,4,zero,4,9\n", r"row 2: K = 'zero' is not a number"),
    ("P,M,K,N,cycles\n", "has no rows"),
    ("P,M,K,N,cycles\n16.7,16,16,16,9\n", r"row 2: P = 16\.7 must be a whole number"),
    ("P,M,N,groups,cycles\n8,16,16,8,9\n8,16,16,9,9\n", "row 3: groups = 9 exceeds P = 8"),
    ("P,M,N,groups,cycles,unit\n8,16,16,8,9,cycle\n8,16,16,8,9,us\n", "row 3: unit 'us', expected 'cycle'"),
])
def test_bad_sweeps_are_refused(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(pm.DataError, match=message):
        pm.measurements(path)


def test_a_borrowed_constant_is_warned_of():
    """A GEMV sweep of a user's own gets the beat of the WSE-3."""
    mine = dataclasses.replace(pm.measurements("wse3_meshgemv"), name="mine")
    assert pm.fit(mine).warnings == ("beat = 1 is the packaged wse3.gemv's, not fitted to mine",)


def test_an_absurd_error_is_warned_of():
    """Of three rows two are ten times too long: no constants describe that."""
    data = pm.measurements("wse3_meshgemm")
    longer = np.where(np.arange(len(data)) % 3, 10, 1) * data.measured
    warnings = pm.fit(dataclasses.replace(data, measured=longer)).warnings
    assert any("mean error 60%: the form does not describe these rows" in text for text in warnings)


def benchmark_file(path, entries):
    path.write_text(json.dumps({"benchmarks": [
        {"name": f"b{i}", "stats": {"median": seconds}, "extra_info": info} for i, (seconds, info) in enumerate(entries)
    ]}))
    return path


def test_this_machines_curve_from_benchmarks(tmp_path):
    """seconds = 1 us + flops / 10 G + bytes / 5 G, given back; then as a device file."""
    points = [(f, b) for f in (1e5, 1e6, 1e8) for b in (1e3, 1e6, 1e7)]
    entries = [(1e-6 + f / 1e10 + b / 5e9, {"flops": f, "bytes": b}) for f, b in points]
    fitted = pm.fit(pm.measurements(benchmark_file(tmp_path / "bench.json", entries)))
    assert fitted.params == pytest.approx({"overhead": 1e-6, "per_flop": 1e-10, "per_byte": 2e-10}, rel=1e-4)
    shared = [(seconds, {**info, "threads": 2, "flops": 2 * info["flops"], "bytes": 2 * info["bytes"]})
              for seconds, info in entries]
    assert pm.fit(pm.measurements(benchmark_file(tmp_path / "two.json", shared))).params == pytest.approx(fitted.params)
    with pytest.raises(pm.DataError, match=r"none of 1 benchmarks has extra_info\['flops'\]"):
        pm.measurements(benchmark_file(tmp_path / "none.json", [(1.0, {})]))
    with pytest.raises(pm.DataError, match=r"median = 0.0 of 'b0' must be positive"):
        pm.measurements(benchmark_file(tmp_path / "zero.json", [(0.0, {"flops": 1.0})]))
