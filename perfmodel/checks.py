"""Checks of values from outside, one for each kind; a refusal names the value, its range and why the range ends.

Every public function and every data file goes through these before it computes, and before it allocates anything
whose size follows from a number that somebody gave.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from perfmodel.errors import DataError, ModelError, shown, unknown

#: largest size of a problem: float64, in which bytes and cycles are computed, tells whole numbers up to here apart
LARGEST = 2**53
#: most cores on a side of a mesh that can be counted; the widest wafer has 1,170
LONGEST_SIDE = 100_000


def sizes(**values: Any) -> list[Any]:
    """The values as int64 scalars or arrays: whole numbers of 1 to `LARGEST`, of shapes that broadcast.

    Args:
        **values: sizes by the names that the refusal uses.

    Returns:
        The checked values, in the order given.

    >>> sizes(M=4.0, N=[2, 3])
    [np.int64(4), array([2, 3])]
    """
    checked = [_whole(name, value) for name, value in values.items()]
    together(**dict(zip(values, checked)))
    return checked


def size(name: str, value: Any, largest: int = LARGEST, reason: str = "") -> int:
    """One whole number of 1 to ``largest``, as Python's int.

    Args:
        name: what the refusal calls it.
        value: a number, of Python's or NumPy's types.
        largest: the most that is allowed.
        reason: why no more is; ends the refusal.

    Returns:
        The checked number.

    Raises:
        ModelError: an array, no whole number, or one out of range.

    >>> size("grid", np.int64(24))
    24
    """
    checked = _whole(name, value)
    if np.ndim(checked):
        raise ModelError(f"{name} = {shown(value)} must be one number, not an array")
    if checked > largest:
        raise ModelError(f"{name} = {checked} must be at most {largest}{reason and ', '}{reason}")
    return int(checked)


def _whole(name: str, value: Any) -> Any:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # rows of different lengths
        array = np.empty(0)
    rule = "must be a whole number of at least 1, at most 2^53, up to which float64 is exact"
    if array.dtype.kind not in "iuf" or array.size == 0:
        raise ModelError(f"{name} = {shown(value)} {rule}")
    wrong = ~((array >= 1) & (array <= LARGEST) & (array == np.floor(array)))  # NaN fails every comparison
    if wrong.any():
        raise ModelError(f"{name} = {np.ravel(array)[np.argmax(wrong)]} {rule}")
    return array.astype(np.int64)[()]


def together(**values: Any) -> None:
    """Arrays of one call must broadcast; the refusal names their shapes."""
    try:
        np.broadcast_shapes(*(np.shape(value) for value in values.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {np.shape(value)}" for name, value in values.items() if np.ndim(value))
        raise ModelError(f"arrays of these shapes do not go together: {shapes}") from None


def choice(what: str, name: Any, known: Iterable[str]) -> str:
    """``name``, if it is one of the known."""
    known = list(known)
    if not isinstance(name, str) or name not in known:
        raise unknown(what, name, known)
    return name


def number(where: str, value: Any, low: float, high: float, unit: str = "") -> float:
    """``value`` of a data file, if it is a number (no bool) from ``low`` to ``high``; ``where`` begins the message.

    Args:
        where: file and key, for the refusal.
        value: what the file has.
        low: least value allowed.
        high: largest value allowed.
        unit: of the limits, for the refusal.

    Returns:
        The value, unchanged.

    Raises:
        DataError: no number, not finite, or out of range.

    >>> number("bench.json: median", 0.5, 1e-12, 1e9, "second")
    0.5
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise DataError(f"{where} = {shown(value)} is not a finite number")
    if value != value or value in (np.inf, -np.inf):
        raise DataError(f"{where} = {value} is not a finite number")
    if not low <= value <= high:
        raise DataError(f"{where} = {shown(value)}{unit and ' '}{unit} is outside {low:g} to {high:g}")
    return value  # type: ignore[return-value]


def text(where: str, value: Any) -> str:
    """``value`` of a data file, if it is a string."""
    if not isinstance(value, str):
        raise DataError(f"{where} = {shown(value)} must be a string")
    return value


def table(where: str, value: Any) -> dict[str, Any]:
    """``value`` of a data file, if it is a table (an object, in JSON)."""
    if not isinstance(value, dict):
        raise DataError(f"{where} must be a table of named values, not {shown(value)}")
    return value
