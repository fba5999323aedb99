"""What cores keep: tiles of operands, numbers that they compute, and where both lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meshkernels.mesh import Mesh
from meshkernels.schedules.index import Index


@dataclass(frozen=True)
class Place:
    """Which block of a matrix lies in each slot of each core; the `Index` of a place counts slots by its ``step``.

    Attributes:
        down: block row; -1: none.
        across: block column; -1: none.
    """

    down: int | Index
    across: int | Index

    def at(self, mesh: Mesh, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Which block lies in each slot of each core.

        Args:
            mesh: the cores.
            depth: slots of the buffer.

        Returns:
            ``(down, across)``, each ``(rows or 1, cols or 1, depth or 1)``; a side of 1: the same everywhere.
        """
        down, across = (part.slots(depth) if isinstance(part, Index) else np.full((1, 1, 1), part, np.int32)
                        for part in (self.down, self.across))
        return down, across


@dataclass(frozen=True)
class Tiles:
    """A buffer of operand tiles, as they are stored; what the schedule tracks of a tile is which block it is.

    Attributes:
        operand: name of the operand whose blocks it holds.
        depth: tiles (slots) that it has room for.
        home: what it holds before the first step; None: nothing.
        copies: versions kept at once: 2 where a tile arrives while the one before is still read.
    """

    operand: str
    depth: int = 1
    home: Place | None = None
    copies: int = 1


@dataclass(frozen=True)
class Values:
    """A buffer of numbers that a core computes: tiles of results, or of partial sums. They begin as zeros.

    Attributes:
        shape: ``(h, w)`` elements of one piece.
        pieces: pieces (slots), each a whole block of the result, or all together one block cut across its columns.
        copies: versions kept at once: 2 where numbers arrive while those before are still read.
        dtype: ``"sum"``: an element is as wide as sums are; ``"stored"``: as the operands (nothing is added up).
    """

    shape: tuple[int, int]
    pieces: int = 1
    copies: int = 1
    dtype: str = "sum"


@dataclass(frozen=True)
class Collect:
    """Where the result lies at the end: which block each slot of a buffer holds.

    Attributes:
        buffer: a buffer of `Values`.
        place: the result's block in each slot of each core; -1: not taken from here.
        whole: all pieces of the buffer, side by side, are one block (that of slot 0).
    """

    buffer: str
    place: Place
    whole: bool = False
