"""How kernels come to be: compiled by Numba for this CPU at their first call, and kept on disk where there is room."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba import njit
from numba.core import event
from numba.core.caching import FunctionCache


class _Cache(FunctionCache):
    """Numba's cache on disk; a file that cannot be read or written costs time, not the call."""

    def load_overload(self, signature: Any, context: Any) -> Any:
        try:
            return super().load_overload(signature, context)
        except Exception:  # cut short by a full disk or a crash: anything may come of it
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            super().save_overload(signature, result)
        except OSError as failure:
            _notice.say_once(f"{self.cache_path}: {failure.strerror}; kernels are compiled again in the next process")


def compiled(function: Callable) -> Any:
    """Decorator: a kernel, which runs without the GIL."""
    kernel: Any = njit(nogil=True)(function)
    try:
        kernel._cache = _Cache(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        _notice.cached = False
    return kernel


class _Notice(event.Listener):
    """Says once, on stderr, why the first call takes seconds."""

    def __init__(self) -> None:
        self.cached, self._said = True, set[str]()

    def say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            print(f"meshkernels: {line}", file=sys.stderr)

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        if (function.__module__ or "").startswith("meshkernels."):
            how = "once; cached on disk" if self.cached else (
                "in every process: no folder for compiled code can be written; NUMBA_CACHE_DIR may name one")
            self.say_once(f"compiling kernels for this CPU (seconds, {how})")

    def on_end(self, event: event.Event) -> None:
        pass


_notice = _Notice()
event.register("numba:compile", _notice)
