"""KeyboardInterrupt at a chosen line: what Ctrl-C can do at any moment, made repeatable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import meshkernels

PACKAGE = str(Path(meshkernels.__file__).parent)


class At:
    """Call ``act()``, and raise KeyboardInterrupt at its ``number``-th line of the package (0: count only).

    Attributes:
        lines: lines that were met.
        where: module and line of the interrupt.
    """

    def __init__(self, number: int, act: Callable[[], object], only: tuple[str, ...] = ("",)):
        self.number, self.only, self.lines, self.where, self.result = number, only, 0, "", None
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            self.result = act()
        except KeyboardInterrupt:
            assert self.where, "no interrupt of ours"
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        return self._line if name.startswith(PACKAGE) and any(part in name for part in self.only) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.number:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line
