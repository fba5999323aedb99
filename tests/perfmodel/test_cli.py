"""The command line: the documented forms, one JSON object each, errors on stderr with status 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import perfmodel as pm
from perfmodel.__main__ import main

WSE2, LLAMA = pm.device("wse2"), pm.model("llama3-8b")
COMMANDS = {
    "gemm --device wse3 --algorithm meshgemm --grid 720 --shape 5760 2880 1440":
        lambda: pm.gemm(pm.device("wse3"), 5760, 2880, 1440, grid=720).cycles,
    "gemv --device wse3 --reduce ktree --groups 8 --grid 720 --shape 5760 1440":
        lambda: pm.gemv(pm.device("wse3"), 5760, 1440, grid=720, groups=8).cycles,
    "prefill --device wse2 --system waferllm --model llama3-8b --grid 480 --tokens 4096":
        lambda: pm.prefill(WSE2, LLAMA, tokens=4096, grid=480).cycles,
    "decode --device wse2 --system waferllm --model llama3-8b --grid 420 --context 4096":
        lambda: pm.decode(WSE2, LLAMA, context=4096, grid=420).cycles,
    "generate --device wse2 --system waferllm --model llama3-8b --prefill-grid 660 --decode-grid 360 --prompt 2048 "
    "--new 128": lambda: pm.generate(WSE2, LLAMA, prompt=2048, new=128, prefill_grid=660, decode_grid=360).cycles,
    "decode --device wse2 --system a100x8 --model codellama-34b --context 4096":
        lambda: pm.decode(WSE2, pm.model("codellama-34b"), context=4096, grid=None, system="a100x8").cycles,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_forms(command, capsys):
    assert main(["predict", *command.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cycles"] == pytest.approx(float(COMMANDS[command]()))
    assert found["seconds"] == pytest.approx(found["cycles"] / 1.1e9)
    assert sum(found["terms"].values()) == pytest.approx(found["cycles"])
    if "--model" in command:
        assert found["tokens_per_s"] > 0


def test_capacity(capsys):
    command = "capacity --device wse2 --model llama3-8b --grid 360 --cache shift"
    assert main(["predict", *command.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == pm.capacity(WSE2, LLAMA, grid=360).tokens


def test_pipeline(capsys):
    command = "pipeline --device wse2 --model llama3-8b --grid 360 --tokens 4096 --storage Q4_0 --batch 4"
    assert main(["predict", *command.split(), "--json"]) == 0
    expected = pm.pipeline(WSE2, LLAMA, tokens=4096, grid=360, storage="Q4_0", batch=4)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(expected.as_dict()))


@pytest.mark.parametrize(("command", "message"), [
    ("predict decode --system a100x8 --set alpha=2 --model llama3-8b --context 1", "wse2, of which a100x8 has none"),
    ("predict pipeline --model llama3-8b --grid 100 --tokens 4096", "6 regions of 316^2 would do"),
    # the head, a layer with its cache, activations and code: 36870 + 5260 + 6815 bytes
    ("predict pipeline --model smollm2-135m --grid 4 --tokens 64", "30 regions of 40^2 would do"),
    ("predict pipeline --model llama3-8b --grid 360 --tokens 1 --regions 5", "has room for 4"),
    ("predict pipeline --model llama3-8b --grid 360 --tokens 1 --storage Q4_2", "unknown storage 'Q4_2'"),
    ("predict gemm --device wse4 --grid 4 --shape 8 8 8", "unknown device 'wse4'"),
    ("predict prefill --system wafer --model llama3-8b --grid 480 --tokens 1", "did you mean 'waferllm'"),
    ("predict prefill --model llama3-8b --tokens 1", "needs --grid"),
    ("predict generate --model llama3-8b --prompt 1 --new 1 --prefill-grid 480", "needs --decode-grid"),
    ("predict capacity --model qwen2-72b --grid 360", "bytes per core"),
    ("predict best-grid --device a100 --model llama3-8b --phase decode --tokens 64", "'a100' is no mesh"),
    ("predict decode --model llama3-8b --context 4096 --grid 420 --groups 1000000", "between 1 and 420"),
    ("fit nowhere.csv", "no file 'nowhere.csv'"),
])
def test_bad_input(command, message, capsys):
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err


def test_need_names_what_binds(capsys):
    assert main(["predict", "need", "--device", "wse3", "--model", "llama3-70b", "--target", "5000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["binding"] == "communication" and found["alone"]["alpha"] is None and found["reached"] < 5000


def test_best_grid_prints_its_notes(capsys):
    command = "best-grid --model llama3-8b --phase decode --tokens 2048"
    assert main(["predict", *command.split(), "--json"]) == 0
    assert any("tokens 2048 is not 4096" in note for note in json.loads(capsys.readouterr().out)["notes"])


def test_a_reader_that_stops_early_is_no_error():
    """As in ``python -m perfmodel report | head``: the pipe is closed before anything is read."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "perfmodel", "devices"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_fit_prints_constants_and_errors(capsys):
    assert main(["fit", "wse2_decode", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["params"]) == set(found["stderr"]) == {"row", "beta"}
    assert found["leave_one_model_out"]["mean_error"] < 0.025


def test_fit_of_benchmarks_writes_a_device(tmp_path, capsys):
    source, target = tmp_path / "bench.json", tmp_path / "mine.toml"
    entries = [{"name": f"b{n}", "stats": {"median": 1e-5 + n / 2e10}, "extra_info": {"flops": n}}
               for n in (1e4, 1e6, 1e8)]
    source.write_text(json.dumps({"benchmarks": entries}))
    assert main(["fit", str(source), "--device-out", str(target)]) == 0
    host = pm.device(target)
    assert (host.overhead, host.peak_flops) == (pytest.approx(1e-5, rel=1e-3), pytest.approx(2e10, rel=1e-3))
    assert host.quantity("cores").estimated and not host.quantity("overhead").estimated
    assert main(["fit", "wse2_decode", "--device-out", str(target)]) == 2


def test_report_has_every_part(capsys):
    assert main(["report"]) == 0
    text = capsys.readouterr().out
    for part in ("Errors of the model", "Published and predicted", "Constants", "Claims of the paper",
                 "What the model does not know", "Headline"):
        assert f"## {part}" in text
    assert main(["report", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["rows"]) == 96 + 9 + 4
    assert found["parameters"]["wse3.gemm"]["startup"]["stderr"] > 0


def test_listings(capsys):
    for name in ("devices", "models"):
        assert main([name, "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert set(listed) == set(pm.devices() if name == "devices" else pm.models())
