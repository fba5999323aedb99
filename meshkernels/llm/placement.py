"""Placements: which dimension of a tensor is cut along which axis of the mesh, and where it is replicated.

The paper writes ``E_y`` for a dimension E cut along the y axis of cores (down a column) and ``L^x`` for one that
is replicated along x. An axis can be cut twice, the coarse cut first: ``H_x:3 D_x:8`` cuts 24 columns of
cores into 3 strips of 8, the heads over the strips and each head's features over a strip's columns.

Examples:
    >>> from meshkernels.mesh import Mesh
    >>> q = Placement("Q", {"H": 9, "D": 64}, Mesh(24), x=(("H", 3), ("D", 8)))
    >>> q.notation, q.tile, q.words
    ('H_x:3 D_x:8 ^y', {'H': 3, 'D': 8}, 24)
    >>> q.block(0, 9)
    {'H': (3, 6), 'D': (8, 16)}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from meshkernels.mesh import Mesh, ceil_div

#: The cuts along one axis, coarse to fine: ``(dimension, parts)``; the dimension None replicates.
Cuts = tuple[tuple[str | None, int], ...]


@dataclass(frozen=True)
class Placement:
    """Where one tensor lives.

    Attributes:
        name: the tensor's name.
        dims: its dimensions and their lengths in elements (padding included), in storage order.
        mesh: the cores.
        y, x: the cuts along either axis; empty: replicated along it. The parts multiply to the axis' cores.
    """

    name: str
    dims: dict[str, int] = field(hash=False)
    mesh: Mesh
    y: Cuts = ()
    x: Cuts = ()

    def __post_init__(self) -> None:
        for axis, cuts in enumerate((self.y, self.x)):
            if cuts and prod(parts for _, parts in cuts) != self.mesh.length(axis):
                raise ValueError(f"{self.name}: cuts {cuts} do not multiply to {self.mesh.length(axis)} cores")
        cut = [dim for dim, _ in (*self.y, *self.x) if dim is not None]
        if len(set(cut)) != len(cut) or not set(cut) <= set(self.dims):
            raise ValueError(f"{self.name}: each of {list(self.dims)} can be cut once, not {cut}")

    def parts(self, dim: str) -> int:
        """Into how many parts a dimension is cut (1: not at all)."""
        return dict((*self.y, *self.x)).get(dim, 1)

    @property
    def tile(self) -> dict[str, int]:
        """Length of every dimension on one core: the ceiling of its length over its parts."""
        return {dim: ceil_div(size, self.parts(dim)) for dim, size in self.dims.items()}

    @property
    def words(self) -> int:
        """Elements on one core, padding included."""
        return prod(self.tile.values())

    @property
    def notation(self) -> str:
        """The paper's way to write it, e.g. ``L_y E_x``; ``^x`` marks replication along x."""
        single = {axis for axis, cuts in (("y", self.y), ("x", self.x)) if len(cuts) == 1}
        marks = {dim: f"_{axis}" + ("" if axis in single else f":{parts}")
                 for axis, cuts in (("y", self.y), ("x", self.x)) for dim, parts in cuts if dim is not None}
        copied = [axis for axis, cuts in (("y", self.y), ("x", self.x)) if not cuts or None in dict(cuts)]
        return " ".join([dim + marks.get(dim, "") for dim in self.dims] + [f"^{axis}" for axis in copied])

    def part(self, dim: str) -> np.ndarray:
        """``(rows, cols)`` which part of a dimension each core holds (0 everywhere if it is not cut)."""
        held = np.zeros(self.mesh.shape, np.int64)
        for axis, cuts in enumerate((self.y, self.x)):
            index = np.arange(self.mesh.length(axis))
            for other, parts in reversed(cuts):
                if other == dim:
                    held += (index % parts).reshape((-1, 1) if axis == 0 else (1, -1))
                index = index // parts
        return held

    def block(self, y: int, x: int) -> dict[str, tuple[int, int]]:
        """The half-open range of every dimension on core (y, x), the padding at the end left out."""
        spans = {}
        for dim, length in self.tile.items():
            first = min(int(self.part(dim)[y, x]) * length, self.dims[dim])
            spans[dim] = (first, min(first + length, self.dims[dim]))
        return spans
