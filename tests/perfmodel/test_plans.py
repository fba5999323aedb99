"""The fused plan in the performance model: phases by hand, the gain that is claimed, and the command line."""

import json

import numpy as np
import pytest

import perfmodel as pm
from perfmodel import forms
from perfmodel.__main__ import main


def test_phases_of_the_fused_plan_by_hand():
    """LLaMA3-8B on 420^2: tiles d = 10, s = 10, f = 35; a norm is one row and one element more of its product."""
    phases = forms.decode_phases(4096, 14336, 4096, 420, "fused")
    assert [tuple(phase) for phase in phases] == [
        ("qkv", 31, 10, 1, 31), ("scores", 10, 10, 1, 10), ("values", 10, 10, 1, 12), ("output", 10, 10, 1, 10),
        ("gate_up", 21, 35, 1, 71), ("down", 35, 10, 1, 10)]
    assert (forms.allreduces("paper"), forms.allreduces("fused")) == (10, 6)


def test_llama3_gains_a_quarter_at_least():
    paper, fused = (pm.decode("wse2", "llama3-8b", context=4096, grid=420, plan=plan) for plan in forms.PLANS)
    assert paper.tokens_per_s == pm.decode("wse2", "llama3-8b", context=4096, grid=420).tokens_per_s
    assert fused.tokens_per_s >= 1.25 * paper.tokens_per_s
    assert any("no wafer ran" in note for note in fused.notes) and not any("no wafer ran" in n for n in paper.notes)
    hops = paper.parts["communication"]["alpha"], fused.parts["communication"]["alpha"]
    assert hops[1] == pytest.approx(0.6 * hops[0])


@pytest.mark.parametrize("chip", ["wse2", "wse3"])
def test_no_grid_is_slower(chip):
    grids = np.arange(120, 721, 12)
    for name in ("llama3-8b", "qwen2-72b"):
        grids = grids[pm.llm.working_bytes(pm.model(name), "prefill", 4096, grids) <= pm.device(chip).memory_per_core]
        for call, size in ((pm.decode, {"context": 4096}), (pm.prefill, {"tokens": 4096})):
            paper, fused = (call(chip, name, **size, grid=grids, plan=plan).cycles for plan in forms.PLANS)
            assert (fused <= paper).all()


def test_command_line(capsys):
    common = ["--model", "llama3-8b", "--grid", "420", "--plan", "fused", "--json"]
    assert main(["predict", "decode", *common, "--context", "4096"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens_per_s"] == pytest.approx(3715.1, rel=1e-4) and set(found["phases"]) == {
        "qkv", "scores", "values", "output", "gate_up", "down"}
    assert main(["predict", "prefill", *common, "--tokens", "4096"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens_per_s"] > 0
    assert main(["predict", "best-grid", "--model", "llama3-8b", "--phase", "decode", "--tokens", "4096", "--plan",
                 "fused", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["grid"] == 456


def test_what_has_no_such_plan_refuses():
    with pytest.raises(pm.ModelError, match="unknown plan 'best'"):
        pm.decode("wse2", "llama3-8b", context=64, grid=420, plan="best")
    with pytest.raises(pm.ModelError, match="unknown plan 'fused'"):
        pm.decode("wse2", "llama3-8b", context=64, grid=420, plan="fused", system="t10")
