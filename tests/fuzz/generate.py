"""The commands that read a model file, and what they may do with a wrong one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from tests.fuzz import child, judge, ready

PROMPT = "abc é"


def arguments(path: Path, *more: str | bytes, prompt: str | bytes = PROMPT) -> list[str | bytes]:
    """Of ``python -m meshkernels`` for greedy text from a file."""
    return ["generate", prompt, "--model", str(path), "--grid", "2", "--new", "6", "--json", *more]


def tokens(path: Path, heap: int = 0, **limits) -> tuple[child.Outcome, list[int]]:
    """Greedy tokens of a file, after numbers that depend on ``heap`` were left in the memory that is free."""

    def call() -> None:
        import runpy
        import sys

        stir(heap)
        sys.argv = ["meshkernels", *map(str, arguments(path))]
        runpy.run_module("meshkernels", run_name="__main__", alter_sys=True)

    outcome = child.run(call, **limits)
    return outcome, json.loads(outcome.out)["new_ids"] if outcome.code == 0 else []


def stir(heap: int) -> None:
    """Fill and free memory of many sizes: what is read without being written is never the same twice."""
    random = np.random.default_rng(heap)
    held = [random.standard_normal(size).astype(np.float32) for size in (8, 64, 300, 1000, 3000, 10000, 50000) * 8]
    del held


@cache
def unchanged() -> list[int]:
    """The tokens of the file as it should be."""
    outcome, found = tokens(ready.model())
    judge.require(found, f"the unchanged file: {outcome}")
    return found


def check(path: Path, *, wrong: bool, same: bool, names: tuple[str, ...] = (), demo: bool = False) -> str:
    """A changed file is refused by name, or read as what it says.

    Args:
        wrong: it must be refused.
        same: if it is accepted, its text must be that of the unchanged file.
        names: what the refusal names, beside the file.
    """
    if wrong or same:  # else the file may be right, and something else be refused
        names = (path.name, *names)
    try:
        if demo:
            outcome = child.command("meshkernels", ["demo", "--model", str(path), "--grid", "2", "--prompt", PROMPT])
            found: list[int] = []
        else:
            outcome, found = tokens(path)
        end = judge.verdict(outcome, names)
        judge.require(end == "refused" or not wrong, "a wrong file is accepted in silence")
        if end == "accepted" and not demo:
            judge.require(not same or found == unchanged(), f"accepted, but the text is another: {found}")
            for heap in (1, 2):
                again = tokens(path, heap)[1]
                judge.require(again == found, f"the text depends on what the memory held before: {found}, {again}")
        return end
    finally:
        path.unlink(missing_ok=True)


def in_a_file(name: str, raw: bytes, **expected) -> Callable[[], str]:
    """The check of a file with these bytes."""

    def run() -> str:
        path = ready.folder() / f"{name}.gguf"
        path.write_bytes(raw)
        return check(path, **expected)

    return run
