"""The reader that gives a schedule its time: it plays a program step by step, every core at its own time.

No core waits for another but for data: each step is played for all cores at once, from the times at which each of them
begins it. Messages that compete for a link go first come, first served within a step; those of an earlier step go
before those of a later one. A send is over when its tail has left and every receiver has taken the head: so far only
can a sender run ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from meshkernels.fabric import kernels, messages, routes, shifts
from meshkernels.fabric.constants import Machine
from meshkernels.fabric.links import Links
from meshkernels.fabric.messages import BYTES, MESSAGES, TAKEN
from meshkernels.fabric.planner import Plan, Planner
from meshkernels.schedules import Permute, Schedule, Step
from meshkernels.schedules.steps import unrolled

#: Messages whose set-up the start-up of a step contains: a send and a receipt along either axis.
INCLUDED = 4


class Engine:
    """Plays one schedule on one machine, once or several times in succession.

    Attributes:
        end: ``(cores,)`` when each core has ended what it has played so far.
        computing, sending: ``(cores,)`` cycles of computation, and of messages that leave.
        causes: of each step ``(2, cores)`` why a core began and ended when it did: 0 its own processor, b + 1 the
            arrival in buffer b, at the end m + 1 the arrival by move m.
        messages: sent, a multicast counted once.
        used: the tables of messages along lines, each with ``(lines, patterns)`` whether a line has moved by a pattern.
        bends: senders and receivers of the messages that may bend, of each step that has some.
    """

    def __init__(self, schedule: Schedule, machine: Machine, itemsize: int, accumulator: int,
                 links: Links | None = None) -> None:  # fmt: skip
        self.schedule, self.machine, self.mesh = schedule, machine, schedule.mesh
        self._widths = itemsize, accumulator
        self.links = links or Links.of(self.mesh, machine)
        self.quick = not len(self.links.path)
        self._planner = Planner(schedule, machine, itemsize, accumulator, self.quick)
        self.plan, self.number, self.versions = self._planner.plan, self._planner.number, self._planner.versions
        cores, buffers = self.mesh.cores, len(self.number)
        self.end = np.zeros(cores)
        self.ready, self.read, self.free = (np.zeros((buffers, cores)) for _ in range(3))
        self.cursor, self.depart = (np.zeros(cores) for _ in range(2))
        self.mode = np.zeros(cores, np.uint8)
        self.sends, self.receives = (np.zeros(cores, np.int16) for _ in range(2))
        self.taking, self.launched = (np.zeros(cores, np.bool_) for _ in range(2))
        self.arrive = np.zeros((0, cores))
        self.computing, self.sending = np.zeros(cores), np.zeros(cores)
        self.causes: list[np.ndarray] = []
        self.steps: list[tuple[Step, int, int]] = []
        self.messages = 0
        self.used: dict[int, tuple[routes.Table, np.ndarray]] = {}
        self.bends: list[tuple[np.ndarray, np.ndarray]] = []
        self.keep_causes = self.keep_steps = True
        self._clear: dict[tuple, bool] = {}
        self._moved: dict[tuple[int, int, bool], tuple[routes.Table, float, np.ndarray]] = {}
        self._behind = False
        latency = self.links.latency.reshape(4, *self.mesh.shape)
        self._ways = [np.concatenate([[0.0], np.cumsum(along)[:-1]]) for along in (latency[2, :, 0], latency[0, 0])]
        self._scratch: dict[tuple[int, int], np.ndarray] = {}
        self._waiting: list[tuple[Step, list[np.ndarray]]] = []
        self.clearing = self._planner.clearing()

    def fresh(self) -> Engine:
        """The same, before it has played anything."""
        stored, summed = self._widths
        return Engine(self.schedule, self.machine, stored, summed, self.links.fresh())

    def run(self, watch: Callable[[int, Engine], object] | None = None,
            progress: Callable[[int], object] | None = None) -> None:  # fmt: skip
        """Play the whole program, each core from where it ended.

        Args:
            watch: called after step ``i`` as ``watch(i, self)``.
            progress: called after each step, with 1.
        """
        self.launched[:] = False
        self.end += self.clearing
        for i, (step, t, s) in enumerate(unrolled(self.schedule.program)):
            if self.keep_steps:
                self.steps.append((step, t, s))
            self._step(step, t, s)
            if watch:
                self._shift_waiting()
                watch(i, self)
            if progress:
                progress(1)
        self._shift_waiting()
        self._settle()

    def follow(self) -> None:
        """Play one more launch, of which only times are kept; to start it takes a set-up, as an instruction does."""
        self.keep_causes = self.keep_steps = False
        self.end += self.machine.setup
        self.run()

    def _step(self, step: Step, t: int, s: int) -> None:
        plan, machine = self.plan(step), self.machine
        patterns: list[Any] = [table.at(t, s) if table else None for table in plan.tables]
        if plan.whole_lines and all(table.whole for table in plan.tables):
            if self._waiting and self._waiting[0][0] is not step:
                self._shift_waiting()
            self._waiting.append((step, patterns))
            if len(self._waiting) == shifts.MOST:
                self._shift_waiting()
            return
        self._shift_waiting()
        if self._behind:
            np.maximum(self.read, self.free, out=self.read)
            self._behind = False
        bends = [routes.bent(move.route, self.mesh, t, s) if isinstance(move.route, Permute) else None
                 for move in step.moves]  # fmt: skip
        self._parts(plan, patterns, bends)
        cause = np.zeros((2, self.mesh.cores), np.uint8)
        kernels.begin(len(step.compute) > 0, plan.work, machine.setup, machine.arithmetic, machine.startup,
                      machine.launch, machine.lead, plan.overlap, INCLUDED, self.sends, self.receives, plan.reads,
                      plan.sent, plan.writes, self.taking, self.launched, self.end, self.ready, self.read, self.cursor,
                      self.mode, cause[0])  # fmt: skip
        if step.compute:
            self.computing += plan.work
        if len(self.arrive) < len(step.moves):
            self.arrive = np.full((len(step.moves), self.mesh.cores), -1.0)
        self._local(plan, patterns, bends)
        travelling = [m for m in range(len(step.moves)) if not plan.reduces[m]]
        if self._free_of_conflicts(travelling, plan, patterns):
            for m in travelling:
                self._play(m, plan, patterns[m])
        elif travelling:
            self._contend(travelling, plan, patterns, bends)
        for r in np.flatnonzero(plan.reduces).tolist():
            self._reduce(r, plan, patterns[r], cause[1])
        if step.moves:
            kernels.finish(plan.targets, self.versions, plan.costs, plan.reduces, self.mode, self.arrive, self.cursor,
                           self.end, self.ready, self.read, self.free, cause[1])  # fmt: skip
        if self.keep_causes:
            self.causes.append(cause)

    def _shift_waiting(self) -> None:
        """Play the iterations of a step that wait for each other: whole lines that shift, see `shifts.shift_along`."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        machine, mesh, step, count = self.machine, self.mesh, waiting[0][0], len(waiting)
        plan = self.plan(step)
        nothing = self._scratch.setdefault((0, 0), np.zeros(mesh.cores))
        table, none = np.zeros((1, max(mesh.shape)), np.uint32), np.zeros((1, max(mesh.shape)))
        sides: list[tuple] = [(np.full((count, mesh.lines(axis)), -1, np.int32), table, table, none, none, 0.0, 0,
                               nothing, nothing) for axis in (1, 0)]  # fmt: skip
        reach = 0
        for m, table in enumerate(plan.tables):
            axis, b = table.route.axis, int(plan.sources[m])
            idle, source, target = table.sides()
            patterns = np.stack([rows[m] for _, rows in waiting])
            used = np.where(idle[patterns], -1, patterns).astype(np.int32)
            way, place = self._ways[axis], np.arange(target.shape[1])
            inward, outward = (np.abs(way[other] - way[None, place]) for other in (source, target))
            sides[1 - axis] = (used, source.astype(np.uint32), target.astype(np.uint32), inward, outward, plan.wire[m],
                               1 + b, self.ready[b], self.free[b])  # fmt: skip
            if axis == 0:
                reach = int(np.abs(target - place).max(where=~idle[:, None], initial=0))
            tally = self._tally(table, plan, m, True)
            np.add.at(tally, (np.arange(patterns.shape[1]), patterns), 1)
        cause = np.empty((count, mesh.cores), np.uint8)
        most = shifts.together(reach, mesh.cols)
        for first in range(0, count, most):
            these = slice(first, first + most)
            x, y = ((used[these], *more) for used, *more in sides)
            shifts.shift_along(reach, len(step.compute) > 0, plan.work, machine.arithmetic, machine.startup,
                               machine.launch, machine.lead, machine.ramp, *x, *y, self.launched, self.end, self.depart,
                               cause[these])  # fmt: skip
        if step.compute:
            self.computing += count * plan.work
        self._behind = True
        if self.keep_causes:
            self.causes += list(cause[:, None])

    def _tally(self, table: routes.Table, plan: Plan, m: int, quick: bool) -> np.ndarray:
        """``(lines, patterns)`` how often each line has moved by each pattern of a table."""
        key = id(table), int(plan.bytes[m]), quick
        lines, count = self.mesh.lines(table.route.axis), len(table.patterns)
        if key not in self._moved or self._moved[key][2].shape[1] < count:
            counts = np.zeros((lines, 2 * count), np.int64)
            if key in self._moved:
                counts[:, : self._moved[key][2].shape[1]] = self._moved[key][2]
            self._moved[key] = table, float(plan.wire[m]), counts
        return self._moved[key][2]

    def _settle(self) -> None:
        """Add up what was counted by patterns: messages, sends, and the links of the quick steps."""
        for (_, size, quick), (table, wire, counts) in self._moved.items():
            n = len(table.patterns)
            counts = counts[:, :n]
            before = self.used[id(table)][1] if id(table) in self.used else False
            self.used[id(table)] = table, before | (counts > 0)
            self.messages += int((counts @ table.messages[:n]).sum())
            sends = counts @ table.sends[:n].astype(np.int64)  # (lines, size)
            self.sending += wire * (sends.T if table.route.axis == 0 else sends).ravel()
            if quick:
                for side in (0, 1):
                    load = counts @ np.array([p.load[side] for p in table.patterns])
                    links = (load.T if table.route.axis == 0 else load).ravel()
                    state = self.links.state.reshape(8, 4, -1)[:, 2 * (1 - table.route.axis) + side]
                    state[MESSAGES] += links
                    state[BYTES] += size * links
                    state[TAKEN] += wire * links
        self._moved.clear()

    def _parts(self, plan: Plan, patterns: list, bends: list) -> None:
        """How many messages each core sends and receives in the step, and who takes part in a `Reduce`."""
        self.sends[:], self.receives[:], self.taking[:] = 0, 0, False
        for m, (table, pattern, bend) in enumerate(zip(plan.tables, patterns, bends)):
            if bend is not None:
                fields, ends = bend
                going = fields[:, 0] != ends
                if self.keep_steps:
                    self.bends.append((fields[going, 0], ends[going]))
                np.add.at(self.sends, fields[going, 0], 1)
                np.add.at(self.receives, ends[going], 1)
                self.messages += int(going.sum())
                self.sending += plan.wire[m] * np.bincount(fields[going, 0], minlength=self.mesh.cores)
                continue
            self._tally(table, plan, m, False)[np.arange(len(pattern)), pattern] += 1
            sends, receives = (table.on_cores(part, pattern) for part in (table.sends, table.receives))
            if plan.reduces[m]:
                self.taking |= (sends + receives) > 0
            else:
                self.sends += sends
                self.receives += receives

    def _local(self, plan: Plan, patterns: list, bends: list) -> None:
        """What a core sends to itself is copied."""
        for m, (table, pattern, bend) in enumerate(zip(plan.tables, patterns, bends)):
            cost = self.machine.setup + plan.words[m] / self.machine.copy
            state = (self.mode, self.cursor, self.ready[plan.sources[m]], self.read[plan.sources[m]], self.arrive[m])
            if bend is not None:
                own = bend[0][bend[0][:, 0] == bend[1], 0]
                kernels.copy_own(own, cost, *state)
            elif table.local and not plan.reduces[m]:
                kernels.copy_own(table.own(pattern), cost, *state)

    def _free_of_conflicts(self, moves: list[int], plan: Plan, patterns: list) -> bool:
        """Whether no two messages of the step can want the same link."""
        for axis in (0, 1):
            along = [m for m in moves if plan.tables[m] is not None and plan.tables[m].route.axis == axis]
            if along and not routes.clear([plan.tables[m] for m in along], [patterns[m] for m in along], self._clear):
                return False
        return all(plan.tables[m] is not None for m in moves)

    def _heads(self, table: routes.Table) -> np.ndarray:
        """Scratch for arms that wait for others; empty where none does."""
        shape = (self.mesh.lines(table.route.axis), table.arms.shape[1] if table.waits else 0)
        if shape not in self._scratch:
            self._scratch[shape] = np.zeros(shape)
        return self._scratch[shape]

    def _room(self, m: int, plan: Plan) -> np.ndarray:
        """From when an arrival of move ``m`` may be written on each core."""
        target = plan.targets[m]
        return self.free[target] if self.versions[target] else self.read[target]

    def _play(self, m: int, plan: Plan, pattern: np.ndarray) -> None:
        table, machine, source = plan.tables[m], self.machine, plan.sources[m]
        messages.play(table.route.axis, *self.mesh.shape, pattern, table.arms, table.counts, table.named,
                     bool(plan.multicast[m]), plan.wire[m], plan.bytes[m], machine.ramp, machine.setup, machine.stage,
                     self.mode, self.cursor, self.ready[source], self.read[source], self._room(m, plan),
                     self.arrive[m], self.depart, self._heads(table), self.links.args)  # fmt: skip

    def _reduce(self, m: int, plan: Plan, pattern: np.ndarray, cause: np.ndarray) -> None:
        table, machine, source = plan.tables[m], self.machine, plan.sources[m]
        heads = np.zeros((self.mesh.lines(table.route.axis), table.arms.shape[1]))
        messages.reduce(table.route.axis, *self.mesh.shape, pattern, table.arms, table.counts, plan.wire[m],
                       plan.bytes[m], machine.ramp, machine.setup, machine.arithmetic, machine.stage, self.cursor,
                       self.ready[source], self.read[source], self._room(m, plan), self.arrive[m], heads, cause,
                       min(m + 1, 127), self.links.args)  # fmt: skip

    def _contend(self, moves: list[int], plan: Plan, patterns: list, bends: list) -> None:
        machine, mesh = self.machine, self.mesh
        count = sum(len(bends[m][1]) if bends[m] else int(plan.tables[m].counts[patterns[m]].sum()) for m in moves)
        times, fields = np.empty((count, 3)), np.empty((count, messages.COLUMNS), np.int32)
        n, offset, names = 0, 0, [np.zeros((0, max(mesh.shape)), np.int32)]
        for m in moves:
            ready = self.ready[plan.sources[m]]
            if bends[m]:
                more, ends = bends[m]
                more = more[more[:, 0] != ends]
                more[:, messages.MOVE] = m
                n = messages.list_bent(more, plan.wire[m], self.mode, machine.setup, machine.ramp, self.cursor, ready,
                                      times, fields, n)  # fmt: skip
                continue
            table = plan.tables[m]
            n = messages.list_arms(table.route.axis, *mesh.shape, patterns[m], table.arms, table.counts, m, offset,
                                  plan.wire[m], self.mode, machine.setup, machine.ramp, self.cursor, ready, self.depart,
                                  times, fields, n)  # fmt: skip
            if plan.multicast[m]:
                padded = np.full((len(table.patterns), max(mesh.shape)), -1, np.int32)
                padded[:, : table.named.shape[1]] = table.named[: len(table.patterns)]
                names.append(padded)
                offset += len(padded)
        times, fields = times[:n], fields[:n]
        start = times[:, messages.HEAD]
        order = np.flatnonzero(start >= 0)
        order = order[np.argsort(start[order], kind="stable")].astype(np.int32)
        messages.contend(
            times, fields, order, np.concatenate(names), plan.multicast, plan.wire, plan.bytes, machine.ramp,
            machine.turn, machine.stage, self.links.least, plan.sources, plan.targets, self.versions, self.mode,
            self.cursor, self.read, self.free, self.arrive, self.links.args)  # fmt: skip
