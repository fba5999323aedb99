"""Errors of the model: each is a ``ValueError`` whose message names the offending value and the limit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ModelError(ValueError):
    """Base of every error raised by ``perfmodel``."""


class UnknownName(ModelError):
    """A device, model, algorithm or system that the package has no file or formula for."""


class DataError(ModelError):
    """A data file (device, model, measurements) that is incomplete, mistyped or out of range."""


class DoesNotFit(ModelError):
    """A problem that the device cannot hold: too many cores, or too many bytes per core."""


def shown(value: Any, most: int = 120) -> str:
    """``repr(value)``, shortened: a message is a line, whatever it was given.

    Args:
        value: anything.
        most: characters of the text.

    Returns:
        The text.

    >>> shown("4"), shown([1] * 1000)[-8:], shown(1 << 20000)
    ("'4'", '1, 1...]', 'a whole number of 20001 bits')
    """
    if isinstance(value, int) and value.bit_length() > 1024:
        return f"a whole number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, or a nest too deep, inside
        text = f"{type(value).__name__} that cannot be shown"
    return text if len(text) <= most else f"{text[: most - 4]}...{text[-1]}"


def unknown(what: str, name: object, known: Iterable[str]) -> UnknownName:
    """The error for a name nobody knows: lists the known and suggests the nearest.

    Args:
        what: kind of name: device, model ...
        name: what was given.
        known: names that would have done.

    Returns:
        The error, to be raised.

    >>> print(unknown("device", "wse4", ["wse2", "wse3"]))
    unknown device 'wse4'; known: wse2, wse3; did you mean 'wse3'?
    """
    names = sorted(known)
    near = difflib.get_close_matches(name[:120], names, n=1, cutoff=0.4) if isinstance(name, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"unknown {what} {shown(name)}; known: {', '.join(names)}{hint}")
