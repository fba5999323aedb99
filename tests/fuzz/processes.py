"""Real processes: what a forked child cannot show, and that both ways end alike."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.fuzz import child, command_lines, generate, judge, ready
from tests.fuzz.child import Outcome

QUICK = 9

ROOT = Path(__file__).resolve().parents[2]


def real(words: list[str | bytes], *, seconds: float = 60, interrupt: float | None = None,
         cwd: Path = ROOT, **environment: str) -> Outcome:  # fmt: skip
    """``python words`` as a process of its own."""
    begin = time.monotonic()
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen([sys.executable, *words], env=variables, cwd=cwd, start_new_session=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    hung = False
    try:
        if interrupt is not None:
            try:
                out, err = process.communicate(timeout=interrupt)
            except subprocess.TimeoutExpired:
                begin = time.monotonic()
                process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        hung = True
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    return Outcome(process.returncode, out or b"", err, time.monotonic() - begin, 0, hung)


def _alike(number: int, random: np.random.Generator) -> Callable[[], str]:
    """The same command, forked and real."""
    module = ("meshkernels", "perfmodel")[number % 2]
    build = (command_lines._generate, command_lines._predict)[number % 2]
    words = [command_lines.raw(word) for word in build(random)]

    def check() -> str:
        forked, alone = child.command(module, words), real([b"-m", module.encode(), *words])
        judge.require(forked.code == alone.code, f"{words}: exit code {forked.code} forked, {alone.code} alone")
        if alone.code:
            judge.require(forked.err == alone.err, f"forked: {forked.err[-300:]!r}; alone: {alone.err[-300:]!r}")
        return judge.verdict(alone, longest=1 << 20)

    return check


def _head() -> str:
    """``demo | head -1``."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as lines:
        words = [sys.executable, "-m", "meshkernels", "demo", "--grid", "2", "--model", ready.model()]
        process = subprocess.Popen(words, stdout=write, stderr=subprocess.PIPE, cwd=ROOT)
        os.close(write)
        lines.readline()
    _, err = process.communicate(timeout=60)
    judge.require(b"Traceback" not in err and b"Exception" not in err, f"{err[-300:]!r}")
    return "accepted"


def _simd(name: str) -> Callable[[], str]:
    def check() -> str:
        words = [b"-m", b"meshkernels", *map(os.fsencode, generate.arguments(ready.model()))]
        outcome = real(words, MESHKERNELS_SIMD=name)
        end = judge.verdict(outcome, ["MESHKERNELS_SIMD"] if name == "bogus" else ())
        judge.require((end == "refused") == (name == "bogus"), end)
        return end

    return check


def _nowhere_to_write() -> str:
    """Neither the package's folder nor home can be written (by nobody who is not root, or on a read-only disk)."""
    copy = ready.folder() / "read-only"
    for package in ("meshkernels", "perfmodel"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    # a file where a folder should be made stops root as well
    for folder in copy.rglob("*"):
        if folder.is_dir():
            (folder / "__pycache__").write_text("")
    (copy / "home").write_text("")
    outcome = real([b"-B", b"-c", b"import meshkernels"], cwd=copy, PYTHONPATH=str(copy), HOME=str(copy / "home"),
                   XDG_CACHE_HOME=str(copy / "home" / "x"), MESHKERNELS_CACHE=str(copy / "home"))  # fmt: skip
    shutil.rmtree(copy)
    return judge.verdict(Outcome(outcome.code, b"", b"" if outcome.code == 0 else outcome.err, 0, 0))


def _interrupted(command: str, after: float) -> Callable[[], str]:
    def check() -> str:
        words = ["demo", "--model", str(ready.model()), "--grid", "2"]
        if command == "generate":
            words = generate.arguments(ready.model())
        return judge.interrupted(real([b"-m", b"meshkernels", *map(os.fsencode, words)], interrupt=after))

    return check


def case(number: int, random: np.random.Generator):
    fixed: list[tuple[str, Callable[[], str]]] = [
        ("demo | head -1", _head), ("MESHKERNELS_SIMD=bogus", _simd("bogus")),
        ("MESHKERNELS_SIMD=portable", _simd("portable")), ("nowhere to write", _nowhere_to_write)]  # fmt: skip
    if number < len(fixed):
        return fixed[number]
    if number % 3 == 0:
        command, after = ("demo", "generate")[number // 3 % 2], float(random.uniform(0.8, 2.0))
        return f"{command} interrupted after {after:.2f} s", _interrupted(command, after)
    return f"forked and real {number}", _alike(number, random)
