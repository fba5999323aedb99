"""What a schedule sends, counted by symmetry: patterns of lines, their paths, colours, and multiply-adds.

Each pattern of traffic of a line is looked at once, and weighed with the words that each line sends by it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import lcm

import numpy as np

from meshkernels.errors import ScheduleError
from meshkernels.mesh import Mesh
from meshkernels.schedules.check import indices
from meshkernels.schedules.routes import MULTICAST, Flows, Permute, Route
from meshkernels.schedules.steps import Move, Multiply, Repeat, Schedule, Step
from meshkernels.schedules.walk import Walk
from perfmodel.values import ByValue

#: Where a link leads: the first index of counts of links.
EAST, WEST, SOUTH, NORTH = range(4)


@dataclass(frozen=True, eq=False)
class Routes(ByValue):
    """The routing paths of all lines of one axis, and a colour for each.

    Lines that use the same patterns form a class and share one colouring. A path occupies the routers of its
    span, and two paths that share a router need different colours: an interval graph, which first-fit in order
    of the lower end colours with as few colours as the busiest router needs.

    Attributes:
        size: cores on a line.
        line_class: ``(lines,)`` the class of each line.
        flows: for each class ``(n, 4)`` distinct paths: source, low, high, is a multicast.
        colours: for each class ``(n,)`` the colour of each path.
    """

    size: int
    line_class: np.ndarray = field(repr=False)
    flows: tuple[np.ndarray, ...] = field(repr=False)
    colours: tuple[np.ndarray, ...] = field(repr=False)

    def touching(self) -> np.ndarray:
        """``(lines, size)`` paths that touch each router (as sender, receiver or transit)."""
        counts = []
        for flows in self.flows:
            edges = np.zeros(self.size + 1, np.int64)
            np.add.at(edges, flows[:, 1], 1)
            np.add.at(edges, flows[:, 2] + 1, -1)
            counts.append(np.cumsum(edges)[:-1])
        return np.array(counts)[self.line_class]

    def check(self) -> None:
        """Raise `ScheduleError` where two paths of one colour meet at a router."""
        for flows, colours in zip(self.flows, self.colours):
            for colour in np.unique(colours):
                spans = flows[colours == colour][:, 1:3]
                spans = spans[np.argsort(spans[:, 0])]
                clash = np.flatnonzero(spans[1:, 0] <= spans[:-1, 1])
                if len(clash):
                    raise ScheduleError(f"colour {colour}: two paths meet at router {spans[clash[0] + 1, 0]}")


class Tally:
    """Counts of a program: every pattern of a line once, weighed with what the lines send by it."""

    def __init__(self, schedule: Schedule, stored: int, summed: int):
        self.schedule, self.mesh = schedule, schedule.mesh
        self.width = {name: stored if schedule.stored(name) else summed for name in schedule.buffers}
        self.axes = (Axis(self.mesh, 0), Axis(self.mesh, 1))
        self.bent = np.zeros((3, 4, *self.mesh.shape), np.int64)
        self.paths: list[np.ndarray] = []  # of messages that may turn a corner, each as one number
        self.sent = [0, 0, 0]  # words, bytes, messages

    def program(self, program: tuple[Step | Repeat, ...], t: int = 0, s: int = 0,
                times: int = 1) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Count ``times`` runs of a program; returns hops and stages of the steps of one run."""
        hops, stages = [], []
        for node in program:
            if isinstance(node, Step):
                paths = [self.record(move, t, s, times) for move in node.moves] or [(0, 0)]
                found = [np.array([max(part)]) for part in zip(*paths)]
                hops.append(found[0])
                stages.append(found[1])
                continue
            period = lcm(*(index.period() for index in indices(node.body)))
            if any(isinstance(inner, Repeat) for inner in node.body):
                period = node.times  # what is inside may look at this repeat's number
            runs = [self.program(node.body, i, t, times * len(range(i, node.times, period)))
                    for i in range(min(period, node.times))]  # fmt: skip
            if runs:
                for all_steps, part in zip((hops, stages), zip(*runs)):
                    all_steps.append(np.resize(np.concatenate(part), node.times * len(part[0])))
        return tuple(np.concatenate([np.zeros(0, np.int64), *part]) for part in (hops, stages))  # type: ignore[return-value]

    def record(self, move: Move, t: int, s: int, times: int) -> tuple[int, int]:
        """Count one move ``times`` over; returns ``(hops, stages)`` of its critical path."""
        words = self.schedule.words(move)
        each = [words * times, words * self.width[move.buffer] * times, times]
        self._add(each, 1)
        weights = np.array(each, np.int64)
        if isinstance(move.route, Permute):
            hops, stages, messages = self._bend(move.route, weights, t, s)
        else:
            hops, stages, messages = self.axes[move.route.axis].record(move.route, weights, t, s)
        self._add(each, messages - 1)
        return hops, max(stages, 1 if move.combine and hops else 0)  # a shift that combines is one add

    def _add(self, weights: list[int], messages: int) -> None:
        """Sum up what is sent, in Python's integers; sums of links are exact as long as it is less than 2^53."""
        self.sent = [sent + messages * weight for sent, weight in zip(self.sent, weights)]
        if max(self.sent) >= 1 << 53:
            raise ScheduleError(f"{self.schedule.name}: {max(self.sent)} bytes are sent; fewer than 2^53 can be "
                                "counted")  # fmt: skip

    def _bend(self, route: Permute, weights: np.ndarray, t: int, s: int) -> tuple[int, int, int]:
        source, to_y, to_x = route.targets(self.mesh, t, s)
        y, x = np.unravel_index(source, self.mesh.shape)
        going = (y != to_y) | (x != to_x)
        y, x, to_y, to_x = (part[going] for part in (y, x, to_y, to_x))
        row, column = (y, to_x) if route.row_first else (to_y, x)  # where the two legs run
        load = np.zeros((4, *self.mesh.shape), np.int64)
        legs = (row, x, to_x, EAST, WEST, False), (column, y, to_y, SOUTH, NORTH, True)
        for line, begin, end, up, down, turn in legs:
            size, lines = (self.mesh.shape if turn else self.mesh.shape[::-1])
            edges = np.zeros((2, lines, size + 1), np.int64)
            ups, downs = end > begin, end < begin
            np.add.at(edges[0], (line[ups], begin[ups]), 1)
            np.add.at(edges[0], (line[ups], end[ups]), -1)
            np.add.at(edges[1], (line[downs], end[downs] + 1), 1)
            np.add.at(edges[1], (line[downs], begin[downs] + 1), -1)
            both = np.cumsum(edges, axis=2)[..., :-1]
            load[up] += both[0].T if turn else both[0]
            load[down] += both[1].T if turn else both[1]
        self.bent += weights[:, None, None, None] * load
        cols, cores = self.mesh.cols, self.mesh.cores
        self.paths.append((((y * cols + x) * cores + to_y * cols + to_x) * 2 + route.row_first).astype(np.int64))
        return int((abs(y - to_y) + abs(x - to_x)).max(initial=0)), 0, len(y)

    def links(self) -> Iterator[np.ndarray]:
        """Words, bytes and messages that leave each core in each direction."""
        loads = [axis.link_load() for axis in self.axes]
        for n in range(3):
            (south, north), (east, west) = (load[n] for load in loads)  # each (lines, size)
            yield np.stack([east, west, south.T, north.T]) + self.bent[n]

    def routes(self) -> tuple[Routes, Routes]:
        """The paths of the lines of either axis."""
        return self.axes[0].routes(), self.axes[1].routes()

    def bends(self) -> np.ndarray:
        """``(rows, cols)`` different bent paths that touch each router."""
        (rows, cols), cores = self.mesh.shape, self.mesh.cores
        ends, row_first = np.divmod(np.unique(np.concatenate([np.zeros(0, np.int64), *self.paths])), 2)
        (y, x), (to_y, to_x) = (np.divmod(end, cols) for end in np.divmod(ends, cores))
        row, column = np.where(row_first, y, to_y), np.where(row_first, to_x, x)  # where the two legs run
        along, down, corner = (np.zeros((rows + 1, cols + 1), np.int64) for _ in range(3))
        np.add.at(along, (row, np.minimum(x, to_x)), 1)
        np.add.at(along, (row, np.maximum(x, to_x) + 1), -1)
        np.add.at(down, (np.minimum(y, to_y), column), 1)
        np.add.at(down, (np.maximum(y, to_y) + 1, column), -1)
        np.add.at(corner, (row, column), 1)  # the router at the corner is on both legs
        return (np.cumsum(along, axis=1) + np.cumsum(down, axis=0) - corner)[:rows, :cols]


class Axis:
    """Accumulates what each line of one axis sends by each pattern."""

    def __init__(self, mesh: Mesh, axis: int):
        self.mesh, self.size, self.count = mesh, mesh.length(axis), mesh.lines(axis)
        self.patterns: list[Flows] = []
        self.paths = np.zeros((8, 3), np.int64)  # hops, stages, messages of each pattern
        self.weights = np.zeros((8, 3, self.count), np.int64)  # words, bytes, messages of each pattern on each line
        self._phases: dict[int, dict[int, int]] = {}  # of a route, by its id: the pattern of each of its phases
        self._known: dict[bytes, int] = {}

    def record(self, route: Route, weights: np.ndarray, t: int, s: int) -> tuple[int, int, int]:
        """Count messages of ``weights``; returns hops and stages of the critical path, and the number of messages."""
        phases = route.phases(self.mesh, t, s)  # type: ignore[union-attr]
        low, known = int(phases.min()), self._phases.setdefault(id(route), {})  # the schedule keeps its routes alive
        if low == phases.max():
            number = self._pattern(route, low, known)
            self.weights[number] += weights[:, None]
            hops, stages, messages = self.paths[number].tolist()
            return hops, stages, messages * self.count
        different, which = np.unique(phases, return_inverse=True)
        patterns = np.array([self._pattern(route, phase, known) for phase in different.tolist()])
        numbers, lines = patterns[which], np.arange(self.count)
        self.weights[numbers, :, lines] += weights
        hops, stages, _ = self.paths[patterns].max(axis=0).tolist()
        return hops, stages, int(self.paths[numbers, 2].sum())

    def _pattern(self, route: Route, phase: int, known: dict[int, int]) -> int:
        if phase not in known:
            flows = route.flows(phase, self.size)  # type: ignore[union-attr]
            paths = flows.source, flows.low, flows.high, flows.root
            key = flows.kind.encode() + b"".join(part.tobytes() for part in paths)
            if key not in self._known:
                number = self._known[key] = len(self.patterns)
                if number == len(self.paths):
                    self.paths = np.concatenate([self.paths, np.zeros_like(self.paths)])
                    self.weights = np.concatenate([self.weights, np.zeros_like(self.weights)])
                self.patterns.append(flows)
                self.paths[number] = *flows.critical_path(), len(flows.source)
            known[phase] = self._known[key]
        return known[phase]

    def link_load(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of words, bytes and messages: what leaves each core of each line up and down, ``(lines, size)`` each."""
        load = np.array([flows.link_load() for flows in self.patterns], float).reshape(-1, 2 * self.size)
        found = []
        for n in range(3):
            weights = self.weights[: len(self.patterns), n].astype(float)
            sums = np.rint(weights.T @ load).astype(np.int64)  # exact below 2^53, and many times faster
            up, down = sums.reshape(self.count, 2, self.size).swapaxes(0, 1)
            found.append((up, down))
        return found

    def routes(self) -> Routes:
        """Distinct paths of each class of lines, coloured first-fit."""
        used = self.weights[: len(self.patterns), 2] > 0
        used, line_class = np.unique(used, axis=1, return_inverse=True)
        flows = tuple(self._flows(np.flatnonzero(column)) for column in used.T)
        return Routes(self.size, line_class.reshape(-1), flows, tuple(map(first_fit, flows)))

    def _flows(self, patterns: np.ndarray) -> np.ndarray:
        rows = [np.zeros((0, 4), np.int64)]
        for t in (self.patterns[i] for i in patterns):
            rows.append(np.stack([t.source, t.low, t.high, np.full(len(t.source), t.kind == MULTICAST)], axis=1))
        base = (self.size, self.size, self.size, 2)
        keys = np.unique(np.ravel_multi_index(tuple(np.concatenate(rows).T), base))
        return np.stack(np.unravel_index(keys, base), axis=1)


def first_fit(flows: np.ndarray) -> np.ndarray:
    """A colour ``(n,)`` for each path ``(n, 4)``: the lowest that no path sharing a router has; optimal on a line."""
    colours = np.zeros(len(flows), np.int64)
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # (last router, colour), earliest end first
    for i in np.argsort(flows[:, 1], kind="stable"):
        while busy and busy[0][0] < flows[i, 1]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        colours[i] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (int(flows[i, 2]), int(colours[i])))
    return colours


class _Macs(Walk):
    """Walks every step, and adds up the useful multiply-adds of each core."""

    inducts = False

    def __init__(self, schedule: Schedule):
        super().__init__(schedule)
        A, B = (schedule.operands[name] for name in self.task.operands)
        turned = 1 if self.task.kind == "product_t" else 0
        self.useful = A.useful(0), A.useful(1), B.useful(1 - turned)
        self.count = np.zeros(self.mesh.shape, np.int64)

    def multiply(self, op: Multiply, t: int, s: int) -> None:
        """Count one product on every core."""
        super().multiply(op, t, s)
        (i, k), right = self.selected(op.left, op.left_slot, t, s), self.selected(op.right, op.right_slot, t, s)
        rows, terms, cols = self.useful
        self.count += (rows[i] * terms[k] * cols[right[0 if op.transposed else 1]])[:, :, 0]


def walked_macs(schedule: Schedule) -> np.ndarray:
    """Useful multiply-adds ``(rows, cols)``, counted by walking every step of the schedule."""
    if schedule.task.kind not in ("product", "product_t"):
        return np.zeros(schedule.mesh.shape, np.int64)
    walk = _Macs(schedule)
    walk.run(schedule.program)
    return walk.count
