"""The mesh-stepping loop: all cores compute, then every tile moves to the neighbour that the schedule names.

Operand tiles move as handles (block ids); numbers that cores computed move as numbers. Arrivals are taken from
what stood there before the step, as with double buffers. ``copy_tiles=True`` moves the tiles' numbers too, as the
mesh does: the same bits, and in every step a read and a write of both operands in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from meshkernels.execute import kernels
from meshkernels.mesh import ceil_div
from meshkernels.schedule import Move, Multiply, Schedule, Step, Values


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What an observer sees after the computation of a step, before its moves.

    Attributes:
        index: number of the step.
        step: the `Step`.
        holds: for each buffer of tiles ``(rows, cols, depth)``: ids of the blocks that each core holds, or -1.
        values: for each buffer of numbers ``(pieces, rows, cols, h, w)``.

    The arrays are live and read-only: copy what should outlast the call.
    """

    index: int
    step: Step
    holds: dict[str, np.ndarray]
    values: dict[str, np.ndarray]


def run(schedule: Schedule, operands: dict[str, np.ndarray], accumulate: np.dtype,
        observe: Callable[[Snapshot], object] | None = None, copy_tiles: bool = False) -> np.ndarray:  # fmt: skip
    """Execute ``schedule`` step by step.

    Args:
        schedule: what to do.
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
    values = {
        name: np.zeros((_useful_pieces(schedule, name, held), *schedule.mesh.shape, *held.shape), wide)
        for name, held in schedule.buffers.items()
        if isinstance(held, Values)
    }
    stores = {name: tiles[held.operand] for name, held in schedule.tiles.items()}  # shared: tiles by block id
    copies: dict[str, np.ndarray] = {}
    for index, step, holds in schedule.walk():
        if copy_tiles:  # a copy per core: (rows, cols, depth, h, w)
            copies = copies or {name: stores[name][ids] for name, ids in holds.items()}
        if step.multiply:
            _compute(schedule, step.multiply, holds, copies or stores, values[step.multiply.into], half)
        if observe:
            observe(Snapshot(index, step, _read_only(holds), _read_only(values)))
        for move in step.moves:
            if move.buffer in values:
                move_values(schedule, move, values, half)
        schedule.carry(step, copies)
    return collect(schedule, values)


def combine(schedule: Schedule, vectors: np.ndarray, accumulate: np.dtype) -> np.ndarray:
    """Execute an all-reduce of ``vectors: (rows, cols, n)``; returns the result of each line, ``(lines, n)``."""
    half = accumulate == np.float16
    buffer = schedule.buffers[schedule.output]
    assert isinstance(buffer, Values)
    vectors = vectors.astype(np.float32 if half else accumulate)[:, :, None]
    values = {schedule.output: spread(vectors, buffer.shape[1])}
    for step in schedule.steps:
        for move in step.moves:
            move_values(schedule, move, values, half)
    return _gathered(schedule, values)[:, 0, : vectors.shape[3]]


def collect(schedule: Schedule, values: dict[str, np.ndarray]) -> np.ndarray:
    """The whole result, from the cores that hold its blocks."""
    assert schedule.result is not None
    return schedule.result.join(_gathered(schedule, values)[..., : schedule.result.tile[1]])


def _gathered(schedule: Schedule, values: dict[str, np.ndarray]) -> np.ndarray:
    """``(blocks, h, parts * w)``: each block of the result, its parts side by side."""
    out = values[schedule.output]
    h, w = out.shape[3:]
    kept = schedule.collect if schedule.collect.shape[1] == 1 else schedule.collect[:, : len(out)]
    flat = out.reshape(len(out) * schedule.mesh.cores, h, w)
    in_place = kept.shape == (len(flat), 1) and (kept[:, 0] == np.arange(len(flat))).all()
    parts = flat[:, None] if in_place else flat[kept]  # (blocks, parts, h, w)
    return parts.swapaxes(1, 2).reshape(len(parts), h, parts.shape[1] * w)


def _useful_pieces(schedule: Schedule, name: str, held: Values) -> int:
    """Pieces of a buffer that are not wholly padding: of a vector cut into more pieces than it has elements."""
    if name != schedule.output or schedule.result is None or schedule.collect.shape[1] == 1:
        return held.pieces
    return max(1, ceil_div(schedule.result.tile[1], max(1, held.shape[1])))


def spread(tiles: np.ndarray, width: int) -> np.ndarray:
    """Cut tiles ``(..., h, w)`` into pieces ``(pieces, ..., h, width)``, the last one padded with zeros."""
    pieces = max(1, ceil_div(tiles.shape[-1], max(1, width)))
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


def _compute(schedule: Schedule, multiply: Multiply, holds: dict[str, np.ndarray], stores: dict[str, np.ndarray],
             into: np.ndarray, half: bool) -> None:  # fmt: skip
    """One `Multiply` on every core; the only place where lockstep touches arithmetic of tiles."""
    if not multiply.accumulate:
        into[...] = 0
    width = stores[multiply.right].shape[-2 if multiply.transposed else -1]
    whole = into.shape[4] == width  # each product is one piece; else one product is cut over all pieces
    for piece, *ids in schedule.handles(multiply, holds):
        sums = into[piece] if whole else np.zeros((*into.shape[1:4], width), into.dtype)
        (left, ha), (right, hb) = (
            _located(stores[name], holds[name], wanted) for name, wanted in zip((multiply.left, multiply.right), ids)
        )
        kernels.tile_products(
            left, right, ha, hb, sums.reshape(schedule.mesh.cores, *sums.shape[2:]),
            transposed=multiply.transposed, accumulate="float16" if half else None,
        )  # fmt: skip
        if not whole:
            into[...] = spread(sums, into.shape[4])


def _located(store: np.ndarray, held: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tiles ``(n, h, w)`` and the place among them of the block that each core wants, ``(cores,)``."""
    if store.ndim == 3:  # by block id
        return store, wanted.ravel()
    slot = (held == wanted[..., None]).argmax(axis=2)  # the core's own copies
    flat = store.reshape(-1, *store.shape[3:])
    return flat, np.arange(slot.size) * held.shape[2] + slot.ravel()


def move_values(schedule: Schedule, move: Move, values: dict[str, np.ndarray], half: bool = False) -> None:
    """Carry out one `Move` of computed numbers, in place.

    Args:
        values: buffers ``(pieces, rows, cols, h, w)``.
        half: round every sum to float16.
    """
    combine = {"add": np.add, "max": np.maximum}.get(move.combine or "")

    def op(mine: np.ndarray, arriving: np.ndarray) -> np.ndarray:
        both = combine(mine, arriving)  # type: ignore[misc]
        return both.astype(np.float16).astype(mine.dtype) if half else both

    def along(buffer: str) -> np.ndarray:
        """``(pieces, P, lines, h, w)``, a view."""
        return values[buffer].swapaxes(1, 1 + move.axis)

    mine = along(move.buffer)
    piece = slice(None) if move.piece is None else move.piece
    for traffic, numbers in move.lines(schedule.mesh):
        lines = slice(None) if len(numbers) == mine.shape[2] else numbers
        if traffic.kind == "shift":
            source, target = traffic.source, traffic.target
            sent: slice | np.ndarray = slice(None)
            if move.piece is not None:
                pieces = np.broadcast_to(move.piece, traffic.size)[source]
                useful = pieces < len(mine)  # the others are wholly padding
                sent, source, target = pieces[useful], source[useful], target[useful]
            arriving = mine[sent, source][..., lines, :, :]
            held = mine[sent, target]  # a copy: everything is sent before anything arrives
            held[..., lines, :, :] = op(held[..., lines, :, :], arriving) if combine else arriving
            mine[sent, target] = held
        elif traffic.kind == "reduce":
            for source, target in zip(traffic.source, traffic.target):
                mine[piece, target, lines] = op(mine[piece, target, lines], mine[piece, source, lines])
            if move.into is not None:
                root = traffic.roots[0]
                along(move.into)[move.slot, root, lines] = mine[piece, root, lines]
        else:  # multicast or relay: the root's value on every core of the line
            mine[piece, :, lines] = mine[piece, traffic.roots, lines]
