"""What every command of this repository promises, whatever it is given.

* exit code 2, and one line on stderr: bad input, or a file that cannot be read or written; the line names it.
* exit code 1, and one line: the machine refuses, as when stdout is closed or its disk full, or memory runs out.
* exit code 130, and one line: Ctrl-C.
* exit code 0 without a word: the reader of a pipe has seen enough.

Nothing else is caught: any other exception is a defect of this code, and its traceback is wanted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from perfmodel.errors import ModelError, shown

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def one_line(text: str) -> str:
    r"""``text`` with every character that is not printable escaped, so that it is one line on any terminal.

    Args:
        text: any text.

    Returns:
        The line.

    >>> one_line("a\nb"), one_line("caf\udce9")
    ('a\\nb', 'caf\\udce9')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


#: characters of a message beyond which nobody reads
LONGEST_LINE = 1000


def complain(who: str, problem: object) -> None:
    """One line on stderr."""
    text = one_line(str(problem) or type(problem).__name__)
    try:
        print(f"{who}: {text[:LONGEST_LINE]}{'...' * (len(text) > LONGEST_LINE)}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads it, or its disk is full: the exit code has to do
        _discard(sys.stderr)


class Parser(argparse.ArgumentParser):
    """A parser whose refusal is one line."""

    def error(self, message: str) -> NoReturn:
        """Say on one line what is wrong, and exit as on bad input."""
        complain(self.prog, f"{message}; --help shows what there is")
        raise SystemExit(BAD_INPUT)

    def print_help(self, file: Any = None) -> None:
        """As ever, but a disk that is full is not passed over."""
        print(self.format_help(), end="", file=file)


def grid(text: str) -> tuple[int, int]:
    """Type of an argument: ``24`` or ``24x16``, rows x columns of cores.

    Args:
        text: what the option was given.

    Returns:
        (rows, cols).

    Raises:
        ArgumentTypeError: neither one number nor two.

    >>> grid("24"), grid("24x16")
    ((24, 24), (24, 16))
    """
    sides = [side.strip() for side in text.lower().split("x")]
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and len(side) < 20 for side in sides):
        raise argparse.ArgumentTypeError(f"{shown(text)} is no grid: give a side (24) or rows x columns (24x16)")
    return int(sides[0]), int(sides[-1])


def assignment(text: str) -> tuple[str, float]:
    """Type of an argument: ``alpha=2``, a name and a number.

    Args:
        text: what the option was given.

    Returns:
        (name, value).

    Raises:
        ArgumentTypeError: no ``=``, or no number behind it.

    >>> assignment("alpha=2")
    ('alpha', 2.0)
    """
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER, as alpha=2") from None


def utf8(text: str) -> str:
    """Type of an argument: text in UTF-8, whatever encoding Python has taken the shell's bytes for."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        raise argparse.ArgumentTypeError(f"not UTF-8 at byte {at}: {shown(text)}") from None


def run(who: str, command: Callable[[], int], refusals: tuple[type[Exception], ...] = ()) -> int:
    """Run a command and keep the promise of this module.

    Args:
        who: begins each message.
        command: parses, works, prints; returns an exit code.
        refusals: what it raises on bad input, besides `ModelError`.

    Returns:
        The exit code.
    """
    if sys.stderr is None:  # closed: print() would take None for stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        complain(who, "stdout is closed: there is nowhere to print to")
        return FAILED
    if isinstance(sys.stdout, io.TextIOWrapper):  # what ASCII or Latin-1 cannot show is escaped; UTF-8 shows all
        sys.stdout.reconfigure(errors="backslashreplace")
    bad_input: tuple[type[Exception], ...] = (ModelError, *refusals)
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except bad_input as refusal:
        complain(who, refusal)
        return BAD_INPUT
    except BrokenPipeError:
        _discard(sys.stdout)
        return 0
    except OSError as error:
        _discard(sys.stdout)
        named = error.filename is not None
        complain(who, error if named else f"cannot write the output: {error.strerror or error}")
        return BAD_INPUT if named else FAILED
    except MemoryError as error:
        complain(who, f"out of memory{str(error) and ': '}{error}")
        return FAILED
    except KeyboardInterrupt:
        complain(who, "interrupted")
        return INTERRUPTED


def _discard(stream: TextIO) -> None:
    """Whatever a stream still holds goes nowhere, lest the interpreter try, and complain, again when it exits."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
