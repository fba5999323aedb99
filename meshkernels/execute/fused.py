"""The fast way to run a schedule: the same additions in the same order for every element, cores and steps fused.

It reads the schedule's compact order of summation and never steps. A schedule without one is executed by the
mesh-stepping loop, which is slower and right for any order.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from meshkernels.execute import cpu, kernels, lockstep
from meshkernels.kept import remember
from meshkernels.mesh import Tiling
from meshkernels.placed import Placed
from meshkernels.schedule import ChainSum, RingOrder, Schedule, SplitSum, Values
from meshkernels.traffic import MULTICAST, REDUCE


def run(schedule: Schedule, operands: dict[str, Any], accumulate: np.dtype) -> np.ndarray:
    """Execute ``schedule``; arguments as of `lockstep.run`, and its result, bit for bit.

    The right operand may be `Placed`. The result may be rounded to the operands' dtype already.
    """
    half = accumulate == np.float16
    rounded = "float16" if half else None
    order = schedule.order
    if order is None:
        return lockstep.run(schedule, {name: getattr(x, "array", x) for name, x in operands.items()}, accumulate)
    multiply = schedule.product
    assert multiply is not None
    left = operands[schedule.buffers[multiply.left].operand]  # type: ignore[union-attr]
    right = operands[schedule.buffers[multiply.right].operand]  # type: ignore[union-attr]
    assert schedule.result is not None
    options: dict[str, Any] = {"accumulate": rounded, "out_dtype": left.dtype}
    if 0 in (*left.shape, *right.shape):  # nothing to add up
        return np.zeros(schedule.result.shape, left.dtype)
    if isinstance(order, RingOrder):
        arranged = right.on_ring(order) if isinstance(right, Placed) else right
        return kernels.ring_product(left, arranged, order, **options)
    if isinstance(order, ChainSum):
        root = np.repeat(order.roots, order.col_tile)[: len(right)]
        return kernels.chain_product(left, right, root, schedule.operands[multiply.right].grid[1], **options)
    return _split_sum(schedule, order, left[0], right, half, rounded)


def _split_sum(schedule: Schedule, order: SplitSum, x: np.ndarray, W: np.ndarray | Placed, half: bool,
               accumulate: str | None) -> np.ndarray:  # fmt: skip
    """Partial results of all cores at once, then the schedule's own moves add them up."""
    size, lines = schedule.mesh.length(order.axis), schedule.mesh.lines(order.axis)
    buffer = schedule.buffers[schedule.output]
    assert isinstance(buffer, Values)
    arranged = W.in_parts(size) if isinstance(W, Placed) else kernels.pack_gemv(W, size, memory=cpu.borrow)
    simple = None if half or buffer.pieces > 1 else _whole_vector_sums(schedule, order.axis)
    sums = simple or ((), (), range(size))  # else all partial sums, (P, N)
    partials = kernels.gemv_sums(x, arranged, *sums, accumulate=accumulate)
    if not isinstance(W, Placed):
        cpu.give_back(arranged.panels.data)
    if simple is not None:
        return partials
    tiles = Tiling(partials.shape, (size, lines)).cut(partials).reshape(size, lines, 1, -1)
    pieces = lockstep.spread(tiles, buffer.shape[1])  # (pieces, P, lines, 1, w)
    values = {schedule.output: pieces.swapaxes(1, 1 + order.axis)}
    for move in (move for step in schedule.steps for move in step.moves):
        lockstep.move_values(schedule, move, values, half)
    return lockstep.collect(schedule, values)


@remember
def _whole_vector_sums(schedule: Schedule, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Places on a line ``(target, source, root)`` if the moves only stream whole vectors into sums, and then at most
    broadcast the one of core ``root``; None if they do anything else."""
    moves = [move for step in schedule.steps for move in step.moves]
    root = int(np.unravel_index(schedule.collect[0, 0], schedule.mesh.shape)[axis])
    reduces = list(itertools.takewhile(lambda m: m.traffic[0].kind == REDUCE and m.combine == "add", moves))
    rest = moves[len(reduces) :]
    plain = all(m.use is None and m.piece is None and m.into is None for m in moves)
    broadcast = all(m.traffic[0].kind == MULTICAST and m.traffic[0].roots[0] == root for m in rest)
    if not plain or not broadcast or any(m.combine for m in rest):
        return None
    streams = [move.traffic[0] for move in reduces]
    target, source = (np.concatenate([[], *(getattr(t, end) for t in streams)]) for end in ("target", "source"))
    return target.astype(np.int64), source.astype(np.int64), np.array([root])
