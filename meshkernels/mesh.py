"""The grid of cores, and how matrices are cut over it.

Cores are addressed ``(y, x)`` = (row, column); ``axis=0`` runs down a column (north-south, y), ``axis=1``
along a row (east-west, x), exactly as NumPy counts the axes of a ``(rows, cols)`` array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from meshkernels.errors import MeshError, MeshTypeError
from perfmodel.errors import shown

if TYPE_CHECKING:
    from meshkernels.engines.distribution import Distribution

#: Most cores a side, and in all. Counting holds every core in memory, and of a broadcast from each core of a line every
#: link: some gigabytes at either bound. The widest wafer has 1,170 cores a side and 878,000 in all.
LONGEST_SIDE, MOST_CORES = 8192, 1 << 24
#: Most steps of a schedule on a rectangle, one for each block of the contraction; 1169 x 751 cores take 877,919.
MOST_STEPS = 1 << 20
#: Most steps times cores of a rectangle on which every algorithm is to be run: proofs and counts take a minute.
MOST_WALKED = 1 << 26


def ceil_div(n: int, parts: int) -> int:
    """Ceiling of ``n / parts`` for non-negative integers."""
    return -(-n // parts)


@dataclass(frozen=True, init=False)
class Mesh:
    """A ``rows x cols`` grid of cores, each linked to its four neighbours.

    Args:
        rows: cores down a column (y axis).
        cols: cores along a row (x axis); the same as ``rows`` where left out.
        comm: an mpi4py communicator whose ranks share out the cores; verbs that get this mesh run on them. It is no
            part of the mesh's value: schedules never hold it.
        ranks: a grid ``(down, across)`` of the ranks of ``comm``; None: the one with the shortest borders.

    Raises:
        MeshError: a side below 1 or above `LONGEST_SIDE`, or more than `MOST_CORES` cores; more ranks than cores.
        MeshTypeError: a side that is not an integer, or a ``comm`` that is no communicator of mpi4py.

    Examples:
        >>> Mesh(24, 16)
        Mesh(rows=24, cols=16)
        >>> Mesh(3).cores
        9
    """

    rows: int
    cols: int

    def __init__(self, rows: int, cols: int | None = None, *, comm: Any = None, ranks: Sequence[int] | None = None):
        if comm is None and ranks is not None:
            raise MeshError(f"ranks = {shown(ranks)}: ranks are those of a communicator; give comm too")
        if comm is None:
            self._take(rows, cols)
            return
        from meshkernels.engines.distribution import Distribution

        def take() -> Mesh:
            self._take(rows, cols)
            return self

        object.__setattr__(self, "_distribution", Distribution(comm, take, ranks))

    def _take(self, rows: int, cols: int | None) -> None:
        cols = rows if cols is None else cols
        for name, side in (("rows", rows), ("cols", cols)):
            try:
                side = index(side)
            except TypeError:
                raise MeshTypeError(f"Mesh {name} must be an integer, not {shown(side)}") from None
            if not 1 <= side <= LONGEST_SIDE:
                raise MeshError(f"Mesh {name} = {shown(side)}: a mesh has at least 1 core a side, "
                                f"at most {LONGEST_SIDE}")
            object.__setattr__(self, name, side)
        if self.cores > MOST_CORES:
            raise MeshError(f"a mesh of {self.rows} x {self.cols} = {self.cores} cores: at most {MOST_CORES}")

    @property
    def distribution(self) -> Distribution | None:
        """The ranks that share out the cores, where there are any."""
        return self.__dict__.get("_distribution")

    def __reduce__(self) -> Any:
        return Mesh, (self.rows, self.cols)  # a communicator belongs to its process

    @property
    def cores(self) -> int:
        """Number of cores."""
        return self.rows * self.cols

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, cols)``, the shape of every per-core array in this library."""
        return self.rows, self.cols

    @property
    def lcm(self) -> int:
        """Side of the smallest square logical grid that both axes divide: the steps of a product on the mesh.

        Raises:
            MeshError: it exceeds `MOST_STEPS`.
        """
        steps = lcm(self.rows, self.cols)
        if steps > MOST_STEPS:
            raise MeshError(f"a product on {self.rows} x {self.cols} cores takes {steps} steps, their least common "
                            f"multiple; at most {MOST_STEPS} are held: choose sides that share a factor")
        return steps

    def length(self, axis: int) -> int:
        """Cores on one line of an axis.

        Args:
            axis: 0 = y, down a column; 1 = x, along a row.

        Returns:
            ``rows`` or ``cols``.
        """
        return self.shape[axis]

    def lines(self, axis: int) -> int:
        """How many lines run along an axis.

        Args:
            axis: 0 = y, then the lines are columns; 1 = x, then they are rows.

        Returns:
            ``cols`` or ``rows``.
        """
        return self.shape[1 - axis]


def require_walkable(mesh: Mesh) -> None:
    """Refuse a mesh on which the proof of some algorithm takes minutes: steps times cores exceed `MOST_WALKED`.

    Raises:
        MeshError: it names the mesh and what would do.
    """
    if mesh.rows != mesh.cols and mesh.lcm * mesh.cores > MOST_WALKED:
        least = mesh.lcm == max(mesh.shape)
        raise MeshError(f"a product on {mesh.rows} x {mesh.cols} cores takes {mesh.lcm} steps, too many to verify on "
                        f"{mesh.cores} cores: choose fewer cores{'' if least else ', or sides that share a factor'}")


@dataclass(frozen=True)
class Tiling:
    """How one operand is cut: a ``grid`` of blocks, each of the same ``tile`` shape.

    Blocks are padded with zeros to one size, as a program that is the same on every core must: the last
    blocks hold fewer useful rows or columns, and a block may lie wholly in the padding. A block's flat id is
    ``i * grid[1] + j``; ids are what the cores hand to each other.

    Args:
        shape: ``(height, width)`` of the operand, in elements.
        grid: ``(I, J)`` blocks down and across.

    Examples:
        >>> t = Tiling((10, 6), (4, 2))
        >>> t.tile, t.useful(0).tolist()
        ((3, 3), [3, 3, 3, 1])
    """

    shape: tuple[int, int]
    grid: tuple[int, int]

    @property
    def tile(self) -> tuple[int, int]:
        """``(h, w)`` of every block, in elements: the ceiling of the operand's sides over the grid's."""
        return ceil_div(self.shape[0], self.grid[0]), ceil_div(self.shape[1], self.grid[1])

    @property
    def words(self) -> int:
        """Elements of one block, padding included."""
        return self.tile[0] * self.tile[1]

    def block(self, number: Any) -> tuple[Any, Any]:
        """Where a block lies among the others.

        Args:
            number: its flat id, or an array of them.

        Returns:
            ``(i, j)``, the block's row and column.

        Examples:
            >>> Tiling((10, 6), (4, 2)).block(5)
            (2, 1)
        """
        return number // self.grid[1], number % self.grid[1]

    def useful(self, axis: int) -> np.ndarray:
        """How much of each block is not padding.

        Args:
            axis: 0 for rows, 1 for columns of the blocks.

        Returns:
            ``(grid[axis],)`` elements.
        """
        block = self.tile[axis]
        return np.clip(self.shape[axis] - block * np.arange(self.grid[axis]), 0, block)

    def cut(self, matrix: np.ndarray) -> np.ndarray:
        """Copy a matrix into zero-padded blocks.

        Args:
            matrix: `shape`.

        Returns:
            ``(I * J, h, w)``: the blocks in order of their ids.
        """
        (I, J), (h, w) = self.grid, self.tile
        if matrix.shape != (I * h, J * w):
            padded = np.zeros((I * h, J * w), matrix.dtype)
            padded[: self.shape[0], : self.shape[1]] = matrix
            matrix = padded
        return matrix.reshape(I, h, J, w).swapaxes(1, 2).copy().reshape(I * J, h, w)

    def join(self, blocks: np.ndarray) -> np.ndarray:
        """Put blocks together, the inverse of `cut`.

        Args:
            blocks: ``(I * J, h, w)`` in order of their ids.

        Returns:
            `shape`, C-contiguous, the padding dropped.
        """
        (I, J), (h, w) = self.grid, self.tile
        whole = blocks.reshape(I, J, h, w).swapaxes(1, 2).reshape(I * h, J * w)
        return np.ascontiguousarray(whole[: self.shape[0], : self.shape[1]])
