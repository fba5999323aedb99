"""The ledger: what a schedule makes the mesh do, counted from the schedule itself.

Counting is by symmetry: each pattern of traffic of a line is looked at once, and weighed with the words that
each line sends by it. A mesh of 720 x 720 cores takes about a second; tests hold the counts equal to a
message-by-message count on small meshes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from meshkernels.errors import MeshTypeError, ScheduleError
from meshkernels.mesh import Mesh
from meshkernels.schedule import ChainSum, Move, Multiply, RingOrder, Schedule, Tiles
from meshkernels.traffic import MULTICAST

EAST, WEST, SOUTH, NORTH = range(4)


@dataclass(frozen=True, eq=False)
class Ledger:
    """Counts of one schedule. All words are elements; padding is counted, because the mesh moves it.

    Attributes:
        schedule: what was counted.
        itemsize, accumulator: bytes of a stored element and of an element of a sum.
        step_hops: ``(steps,)`` links on the longest path of messages in each step.
        step_stages: ``(steps,)`` software-handled stages on such a path.
        link_words: ``(4, rows, cols)`` words that leave each core eastwards, westwards, southwards, northwards
            (`EAST`, `WEST`, `SOUTH`, `NORTH`).
        words: words sent, a message counted once however far it goes (a multicast too).
        macs: ``(rows, cols)`` multiply-adds on each core, padding left out.
        routes: the routing paths and their colours, of the lines of axis 0 and of axis 1.
    """

    schedule: Schedule
    itemsize: int
    accumulator: int
    step_hops: np.ndarray = field(repr=False)
    step_stages: np.ndarray = field(repr=False)
    link_words: np.ndarray = field(repr=False)
    words: int
    macs: np.ndarray = field(repr=False)
    routes: tuple[Routes, Routes] = field(repr=False)

    @property
    def mesh(self) -> Mesh:
        """The cores."""
        return self.schedule.mesh

    @property
    def steps(self) -> int:
        """Steps of the schedule, alignment and broadcasts included."""
        return len(self.step_hops)

    @property
    def critical_hops(self) -> int:
        """Links on the critical path of the whole schedule: the longest path of each step, added up."""
        return int(self.step_hops.sum())

    @property
    def hops_per_step(self) -> int:
        """Links on the longest path of the worst step."""
        return int(self.step_hops.max(initial=0))

    @property
    def stages(self) -> int:
        """Routing stages on the critical path of the whole schedule."""
        return int(self.step_stages.sum())

    @property
    def word_hops(self) -> int:
        """Words times links travelled: the load of all links together."""
        return int(self.link_words.sum())

    @cached_property
    def colours_per_core(self) -> np.ndarray:
        """``(rows, cols)`` distinct routing paths through each core's router, of both axes."""
        along_y, along_x = self.routes
        return along_x.touching() + along_y.touching().T

    @property
    def colours(self) -> int:
        """Colours that the busiest router needs."""
        return int(self.colours_per_core.max())

    @property
    def words_per_core(self) -> int:
        """Elements of all buffers of a core, double buffers counted twice; the same on every core."""
        return sum(self._resident().values())

    @property
    def peak_bytes_per_core(self) -> int:
        """Bytes of all buffers of a core at once."""
        tiles = {name for name, held in self.schedule.buffers.items() if isinstance(held, Tiles)}
        return sum(n * (self.itemsize if name in tiles else self.accumulator) for name, n in self._resident().items())

    def _resident(self) -> dict[str, int]:
        sizes = {}
        for name, held in self.schedule.buffers.items():
            h, w = self.schedule.tile(name)
            sizes[name] = h * w * held.copies * (held.depth if isinstance(held, Tiles) else held.pieces)
        return sizes

    @property
    def imbalance(self) -> float:
        """Multiply-adds of the busiest core over the mean; 1.0 is perfect balance."""
        mean = self.macs.mean()
        return float(self.macs.max() / mean) if mean else 1.0

    def summary(self) -> dict[str, int | float | str]:
        """The counts as plain numbers, for tables and JSON."""
        return {
            "algorithm": self.schedule.name, "rows": self.mesh.rows, "cols": self.mesh.cols, "steps": self.steps,
            "critical_hops": self.critical_hops, "hops_per_step": self.hops_per_step, "stages": self.stages,
            "words": self.words, "word_hops": self.word_hops, "peak_bytes_per_core": self.peak_bytes_per_core,
            "colours": self.colours, "macs": int(self.macs.sum()), "imbalance": self.imbalance,
        }  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(f"{name:>20}  {value}" for name, value in self.summary().items())


@dataclass(frozen=True, eq=False)
class Routes:
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
    line_class: np.ndarray
    flows: tuple[np.ndarray, ...]
    colours: tuple[np.ndarray, ...]

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


def count(schedule: Schedule, dtype: np.typing.DTypeLike = np.float16,
          accumulate: np.typing.DTypeLike | None = None) -> Ledger:  # fmt: skip
    """Count what ``schedule`` does.

    Args:
        schedule: any schedule.
        dtype: of the stored elements; float16 is the wafer's.
        accumulate: dtype of sums; None: the same.

    Raises:
        MeshTypeError: no schedule.
    """
    if not isinstance(schedule, Schedule):
        raise MeshTypeError(f"count counts a Schedule, not {type(schedule).__name__}")
    hops, stages = np.zeros(len(schedule.steps), np.int64), np.zeros(len(schedule.steps), np.int64)
    axes = (_Axis(schedule, 0), _Axis(schedule, 1))
    for i, step in enumerate(schedule.steps):
        for move in step.moves:
            h, s = axes[move.axis].record(move, schedule.words(move))
            hops[i] = max(hops[i], h)
            stages[i] = max(stages[i], s)
    (south, north), (east, west) = (axis.link_words() for axis in axes)  # each (lines, size)
    return Ledger(
        schedule, np.dtype(dtype).itemsize, np.dtype(accumulate or dtype).itemsize, hops, stages,
        np.stack([east, west, south.T, north.T]), sum(axis.words_sent() for axis in axes), _macs(schedule),
        (axes[0].routes(), axes[1].routes()),
    )  # fmt: skip


class _Axis:
    """Accumulates the words that each line of one axis sends by each pattern of traffic."""

    def __init__(self, schedule: Schedule, axis: int):
        self.size, self.lines = schedule.mesh.length(axis), schedule.mesh.lines(axis)
        moves = (move for step in schedule.steps for move in step.moves if move.axis == axis)
        self.patterns = list({id(t): t for move in moves for t in move.traffic}.values())
        self.number = {id(t): i for i, t in enumerate(self.patterns)}
        self.paths = np.array([t.critical_path() for t in self.patterns], np.int64).reshape(-1, 2)
        self.words = np.zeros((len(self.patterns), self.lines), np.int64)

    def record(self, move: Move, words: int) -> tuple[int, int]:
        """Count one move of messages of ``words``; returns ``(hops, stages)`` of its critical path."""
        numbers = np.array([self.number[id(t)] for t in move.traffic])
        use = np.zeros(self.lines, np.intp) if move.use is None else move.use
        busy = np.flatnonzero(use >= 0)
        self.words[numbers[use[busy]], busy] += words
        hops, stages = self.paths[np.unique(numbers[use[busy]])].max(axis=0, initial=0)
        return hops, max(stages, 1 if move.combine and hops else 0)  # a shift that combines is one add

    def link_words(self) -> tuple[np.ndarray, np.ndarray]:
        """Words that leave each core of each line towards higher and towards lower cores: ``(lines, size)``."""
        load = np.array([t.link_load() for t in self.patterns]).reshape(len(self.patterns), 2 * self.size)
        words = self.words.T.astype(float) @ load.astype(float)  # exact below 2^53, and many times faster
        up, down = np.rint(words).astype(np.int64).reshape(self.lines, 2, self.size).swapaxes(0, 1)
        return up, down

    def words_sent(self) -> int:
        messages = np.array([len(t.source) for t in self.patterns], np.int64)
        return int(messages @ self.words.sum(axis=1))

    def routes(self) -> Routes:
        """Distinct paths of each class of lines, coloured first-fit."""
        used, line_class = np.unique(self.words > 0, axis=1, return_inverse=True)
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


def _macs(schedule: Schedule) -> np.ndarray:
    """Useful multiply-adds on each core: by the order where it says that each core meets everything once."""
    multiplies = [step.multiply for step in schedule.steps if step.multiply]
    if not multiplies or schedule.result is None:
        return walked_macs(schedule)
    left, right = (schedule.buffers[b] for b in (multiplies[0].left, multiplies[0].right))
    assert isinstance(left, Tiles) and isinstance(right, Tiles)
    A, B, C = schedule.operands[left.operand], schedule.operands[right.operand], schedule.result
    if isinstance(schedule.order, RingOrder) and C.grid == schedule.mesh.shape:
        met = sorted(t for m in multiplies for t in m.times or ())
        if met == list(range(len(schedule.order.blocks))):  # each core meets each block of K once
            return np.outer(C.useful(0), C.useful(1)) * A.shape[1]
    each_once = len(multiplies) * right.depth == B.grid[0]  # a core's block of A meets each block of rows of B once
    if isinstance(schedule.order, ChainSum) and A.grid == schedule.mesh.shape and each_once:
        return np.outer(A.useful(0), A.useful(1)) * B.shape[0]
    return walked_macs(schedule)


def walked_macs(schedule: Schedule) -> np.ndarray:
    """Useful multiply-adds ``(rows, cols)``, counted by walking every step of the schedule."""
    macs = np.zeros(schedule.mesh.shape, np.int64)
    for _, step, holds in schedule.walk():
        if step.multiply:
            left_macs, columns = _useful(schedule, step.multiply)
            for _, a, b in schedule.handles(step.multiply, holds):
                macs += left_macs[a] * columns[b]
    return macs


def _useful(schedule: Schedule, multiply: Multiply) -> tuple[np.ndarray, np.ndarray]:
    """By block id: useful rows times useful contraction of the left operand, useful columns of the right one."""
    left = schedule.operands[schedule.buffers[multiply.left].operand]  # type: ignore[union-attr]
    right = schedule.operands[schedule.buffers[multiply.right].operand]  # type: ignore[union-attr]
    down, across = right.grid
    columns = np.repeat(right.useful(0), across) if multiply.transposed else np.tile(right.useful(1), down)
    return np.outer(left.useful(0), left.useful(1)).ravel(), columns
