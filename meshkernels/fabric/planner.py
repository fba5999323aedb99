"""What the steps of a schedule cost on a machine: of each what is the same in all its iterations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meshkernels.fabric import routes
from meshkernels.fabric.constants import Machine
from meshkernels.schedules import Copy, Multiply, Permute, Reduce, Repeat, Schedule, Shift, Step, Tiles


@dataclass(eq=False)
class Plan:
    """What is the same in every iteration of a step.

    Attributes:
        work: cycles of its computation.
        reads, sent, writes: numbers of the buffers that the computation reads, that messages other than of a `Reduce`
            are sent from, and that the computation writes.
        sources, targets: buffers of each move. words, wire, bytes: of a message of each move.
        costs: ``(moves, 2)`` of taking a message in, of a core that does one thing after the other and of one that
            does everything at once.
        reduces: whether a move is a `Reduce`.
        overlap: whether some move arrives in a second version, so that it may run beside what the core does.
        whole_lines: whether all moves are shifts of tiles, one along an axis, whose messages have left the links before
            a core can send the next.
    """

    work: float
    reads: np.ndarray
    sent: np.ndarray
    writes: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    words: np.ndarray
    wire: np.ndarray
    bytes: np.ndarray
    costs: np.ndarray
    reduces: np.ndarray
    multicast: np.ndarray
    overlap: bool
    whole_lines: bool
    tables: list[Any] = field(repr=False)  # a `routes.Table` of each move, None of a `Permute`


class Planner:
    """Makes the `Plan` of each step, once.

    Args:
        schedule: whose steps.
        machine: the costs.
        itemsize: bytes of a stored element.
        accumulator: bytes of an element of a sum.
        quick: whether a link of the mesh is one link of the fabric.

    Attributes:
        number: the number of each buffer, by name.
        versions: ``(buffers,)`` whether it has a second copy.
    """

    def __init__(self, schedule: Schedule, machine: Machine, itemsize: int, accumulator: int, quick: bool):
        self.schedule, self.machine, self._quick = schedule, machine, quick
        self._width = {b: itemsize if schedule.stored(b) else accumulator for b in schedule.buffers}
        self.number = {name: i for i, name in enumerate(schedule.buffers)}
        self.versions = np.array([held.copies > 1 for held in schedule.buffers.values()])
        arriving = {move.target for step in _steps(schedule.program) for move in step.moves}
        self._never = {self.number[name] for name in schedule.buffers if name not in arriving}
        self._plans: dict[int, Plan] = {}
        self._tables: dict[int, routes.Table] = {}

    def clearing(self) -> float:
        """Cycles at the begin of a launch in which a core clears the values that its first product is added to."""
        written, cycles = set[str](), 0.0
        for step in _steps(self.schedule.program):
            for op in step.compute:
                if isinstance(op, Multiply) and op.accumulate and op.into not in written:
                    cycles += self._clear_cycles(op)
                written.add(op.into)
            written |= {move.target for move in step.moves}
        return cycles

    def _clear_cycles(self, op: Multiply) -> float:
        """Cycles in which a core sets to zero what a product is added to."""
        h, w = self.schedule.tile(op.into)
        pieces = self.schedule.slots(op.into) if op.piece is None or op.accumulate else 1
        return self.machine.setup + h * w * pieces / self.machine.copy

    def plan(self, step: Step) -> Plan:
        """The `Plan` of a step."""
        if id(step) not in self._plans:
            self._plans[id(step)] = self._plan(step)
        return self._plans[id(step)]

    def _plan(self, step: Step) -> Plan:
        schedule, machine, moves = self.schedule, self.machine, step.moves
        reads, writes, work = set[int](), set[int](), 0.0
        for op in step.compute:
            into = self.number[op.into]
            writes.add(into)
            if isinstance(op, Multiply):
                reads |= {self.number[op.left], self.number[op.right]} | ({into} if op.accumulate else set())
            else:
                reads.add(self.number[op.source])
            work += self._cycles(op)
            if isinstance(op, Multiply) and not op.accumulate:
                work += self._clear_cycles(op)
        words = np.array([schedule.words(move) for move in moves], np.int64)
        size = np.array([n * self._width[move.buffer] for n, move in zip(words, moves)], np.int64)
        wire = -(-size // machine.device.word_bytes) * machine.word
        costs = [(machine.stage, machine.stage) if move.combine else (machine.setup, 0.0) for move in moves]
        reduces = np.array([isinstance(move.route, Reduce) for move in moves], np.bool_)
        sources, targets = ([self.number[name] for name in names]
                            for names in ([m.buffer for m in moves], [m.target for m in moves]))
        tables: list[Any] = [None if isinstance(move.route, Permute) else self._table(move.route) for move in moves]
        overlap = any(self.versions[target] and not r for target, r in zip(targets, reduces))
        multicast = [table is not None and table.cast for table in tables]
        axes = [move.route.axis for move in moves if isinstance(move.route, Shift)]
        whole = bool(self._quick and 0 < len(axes) == len(moves) == len(set(axes)) and sources == targets
                 and not any(move.combine for move in moves) and bool(self.versions[targets].all())
                 and not writes & set(targets) and reads <= set(targets) | self._never
                 and float(max(wire)) + machine.lead <= machine.startup)  # fmt: skip
        sent = {source for source, r in zip(sources, reduces) if not r} - writes
        reading, sending, writing, from_, to = (
            np.array(part, np.int64) for part in (sorted(reads), sorted(sent), sorted(writes), sources, targets))
        return Plan(work, reading, sending, writing, from_, to, words, wire, size, np.array(costs).reshape(-1, 2),
                    reduces, np.array(multicast, np.bool_), overlap, whole, tables)  # fmt: skip

    def _cycles(self, op: Multiply | Copy) -> float:
        """Cycles of one operation on one core."""
        schedule, machine = self.schedule, self.machine
        if isinstance(op, Copy):
            h, w = schedule.tile(op.source)
            return machine.setup + h * w / machine.copy
        m, k = schedule.tile(op.left)
        n = schedule.tile(op.right)[0 if op.transposed else 1]
        left = schedule.buffers[op.left]
        assert isinstance(left, Tiles)
        return machine.multiply(m, k, n, vector=schedule.operands[left.operand].shape[0] == 1)

    def _table(self, route: Any) -> routes.Table:
        if id(route) not in self._tables:
            self._tables[id(route)] = routes.Table(route, self.schedule.mesh)
        return self._tables[id(route)]


def _steps(program: Any) -> Iterator[Step]:
    """The steps of a program, each once."""
    for node in program:
        if isinstance(node, Repeat):
            yield from _steps(node.body)
        else:
            yield node
