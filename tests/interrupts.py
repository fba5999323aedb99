"""KeyboardInterrupt at a chosen line of the package: what Ctrl-C does at any moment, made repeatable."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import meshkernels

PACKAGE = str(Path(meshkernels.__file__).parent)


def interrupted(act: Callable[[], Any], when: Callable[[str], object]) -> tuple[Any, str]:
    """``act()``, interrupted at the first line of the package for which ``when("module.py:line")`` is true.

    Returns:
        What ``act`` returned, or None; and where it was interrupted, or "".
    """
    where = ""

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal where
        here = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        if event == "line" and not where and when(here):
            where = here
            raise KeyboardInterrupt
        return line

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        return act(), where
    except KeyboardInterrupt:
        assert where, "an interrupt that is not ours"
        return None, where
    finally:
        sys.settrace(before)


def lines(act: Callable[[], Any]) -> list[str]:
    """The lines of the package that ``act()`` goes through."""
    seen: list[str] = []
    interrupted(act, seen.append)
    return seen


def at(number: int) -> Callable[[str], bool]:
    """The line of this number, from 0."""
    met = itertools.count()
    return lambda _: next(met) == number
