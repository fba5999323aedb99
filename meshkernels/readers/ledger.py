"""The ledger: what a schedule makes the mesh do, counted from the schedule itself.

Counting is by symmetry: each pattern of traffic of a line is looked at once, and weighed with the words that
each line sends by it. A mesh of 720 x 720 cores takes about a second; tests hold the counts equal to a
message-by-message count on small meshes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import lcm
from typing import Any

import numpy as np

from meshkernels.errors import MeshError, MeshTypeError, MissingExtra, ScheduleError, shown
from meshkernels.mesh import Mesh
from meshkernels.schedules.check import check, indices
from meshkernels.schedules.routes import MULTICAST, Flows, Permute, Reduce, Route
from meshkernels.schedules.steps import Move, Multiply, Repeat, Schedule, Step
from meshkernels.schedules.walk import Walk
from perfmodel import tables
from perfmodel.values import ByValue

EAST, WEST, SOUTH, NORTH = range(4)
_DIRECTIONS = ("east", "west", "south", "north")


@dataclass(frozen=True, eq=False, repr=False)
class Ledger(ByValue):
    """Counts of one schedule. All words are elements; padding is counted, because the mesh moves it.

    Attributes:
        schedule: what was counted.
        itemsize, accumulator: bytes of a stored element and of an element of a sum.
        step_hops: ``(steps,)`` links on the longest path of messages in each step.
        step_stages: ``(steps,)`` software-handled stages on such a path.
        link_words: ``(4, rows, cols)`` words that leave each core eastwards, westwards, southwards, northwards
            (`EAST`, `WEST`, `SOUTH`, `NORTH`).
        link_bytes, link_messages: the same of bytes and of messages.
        words: words sent, a message counted once however far it goes (a multicast too).
        bytes, messages: the same of bytes and of messages.
        macs: ``(rows, cols)`` multiply-adds on each core, padding left out.
        routes: the routing paths and their colours, of the lines of axis 0 and of axis 1.
        bends: ``(rows, cols)`` further paths through each router, of messages that turn a corner.
    """

    schedule: Schedule
    itemsize: int
    accumulator: int
    step_hops: np.ndarray
    step_stages: np.ndarray
    link_words: np.ndarray
    link_bytes: np.ndarray
    link_messages: np.ndarray
    words: int
    bytes: int
    messages: int
    macs: np.ndarray
    routes: tuple[Routes, Routes]
    bends: np.ndarray

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
        most = self.link_words.sum(dtype=float)
        return int(self.link_words.sum(dtype=np.int64 if most < 2**62 else object))

    @cached_property
    def colours_per_core(self) -> np.ndarray:
        """``(rows, cols)`` distinct routing paths through each core's router, of both axes."""
        along_y, along_x = self.routes
        return along_x.touching() + along_y.touching().T + self.bends

    @property
    def colours(self) -> int:
        """Colours that the busiest router needs (with bends there may be more in use at once: it is a lower bound)."""
        return int(self.colours_per_core.max())

    @property
    def words_per_core(self) -> int:
        """Elements of all buffers of a core, double buffers counted twice; the same on every core."""
        return sum(self._resident().values())

    @property
    def peak_bytes_per_core(self) -> int:
        """Bytes of all buffers of a core at once."""
        return sum(n * (self.itemsize if self.schedule.stored(name) else self.accumulator)
                   for name, n in self._resident().items())  # fmt: skip

    def _resident(self) -> dict[str, int]:
        sizes = {}
        for name, held in self.schedule.buffers.items():
            h, w = self.schedule.tile(name)
            sizes[name] = h * w * held.copies * self.schedule.slots(name)
        return sizes

    def _longest(self, step: Step) -> int:
        """Bytes of the longest message of a step: messages of one axis follow each other, the axes go in parallel."""
        sizes: dict[object, int] = {}
        for move in step.moves:
            axis = getattr(move.route, "axis", None)
            sizes[axis] = sizes.get(axis, 0) + self._bytes(move)
        return max(sizes.values(), default=0)

    def _bytes(self, move: Move) -> int:
        """Bytes of one message of a move."""
        return self.schedule.words(move) * (self.itemsize if self.schedule.stored(move.buffer) else self.accumulator)

    def _messages(self, step: Step) -> int:
        """Messages of a step that a core handles one after the other: moves along one axis."""
        axes = [getattr(move.route, "axis", None) for move in step.moves]
        return max((axes.count(axis) for axis in axes), default=0)

    def _streams(self, step: Step) -> int:
        """Bytes of reductions of what a step computes that only the end reads: no core waits for such a sum."""
        written = {operation.into for operation in step.compute}
        return sum(self._bytes(move) for move in step.moves
                   if isinstance(move.route, Reduce) and self.mesh.shape[move.route.axis] > 1
                   and move.buffer in written and move.target not in self._read)  # fmt: skip

    @cached_property
    def _read(self) -> set[str]:
        """Buffers that a step computes with or sends."""
        found: set[str] = set()
        for step in _flat(self.schedule.program, lambda step: step):
            found |= {move.buffer for move in step.moves}
            for operation in step.compute:
                found |= {operation.left, operation.right} if isinstance(operation, Multiply) else {operation.source}
        return found

    def _products(self, step: Step) -> list[list[int]]:
        """``[m, k, n]`` of each local product of a step."""
        products = []
        for operation in step.compute:
            if isinstance(operation, Multiply):
                (m, k), right = self.schedule.tile(operation.left), self.schedule.tile(operation.right)
                products.append([m, k, right[0] if operation.transposed else right[1]])
        return products

    def between(self, ranks: int | tuple[int, int]) -> np.ndarray:
        """Bytes that go from rank to rank where processes share out the cores: see `meshkernels.engines`.

        A tile goes once to each rank that has cores to receive it. Laying out operands that lie otherwise, before the
        schedule begins, is not in it.

        Args:
            ranks: how many, or a grid ``(down, across)`` of them, as `Mesh` takes it.

        Returns:
            ``(ranks, ranks)`` bytes [from, to].

        Raises:
            MeshError: ranks that do not fit on the mesh.

        Examples:
            >>> from meshkernels import Mesh, schedule
            >>> count(schedule("meshgemm", Mesh(4), 8, 8, 8), "float32").between(2).tolist()
            [[0, 256], [256, 0]]
        """
        from meshkernels.engines.cut import between

        return between(self, ranks)

    def per_rank(self, ranks: int | tuple[int, int]) -> dict[str, Any]:
        """Counts of each process where processes share out the cores, as `perfmodel.on_ranks` takes them.

        Args:
            ranks: how many, or a grid ``(down, across)`` of them, as `Mesh` takes it.

        Returns:
            ``macs``, ``bytes_sent``, ``bytes_received``, ``messages_sent`` and ``messages_received``, ``(ranks,)``
            each; ``rounds``: messages that may wait for each other; ``algorithm`` and ``ranks``.

        Raises:
            MeshError: ranks that do not fit on the mesh.

        Examples:
            >>> from meshkernels import Mesh, schedule
            >>> found = count(schedule("meshgemm", Mesh(4), 8, 8, 8), "float32").per_rank(2)
            >>> found["bytes_sent"].tolist(), found["macs"].tolist()
            ([256, 256], [256, 256])
        """
        from meshkernels.engines.cut import per_rank

        return per_rank(self, ranks)

    @property
    def imbalance(self) -> float:
        """Multiply-adds of the busiest core over the mean; 1.0 is perfect balance."""
        mean = self.macs.mean()
        return float(self.macs.max() / mean) if mean else 1.0

    def summary(self) -> dict[str, int | float | str]:
        """The counts as plain numbers, for tables and JSON.

        Returns:
            Numbers by name; the algorithm is a text.
        """
        return {
            "algorithm": self.schedule.name, "rows": self.mesh.rows, "cols": self.mesh.cols, "steps": self.steps,
            "critical_hops": self.critical_hops, "hops_per_step": self.hops_per_step, "stages": self.stages,
            "words": self.words, "word_hops": self.word_hops, "peak_bytes_per_core": self.peak_bytes_per_core,
            "colours": self.colours, "macs": int(self.macs.sum()), "imbalance": self.imbalance,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Everything counted, as plain numbers and lists: `summary`, and what it is made of.

        Returns:
            What `json.dumps` takes.
        """
        return self.summary() | {
            "bytes": self.bytes, "messages": self.messages, "itemsize": self.itemsize, "accumulator": self.accumulator,
            "step_hops": self.step_hops.tolist(), "step_stages": self.step_stages.tolist(),
            "step_bytes": _flat(self.schedule.program, self._longest),
            "step_messages": _flat(self.schedule.program, self._messages),
            "step_streams": _flat(self.schedule.program, self._streams),
            "step_products": _flat(self.schedule.program, self._products),
            "macs_per_core": self.macs.tolist(), "colours_per_core": self.colours_per_core.tolist(),
            "links": {what: dict(zip(_DIRECTIONS, array.tolist())) for what, array in self._links().items()},
            "words_per_buffer": self._resident(),
        }  # fmt: skip

    def to_frame(self, of: str = "cores") -> Any:
        """The counts as a DataFrame of pandas.

        Args:
            of: "cores": a row for each core, with what leaves it in each direction; "steps": a row for each step.

        Returns:
            The frame: indexed by (row, column), or by the number of the step.

        Raises:
            MeshError: another word.
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as missing:
            raise MissingExtra("pandas", missing) from None
        if of == "steps":
            of_steps = {"bytes": self._longest, "messages": self._messages}
            found = {name: _flat(self.schedule.program, count) for name, count in of_steps.items()}
            frame = pandas.DataFrame({"hops": self.step_hops, "stages": self.step_stages, **found})
            return frame.rename_axis("step")
        if of != "cores":
            raise MeshError(f"of = {shown(of)}: a frame has a row for each of the \"cores\" or of the \"steps\"")
        links = {f"{what}_{direction}": array[i].ravel() for what, array in self._links().items()
                 for i, direction in enumerate(_DIRECTIONS)}  # fmt: skip
        index = pandas.MultiIndex.from_product([range(self.mesh.rows), range(self.mesh.cols)], names=["row", "column"])
        return pandas.DataFrame({"macs": self.macs.ravel(), "colours": self.colours_per_core.ravel(), **links}, index)

    def _links(self) -> dict[str, np.ndarray]:
        return {"words": self.link_words, "bytes": self.link_bytes, "messages": self.link_messages}

    def __str__(self) -> str:
        return tables.tree(self.summary())

    def __repr__(self) -> str:
        return (f"Ledger({self.schedule.name} on {self.mesh.rows} x {self.mesh.cols} cores: {self.steps} steps, "
                f"{self.critical_hops} hops, {self.words} words)")

    def _repr_html_(self) -> str:
        return tables.html(repr(self), self.summary().items())


def _flat(program: tuple[Step | Repeat, ...], of: Callable[[Step], Any]) -> list[Any]:
    """``of(step)`` for every step that a program runs, repeats written out."""
    found: list[Any] = []
    for node in program:
        found += [of(node)] if isinstance(node, Step) else _flat(node.body, of) * node.times
    return found


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


def count(schedule: Schedule, dtype: np.typing.DTypeLike = np.float16,
          accumulate: np.typing.DTypeLike | None = None) -> Ledger:  # fmt: skip
    """Count what ``schedule`` does.

    Args:
        schedule: any schedule.
        dtype: of the stored elements; float16 is the wafer's.
        accumulate: dtype of sums; None: the same.

    Returns:
        Exact counts.

    Raises:
        MeshTypeError: no schedule.
        ScheduleError: one that does not compute its task, or one so large that its counts would not be exact: 2^53
            bytes sent, or 2^63 multiply-adds.
    """
    if not isinstance(schedule, Schedule):
        raise MeshTypeError(f"count counts a Schedule, not {type(schedule).__name__}")
    check(schedule)
    stored, summed = np.dtype(dtype).itemsize, np.dtype(accumulate or dtype).itemsize
    _require_countable(schedule)
    tally = _Tally(schedule, stored, summed)
    hops, stages = tally.program(schedule.program)
    factors = schedule.proof.macs
    macs = walked_macs(schedule) if factors is None else np.ones(schedule.mesh.shape, np.int64)
    for factor in factors or ():
        macs = macs * factor
    return Ledger(
        schedule, stored, summed, hops, stages, *tally.links(),  # type: ignore[call-arg, arg-type]
        *tally.sent, macs, tally.routes(), tally.bends(),
    )  # fmt: skip


def _require_countable(schedule: Schedule) -> None:
    """Refuse 2^63 multiply-adds, padding and whatever is computed twice included."""
    if schedule.task.kind not in ("product", "product_t"):
        return
    (M, N), K = schedule.result.shape, schedule.operands[schedule.task.operands[0]].shape[1]
    (m, n), k = schedule.result.tile, schedule.operands[schedule.task.operands[0]].tile[1]
    macs = schedule.mesh.cores * _products(schedule.program) * m * k * n
    if macs >= 1 << 63:
        raise ScheduleError(f"{schedule.name}: a product of {M} x {K} x {N} takes {macs} multiply-adds; fewer than "
                            "2^63 can be counted")  # fmt: skip


def _products(program: Sequence[Step | Repeat]) -> int:
    return sum(node.times * _products(node.body) if isinstance(node, Repeat) else
               sum(isinstance(op, Multiply) for op in node.compute) for node in program)  # fmt: skip


class _Tally:
    """Counts of a program: every pattern of a line once, weighed with what the lines send by it."""

    def __init__(self, schedule: Schedule, stored: int, summed: int):
        self.schedule, self.mesh = schedule, schedule.mesh
        self.width = {name: stored if schedule.stored(name) else summed for name in schedule.buffers}
        self.axes = (_Axis(self.mesh, 0), _Axis(self.mesh, 1))
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


class _Axis:
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
