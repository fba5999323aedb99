"""Matrices that lie on the ranks of a mesh, a part on each; no rank needs to hold one whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from meshkernels.arguments import as_count, operand
from meshkernels.engines.distribution import Distribution, require_together
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.mesh import Mesh, Tiling

#: Takes ids ``(n,)`` of blocks, and the blocks ``(n, h, w)``.
Put = Callable[[np.ndarray, np.ndarray], None]


class Layout(NamedTuple):
    """Which rank has each block of a matrix.

    Attributes:
        tiling: how the matrix is cut into blocks.
        owner: the rank of each block, by id, ``(I * J,)``.
    """

    tiling: Tiling
    owner: tuple[int, ...]

    def ids(self, rank: int) -> np.ndarray:
        """The blocks of a rank, ascending."""
        return np.flatnonzero(np.array(self.owner, np.int64) == rank)


class DistMatrix:
    """A matrix on the ranks of a mesh. `scatter` and `from_local` make one, the products take and return them.

    Attributes:
        layout: which rank has each block.
        on: the ranks, and their cores.
        blocks: those of this rank, ``(n, h, w)`` in the order of their ids, padded with zeros.
    """

    ndim = 2

    def __init__(self, layout: Layout, on: Distribution, blocks: np.ndarray):
        self.layout, self.on, self.blocks = layout, on, blocks

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)`` of the whole, in elements."""
        return self.layout.tiling.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the elements."""
        return self.blocks.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that this rank holds, padding included."""
        return self.blocks.nbytes

    def __repr__(self) -> str:
        return (f"DistMatrix({self.shape[0]} x {self.shape[1]} {self.dtype}, {self.on}, {len(self.blocks)} blocks on "
                f"rank {self.on.ranks.rank})")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise MeshTypeError(f"{self!r} is no array: meshkernels.gather brings it to one rank")

    @staticmethod
    def slices(shape: tuple[int, int], mesh: Mesh) -> tuple[slice, slice]:
        """The rows and columns of a matrix that lie on this rank: those of its block of cores.

        Args:
            shape: ``(height, width)`` of the matrix.
            mesh: cores, with a communicator.

        Returns:
            ``(rows, columns)``.

        Raises:
            MeshError: a mesh without a communicator, or whose ranks have no rectangles of cores.
        """
        on = require_together(mesh.distribution, "slices")
        if on.cut.grid is None:
            raise MeshError(f"{on}: there is no grid of so many ranks, and a run of cores has no rectangle of a "
                            "matrix; use scatter")
        own = on.cut.cores(on.ranks.rank)
        y, x = np.divmod(own[[0, -1]], mesh.cols)
        tile = Tiling(shape, mesh.shape).tile
        return tuple(slice(*(int(min(n, side)) for n in (first * size, (last + 1) * size)))  # type: ignore[return-value]
                     for (first, last), size, side in zip((y, x), tile, shape))

    @staticmethod
    def from_local(local: ArrayLike, mesh: Mesh, shape: tuple[int, int]) -> DistMatrix:
        """A matrix of which each rank has its part already.

        Args:
            local: this rank's part, ``whole[DistMatrix.slices(shape, mesh)]``; copied.
            mesh: cores, with a communicator.
            shape: ``(height, width)`` of the whole.

        Returns:
            The matrix, cut over the mesh.

        Raises:
            MeshError: a part of another shape on any rank, or as `slices`.
            MeshTypeError: a dtype that is not accepted.
            RankError: another rank refuses its part, or the parts have different dtypes.
        """
        on = require_together(mesh.distribution, "from_local")
        said: list[str] = [""]
        try:
            part, sizes = operand("local", local, 2), tuple(as_count("shape", n) for n in shape)
            rows, cols = DistMatrix.slices(sizes, mesh)  # type: ignore[arg-type]
            wanted = rows.stop - rows.start, cols.stop - cols.start
            if part.shape != wanted:
                raise MeshError(f"local is {part.shape}; rank {on.ranks.rank} has {wanted} of a matrix of {sizes}: "
                                f"rows {rows.start} to {rows.stop}, columns {cols.start} to {cols.stop}")
            said[0] = f"from_local({sizes}, {part.dtype}) on {on}"
        except Exception as failure:
            on.ranks.agree("", failure)
            raise
        on.ranks.agree(said[0])
        layout = natural(sizes, on)  # type: ignore[arg-type]
        (h, w), own = layout.tiling.tile, on.cut.cores(on.ranks.rank)
        down = len(np.unique(own // mesh.cols))
        across = len(own) // down
        padded = np.zeros((down * h, across * w), part.dtype)
        padded[: part.shape[0], : part.shape[1]] = part
        blocks = padded.reshape(down, h, across, w).swapaxes(1, 2).reshape(len(own), h, w)
        return DistMatrix(layout, on, blocks)


def natural(shape: tuple[int, int], on: Distribution) -> Layout:
    """Block (y, x) of a matrix cut over the mesh lies on core (y, x)."""
    return Layout(Tiling(shape, (on.cut.rows, on.cut.cols)), tuple(on.cut.owner.tolist()))


def scatter(A: ArrayLike | None, mesh: Mesh, root: int = 0) -> DistMatrix:
    """Cut a matrix that one rank has over a mesh.

    Args:
        A: the matrix on rank ``root``; not looked at on the others.
        mesh: cores, with a communicator.
        root: the rank that has it.

    Returns:
        The matrix, block (y, x) on the rank of core (y, x).

    Raises:
        MeshError: a mesh without a communicator, or no such rank.
        MeshTypeError: on ``root``, a dtype that is not accepted.
        RankError: rank ``root`` refuses the matrix, or the ranks name different roots.
    """
    on = require_together(mesh.distribution, "scatter")
    ranks, root = on.ranks, _root(root, on, "scatter")
    header, array = None, np.zeros((0, 0))
    with ranks.agreed(f"scatter(root={root}) on {on}"):
        if ranks.rank == root:
            if A is None:
                raise MeshError(f"A is None on rank {root}, the root: it has the matrix")
            array = operand("A", A, 2)
            header = array.shape, array.dtype
    with ranks.fatal():
        shape, dtype = ranks.comm.bcast(header, root)
        target = natural(shape, on)
        mine = target.tiling.cut(array) if ranks.rank == root else np.zeros((0, *target.tiling.tile), dtype)
        whole = DistMatrix(Layout(target.tiling, (root,) * len(target.owner)), on, mine)
        return DistMatrix(target, on, fetch(whole, target.tiling, wanted_by(target, ranks.size)))


def gather(C: DistMatrix, mesh: Mesh, root: int | None = 0) -> np.ndarray | None:
    """Bring a matrix to one rank, or to all.

    Args:
        C: the matrix.
        mesh: the cores that it lies on.
        root: the rank that gets it; None: all.

    Returns:
        The whole matrix on ``root``; None on the others.

    Raises:
        MeshTypeError: no `DistMatrix`.
        MeshError: one on another mesh; no such rank.
        RankError: another rank refuses, or the ranks name different roots or matrices.
    """
    on = require_together(mesh.distribution, "gather")
    root = None if root is None else _root(root, on, "gather")
    said = [""]
    try:
        if not isinstance(C, DistMatrix):
            raise MeshTypeError(f"gather takes a DistMatrix, not {type(C).__name__}")
        require_same(C, on, "C")
        said[0] = f"gather({C.shape}, {C.dtype}, root={root}) on {on}"
    except Exception as failure:
        on.ranks.agree("", failure)
        raise
    on.ranks.agree(said[0])
    with on.ranks.fatal():
        return whole(C, root)


def whole(C: DistMatrix, root: int | None = None) -> np.ndarray | None:
    """As `gather`, without its checks; None: on every rank."""
    wanted = np.zeros((C.on.ranks.size, len(C.layout.owner)), bool)
    wanted[slice(None) if root is None else root] = True
    blocks = fetch(C, C.layout.tiling, wanted)
    return C.layout.tiling.join(blocks) if root in (None, C.on.ranks.rank) else None


def require_same(D: DistMatrix, on: Distribution, name: str) -> None:
    """Raise `MeshError` unless a matrix lies on this distribution."""
    if D.on.cut != on.cut or D.on.ranks is not on.ranks:
        raise MeshError(f"{name} lies on {D.on}; the mesh is {on}: gather it, and scatter it over this mesh")


def _root(root: int, on: Distribution, verb: str) -> int:
    try:
        number = as_count("root", root)
        if not 0 <= number < on.ranks.size:
            raise MeshError(f"root = {number}: the ranks are 0 to {on.ranks.size - 1}")
    except Exception as failure:
        on.ranks.agree(verb, failure)
        raise
    return number


def lies(D: DistMatrix, tiling: Tiling, wanted: np.ndarray) -> bool:
    """Whether each rank has the blocks of a tiling that it wants, ``(ranks, blocks)``, and has no others."""
    return D.layout.tiling == tiling and np.array_equal(wanted, wanted_by(D.layout, D.on.ranks.size))


def wanted_by(layout: Layout, ranks: int) -> np.ndarray:
    """``(ranks, blocks)``: each rank wants what the layout gives it."""
    return np.arange(ranks)[:, None] == np.array(layout.owner, np.int64)


def fetch(D: DistMatrix, tiling: Tiling, wanted: np.ndarray, put: Put | None = None) -> np.ndarray:
    """Blocks of a matrix for the ranks that want them, cut as they want; collective.

    Args:
        D: the matrix.
        tiling: how the blocks are cut that are wanted.
        wanted: ``(ranks, blocks)`` of that tiling; the same on all ranks.
        put: takes ids and blocks as they come, in any order and perhaps as views; None: they are returned.

    Returns:
        Those that this rank wants, ``(n, h, w)`` in the order of their ids; none if ``put`` takes them.
    """
    ranks = D.on.ranks
    me, owner = ranks.rank, np.array(D.layout.owner, np.int64)
    mine = np.flatnonzero(wanted[me])
    place = np.zeros(wanted.shape[1], np.int64)
    place[mine] = np.arange(len(mine))
    at = np.zeros(len(owner), np.int64)
    at[owner == me] = np.arange(len(D.blocks))
    same = tiling == D.layout.tiling
    out = np.zeros((0 if same and put else len(mine), *tiling.tile), D.dtype)
    if same:
        def keep(ids: np.ndarray, blocks: np.ndarray) -> None:
            out[place[ids]] = blocks

        put = put or keep
        for peer in range(ranks.size):
            if peer != me and (ids := np.flatnonzero(wanted[peer] & (owner == me))).size:
                ranks.send(peer, D.blocks[at[ids]], "layout")
        coming = [(ids, ranks.receive(peer, (len(ids), *tiling.tile), D.dtype)) for peer in range(ranks.size)
                  if peer != me and (ids := np.flatnonzero(wanted[me] & (owner == peer))).size]  # fmt: skip
        kept = np.flatnonzero(wanted[me] & (owner == me))
        put(kept, D.blocks if len(kept) == len(D.blocks) else D.blocks[at[kept]])
        for ids, message in coming:
            with message.arrived() as blocks:
                put(ids, blocks)
        ranks.finish()
        return out
    cells = _Cells(D.layout.tiling, tiling)
    taken, given = wanted[:, cells.new], owner[cells.old]  # (ranks, cells), (cells,)
    for peer in range(ranks.size):
        if peer != me and (sent := np.flatnonzero(taken[peer] & (given == me))).size:
            parts = [D.blocks[at[cells.old[c]]][cells.within_old(c)].ravel() for c in sent]
            ranks.send(peer, np.concatenate(parts), "layout")
    came = [(cut, ranks.receive(peer, (int(cells.size[cut].sum()),), D.dtype)) for peer in range(ranks.size)
            if peer != me and (cut := np.flatnonzero(taken[me] & (given == peer))).size]  # fmt: skip
    for c in np.flatnonzero(taken[me] & (given == me)):
        out[place[cells.new[c]]][cells.within_new(c)] = D.blocks[at[cells.old[c]]][cells.within_old(c)]
    for cut, message in came:
        with message.arrived() as elements:
            begin = 0
            for c in cut:
                target = out[place[cells.new[c]]][cells.within_new(c)]
                target[...] = elements[begin : begin + target.size].reshape(target.shape)
                begin += target.size
    ranks.finish()
    if put:
        put(mine, out)
    return out


class _Cells:
    """The rectangles that two tilings of one matrix have in common.

    Attributes:
        old, new: ``(n,)`` the block of either tiling that each lies in.
        size: ``(n,)`` elements.
    """

    def __init__(self, old: Tiling, new: Tiling):
        spans, blocks = [], []
        for side, a, b in zip(old.shape, old.tile, new.tile):
            edges = np.unique(np.concatenate([np.arange(0, side, max(a, 1)), np.arange(0, side, max(b, 1)), [side]]))
            first, last = edges[:-1], edges[1:]
            spans.append((first, last))
            blocks.append((first // max(a, 1), first // max(b, 1)))
        (y0, y1), (x0, x1) = spans
        self.rows = np.repeat(np.stack([y0, y1], 1), len(x0), axis=0)
        self.cols = np.tile(np.stack([x0, x1], 1), (len(y0), 1))
        self.old, self.new = ((down[:, None] * tiling.grid[1] + across).ravel()
                              for down, across, tiling in zip(blocks[0], blocks[1], (old, new)))
        self.size = (self.rows[:, 1] - self.rows[:, 0]) * (self.cols[:, 1] - self.cols[:, 0])
        self._tiles = old.tile, new.tile

    def _within(self, c: int | np.integer, tile: tuple[int, int]) -> tuple[slice, slice]:
        (y0, y1), (x0, x1) = self.rows[c], self.cols[c]
        y, x = y0 // tile[0] * tile[0], x0 // tile[1] * tile[1]
        return slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)

    def within_old(self, c: int | np.integer) -> tuple[slice, slice]:
        """Where a rectangle lies in its block of the old tiling."""
        return self._within(c, self._tiles[0])

    def within_new(self, c: int | np.integer) -> tuple[slice, slice]:
        """Where it lies in its block of the new one."""
        return self._within(c, self._tiles[1])
