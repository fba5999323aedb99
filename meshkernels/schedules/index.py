"""Integers that differ from core to core and from iteration to iteration, as plain data.

Which slot a core multiplies, whom it receives from, which block it holds: each is a rotating look-up

    value(y, x, t, s) = table[(y[y] + x[x] + step t + outer s) mod len(table)]

with t the iteration of the innermost `Repeat` and s that of the one around it (in a placement t is the slot). A ring
position, a panel's owner, "every q-th step" and "the first n rounds" are all of this form, and a field that needs
no variation is a plain ``int``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

#: Integers in a row.
Numbers = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Index:
    """A rotating look-up; see the module's text.

    Attributes:
        table: the values, at least one.
        y: ``(rows,)`` what each row of cores adds to the position; empty: nothing.
        x: ``(cols,)`` the same for each column of cores.
        step: what each iteration of the innermost repeat adds.
        outer: what each iteration of the repeat around it adds.

    Examples:
        >>> owner = Index((0, 0, 1, 1), step=1)      # two panels from each of two cores
        >>> [int(owner.at(t)[0, 0]) for t in range(4)]
        [0, 0, 1, 1]
    """

    table: tuple[int, ...]
    y: tuple[int, ...] = ()
    x: tuple[int, ...] = ()
    step: int = 0
    outer: int = 0

    if TYPE_CHECKING:  # arrays and ranges are taken and kept as tuples

        def __init__(self, table: Numbers, y: Numbers = (), x: Numbers = (), step: int = 0, outer: int = 0): ...

    def __post_init__(self) -> None:
        for name in ("table", "y", "x"):  # arrays and ranges are taken; what is no integer is left for the check
            object.__setattr__(self, name, plain(getattr(self, name)))

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        y = np.array(self.y or (0,), np.int64)[:, None]
        return np.array(self.table, np.int32), y + np.array(self.x or (0,), np.int64)

    def at(self, t: int = 0, s: int = 0) -> np.ndarray:
        """The values on all cores in one iteration.

        Args:
            t: iteration of the innermost repeat.
            s: iteration of the repeat around it.

        Returns:
            ``(rows or 1, cols or 1)``; a side of 1: the same on all of them.
        """
        table, start = self._arrays
        return table[(start + (self.step * t + self.outer * s)) % len(table)]

    def slots(self, depth: int) -> np.ndarray:
        """Values ``(rows or 1, cols or 1, depth or 1)`` of a placement, whose iterations are slots.

        Args:
            depth: slots of the buffer.

        Returns:
            ``(rows or 1, cols or 1, depth or 1)`` integers.
        """
        if not self.step:
            return self.at()[:, :, None]
        table, start = self._arrays
        return table[(start[:, :, None] + self.step * np.arange(depth)) % len(table)]

    def phase(self, axis: int, t: int = 0, s: int = 0) -> np.ndarray:
        """The positions in the table of the lines of an axis, without what the cores of a line add.

        Args:
            axis: 0: columns of cores, 1: rows.
            t: iteration of the innermost repeat.
            s: iteration of the repeat around that.

        Returns:
            ``(lines or 1,)``: lines of equal positions have equal values.
        """
        start = np.array((self.x if axis == 0 else self.y) or (0,), np.int64)
        return (start + (self.step * t + self.outer * s)) % len(self.table)

    def along(self, axis: int, phase: int, size: int) -> np.ndarray:
        """The values of the cores of one line.

        Args:
            axis: along which the line runs.
            phase: the line's position in the table, of `phase`.
            size: cores on the line.

        Returns:
            ``(size,)`` values.
        """
        own = np.array((self.y if axis == 0 else self.x) or (0,), np.int64)
        return np.broadcast_to(self._arrays[0][(own + phase) % len(self.table)], size)

    def period(self) -> int:
        """After how many iterations the values repeat.

        Returns:
            Iterations of the innermost repeat.
        """
        return len(self.table) // gcd(len(self.table), self.step)

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The lowest and the highest value of the table."""
        table = self._arrays[0]
        return int(table.min()), int(table.max())

    @property
    def steady(self) -> bool:
        """Whether the values are the same in every iteration."""
        return self.step % len(self.table) == 0 == self.outer % len(self.table)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}  # without cached arrays


def plain(values: Iterable[Any]) -> Any:
    """An array, list or range as a tuple of integers; anything else as it is."""
    if isinstance(values, np.ndarray):
        return tuple(values.tolist())
    if isinstance(values, (list, tuple)):
        return tuple(int(n) if isinstance(n, np.integer) else n for n in values)
    return tuple(values) if isinstance(values, range) else values


def at(value: int | Index, t: int = 0, s: int = 0) -> np.ndarray:
    """``value`` as an array ``(rows or 1, cols or 1)``."""
    return value.at(t, s) if isinstance(value, Index) else np.full((1, 1), value, np.int32)


def bounds(value: int | Index) -> tuple[int, int]:
    """The lowest and the highest value in a table, or the value itself twice."""
    return value.bounds if isinstance(value, Index) else (value, value)


def steady(*values: int | Index | None) -> bool:
    """Whether all these are the same in every iteration."""
    return all(not isinstance(value, Index) or value.steady for value in values)


def number(value: int | Index, t: int = 0, s: int = 0) -> int | None:
    """``value`` as one number if all cores have the same by construction, else None."""
    if not isinstance(value, Index):
        return value
    return None if value.y or value.x else value.table[(value.step * t + value.outer * s) % len(value.table)]
