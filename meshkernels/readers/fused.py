"""The fast way to run a schedule: the same additions in the same order for every element, cores and steps fused.

It reads the schedule's compact order of summation and never steps. A schedule without one is executed by the
mesh-stepping loop, which is slower and right for any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import dropwhile
from typing import Any

import numpy as np

from meshkernels.kernels import chains, gemv, memory, ring
from meshkernels.kernels.pack import Columns, columns
from meshkernels.mesh import Tiling
from meshkernels.placed import Placed
from meshkernels.readers import lockstep
from meshkernels.schedules.motion import Arrivals, slots_at
from meshkernels.schedules.order import ChainSum, RingOrder, SplitSum
from meshkernels.schedules.routes import Multicast, Reduce
from meshkernels.schedules.steps import Schedule, Step, unrolled


def run(schedule: Schedule, operands: dict[str, Any], accumulate: np.dtype) -> np.ndarray:
    """Execute ``schedule``, with the same result as `lockstep.run`, bit for bit.

    Args:
        schedule: what to do, verified.
        operands: the whole matrices by operand name, of one dtype; the right one may be `Placed`.
        accumulate: dtype of sums; float16 rounds after every multiply-add.

    Returns:
        The result, whole; it may be rounded to the operands' dtype already.
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
        for part in stored.parts:
            memory.give_back(part.data)
    if simple is not None:
        return partials
    blocks = Tiling(partials.shape, (size, lines)).cut(partials).reshape(size, lines, 1, -1)
    blocks = blocks if order.axis == 0 else blocks.swapaxes(0, 1)  # (rows, cols, 1, w)
    values = lockstep.zeros(schedule, partials.dtype)
    arrivals = Arrivals(schedule.mesh)
    for step, t, s in _from_product(schedule):
        for op in step.compute:
            lockstep.put(values[op.into], slots_at(op.piece, t, s), blocks)
        lockstep.move_values(arrivals, step, values, half, t, s)
    return lockstep.collect(schedule, values)


def _from_product(schedule: Schedule) -> Iterator[tuple[Step, int, int]]:
    """The steps from the only one that computes: what moved before were zeros."""
    return dropwhile(lambda each: not each[0].compute, unrolled(schedule.program))


def whole_vector_sums(schedule: Schedule) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The additions of a GEMV or an all-reduce that only streams whole vectors into sums and broadcasts them.

    Args:
        schedule: any.

    Returns:
        Places on a line ``(target, source, root)``: what each addition in order adds to, what it adds, and where the
        result is then. None where the moves do anything else.
    """
    collect, order = schedule.collect, schedule.proof.order
    if schedule.slots(collect.buffer) > 1 or not (isinstance(order, SplitSum) or schedule.task.kind == "allreduce"):
        return None
    if sum(len(step.compute) for step, _, _ in unrolled(schedule.program)) != 1:
        return None
    axis = order.axis if isinstance(order, SplitSum) else schedule.task.axis
    size = schedule.mesh.length(axis)
    adds: list[tuple[int, int]] = []
    lies = np.arange(size)  # where the value of each core of a line was computed, or added up
    for step, t, s in _from_product(schedule):
        for move in step.moves:
            route = move.route
            if isinstance(route, Multicast | Reduce) and schedule.mesh.length(route.axis) == 1 and (
                    move.buffer == move.target):
                continue  # a line of one core: nothing arrives
            if not isinstance(route, Multicast | Reduce) or route.axis != axis or len(step.moves) > 1 or (
                    move.buffer != collect.buffer or move.target != move.buffer):
                return None
            phases = np.unique(route.phases(schedule.mesh, t, s))
            if len(phases) > 1:
                return None
            named = route.along(int(phases[0]), size)
            if isinstance(route, Multicast):
                lies = np.where(named >= 0, lies[named], lies)
                continue
            new = [pair for _, dst, src in lockstep.additions(route, int(phases[0]), size) for pair in zip(dst, src)]
            if new and not np.array_equal(lies, np.arange(size)):
                return None  # sums of what has been broadcast
            adds += new
    down, across = collect.place.at(schedule.mesh, 1)
    taken = np.broadcast_to((down >= 0) & (across >= 0), (*schedule.mesh.shape, 1))[:, :, 0]
    taken = taken if axis == 0 else taken.T  # (size, lines)
    root = lies[np.argmax(taken, axis=0)]
    if (root != root[0]).any():
        return None
    target, source = np.array(adds, np.int64).reshape(-1, 2).T
    return target, source, root[:1]
