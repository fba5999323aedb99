"""A schedule: who sends which tile to whom over which route, and what each core computes, step by step.

An algorithm is a function that returns a `Schedule`. Everything else reads it: the executors run it, the
ledger counts it, the compliance table judges it. None of them knows an algorithm's name.

* `Tiling` says how an operand is cut into blocks; a block's id is what cores hold and hand on.
* `Tiles` is a buffer of operand blocks (handles); `Values` a buffer of numbers that a core computes.
* `Step` = at most one `Multiply` on every core, then all of its `Move`s at once (double-buffered).
* `RingOrder`, `SplitSum` and `ChainSum` state compactly in which order the terms of one result element are
  added. They are what the fused executor lives from; a schedule without one still runs, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from meshkernels.errors import ScheduleError
from meshkernels.mesh import Mesh, Tiling
from meshkernels.traffic import Traffic


@dataclass(frozen=True, eq=False)
class Tiles:
    """A buffer of operand tiles on every core; what moves is the tile's id.

    Attributes:
        operand: name of the operand whose blocks it holds.
        depth: tiles that it has room for.
        home: what it holds before the first step, from `place`; None: nothing.
        copies: 2 for a double-buffered one (the tile in use and the tile on its way).
    """

    operand: str
    depth: int = 1
    home: Callable[[], np.ndarray] | None = None
    copies: int = 1


@dataclass(frozen=True)
class Values:
    """A buffer of numbers on every core: a tile of results, or of partial sums.

    Attributes:
        shape: ``(h, w)`` elements of one piece.
        pieces: pieces side by side; a `Move` may send one of them. They hold one product each, or one
            product cut across its columns.
        copies: 2 where a second copy receives while the first is sent.
    """

    shape: tuple[int, int]
    pieces: int = 1
    copies: int = 1


@dataclass(frozen=True, eq=False)
class RingOrder:
    """Core (y, x) meets the K-blocks in ring order, from a start that is a row's plus a column's.

    At time ``t`` it multiplies by block ``blocks[(row_start[y] + col_start[x] + t) % L]``.

    Attributes:
        blocks: ``(L,)`` block ids (in the operand's own order) as they follow each other on the ring.
        block: length of a K-block, in elements; the last ones may be short or empty.
        row_start: ``(rows,)`` places on the ring, in ``[0, L)``.
        col_start: ``(cols,)`` places on the ring, in ``[0, L)``.
        row_tile: rows of C on one core.
        col_tile: columns of C on one core.
    """

    blocks: np.ndarray
    block: int
    row_start: np.ndarray
    col_start: np.ndarray
    row_tile: int
    col_tile: int

    def at(self, t: int) -> np.ndarray:
        """``(rows, cols)`` the K-block that each core multiplies by at time ``t``."""
        return self.blocks[(self.row_start[:, None] + self.col_start + t) % len(self.blocks)]


@dataclass(frozen=True)
class SplitSum:
    """The contraction is split over the cores of a line; the moves of the schedule add up the partial sums."""

    axis: int


@dataclass(frozen=True, eq=False)
class ChainSum:
    """Each result element is a two-sided chain of partial sums p over the cores 0 .. P-1 of a row.

    ``(((p_0 + p_1) + ...) + p_r) + (((p_{P-1} + p_{P-2}) + ...) + p_{r+1})`` with ``r`` the root of the
    element's column block.

    Attributes:
        block: elements of the contraction on one core.
        roots: ``(J,)`` root of each block of result columns.
        col_tile: columns in such a block.
    """

    block: int
    roots: np.ndarray
    col_tile: int


@dataclass(frozen=True)
class Multiply:
    """On every core: ``into += left @ right`` for tiles that it holds.

    Attributes:
        left, right: the `Tiles` buffers.
        into: the `Values` buffer.
        times: which times of the schedule's `RingOrder` this step computes, in order, into piece 0. None:
            each core multiplies its one left tile by each right tile that it holds; the d-th goes into piece
            d (where there is one right tile and several pieces, the product is cut over them).
        transposed: multiply by ``right.T``.
        accumulate: add to ``into``; False starts from zero.
    """

    left: str
    right: str
    into: str
    times: range | None = None
    transposed: bool = False
    accumulate: bool = True


@dataclass(frozen=True, eq=False)
class Move:
    """One collective communication along all lines of an axis.

    Attributes:
        buffer: what is sent.
        axis: 0 along columns of cores (y), 1 along rows (x).
        traffic: the patterns in use; line ``i`` carries ``traffic[use[i]]``, or nothing where ``use[i] < 0``.
        use: ``(lines,)``; None: every line carries ``traffic[0]``.
        piece: which tile or piece of the buffer is sent: one for all, or ``(P,)`` by source core. None: all.
        into: where it arrives; None: in ``buffer`` itself. After a reduce: where the root puts the sum.
        slot: where in ``into`` it arrives; None: where it came from.
        combine: ``"add"`` or ``"max"``: what a core does with its own value and the one that arrives.
    """

    buffer: str
    axis: int
    traffic: tuple[Traffic, ...]
    use: np.ndarray | None = None
    piece: int | np.ndarray | None = None
    into: str | None = None
    slot: int | None = None
    combine: str | None = None

    def lines(self, mesh: Mesh) -> Iterator[tuple[Traffic, np.ndarray]]:
        """``(traffic, line numbers)`` for each pattern that some line of ``mesh`` carries."""
        if self.use is None:
            yield self.traffic[0], np.arange(mesh.lines(self.axis))
            return
        for pattern in sorted(used for used in set(self.use.tolist()) if used >= 0):
            yield self.traffic[pattern], np.flatnonzero(self.use == pattern)


@dataclass(frozen=True, eq=False)
class Step:
    """All cores compute, then everything moves at once."""

    label: str
    multiply: Multiply | None = None
    moves: tuple[Move, ...] = ()


class LazySteps(Sequence[Step]):
    """``count`` steps, each made by ``build(i)`` when it is looked at: a large mesh has very many of them.

    Examples:
        >>> steps = LazySteps(3, lambda t: Step(f"step {t}"))
        >>> len(steps), steps[-1].label, [s.label for s in steps[:2]]
        (3, 'step 2', ['step 0', 'step 1'])
    """

    def __init__(self, count: int, build: Callable[[int], Step]):
        self._count, self._build = count, build

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._build(i) for i in range(*index.indices(self._count))]
        return self._build(range(self._count)[index])


@dataclass(frozen=True, eq=False)
class Reduction:
    """The part of a schedule that combines one buffer of partial values, ``"y"``, along every line of an axis.

    Attributes:
        values: the buffer.
        steps: what to do with it.
        root: the core of each line that holds the result; None where the steps leave it on all of them.
    """

    values: Values
    steps: tuple[Step, ...]
    root: int | None


@dataclass(frozen=True, eq=False)
class Schedule:
    """One algorithm on one mesh for one problem, ready to be read.

    Attributes:
        name: the algorithm's name, for tables.
        mesh: the cores.
        operands: how each input is cut.
        result: how the result is cut, or None for an all-reduce.
        buffers: what every core keeps in its memory.
        steps: what happens, in order.
        collect: ``(blocks, parts)`` where each block of the result lies at the end, in how many parts side by
            side: flat indices into ``(pieces, rows, cols)`` of the buffer ``output``.
        output: the `Values` buffer that holds the result at the end.
        order: in which order the terms of one result element are added, where that has a compact form.
    """

    name: str
    mesh: Mesh
    operands: dict[str, Tiling]
    result: Tiling | None
    buffers: dict[str, Tiles | Values]
    steps: Sequence[Step] = field(repr=False)
    collect: np.ndarray = field(repr=False)
    output: str = "C"
    order: RingOrder | SplitSum | ChainSum | None = field(default=None, repr=False)

    def tile(self, buffer: str) -> tuple[int, int]:
        """``(h, w)`` of one tile or piece in ``buffer``."""
        held = self.buffers[buffer]
        return self.operands[held.operand].tile if isinstance(held, Tiles) else held.shape

    def words(self, move: Move) -> int:
        """Elements in one message of ``move``, padding included."""
        held = self.buffers[move.buffer]
        h, w = self.tile(move.buffer)
        whole = held.depth if isinstance(held, Tiles) else held.pieces
        return h * w * (1 if move.piece is not None else whole)

    def walk(self) -> Iterator[tuple[int, Step, dict[str, np.ndarray]]]:
        """Step through the movement of the tiles without computing anything.

        Yields:
            ``(i, step, holds)`` before each step: ``holds[buffer]`` is ``(rows, cols, depth)``, the ids of the
            operand blocks that each core holds, -1 where there is none. The arrays are the walker's own:
            read them, or copy them.
        """
        holds = {name: _initial(tiles, self.mesh) for name, tiles in self.tiles.items()}
        for i, step in enumerate(self.steps):
            yield i, step, holds
            self.carry(step, holds)

    @cached_property
    def product(self) -> Multiply | None:
        """The first `Multiply` of the schedule."""
        return next((step.multiply for step in self.steps if step.multiply), None)

    @property
    def tiles(self) -> dict[str, Tiles]:
        """The buffers that hold operand tiles."""
        return {name: held for name, held in self.buffers.items() if isinstance(held, Tiles)}

    def check(self) -> None:
        """Walk the whole schedule and make sure that it keeps its own promises.

        Every core must hold what it is told to multiply, at every step, and a `RingOrder` must be met in full, each
        time once: what the fused executor takes for granted.

        Raises:
            ScheduleError: it does not.
        """
        met: list[int] = []
        for _, step, holds in self.walk():
            if step.multiply:
                met += step.multiply.times or ()
                for _ in self.handles(step.multiply, holds):
                    pass
        if isinstance(self.order, RingOrder) and met != list(range(len(self.order.blocks))):
            raise ScheduleError(f"{self.name}: times {met[:5]}... are not 0 to {len(self.order.blocks) - 1}, each once")

    def carry(self, step: Step, held: dict[str, np.ndarray]) -> None:
        """Carry out the moves of tiles of ``step``, all at once, on any per-core state.

        Args:
            step: one of ``steps``.
            held: for each buffer of tiles ``(rows, cols, depth, ...)``: block ids, or the tiles' numbers;
                changed in place.
        """
        arrived = [_arrivals(self, move, held) for move in step.moves if move.buffer in held]
        for into, slots, what in arrived:
            held[into][:, :, slots] = what

    def handles(self, multiply: Multiply, holds: dict[str, np.ndarray]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The products of one step: ``(piece, left, right)`` with the ids ``(rows, cols)`` of the two blocks.

        Raises:
            ScheduleError: a core does not hold the block that it should multiply, or its two blocks do not
                belong to the same part of the contraction.
        """
        left, right = holds[multiply.left], holds[multiply.right]
        k_left, k_right = self._contraction(multiply.left, left, 1), self._contraction(
            multiply.right, right, 1 if multiply.transposed else 0)
        if multiply.times is None:
            _require(self, ((k_left == k_right) & (k_left >= 0)).all(axis=2))
            for d in range(right.shape[2]):
                yield d, left[..., 0], right[..., d]
            return
        assert isinstance(self.order, RingOrder), "times are those of a RingOrder"
        for t in multiply.times:
            k = self.order.at(t)[..., None]
            in_left, in_right = k_left == k, k_right == k
            _require(self, in_left.any(axis=2) & in_right.any(axis=2))
            yield 0, _pick(left, in_left), _pick(right, in_right)

    def _contraction(self, buffer: str, ids: np.ndarray, axis: int) -> np.ndarray:
        """Which part of the contraction each held block belongs to; -1 for an empty place."""
        tiles = self.buffers[buffer]
        assert isinstance(tiles, Tiles)
        across = self.operands[tiles.operand].grid[1]
        return np.where(ids < 0, -1, ids % across if axis == 1 else ids // across)


def collect_rows(mesh: Mesh, pieces: int = 1) -> np.ndarray:
    """`Schedule.collect` of a matrix cut like the mesh, ``pieces`` column blocks on a core side by side."""
    places = np.arange(pieces * mesh.cores).reshape(pieces, *mesh.shape)
    return places.transpose(1, 2, 0).reshape(-1, 1)


def _pick(ids: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    if ids.shape[2] == 1:
        return ids[..., 0]
    return np.take_along_axis(ids, chosen.argmax(axis=2)[..., None], 2)[..., 0]


def _initial(tiles: Tiles, mesh: Mesh) -> np.ndarray:
    if tiles.home is None:
        return np.full((*mesh.shape, tiles.depth), -1, np.int32)
    return tiles.home()


def _arrivals(schedule: Schedule, move: Move, holds: dict[str, np.ndarray]) -> tuple[str, Any, np.ndarray]:
    """What ``move`` leaves in its target buffer: ``(buffer, slots, (rows, cols, ...))``."""
    into = move.into or move.buffer
    slots = slice(None) if move.piece is None else (move.piece if move.slot is None else move.slot)
    sent = holds[move.buffer] if move.piece is None else holds[move.buffer][:, :, move.piece]
    before = np.moveaxis(holds[into][:, :, slots], move.axis, 0)  # (P, lines, ...)
    sent = np.moveaxis(sent, move.axis, 0)
    after = before.copy()
    for traffic, lines in move.lines(schedule.mesh):
        if traffic.kind == "shift" and len(lines) == after.shape[1]:
            after[traffic.target] = sent[traffic.source]
        elif traffic.kind == "shift":
            after[np.ix_(traffic.target, lines)] = sent[np.ix_(traffic.source, lines)]
        else:
            after[:, lines] = sent[traffic.roots[0], lines]
    return into, slots, np.moveaxis(after, 0, move.axis)


def _require(schedule: Schedule, held: np.ndarray) -> None:
    if not np.all(held):
        y, x = np.argwhere(~held)[0]
        raise ScheduleError(f"{schedule.name}: core ({y}, {x}) does not hold the tiles that it is told to multiply")


def place(mesh: Mesh, tiling: Tiling, down: np.ndarray, across: np.ndarray) -> Callable[[], np.ndarray]:
    """A placement, worked out when it is needed: a function that returns block ids ``(rows, cols, depth)``.

    Args:
        mesh: the cores.
        tiling: how the operand is cut.
        down: ``(rows, cols, depth)`` or broadcastable: which block row each core holds.
        across: the same for block columns.
    """

    def ids() -> np.ndarray:
        flat = np.asarray(down) * tiling.grid[1] + np.asarray(across)
        return np.array(np.broadcast_to(flat, (*mesh.shape, flat.shape[-1])), np.int32)

    return ids
