"""A call in a process of its own, forked from this one, with limits of time and memory, as the interpreter runs it."""

from __future__ import annotations

import atexit
import io
import os
import resource
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

MEMORY, SECONDS = 4 << 30, 20.0
#: Exit code of a child in which the harness failed.
HARNESS = 121
#: Bytes that a child may print or write to a file.
_OUTPUT = 64 << 20


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        code: exit code, or minus the signal that ended it.
        out, err: what it printed.
        seconds: how long it ran; after the last signal that was sent, if there was one.
        peak: bytes that it had resident at most.
        hung: it was killed because its time was over.
    """

    code: int
    out: bytes
    err: bytes
    seconds: float
    peak: int
    hung: bool = False


def run(call: Callable[[], object], *, memory: int = MEMORY, seconds: float = SECONDS, stdout: int | None = None,
        encoding: str = "utf-8", interrupts: Sequence[float] = ()) -> Outcome:  # fmt: skip
    """``call()`` in a child; what it returns is lost, what it raises ends the child as it ends the interpreter.

    Args:
        memory: bytes of address space.
        seconds: of wall and of processor time.
        stdout: a file descriptor, -1 for none; by default what is printed comes back.
        encoding: of stdout.
        interrupts: when to send SIGINT, in seconds, one after the other.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        begin = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the child takes it when it is ready
        pid = os.fork()
        if pid == 0:
            try:
                _prepare(memory, seconds, out.fileno() if stdout is None else stdout, err.fileno(), encoding)
                code = _interpret(call)
            except BaseException:  # the harness's own; nothing may return into the frames of the parent
                code = HARNESS
            os._exit(code)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            for moment in interrupts:
                _wait(pid, begin + moment)
                begin = time.monotonic()
                if _running(pid):
                    os.kill(pid, signal.SIGINT)
            hung = not _wait(pid, begin + seconds)
            ended = time.monotonic()
        finally:
            for kill in (os.kill, os.killpg):  # and whatever it started
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
        return Outcome(os.waitstatus_to_exitcode(status), _read(out), _read(err), ended - begin,
                       used.ru_maxrss << 10, hung)


def command(module: str, arguments: Sequence[str | bytes], **limits) -> Outcome:
    """``python -m module arguments`` in a child (see `run`)."""

    def call() -> None:
        sys.argv = [module, *map(os.fsdecode, arguments)]
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return run(call, **limits)


def _running(pid: int) -> bool:
    """Whether a child has not ended yet; it stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _wait(pid: int, until: float) -> bool:
    """Wait for a child to end; False if it has not by then."""
    pause = 0.0005
    while _running(pid):
        if (left := until - time.monotonic()) <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(0.01, pause * 1.5)
    return True


def _read(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(1 << 24)


def _prepare(memory: int, seconds: float, out: int, err: int, encoding: str) -> None:
    """Limits, signals and streams of a fresh interpreter."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    whole = int(seconds) + 2
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, 2 * whole),
                         (resource.RLIMIT_FSIZE, _OUTPUT), (resource.RLIMIT_CORE, 0)):  # fmt: skip
        resource.setrlimit(limit, (value, value))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(err, 2)
    if out < 0:
        os.close(1)
    else:
        os.dup2(out, 1)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding) if out >= 0 else None  # type: ignore[assignment] # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", 0, closefd=False), "utf-8", "backslashreplace",  # noqa: SIM115
                                  line_buffering=True, write_through=True)  # fmt: skip
    sys.__stdout__, sys.__stderr__, sys.__stdin__ = sys.stdout, sys.stderr, sys.stdin


def _interpret(call: Callable[[], object]) -> int:
    """Call, report what is raised, and leave, in the order of ``Py_RunMain`` and ``Py_FinalizeEx``."""
    code = 0
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        call()
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        code = -signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except Exception as error:
        print(f"Exception ignored in: {sys.stdout!r}\n{type(error).__name__}: {error}", file=sys.stderr)
        code = 120
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return code & 0xFF
