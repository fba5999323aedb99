"""The fast way to run a schedule: the same additions in the same order for every element, cores and steps fused.

It reads the schedule's compact order of summation and never steps. A schedule without one is executed by the
mesh-stepping loop, which is slower and right for any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshkernels.kernels import chains, gemv, memory, ring
from meshkernels.kernels.pack import Columns, columns
from meshkernels.mesh import Tiling
from meshkernels.placed import Placed
from meshkernels.readers import lockstep
from meshkernels.schedules.buffers import Values
from meshkernels.schedules.order import ChainSum, RingOrder, SplitSum
from meshkernels.schedules.routes import Multicast, Reduce
from meshkernels.schedules.steps import Schedule, unrolled


def run(schedule: Schedule, operands: dict[str, Any], accumulate: np.dtype) -> np.ndarray:
    """Execute ``schedule``; arguments as of `lockstep.run`, and its result, bit for bit.

    The right operand may be `Placed`. The result may be rounded to the operands' dtype already.
    """
    half = accumulate == np.float16
    order = schedule.proof.order
    if order is None:
        return lockstep.run(schedule, {name: getattr(x, "array", x) for name, x in operands.items()}, accumulate)
    left, right = (operands[name] for name in schedule.task.operands)
    options: dict[str, Any] = {"accumulate": "float16" if half else None, "out_dtype": left.dtype}
    if 0 in (*left.shape, *right.shape):  # nothing to add up
        return np.zeros(schedule.result.shape, left.dtype)
    if isinstance(order, RingOrder):
        if isinstance(right, Placed):
            right = right.on_ring(order)
        elif schedule.task.kind == "product_t":
            right = right.T
        return ring.ring_product(left, right, order, **options)
    if isinstance(order, ChainSum):
        root = np.repeat(order.roots, order.col_tile)[: len(right)]
        return chains.chain_product(left, right, root, schedule.mesh.cols, **options)
    return _split_sum(schedule, order, left[0], right, half)


def _split_sum(schedule: Schedule, order: SplitSum, x: np.ndarray, W: np.ndarray | Columns | Placed,
               half: bool) -> np.ndarray:  # fmt: skip
    """Partial results of all cores at once, then the schedule's own moves add them up."""
    size, lines = schedule.mesh.length(order.axis), schedule.mesh.lines(order.axis)
    stored = W.in_columns() if isinstance(W, Placed) else W
    if not isinstance(stored, Columns):
        stored = columns(stored, allocate=memory.borrow)
    simple = schedule.derived("sums", whole_vector_sums)
    partials = gemv.gemv_sums(x, stored, size, *(simple or ()), accumulate="float16" if half else None)
    if not isinstance(W, (Placed, Columns)):
        memory.give_back(stored.data)
    if simple is not None:
        return partials
    tiles = Tiling(partials.shape, (size, lines)).cut(partials).reshape(size, lines, 1, -1)
    (into,) = {op.into for step, _, _ in unrolled(schedule.program) for op in step.compute}
    values = lockstep.zeros(schedule, partials.dtype)
    pieces = lockstep.spread(tiles, values[into].shape[4])  # (pieces, P, lines, 1, w)
    values[into][...] = pieces.swapaxes(1, 1 + order.axis)
    for step, t, s in unrolled(schedule.program):
        lockstep.move_values(schedule, step, values, half, t, s)
    return lockstep.collect(schedule, values)


def whole_vector_sums(schedule: Schedule) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Places on a line ``(target, source, root)`` if the moves only stream whole vectors into sums, alike on all lines,
    and then at most broadcast the one that is collected; None if they do anything else.
    """
    collect = schedule.collect
    held = schedule.buffers[collect.buffer]
    assert isinstance(held, Values)
    if held.pieces > 1:
        return None
    adds: list[tuple[int, int]] = []
    root = -1
    for step, t, s in unrolled(schedule.program):
        for move in step.moves:
            if move.buffer != collect.buffer or move.target != move.buffer or len(step.moves) > 1:
                return None
            route = move.route
            if isinstance(route, Multicast):
                source = np.unique(route.sources(schedule.mesh, t, s))
                if len(source) > 1 or source[0] != root:
                    return None
            elif isinstance(route, Reduce):
                phases = np.unique(route.phases(schedule.mesh, t, s))
                size = schedule.mesh.length(route.axis)
                if len(phases) > 1:
                    return None
                for root, dst, src in lockstep.additions(route, int(phases[0]), size):
                    adds += zip(dst, src)
            else:
                return None
    if root < 0:
        return None
    target, source = np.array(adds, np.int64).reshape(-1, 2).T
    return target, source, np.array([root])
