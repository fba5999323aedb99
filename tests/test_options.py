"""Every command line: each option has a help text, ``--help`` prints, and grids are written alike."""

import argparse
import json
import subprocess
import sys
from importlib import import_module, metadata

import pytest

import meshkernels as mk
import perfmodel as pm

COMMANDS = ("meshkernels", "perfmodel", "plots", "bench")


def _main(package):
    return import_module(f"{package}.__main__").main


@pytest.fixture(scope="module")
def parsers():
    """Every parser and sub-parser, by the words that lead to it."""
    found = {}

    class Found(Exception):
        pass

    def take(parser, *_):
        raise Found(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", take)
        for package in COMMANDS:
            with pytest.raises(Found) as caught:
                _main(package)(["--help"])
            todo = [caught.value.args[0]]
            while todo:
                parser = todo.pop()
                found[parser.prog] = parser
                for action in parser._actions:
                    if isinstance(action, argparse._SubParsersAction):
                        todo += action.choices.values()
    return found


def test_all_commands_are_found(parsers):
    assert {"python -m meshkernels demo", "python -m meshkernels generate", "python -m meshkernels replay",
            "python -m perfmodel predict best-grid", "python -m plots", "python -m bench"} <= set(parsers)


def test_every_option_has_a_help_text(parsers):
    without = [f"{name} {action.option_strings or action.dest}" for name, parser in parsers.items()
               for action in parser._actions
               if not action.help and not isinstance(action, argparse._SubParsersAction)]
    assert not without


def test_every_help_prints(parsers):
    assert all("usage: " in parser.format_help() for parser in parsers.values())


@pytest.mark.parametrize("text", ["6x4", "6X4", " 6 x 4 "])
def test_a_grid_is_rows_by_columns(text, capsys):
    assert _main("meshkernels")(["simulate", "meshgemm", "--grid", text, "--tile", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["cols"]) == (6, 4)
    assert _main("perfmodel")(["predict", "gemv", "--grid", text, "--shape", "24", "24", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cycles"] == float(pm.gemv("wse2", 24, 24, grid=mk.Mesh(6, 4)).cycles)


@pytest.mark.parametrize("text", ["", "x", "6x", "-6", "6x4x2", "6,4", "six", "9" * 30])
@pytest.mark.parametrize("command", [
    "meshkernels demo --grid=", "meshkernels simulate meshgemm --tile 2 --grid=", "plots steps --grid=",
    "meshkernels generate a --grid=", "perfmodel predict decode --model llama3-8b --context 9 --grid=",
])  # fmt: skip
def test_what_is_no_grid_is_refused(command, text, capsys):
    package, *words = f"{command}{text}".split(" ")
    try:
        code = _main(package)(words)
    except SystemExit as refused:
        code = refused.code
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and "is no grid: give a side (24) or rows x columns (24x16)" in err


def test_grids_of_python_are_numbers_pairs_or_meshes():
    llm = {"chip": "wse2", "model": "llama3-8b"}
    calls = (lambda grid: mk.schedule("meshgemm", grid, 24, 24, 24),
             lambda grid: pm.gemm("wse2", 4096, 4096, 4096, grid=grid),
             lambda grid: pm.gemv("wse2", 720, 720, grid=grid),
             lambda grid: pm.shift("wse3", (2, 2), steps=4, grid=grid),
             lambda grid: pm.prefill(**llm, tokens=4096, grid=grid), lambda grid: pm.capacity(**llm, grid=grid),
             lambda grid: pm.decode(**llm, context=4096, grid=grid),
             lambda grid: pm.need(**llm, tokens_per_s=10, grid=grid),
             lambda grid: pm.generate(**llm, prompt=9, new=2, prefill_grid=grid, decode_grid=grid))  # fmt: skip
    for call in calls:
        assert call(360) == call((360, 360)) == call(mk.Mesh(360))
    for call in calls[4:]:
        with pytest.raises(pm.ModelError, match="grid = 360 x 330: inference is predicted on square grids"):
            call(mk.Mesh(360, 330))
    assert calls[1]((360, 330)) == calls[1](mk.Mesh(360, 330)) != calls[1](360)


def test_devices_and_models_are_names_or_objects():
    chip, model, schedule = pm.device("wse3"), pm.model("llama3-8b"), mk.schedule("cannon", 6, 12, 12, 12)
    ledger = mk.count(schedule)
    for call in (lambda d: mk.compliance(ledger, d), lambda d: mk.simulate(schedule, d), lambda d: pm.time(ledger, d),
                 lambda d: pm.gemm(d, 96, 96, 96, grid=24), lambda d: pm.energy(d, 1.0),
                 lambda d: pm.energy_ratio("a100", 1.0, d, 1.0), lambda d: pm.best_groups(d, 60),
                 lambda d: pm.best_gemv(d, 960, 960), lambda d: pm.allreduce(d, 4, cores=60),
                 lambda d: pm.reduce(d, 4, cores=60, group_size=6)):  # fmt: skip
        assert call("wse3") == call(chip)
    for call in (lambda m: pm.decode(chip, m, context=64, grid=360), lambda m: pm.capacity(chip, m, grid=360),
                 lambda m: pm.best_grid(chip, m, phase="decode", tokens=64)):
        assert call("llama3-8b") == call(model)


@pytest.mark.parametrize("package", ["meshkernels", "perfmodel"])
def test_version_is_that_of_the_distribution(package, capsys):
    with pytest.raises(SystemExit) as done:
        _main(package)(["--version"])
    assert done.value.code == 0 and capsys.readouterr().out == f"{package} {metadata.version('meshkernels')}\n"
    assert import_module(package).__version__ == metadata.version("meshkernels")


def _without(package, *words):
    """What a command says where ``package`` is not installed."""
    code = (f"import sys; sys.modules[{package!r}] = None; from meshkernels.__main__ import main; "
            f"sys.exit(main({list(words)!r}))")  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_without_the_extra_llm_the_help_says_what_to_install():
    shown = _without("gguf", "--help")
    assert shown.returncode == 0
    assert [line.split()[0] for line in shown.stdout.splitlines() if "pip install 'meshkernels[llm]'" in line] == [
        "demo", "generate"]  # fmt: skip
    assert _without("gguf", "simulate", "cannon", "--grid", "2", "--tile", "1").returncode == 0


@pytest.mark.parametrize(("package", "words"), [("gguf", ("demo",)), ("tokenizers", ("demo", "--grid", "2")),
                                                ("tokenizers", ("generate", "a"))])  # fmt: skip
def test_without_a_package_of_the_extra_llm_a_command_says_what_to_install(package, words):
    refused = _without(package, *words)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and package in refused.stderr
    assert "pip install 'meshkernels[llm]'" in refused.stderr
