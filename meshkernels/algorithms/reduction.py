"""The part of a schedule that combines vectors along the lines of an axis, by itself."""

from __future__ import annotations

from dataclasses import dataclass

from meshkernels.schedules import Repeat, Step, Values


@dataclass(frozen=True)
class Reduction:
    """What combines one buffer of partial values, ``"y"``, along every line of an axis.

    Attributes:
        values: the buffer.
        program: what to do with it.
        root: the core of each line that holds the result; None where the program leaves it on all of them.
    """

    values: Values
    program: tuple[Step | Repeat, ...]
    root: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "program", tuple(self.program))
