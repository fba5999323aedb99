"""The mesh-stepping loop: all cores compute, then every tile moves to the neighbour that the schedule names.

Operand tiles move as handles (block ids); numbers that cores computed move as numbers. Everything that arrives in a
step is fetched before anything of it is put down. ``copy_tiles=True`` moves the tiles' numbers too, as the
mesh does: the same bits, and in every step a read and a write of both operands in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from meshkernels.kernels.reduce import combine_in_order, combined
from meshkernels.kernels.tiles import tile_products
from meshkernels.mesh import Mesh
from meshkernels.schedules.buffers import Tiles, Values
from meshkernels.schedules.holdings import Holdings, Write, arriving
from meshkernels.schedules.motion import Arrival, Arrivals, Delivery, deliver, pick, slots_at
from meshkernels.schedules.routes import Reduce, groups, streams
from meshkernels.schedules.steps import Copy, Move, Multiply, Schedule, Step, settled, unrolled


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What an observer sees after the computation of a step, before its moves.

    Attributes:
        index: number of the step.
        step: the `Step`.
        holds: for each buffer of tiles ``(rows, cols, depth)``: ids of the blocks that each core holds, or -1.
        values: for each buffer of numbers ``(pieces, rows, cols, h, w)``.

    The arrays of values are live, and all are read-only: copy what should outlast the call.
    """

    index: int
    step: Step
    holds: dict[str, np.ndarray]
    values: dict[str, np.ndarray]


class Tracker:
    """Which tiles every core holds, step by step."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.mesh, self.arrivals = schedule, schedule.mesh, Arrivals(schedule.mesh)
        self.held = {name: Holdings.of_tiles(schedule.mesh, tiles) for name, tiles in schedule.buffers.items()
                     if isinstance(tiles, Tiles)}

    def ids(self, buffer: str, slot: Any = None, t: int = 0, s: int = 0) -> np.ndarray:
        """Block ids in a slot of each core, ``(rows, cols)``, or in all ``(rows, cols, depth)``; -1: none."""
        across = self.schedule.operands[self.schedule.buffers[buffer].operand].grid[1]  # type: ignore[union-attr]
        chosen = slots_at(slot, t, s)
        down, right, held = (self.held[buffer].peek(name, chosen) for name in ("down", "across", "held"))
        if slot is not None:
            down, right, held = (part[:, :, 0] for part in (down, right, held))
        ids = np.where(held, down.astype(np.int64) * across + right, -1)
        depth = () if slot is not None else (self.held[buffer].slots,)
        return np.broadcast_to(ids, (*self.mesh.shape, *depth))

    def move(self, step: Step, t: int, s: int) -> None:
        """Carry out the moves of tiles of a step: all are fetched before anything arrives."""
        moves = [move for move in step.moves if move.buffer in self.held]
        writes = [self._arriving(move, t, s) for move in moves if not move.whole_shift]
        for write in writes:
            self.held[write.buffer].write(write)
        for move in moves:
            if move.whole_shift:
                self.held[move.buffer].shift(move.route, t, s)  # type: ignore[arg-type]

    def _arriving(self, move: Move, t: int, s: int) -> Write:
        return arriving(move, self.arrivals.of(move, t, s), self.held[move.buffer])


def walk(schedule: Schedule) -> Iterator[tuple[int, Step, dict[str, np.ndarray]]]:
    """Step through the movement of the tiles without computing anything.

    Yields:
        ``(i, step, holds)`` before each step: ``holds[buffer]`` is ``(rows, cols, depth)``, the ids of the operand
        blocks that each core holds, -1 where there is none.
    """
    tracker = Tracker(schedule)
    for i, (step, t, s) in enumerate(unrolled(schedule.program)):
        yield i, settled(step, t, s), {name: tracker.ids(name) for name in tracker.held}
        tracker.move(step, t, s)


def run(schedule: Schedule, operands: dict[str, np.ndarray], accumulate: np.dtype,
        observe: Callable[[Snapshot], object] | None = None, copy_tiles: bool = False) -> np.ndarray:  # fmt: skip
    """Execute ``schedule`` step by step.

    Args:
        schedule: what to do, verified.
        operands: the whole matrices by operand name, of one dtype.
        accumulate: dtype of sums; float16 rounds after every multiply-add.
        observe: called with a `Snapshot` in every step.
        copy_tiles: move the numbers of the tiles from core to core, not only their handles.

    Returns:
        The result, whole, in the precision that sums are kept in (float32 for float16).
    """
    half = accumulate == np.float16
    wide = np.dtype(np.float32) if half else accumulate
    tiles = {name: schedule.operands[name].cut(matrix) for name, matrix in operands.items()}
    values = zeros(schedule, wide)
    tracker = Tracker(schedule)
    stores = {name: tiles[schedule.buffers[name].operand] for name in tracker.held}  # type: ignore[union-attr]
    copies: dict[str, np.ndarray] = {}
    if copy_tiles:  # a copy per core: (rows, cols, depth, h, w)
        copies = {name: np.where(tracker.ids(name)[..., None, None] < 0, 0, stores[name][tracker.ids(name)])
                  for name in tracker.held}  # fmt: skip
    for index, (step, t, s) in enumerate(unrolled(schedule.program)):
        for op in step.compute:
            names = (op.left, op.right) if isinstance(op, Multiply) else (op.source,)
            slots = (op.left_slot, op.right_slot) if isinstance(op, Multiply) else (op.slot,)
            found = [_tiles(schedule, name, slot, t, s, tracker, stores, copies) for name, slot in zip(names, slots)]
            compute(op, slots_at(op.piece, t, s), found, values[op.into], half, backwards=index % 2 == 1)
        if observe:
            holds = {name: tracker.ids(name).copy() for name in tracker.held}
            observe(Snapshot(index, settled(step, t, s), _read_only(holds), _read_only(values)))
        places = [tracker.arrivals.of(move, t, s) for move in step.moves if move.buffer in copies]
        fetched = [place.fetch(copies[place.move.buffer]).copy() for place in places]
        for place, numbers in zip(places, fetched):
            deliver(place, copies[place.move.target], numbers)
        move_values(tracker.arrivals, step, values, half, t, s)
        tracker.move(step, t, s)
    return collect(schedule, values)


def zeros(schedule: Schedule, dtype: np.dtype) -> dict[str, np.ndarray]:
    """The buffers of numbers ``(pieces, rows, cols, h, w)``, as they are before the first step."""
    return {name: np.zeros((held.pieces, *schedule.mesh.shape, *held.shape), dtype)
            for name, held in schedule.buffers.items() if isinstance(held, Values)}  # fmt: skip


def collect(schedule: Schedule, values: dict[str, np.ndarray]) -> np.ndarray:
    """The whole result, from the cores that hold its blocks."""
    held, mesh, grid = values[schedule.collect.buffer], schedule.mesh, schedule.result.grid
    pieces, _, _, h, w = held.shape
    slots = 1 if schedule.collect.whole else pieces
    down, across = (np.moveaxis(np.broadcast_to(part, (*mesh.shape, slots)), 2, 0)
                    for part in schedule.collect.place.at(mesh, slots))
    taken = (down >= 0) & (across >= 0)
    if schedule.collect.whole:  # (cores, h, pieces * w)
        y, x = np.nonzero(taken[0])
        blocks = held[:, y, x].transpose(1, 2, 0, 3).reshape(len(y), h, pieces * w)[..., : schedule.result.tile[1]]
    else:
        blocks = held[taken]
    ids = (down * grid[1] + across)[taken]
    if not np.array_equal(ids, np.arange(len(ids))):
        ordered = np.empty_like(blocks)
        ordered[ids] = blocks
        blocks = ordered
    return schedule.result.join(blocks)


def spread(tiles: np.ndarray, pieces: int, width: int) -> np.ndarray:
    """Cut tiles ``(..., h, w)`` into pieces ``(pieces, ..., h, width)``, the last ones padded with zeros."""
    if pieces == 1 and tiles.shape[-1] == width:
        return tiles[None]
    padded = np.zeros((*tiles.shape[:-1], pieces * width), tiles.dtype)
    padded[..., : tiles.shape[-1]] = tiles
    return np.moveaxis(padded.reshape(*tiles.shape[:-1], pieces, width), -2, 0)


def _read_only(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def _tiles(schedule: Schedule, name: str, slot: Any, t: int, s: int, tracker: Tracker, stores: dict[str, np.ndarray],
           copies: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Tiles ``(n, h, w)`` and which of them each core uses, ``(cores,)``."""
    if not copies:  # by block id
        return stores[name], tracker.ids(name, slot, t, s).ravel()
    own = copies[name]
    slots = np.broadcast_to(np.asarray(slots_at(slot, t, s)), schedule.mesh.shape).ravel()
    return own.reshape(-1, *own.shape[3:]), np.arange(schedule.mesh.cores) * own.shape[2] + slots


def compute(op: Multiply | Copy, piece: Any, tiles: list[tuple[np.ndarray, np.ndarray]], into: np.ndarray,
             half: bool, backwards: bool = False) -> None:  # fmt: skip
    """One operation on every core; the only place where lockstep touches arithmetic of tiles."""
    rows, cols, h, w = into.shape[1:]
    if isinstance(op, Copy):
        (store, ids), = tiles
        blocks = (store.swapaxes(1, 2) if op.transposed else store)[ids].reshape(rows, cols, *(
            store.shape[:0:-1] if op.transposed else store.shape[1:]))
        put(into, piece, blocks.astype(into.dtype, copy=False))
        return
    (left, ha), (right, hb) = tiles
    width = right.shape[1 if op.transposed else 2]
    straight = isinstance(piece, int) and w == width
    if straight:
        sums = into[piece]
        if not op.accumulate:
            sums[...] = 0
    elif op.accumulate:
        whole = into if piece is None else np.broadcast_to(piece, (rows, cols))
        sums = _joined(into, width) if piece is None else into[whole, *np.ogrid[:rows, :cols]]
    else:
        sums = np.zeros((rows, cols, h, width), into.dtype)
    tile_products(left, right, ha, hb, sums.reshape(rows * cols, *sums.shape[2:]), transposed=op.transposed,
                  accumulate="float16" if half else None, backwards=backwards)  # fmt: skip
    if not straight:
        put(into, piece, sums)


def _joined(into: np.ndarray, width: int) -> np.ndarray:
    """Pieces side by side, ``(rows, cols, h, width)``, a copy."""
    pieces, rows, cols, h, w = into.shape
    return np.ascontiguousarray(into.transpose(1, 2, 3, 0, 4).reshape(rows, cols, h, pieces * w)[..., :width])


def put(into: np.ndarray, piece: Any, blocks: np.ndarray) -> None:
    """``blocks (rows, cols, h, w)`` go to one piece of each core, or are cut over all, in place."""
    if piece is None:
        into[...] = spread(blocks, into.shape[0], into.shape[4])
    elif isinstance(piece, int):
        into[piece] = blocks
    else:
        y, x = np.ogrid[: into.shape[1], : into.shape[2]]
        into[np.broadcast_to(piece, into.shape[1:3]), y, x] = blocks


def move_values(arrivals: Arrivals, step: Step, values: dict[str, np.ndarray], half: bool = False,
                t: int = 0, s: int = 0) -> None:  # fmt: skip
    """Carry out the moves of computed numbers of one step, in place.

    Args:
        arrivals: who receives what, of the schedule.
        step: its moves of other buffers are left out.
        values: buffers ``(pieces, rows, cols, h, w)``.
        half: round every sum to float16.
        t: iteration of the innermost repeat.
        s: iteration of the repeat around that.
    """
    moves = [move for move in step.moves if move.buffer in values]
    if not moves:
        return
    views = {name: array.transpose(1, 2, 0, 3, 4) for name, array in values.items()}  # (rows, cols, pieces, h, w)
    puts: list[Callable[[], object]] = []
    for move in moves:
        if isinstance(move.route, Reduce):
            puts += _reduced(move, move.route, arrivals.mesh, views, half, t, s)
        else:
            place = arrivals.of(move, t, s)
            fetched = _incoming(move, place, views, half)
            puts.append(partial(deliver, place, views[move.target], fetched))
    for put in puts:
        put()


def _incoming(move: Move, place: Arrival | Delivery, views: dict[str, np.ndarray], half: bool) -> np.ndarray:
    """What one move brings: fetched, and combined with what is there."""
    held, fetched = views[move.target], place.fetch(views[move.buffer])
    if not move.combine:
        return fetched.copy() if np.may_share_memory(fetched, views[move.buffer]) else fetched
    if isinstance(place, Arrival):
        mine = pick(held, place.slots)
    else:
        mine = held[place.to_y, place.to_x] if place.slots is None else held[place.to_y, place.to_x, place.slots]
    return combined(mine, fetched, op=move.combine, half=half)


def additions(route: Reduce, phase: int, size: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """For each root of a line of ``size`` cores, what it adds up: ``(root, dst, src)``, core dst adding that of src."""
    for root, members in groups(route.along(phase, size)):
        pairs = list(streams(root, members, route.low_first))
        yield root, [dst for _, dst in pairs], [src for src, _ in pairs]


def _reduced(move: Move, route: Reduce, mesh: Mesh, views: dict[str, np.ndarray], half: bool, t: int,
             s: int) -> Iterator[Callable[[], object]]:  # fmt: skip
    """The sums of a `Reduce`, each added up in the order of its streams; calls that put them where they belong."""
    size = mesh.length(route.axis)
    along = {name: np.moveaxis(view, route.axis, 0) for name, view in views.items()}  # (P, lines, pieces, h, w)
    slot = slots_at(move.slot, t, s)
    source, target = along[move.buffer], along[move.target]
    into = slots_at(move.into_slot, t, s)
    into = slot if into is None else into
    phases = route.phases(mesh, t, s)
    for phase in np.unique(phases):
        lines = np.flatnonzero(phases == phase)
        lines_at = slice(None) if len(lines) == len(phases) else lines
        sums = source[:, lines_at, slice(None) if slot is None else slice(slot, slot + 1)].copy(order="C")
        for root, dst, src in additions(route, int(phase), size):
            combine_in_order(sums, dst, src, op=move.combine or "add", half=half)
            total = sums[root]
            if isinstance(into, np.ndarray):
                place = np.broadcast_to(np.moveaxis(into, route.axis, 0), (size, len(phases)))[root, lines]
                yield partial(_set, target, (root, lines, place), total[:, 0])
            else:
                chosen = slice(None) if into is None else slice(into, into + 1)
                yield partial(_set, target, (root, lines_at, chosen), total)


def _set(array: np.ndarray, where: Any, new: np.ndarray) -> None:
    array[where] = new
