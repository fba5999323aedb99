"""A schedule is walked with block numbers in place of numbers: what every core holds, step by step.

Invariant: before each step it is known of every tile which block it is, and of every number what it is the sum of
(see `contributions`), on all cores. A step that uses what is not there, mixes what does not belong together or
overwrites what it still reads is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import numpy as np

from meshkernels.errors import ScheduleError
from meshkernels.schedules import induction
from meshkernels.schedules.buffers import Tiles
from meshkernels.schedules.contributions import Contributions
from meshkernels.schedules.holdings import STALE, TRUE, Holdings, Write, arriving, distinct
from meshkernels.schedules.motion import Arrival, Arrivals, Delivery, slots_at
from meshkernels.schedules.routes import Reduce
from meshkernels.schedules.steps import Copy, Move, Multiply, Repeat, Schedule, Step

#: What may be looked at while steps are walked one by one, in numbers of about a nanosecond (an operation or a move is
#: some 20,000 whatever its size): ten seconds or so. All further steps must follow by induction.
MOST_WALKED = 1 << 32


class Walk:
    """The state of all cores, symbolically.

    Attributes:
        index: number of the step at hand.
        walked: about how many numbers have been looked at.
        held: what is known of each buffer, by name.
        sums: what has been added up.
        recorded: all that has arrived but by whole shifts since this is a list; for induction.
    """

    #: Whether repeats are leapt over.
    inducts = True

    def __init__(self, schedule: Schedule):
        self.schedule, self.mesh, self.task = schedule, schedule.mesh, schedule.task
        self.index, self.walked, self.step = 0, 0, Step("")
        self.tiles = {name for name, held in schedule.buffers.items() if isinstance(held, Tiles)}
        self.values = [name for name in schedule.buffers if name not in self.tiles]
        self.sums = Contributions(self)
        self.held = {name: Holdings.of_tiles(self.mesh, held) if isinstance(held, Tiles) else
                     Holdings.of_values(self.mesh, held.pieces, self.sums.fields)
                     for name, held in schedule.buffers.items()}  # fmt: skip
        self.arrivals = Arrivals(self.mesh)
        self.recorded: list[Write] | None = None
        self._plans: dict[int, _Plan] = {}

    def state(self, buffer: str) -> dict[str, np.ndarray]:
        """What is known of a buffer now, to be read."""
        return self.held[buffer].settle()

    # ------------------------------------------------------------------------------------------------- refusals
    def refuse(self, message: str) -> NoReturn:
        """Raise `ScheduleError` for the step at hand."""
        raise ScheduleError(f"{self.schedule.name}, step {self.index} ({self.step.label}): {message}")

    def require(self, holds: np.ndarray, message: str) -> None:
        """Refuse where ``holds (rows or 1, cols or 1, ...)`` is not true, naming the first such core."""
        if holds is not TRUE and not holds.all():
            y, x = np.argwhere(~holds)[0][:2]
            self.refuse(f"core ({y}, {x}) {message}")

    # ----------------------------------------------------------------------------------------------------- walking
    def run(self, program: tuple[Step | Repeat, ...], t: int = 0, s: int = 0) -> None:
        """Walk steps and repeats."""
        for node in program:
            if isinstance(node, Step):
                self.do(node, t, s)
            else:
                self._repeat(node, t)

    def _repeat(self, node: Repeat, s: int) -> None:
        done = induction.leap(self, node, s) if self.inducts else 0
        for t in range(done, node.times):
            before_this = self.walked
            self.run(node.body, t, s)
            ahead = (self.walked - before_this) * (node.times - t - 1)
            if self.walked + ahead > MOST_WALKED:
                self._too_long()

    def _too_long(self) -> NoReturn:
        self.refuse("proving this schedule would take too long, one step after another: choose sides of the mesh "
                    "that share a factor")  # fmt: skip

    def do(self, step: Step, t: int, s: int) -> None:
        """One step: compute, then move."""
        self.step, self.walked = step, self.walked + 5000 + 20_000 * (len(step.moves) + len(step.compute))
        if self.walked > MOST_WALKED:
            self._too_long()
        for op in step.compute:
            if isinstance(op, Multiply):
                self.multiply(op, t, s)
            else:
                self.copy(op, t, s)
        self.move(step, t, s)
        self.index += 1

    # ------------------------------------------------------------------------------------------------- computation
    def selected(self, buffer: str, slot: Any, t: int, s: int) -> tuple[np.ndarray, np.ndarray]:
        """``(down, across)`` of one tile of each core, ``(rows or 1, cols or 1, 1)`` each."""
        chosen, held = slots_at(slot, t, s), self.held[buffer]
        self.require(held.peek("held", chosen), f"does not hold a tile in {buffer!r} that it should use")
        return held.take("down", chosen), held.take("across", chosen)

    def multiply(self, op: Multiply, t: int, s: int) -> None:
        """One product on every core."""
        i, k = self.selected(op.left, op.left_slot, t, s)
        down, across = self.selected(op.right, op.right_slot, t, s)
        k_right, j = (across, down) if op.transposed else (down, across)
        if k is not k_right:
            self.require(k == k_right, f"does not hold tiles of {op.left!r} and {op.right!r} that belong to the same "
                         "part of the contraction")  # fmt: skip
        self.walked += 8 * k.size
        self.sums.remember(i, k, j, op)
        self.sums.add(op.into, slots_at(op.piece, t, s), i, j, k, op.accumulate)

    def copy(self, op: Copy, t: int, s: int) -> None:
        """One tile becomes numbers on every core."""
        down, across = self.selected(op.source, op.slot, t, s)
        kind, axis = self.task.kind, self.task.axis
        if op.transposed != (kind == "transpose"):
            self.refuse(f"tiles are copied {'transposed' if op.transposed else 'as they are'}; the task is {kind}")
        zero = np.zeros((1, 1, 1), np.int32)
        if kind == "allreduce":
            i, j, k = (zero, across, down) if axis == 0 else (down, zero, across)
        elif kind == "alltoall":
            P = self.schedule.result.grid[1]
            i, j, k = down // P * P + across, down % P, zero
        else:
            i, j, k = across, down, zero
        self.sums.add(op.into, slots_at(op.piece, t, s), i, j, k, False)

    # ------------------------------------------------------------------------------------------------------- moves
    def move(self, step: Step, t: int, s: int) -> None:
        """All moves of a step at once: first everything is taken, then everything arrives."""
        plan = self._plans.get(id(step)) or self._plan(step)
        writes = list[Write]()
        for move in plan.moves:
            if isinstance(move.route, Reduce):
                writes += self.sums.reduced(move, t, s)
                continue
            place = self.arrivals.of(move, t, s)
            if isinstance(place, Delivery):
                self._single(move, place)
            writes.append(self.sums.combined(move, place) if move.combine else self._arriving(move, place))
        for name in plan.twice:
            self._once(name, [write for write in writes if write.buffer == name])
        if self.recorded is not None:
            self.recorded += writes
        for write in writes:
            self.walked += 10 * sum(field.size for field in write.fields.values())
            self.held[write.buffer].write(write)
        for move in plan.shifts:
            self.held[move.buffer].shift(move.route, t, s)  # type: ignore[arg-type]

    def _plan(self, step: Step) -> _Plan:
        """What is the same whenever the step is done; refused where it overwrites what it reads."""
        reads = {move.buffer for move in step.moves}
        for op in step.compute:
            reads |= {op.left, op.right} if isinstance(op, Multiply) else {op.source}
        targets = list[str]()
        for move in step.moves:
            if move.target in reads and self.schedule.buffers[move.target].copies < 2:
                self.refuse(f"buffer {move.target!r} is overwritten while it is read: it needs copies = 2")
            if move.buffer in self.values and not isinstance(move.route, Reduce):
                self.sums.two_sided = False
            targets += {move.target, move.buffer} if isinstance(move.route, Reduce) else {move.target}
        shifts = [move for move in step.moves if move.whole_shift]
        twice = []
        if len(set(targets)) < len(targets):
            twice = sorted({name for name in targets if targets.count(name) > 1})
        for name in twice:
            if any(move.buffer == name for move in shifts):
                self.refuse(f"two moves arrive in buffer {name!r}, one of them in all of it")
        plan = self._plans[id(step)] = _Plan(step, [move for move in step.moves if not move.whole_shift], shifts, twice)
        return plan

    def _arriving(self, move: Move, place: Arrival | Delivery) -> Write:
        """What arrives replaces what was there; refused where an empty slot is sent."""
        tiles, write = move.buffer in self.tiles, arriving(move, place, self.held[move.buffer])
        if tiles:
            empty = ~write.fields["held"]
        else:  # zeros may travel along a line
            empty = write.fields["down"] == STALE if isinstance(place, Arrival) else write.fields["down"] < 0
        if empty.any() and (not tiles or move.slot is not None):  # an empty slot among others may travel along
            if isinstance(place, Delivery):
                n = int(np.argwhere(empty)[0][0])
                self.refuse(f"core ({place.y[n]}, {place.x[n]}) sends a slot of {move.buffer!r} that holds nothing")
            lost = empty if write.mask is None else empty & write.mask
            self.require(~lost, f"is sent a slot of {move.buffer!r} that holds nothing")
        return write

    def _once(self, name: str, writes: list[Write]) -> None:
        """Refuse two arrivals in one slot of a core in one step."""
        chosen = [write.slots for write in writes]
        if all(isinstance(c, int) for c in chosen) and len(set(chosen)) == len(chosen):
            return
        slots = self.schedule.slots(name)
        y, x, slot = (np.concatenate(parts) for parts in zip(*(write.cells(self.mesh, slots) for write in writes)))
        cell, times = np.unique((y * self.mesh.cols + x) * slots + slot, return_counts=True)
        if times.max(initial=0) > 1:
            core = divmod(int(cell[np.argmax(times > 1)]) // slots, self.mesh.cols)
            self.refuse(f"core {core} receives two messages in one slot of {name!r}")

    def _single(self, move: Move, place: Delivery) -> None:
        """The same of one `Permute`."""
        cell = (place.to_y * self.mesh.cols + place.to_x) * self.schedule.slots(move.target)
        self.walked += 200 * len(cell)
        if not distinct(cell if place.slots is None else cell + place.slots):
            self.refuse(f"a core receives two messages in one slot of {move.target!r}")


class _Plan(NamedTuple):
    """The moves of a step but for the whole shifts, those, and the buffers in which several moves arrive."""

    step: Step
    moves: list[Move]
    shifts: list[Move]
    twice: list[str]
