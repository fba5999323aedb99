"""Kernels are compiled by Numba for this CPU at their first call, and cached on disk.

The cache notices edits: its key holds a hash of the sources of this package, since the code of a kernel depends on
those of the intrinsics, the micro-kernel and the functions that it calls.

Ctrl-C may interrupt the main thread between any two instructions of Numba, also after it has taken the compiler's
lock and before it has noted that the lock must be released; then every thread that compiles waits for ever. So the
main thread compiles in another thread, which no interrupt reaches, and waits for it. An interrupt ends the wait.
"""

from __future__ import annotations

import atexit
import glob
import hashlib
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.compiler_lock import global_compiler_lock

#: Seconds that a process which ends waits for a kernel that is being compiled.
_FAREWELL = 2.0


@cache
def _sources() -> str:
    """A hash of the sources of this package."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _name(function: Any) -> str:
    """A kernel's name, with what it closes over: kernels that one function makes differ by that."""
    inside = [cell.cell_contents for cell in getattr(function, "py_func", function).__closure__ or ()]
    names = [_name(each) if callable(each) else repr(each) for each in inside]
    return f"{function.__module__}.{function.__qualname__}({', '.join(names)})"


class _Files(IndexDataCacheFile):
    """Compiled code in a file named after what it is, so that processes may compile at the same time.

    Numba numbers the files of a source file's kernels as they come: two processes may write two kernels to one number,
    and leave an index that calls one of them by the other's key.
    """

    def save(self, key: Any, data: Any) -> None:
        """Write the code, then the index. What another process adds meanwhile may be lost, and is compiled again."""
        known, base = self._load_index(), self._index_name.removesuffix(".nbi")
        if not known:  # a new cache, or one of other sources
            for old in Path(self._cache_path).glob(f"{glob.escape(base)}.*.nbc"):
                old.unlink(missing_ok=True)
        name = hashlib.sha256(repr((self._version, self._source_stamp, key)).encode()).hexdigest()
        name = f"{base}.{name[:32]}.nbc"
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})


class _Cache(FunctionCache):
    """Numba's cache on disk; a file that cannot be read or written costs time, not the call."""

    def __init__(self, function: Callable):
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _sources()
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, stamp)

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        return signature, codegen.magic_tuple(), _name(self._py_func)

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
    if function.__closure__:  # its symbol: else kernels that one function makes differ by a number that Numba counts up
        # anew in each process, and one that is loaded from the cache may be linked to another's code
        function.__qualname__ += hashlib.sha256(_name(function).encode()).hexdigest()[:16]
    kernel: Any = njit(nogil=True)(function)
    compile_for = kernel._compile_for_args
    kernel._compile_for_args = lambda *arguments: _uninterrupted(lambda: compile_for(*arguments))
    try:
        kernel._cache = _Cache(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        _notice.cached = False
    return kernel


def folder_of(kernel: Any) -> Path | None:
    """Where the code of a kernel is cached, if it can be."""
    found = getattr(kernel._cache, "cache_path", None)
    return None if found is None else Path(found)


def address_of(kernel: Any, *arguments: Any) -> int:
    """The address of a kernel's code for C, which takes and returns 64-bit integers.

    Args:
        kernel: compiled for these arguments only.
        *arguments: with which it does nothing.

    Returns:
        The address.
    """
    kernel(*arguments)
    (code,) = kernel.overloads.values()
    return code.library.get_pointer_to_function(code.fndesc.llvm_cfunc_wrapper_name)


def _uninterrupted(compile_: Callable[[], Any]) -> Any:
    """``compile_()``, in another thread if an interrupt can reach this one."""
    if threading.current_thread() is not threading.main_thread() or global_compiler_lock.is_locked():
        return compile_()  # whoever holds the lock is compiling a kernel that calls this one
    result: Future[Any] = Future()

    def work() -> None:
        try:
            result.set_result(compile_())
        except BaseException as failure:
            result.set_exception(failure)

    _compilers[:] = [thread for thread in _compilers if thread.is_alive()]
    _compilers.append(threading.Thread(target=work, name="meshkernels compiler", daemon=True))
    _compilers[-1].start()
    return result.result()


_compilers: list[threading.Thread] = []


@atexit.register
def _dismiss() -> None:
    for thread in _compilers:
        thread.join(_FAREWELL)


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
