"""Errors of the model: each is a ``ValueError`` whose message names the offending value and the limit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ModelError(ValueError):
    """Base of every error raised by ``perfmodel``."""


class UnknownName(ModelError):
    """A device, model, algorithm or system that the package has no file or formula for."""


class DataError(ModelError):
    """A data file (device, model, measurements) that is incomplete, mistyped or out of range."""


class DoesNotFit(ModelError):
    """A problem that the device cannot hold: too many cores, or too many bytes per core."""


def unknown(what: str, name: object, known: Iterable[str]) -> UnknownName:
    """The error for a name nobody knows: lists the known and suggests the nearest.

    >>> print(unknown("device", "wse4", ["wse2", "wse3"]))
    unknown device 'wse4'; known: wse2, wse3; did you mean 'wse3'?
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"unknown {what} {name!r}; known: {', '.join(names)}{hint}")
