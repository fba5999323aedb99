"""Silicon that the model has not seen: predicted by constants that come from elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest

import perfmodel as pm
from perfmodel import parameters, report
from perfmodel.__main__ import main


def predict(command: str, capsys) -> dict:
    assert main(["predict", *command.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def shift_errors(name: str) -> np.ndarray:
    data = pm.measurements(name)
    x = data.columns
    return pm.shift("wse3", (x["tile_rows"], x["tile_cols"]), steps=x["L"], grid=x["P"]).cycles / data.measured - 1


def test_shift_of_wse3_is_blind():
    """Start-up of a MeshGEMM step, two passes of 1.125 cycles a word, a one-way latency: nothing of the sweep."""
    for constant in parameters.kernel("wse3", "shift").parameters.values():
        assert constant.stderr is None and "shift" not in constant.origin
    errors = np.abs(shift_errors("wse3_shift"))
    assert len(errors) == 124 and errors.mean() <= 0.05 and errors.max() <= 0.13


def test_shift_with_its_one_start_up_fitted():
    fitted = pm.fit(pm.measurements("wse3_shift"))
    assert list(fitted.params) == ["startup"]
    errors = np.abs(fitted.residuals)
    assert errors.mean() <= 0.04 and errors.max() <= 0.10
    held_out = fitted.cross_validate("grid")
    assert held_out.mean <= 0.04 and held_out.worst <= 0.10


def test_shift_beyond_the_block():
    """Measured: 12.4 cycles less for each step beyond P, whatever the block and the tile; predicted: a set-up less."""
    data = pm.measurements("wse3_shift_beyond")
    x = data.columns
    for rows in (1, 2, 8):
        here = (x["P"] == 176) & (x["tile_rows"] == rows)
        slope = np.diff(data.measured[here]) / np.diff(x["L"][here])
        within = pm.measurements("wse3_shift")
        w = (within.columns["P"] == 176) & (within.columns["tile_rows"] == rows) & (within.columns["L"] >= 64)
        assert np.diff(within.measured[w]) / np.diff(within.columns["L"][w]) - slope == pytest.approx(12.8, abs=0.7)
    errors = np.abs(shift_errors("wse3_shift_beyond"))
    assert len(errors) == 24 and errors.mean() <= 0.04 and errors.max() <= 0.07
    inside, beyond, farther = (float(pm.shift("wse3", (1, 1), steps=steps, grid=16).cycles) for steps in (16, 17, 18))
    assert farther - beyond == pytest.approx(beyond - inside)
    assert inside - float(pm.shift("wse3", (1, 1), steps=15, grid=16).cycles) == pytest.approx(beyond - inside + 15)
    assert any("leave the block" in note for note in pm.shift("wse3", (1, 1), steps=20, grid=16).notes)


def test_shift_command(capsys):
    """240 cores, 64 steps, 8 x 8 halves: 32 words."""
    found = predict("shift --device wse3 --grid 240 --steps 64 --tile 8 8", capsys)
    startup = parameters.kernel("wse3", "gemm").values["startup"]
    assert found["cycles"] == pytest.approx(42 + 64 * (startup + 2 * 32 * 1.125))
    assert abs(found["cycles"] / 9152.98 - 1) < 0.13
    assert sum(found["terms"].values()) == pytest.approx(found["cycles"])


def dims(tmp_path, side: int, d: int, f: int):
    path = tmp_path / "DIMS.json"
    path.write_text(json.dumps({"dim": side * d, "ffn": side * f, "layers": 1, "heads": 1, "kv_heads": 1,
                                "head_dim": side * d, "vocab": 2}))
    return path


def test_decode_of_wse3_is_blind(tmp_path, capsys):
    """One row: 240 cores a side, d = s = 9, f = 30. Only its unprofiled cycles are taken from it."""
    path = dims(tmp_path, 240, 9, 30)
    found = predict(f"decode --device wse3 --model {path} --grid 240 --groups 10 --context 2160", capsys)
    assert abs(found["cycles"] / 19546.034 - 1) <= 0.15
    assert abs(found["terms"]["communication"] / 11982.028 - 1) <= 0.15
    assert found["terms"]["overhead"] == pytest.approx(4357.109)
    assert abs(found["terms"]["compute"] / (15188.925 - 11982.028) - 1) <= 0.15
    for name, constant in parameters.kernel("wse3", "decode").parameters.items():
        assert constant.stderr is None
        assert "wse3_decode" not in constant.origin or name == "unprofiled"


def test_decode_of_wse3_on_another_grid(tmp_path, capsys):
    """A second row of the same notebook: 360 cores a side in 15 groups, 22,029 cycles, 14,459 of communication."""
    path = dims(tmp_path, 360, 9, 30)
    found = predict(f"decode --device wse3 --model {path} --grid 360 --groups 15 --context 3240", capsys)
    assert abs(found["cycles"] / 22029 - 1) <= 0.15
    assert abs(found["terms"]["communication"] / 14459 - 1) <= 0.15


def test_the_report_has_blind_rows_of_their_own():
    found = {(s.experiment, s.regime): s for s in report.blind_summaries()}
    assert found["WSE-3 shift, L <= P", "blind"].mean == pytest.approx(np.abs(shift_errors("wse3_shift")).mean())
    assert found["WSE-3 decode, total", "blind"].rows == 2 and found["WSE-3 decode, total", "blind"].worst <= 0.15
    assert found["WSE-3 decode, communication", "blind"].worst <= 0.15


def test_matmul_of_n150():
    fitted = pm.fit(pm.measurements("tenstorrent_n150_gemm"))
    errors = np.abs(fitted.residuals)
    assert errors.mean() <= 0.10 and len(fitted.params) == 4
    held_out = fitted.cross_validate("shape")
    assert held_out.mean <= 0.10 and held_out.worst <= 0.20


@pytest.mark.parametrize("card", ["n150", "p150"])
def test_matmul_command(card, capsys):
    found = predict(f"gemm --device {card} --shape 1024 2048 2048 --dtype bf16 --fidelity HiFi2 --storage L1", capsys)
    assert found["cycles"] >= found["bounds"]["compute"]
    if card == "n150":
        assert abs(found["cycles"] / 113719 - 1) < 0.1
    slower = predict(f"gemm --device {card} --shape 1024 2048 2048 --fidelity HiFi4 --storage DRAM", capsys)
    assert slower["cycles"] > found["cycles"]


def test_matmul_of_another_card_by_hand():
    """P150: 11 x 10 cores; 4096^3 are blocks of 13 x 12 tiles, 128 deep; words of 64 bytes."""
    p150, kernel = pm.device("p150"), parameters.kernel("p150", "matmul").values
    assert (p150.rows, p150.cols, p150.clock_hz) == (10, 11, 1.35e9)
    work, received = 13 * 12 * 128 * 64, (13 + 12) * 128 * (2048 // 64)
    expected = kernel["launch"] + work + kernel["exposed"] * kernel["multicast"] * received
    found = pm.gemm(p150, 4096, 4096, 4096, fidelity="HiFi4", storage="DRAM")
    assert found.cycles == pytest.approx(expected)
    assert found.seconds == pytest.approx(expected / 1.35e9)


def test_a_card_of_ones_own(tmp_path):
    """Another card of the family: a grid, a clock, a memory; the constants of the N150."""
    path = tmp_path / "n300.toml"
    path.write_text('base = "n150"\ncores = 56\nrows = 7\nclock_hz = 0.9e9\ndram_bandwidth = 200e9\n')
    card = pm.device(path)
    found, known = (pm.gemm(chip, 1792, 2048, 2048, storage="DRAM") for chip in (card, pm.device("n150")))
    assert found.cycles > known.cycles and found.seconds > known.seconds / 0.9
    with pytest.raises(pm.ModelError, match="has no DRAM"):
        pm.matmul("wse2", 64, 64, 64, grid=4, storage="DRAM")
    with pytest.raises(pm.DoesNotFit, match="in L1"):
        pm.gemm(card, 8192, 8192, 8192)
