"""What a command may do with bad input: refuse it in one line, with exit code 2. Anything else is a failure."""

from __future__ import annotations

import json
import math
import re
import shlex
import signal
from collections.abc import Sequence
from typing import Any

from tests.fuzz.child import Outcome

#: Lines on stderr that are no refusal: compiling, fetching, progress, and the usage that argparse prints.
_NOTICE = re.compile(r"meshkernels: compiling kernels|fetching |prefill: block|usage: |  ")
_ESCAPED = re.compile(rb"Traceback \(most recent call last\)|panicked at|^\S*\.py:\d+: \w*Warning: |Exception ignored",
                      re.M)  # fmt: skip


class Failure(Exception):
    """What a case found."""


def require(true: Any, what: str) -> None:
    """Raise `Failure` unless ``true``."""
    if not true:
        raise Failure(what)


def end(outcome: Outcome) -> None:
    """A child that ended by itself, with no signal, traceback or warning."""
    require(not outcome.hung, f"hang: killed after {outcome.seconds:.0f} s, {outcome.peak >> 20} MB resident")
    require(outcome.code >= 0, f"signal {-outcome.code}: {_tail(outcome.err)}")
    if found := _ESCAPED.search(outcome.err):
        raise Failure(f"{found[0].decode(errors='replace')} (exit code {outcome.code}): {_tail(outcome.err)}")


def verdict(outcome: Outcome, names: Sequence[str] = (), *, longest: int = 1500) -> str:
    """"accepted" (exit code 0), or "refused": exit code 2 and one line, which has each of ``names`` in it."""
    end(outcome)
    lines = [line for line in outcome.err.decode("utf-8", "replace").splitlines() if not _NOTICE.match(line)]
    if outcome.code == 0:
        require(not lines, f"exit code 0, but on stderr: {_tail(outcome.err)}")
        return "accepted"
    require(outcome.code == 2, f"exit code {outcome.code}: {_tail(outcome.err)}")
    require(len(lines) == 1, f"{len(lines)} lines on stderr, not one: {_tail(outcome.err)}")
    require(len(lines[0]) <= longest, f"a message of {len(lines[0])} characters: {lines[0][:200]} ...")
    require(lines[0].isprintable(), f"the message is not printable: {lines[0][:300]!r}")
    for name in names:
        require(name in lines[0], f"the message does not name {name!r}: {lines[0][:300]}")
    return "refused"


def numbers(outcome: Outcome) -> dict[str, Any]:
    """The JSON object that a command printed, every number of it finite."""
    try:
        return json.loads(outcome.out, parse_constant=_not_finite, parse_float=_finite)
    except ValueError as error:
        raise Failure(f"stdout is not one JSON object: {error}: {outcome.out[:200]!r}") from error


def shell(module: str, arguments: Sequence[str | bytes]) -> str:
    """A command line to read."""
    return shlex.join(["python", "-m", module, *(a if isinstance(a, str) else repr(a)[1:-1] for a in arguments)])[:400]


def interrupted(outcome: Outcome) -> str:
    """A command that SIGINT ended within 2 s, with exit code 130 and no traceback; or that had ended."""
    require(not outcome.hung and outcome.seconds < 2, f"{outcome.seconds:.1f} s after the signal")
    if b"Traceback" in outcome.err and b"in main" not in outcome.err:
        return "refused"  # before the command, or after it: while Python imports or leaves, nobody can catch it
    if outcome.code == -signal.SIGINT and b"Traceback" not in outcome.err:
        return "refused"  # as a shell sees it, 130; Python ends so where the signal met an exec(), or its own end
    end(outcome)
    require(outcome.code in (0, 130), f"exit code {outcome.code}: {_tail(outcome.err)}")
    return "refused" if outcome.code else "accepted"


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _not_finite(text)


def _not_finite(text: str) -> float:
    raise Failure(f"{text} in the output")


def _tail(err: bytes) -> str:
    """The last lines, where a traceback says what it is."""
    return " | ".join(err.decode("utf-8", "replace").strip().splitlines()[-3:])[-500:]
