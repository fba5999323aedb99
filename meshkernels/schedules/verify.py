"""The proof that a schedule computes what it says.

A schedule is walked with block numbers in place of numbers (`walk`, `holdings`, `contributions`), its repeats by
induction (`induction`). Invariant: a `Proof` exists only of a schedule every core of which held what it used, and whose
result lay, whole and complete, where `Schedule.collect` says when the walk had ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meshkernels.errors import ScheduleError
from meshkernels.schedules import order
from meshkernels.schedules.check import check
from meshkernels.schedules.steps import Schedule
from meshkernels.schedules.walk import Walk
from perfmodel.values import ByValue


@dataclass(frozen=True, eq=False)
class Proof(ByValue):
    """What verification found out about a schedule.

    Attributes:
        order: in which order the terms of one result element are added, where that has a compact form.
        macs: factors, each ``(rows or 1, cols or 1)``, whose product is the useful multiply-adds of each core; None
            where only walking every step tells.
    """

    order: order.Order | None
    macs: tuple[np.ndarray, ...] | None


def verify(schedule: Schedule) -> Proof:
    """Prove that ``schedule`` computes its task, or say where it does not.

    Every core holds what it reads, nothing is overwritten before it is read, every contribution to every block of the
    result arrives exactly once, and the result lies where `Schedule.collect` says. The proof is kept with the schedule.

    Args:
        schedule: any schedule.

    Returns:
        What was found out on the way: the order of summation, if it has a compact form.

    Raises:
        ScheduleError: it does not compute its task; the message names step, core and buffer.

    Examples:
        >>> import meshkernels as mk
        >>> type(mk.verify(mk.schedule("meshgemm", mk.Mesh(5), 10, 10, 10)).order).__name__
        'RingOrder'
    """
    if not isinstance(schedule, Schedule):
        raise ScheduleError(f"verify takes a Schedule, not {type(schedule).__name__}")
    return schedule.proof


def prove(schedule: Schedule) -> Proof:
    """As `verify`, worked out anew.

    Args:
        schedule: any schedule.

    Returns:
        The proof.

    Raises:
        ScheduleError: as of `verify`.
    """
    check(schedule)
    walk = Walk(schedule)
    walk.run(schedule.program)
    finish(walk)
    return Proof(order.derive(walk), macs(walk))


def finish(walk: Walk) -> None:
    """Refuse a walk at whose end the result does not lie, whole and complete, where the schedule says."""
    schedule, collect = walk.schedule, walk.schedule.collect
    name, state = collect.buffer, walk.state(collect.buffer)
    pieces = schedule.slots(name)
    shape = (*walk.mesh.shape, 1 if collect.whole else pieces)
    claimed = collect.place.at(walk.mesh, shape[2])
    there = (claimed[0] >= 0) & (claimed[1] >= 0)
    ids = claimed[0].astype(np.int64) * schedule.result.grid[1] + claimed[1]
    ids = ids.ravel() if there.all() and ids.shape == shape else np.broadcast_to(ids, shape)[
        np.broadcast_to(there, shape)]
    times = np.bincount(ids, minlength=schedule.result.grid[0] * schedule.result.grid[1])
    if not (times == 1).all():
        wrong = int(np.argmin(times == 1))
        raise ScheduleError(f"{schedule.name}: block {divmod(wrong, schedule.result.grid[1])} of the result is "
                            f"collected {times[wrong]} times from buffer {name!r}; once is right")  # fmt: skip
    part = np.arange(pieces) if collect.whole else np.zeros(1, int)
    for key, wanted, what in (
        ("n", walk.sums.terms, "does not hold all contributions to"),
        ("weight", walk.sums.total, "does not hold all contributions, each of them once, to"),
        ("down", claimed[0], "does not hold"), ("across", claimed[1], "does not hold"), ("part", part, "does not hold"),
    ):  # fmt: skip
        if key not in state:
            continue
        right = state[key] == wanted
        right = right if right.all() else right | ~there
        if not right.all():
            y, x, slot = (int(v) for v in np.argwhere(~right)[0])
            raise ScheduleError(f"{schedule.name}: at the end core ({y}, {x}) {what} the block of the result that "
                                f"is collected from slot {slot} of its buffer {name!r}")  # fmt: skip


def macs(walk: Walk) -> tuple[np.ndarray, ...] | None:
    """Factors of the useful multiply-adds of each core, where all its products share two of their three blocks."""
    sums, schedule = walk.sums, walk.schedule
    if sums.product is None:
        return (np.zeros((1, 1), np.int64),)
    i, k, j = (part[:, :, 0] for part in sums.product)
    same_i, same_k, same_j = sums.same
    A, C = schedule.operands[walk.task.operands[0]], schedule.result
    rows, terms, cols = C.useful(0)[i], A.useful(1)[k], C.useful(1)[j]
    whole = [np.full((1, 1), n) for n in (C.shape[0], A.shape[1], C.shape[1])]
    if sums.multiplied == 1:
        return rows, terms, cols
    if sums.multiplied * walk.mesh.cores != C.grid[0] * C.grid[1] * sums.terms:
        return None  # some products are made twice, or for nothing
    for same, times, factors in (
        (same_i and same_j, sums.terms, (rows, whole[1], cols)),
        (same_i and same_k, C.grid[1], (rows, terms, whole[2])),
        (same_k and same_j, C.grid[0], (whole[0], terms, cols)),
    ):  # fmt: skip
        if same and sums.multiplied == times:
            return factors
    return None
