"""What every command promises on the streams and signals of a shell: one line, an exit code, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perfmodel import console
from perfmodel.errors import ModelError

PERFMODEL = [sys.executable, "-m", "perfmodel"]
GEMM = [*PERFMODEL, "predict", "gemm", "--grid", "4", "--shape", "8", "8", "8"]
DEMO = [sys.executable, "-m", "meshkernels", "demo", "--grid", "2"]
PLOTS = [sys.executable, "-m", "plots"]
HANG = 240  # seconds after which a child is taken to hang


def child(command, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(command, stderr=subprocess.PIPE, timeout=HANG, env=environment,
                          **{"stdout": subprocess.PIPE, **options})


def is_one_line(done: subprocess.CompletedProcess, code: int, says: bytes) -> None:
    lines = [line for line in done.stderr.splitlines() if b"compiling kernels" not in line]  # cold caches say so
    assert done.returncode == code and len(lines) == 1 and says in lines[0], done.stderr


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("command", [GEMM, [*PERFMODEL, "--help"], DEMO, [*PLOTS, "--help"]], ids=" ".join)
def test_a_full_disk_under_stdout(command, buffered):
    with open("/dev/full", "w") as full:
        done = child(command, stdout=full, env={"PYTHONUNBUFFERED": buffered})
    is_one_line(done, 1, b"cannot write the output: No space left on device")


@pytest.mark.parametrize("command", [GEMM, DEMO, PLOTS], ids=" ".join)
def test_closed_stdout(command, tmp_path):
    """Whatever is opened next would take the number of the closed stream, so that nothing is begun."""
    here = {"PYTHONPATH": str(Path(__file__).parents[2])}
    is_one_line(child(["sh", "-c", '"$@" >&-', "sh", *command], cwd=tmp_path, env=here), 1, b"stdout is closed")
    assert not list(tmp_path.iterdir())


def test_closed_stderr_and_stdin():
    done = child(["sh", "-c", '"$@" 2>&-', "sh", *PERFMODEL, "predict", "nothing"])
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")
    assert child(["sh", "-c", '"$@" <&-', "sh", *GEMM]).returncode == 0


def test_a_full_disk_under_stderr():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PERFMODEL, "predict", "nothing"], stdout=subprocess.PIPE, stderr=full, timeout=HANG)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("command", [[*PERFMODEL, "report", "--part", "parameters"], DEMO], ids=" ".join)
def test_a_reader_that_stops_after_a_line(command):
    done = child(["sh", "-c", '{ "$@"; echo "code $?" >&2; } | head -n 1', "sh", *command])
    assert done.stderr == b"code 0\n" and done.stdout.count(b"\n") == 1


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
                                         {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_terminals_that_know_few_letters(environment):
    command = [*PERFMODEL, "report", "--part", "parameters"]
    done = child(command, env=environment)
    assert done.returncode == 0 and done.stderr == b""
    whole = child(command, env={"PYTHONIOENCODING": "utf-8"}).stdout.decode()
    assert "±" in whole
    shown = done.stdout.decode("latin-1" if "latin-1" in environment.values() else "ascii")
    assert shown.replace("\\xb1", "±") == whole
    done = child([*DEMO, "--prompt", "α → ω", "--model", "no-α.gguf"], env=environment)
    is_one_line(done, 2, b"no-")


@pytest.mark.parametrize("arguments", [["demo", "--prompt", b"caf\xe9"], ["generate", b"\xff\xfe"],
                                       ["demo", "--model", b"caf\xe9.gguf"], ["demo", "--device", b"\xe9.toml"]])
def test_arguments_that_are_not_utf8(arguments):
    is_one_line(child([sys.executable, "-m", "meshkernels", *arguments]), 2, b"\\udc")


@pytest.mark.parametrize("command", [DEMO[:-1] + ["24"], [*PERFMODEL, "report"]], ids=" ".join)
def test_ctrl_c(command):
    """Sent once the modules are there; what a signal meets before that is Python's own start."""
    begun = ("import sys, runpy, perfmodel.console as c; run = c.run\n"
             "def announce(*args):\n    print('begun', file=sys.stderr, flush=True); return run(*args)\n"
             "c.run = announce; sys.argv = sys.argv[1:]\n"
             "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)")
    for pause in (0.0, 0.3):
        process = subprocess.Popen([sys.executable, "-c", begun, *command[2:]], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        assert process.stderr.readline() == b"begun\n"
        time.sleep(0.05 + pause)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=HANG)[1].endswith(b": interrupted\n")
        assert process.returncode == 130


@pytest.mark.parametrize(("raised", "code", "says"), [
    (ModelError("a\nb \udcff"), 2, r"t: a\nb \udcff"), (MemoryError(), 1, "t: out of memory"),
    (MemoryError("no 9 GiB"), 1, "t: out of memory: no 9 GiB"), (KeyError("k"), 2, "t: 'k'"),
    (OSError(28, "No space left on device"), 1, "t: cannot write the output: No space left on device"),
    (PermissionError(13, "Permission denied", "x"), 2, "t: [Errno 13] Permission denied: 'x'"),
    (KeyboardInterrupt(), 130, "t: interrupted"), (ModelError("x" * 5000), 2, "t: " + "x" * 1000 + "..."),
])  # fmt: skip
def test_what_a_command_raises(raised, code, says, capsys):
    def command():
        raise raised

    assert console.run("t", command, (KeyError,)) == code
    assert capsys.readouterr() == ("", says + "\n")


@pytest.mark.parametrize("defect", [TypeError, ValueError, RecursionError, ZeroDivisionError, AssertionError])
def test_defects_keep_their_traceback(defect):
    def command():
        raise defect

    with pytest.raises(defect):
        console.run("t", command, (KeyError,))
