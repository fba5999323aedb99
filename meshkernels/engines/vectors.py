"""A product of a vector and a matrix on ranks, prepared once for a weight that stays.

Where a schedule sums and broadcasts whole vectors along the lines of one axis, as a K-tree does, all lines do the same.
The cores of a rank are then a rectangle: *places* along the axis times lines. The partial sums of one place, those of
all lines of the rank side by side, are one *row* here, and what the schedule does to the cores of a line is done to
rows. Messages are the schedule's: as many, of as many bytes, between the same ranks. What is added before the first
message is added by the product's kernel, panel by panel.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from meshkernels.engines.distribution import Distribution
from meshkernels.engines.plan import home, plan
from meshkernels.errors import MeshError
from meshkernels.kernels.gemv import Sums
from meshkernels.kernels.reduce import combine_in_order
from meshkernels.kernels.resident import Columns
from meshkernels.readers import fused
from meshkernels.schedules import Multicast, SplitSum
from meshkernels.schedules.steps import Schedule, unrolled


class Rectangle(NamedTuple):
    """The cores of a rank, and the part of a weight ``(K, N)`` that lies on them.

    Attributes:
        axis: along which partial sums are added up: 0 = y, 1 = x.
        places: ``(first, end)`` of the rank's cores along the axis.
        lines: ``(first, end)`` across it.
        tile: ``(h, w)`` of the weight on one core.
    """

    axis: int
    places: tuple[int, int]
    lines: tuple[int, int]
    tile: tuple[int, int]

    @property
    def rows(self) -> range:
        """Rows of the weight, those that pad the last tile included."""
        return range(self.places[0] * self.tile[0], self.places[1] * self.tile[0])

    @property
    def columns(self) -> range:
        """Columns of the weight, those that pad the last tile included."""
        return range(self.lines[0] * self.tile[1], self.lines[1] * self.tile[1])


def rectangle(schedule: Schedule, on: Distribution, rank: int | None = None) -> Rectangle | None:
    """Where a rank stands in a product that can be prepared.

    Args:
        schedule: a product of a vector and a matrix.
        on: the ranks.
        rank: which; None: this one.

    Returns:
        Its cores. None, on all ranks, where the schedule does anything else or leaves the result on some cores only,
        or where ranks are no grid.
    """
    order = schedule.proof.order
    if on.cut.grid is None or not isinstance(order, SplitSum):
        return None
    if schedule.derived("sums", fused.whole_vector_sums) is None or not _everywhere(schedule, order.axis):
        return None
    name = schedule.task.operands[1]
    tiling, blocks = schedule.operands[name], home(schedule, name)
    place, line = _places(schedule, np.arange(schedule.mesh.cores), order.axis)
    if blocks.shape[1] != 1 or not np.array_equal(blocks[:, 0], place * tiling.grid[1] + line):
        return None  # a core has another block than that of its place and line
    own = on.cut.cores(on.ranks.rank if rank is None else rank)
    places, lines = ((int(part.min()), int(part.max()) + 1) for part in (place[own], line[own]))
    return Rectangle(order.axis, places, lines, tiling.tile)


def _places(schedule: Schedule, cores: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Places along an axis, and lines, of cores."""
    y, x = np.divmod(cores, schedule.mesh.cols)
    return (y, x) if axis == 0 else (x, y)


def _everywhere(schedule: Schedule, axis: int) -> bool:
    """Whether all cores of a line have the result in the end."""
    size = schedule.mesh.length(axis)
    lies = np.arange(size)
    for step, t, s in unrolled(schedule.program):
        for move in step.moves:
            if isinstance(move.route, Multicast) and move.route.axis == axis and move.buffer == schedule.collect.buffer:
                named = move.route.along(int(move.route.phases(schedule.mesh, t, s)[0]), size)
                lies = np.where(named >= 0, lies[named], lies)
    return bool((lies == lies[0]).all())


class Send(NamedTuple):
    """Rows that go to another rank in one message."""

    peer: int
    rows: list[int]


class Take(NamedTuple):
    """Rows that come from another rank in one message, side by side."""

    peer: int
    rows: list[int]


class Add(NamedTuple):
    """Rows that others are added to, one after the other."""

    dst: list[int]
    src: list[int]


Action = Send | Take | Add


def _rows(action: Action) -> list[int]:
    return action.dst + action.src if isinstance(action, Add) else action.rows


def _renamed(action: Action, names: dict[int, int]) -> Action:
    if isinstance(action, Add):
        return Add([names[row] for row in action.dst], [names[row] for row in action.src])
    return action._replace(rows=[names[row] for row in action.rows])


def _program(schedule: Schedule, on: Distribution, where: Rectangle) -> tuple[list[Action], int]:
    """What this rank does with its rows.

    Returns:
        What follows the local products, and the row of the result. Rows are numbered by place; each that arrives has a
        number of its own.
    """
    y, x = _places(schedule, on.cut.cores(on.ranks.rank), where.axis)
    place, on_first, lines = y - where.places[0], x == where.lines[0], where.lines[1] - where.lines[0]
    todo: list[Action] = []
    lies = list(range(where.places[1] - where.places[0]))  # the row of the value that each place has
    rows = len(lies)

    def of(cores: np.ndarray) -> list[int]:
        """Places of those cores that are on the first line: other lines do the same."""
        return place[cores[on_first[cores]]].tolist()

    def take(peer: int, count: int) -> list[int]:
        nonlocal rows
        rows += count
        todo.append(Take(peer, list(range(rows - count, rows))))
        return list(range(rows - count, rows))

    for stage in plan(schedule, on.cut, on.ranks.rank, True).stages:
        for total in stage.sums:
            for sends, comes, (source, target) in total.rounds:
                todo += [Send(peer, of(cores)) for peer, cores in sends]
                todo += [Add(of(target), of(source))] if len(source) else []
                for peer, cores in comes:
                    came = take(peer, len(of(cores)))
                    todo.append(Add(of(cores), came))
        for value in stage.values:
            todo += [Send(peer, [lies[p] for p in of(cores)]) for peer, (cores, _) in value.sends]
            came = [row for peer, count in value.receives for row in take(peer, count // lines)]
            source, target, before = value.local[0], value.into[0], lies.copy()
            here, there = target[: len(source)], target[len(source) :]
            for p, q in zip(of(here), of(source)):
                lies[p] = before[q]
            pieces = value.which[on_first[there]]  # numbered among those of all lines, in the same order
            for p, piece in zip(of(there), np.searchsorted(np.unique(pieces), pieces)):
                lies[p] = came[piece]
    return todo, lies[0]


class Prepared:
    """Products of vectors with a weight of which each rank holds the part of its cores; making one is collective.

    Args:
        schedule: of the product; there is a `rectangle` for it.
        on: the ranks.
        where: that rectangle, of this rank.
        W: of the weight the rows ``where.rows`` and the columns ``where.columns``; what pads it is zero.
        accumulate: dtype of sums.
    """

    def __init__(self, schedule: Schedule, on: Distribution, where: Rectangle, W: Columns, accumulate: str):
        self._ranks, self._half, self._wire = on.ranks, accumulate == "float16", np.dtype(accumulate)
        self._K, self._N = schedule.operands[schedule.task.operands[1]].shape
        todo, result = _program(schedule, on, where)
        places = where.places[1] - where.places[0]
        begin = next((i for i, action in enumerate(todo) if not isinstance(action, Add)), len(todo))
        dst, src = ([row for action in todo[:begin] for row in getattr(action, part)] for part in Add._fields)
        used = sorted({result, *(row for action in todo[begin:] for row in _rows(action))})  # those of places first
        kept, names = [row for row in used if row < places], {row: i for i, row in enumerate(used)}
        self._sums = Sums(W, places, dst, src, kept, accumulate)
        self._todo = [_renamed(action, names) for action in todo[begin:]]
        self._rows, self._kept = np.zeros((len(used), len(where.columns)), np.float32), len(kept)
        self._result, self._own = names[result], where.rows
        self._x = np.zeros(len(where.rows), np.float32)

        def columns(rank: int) -> slice:
            other = rectangle(schedule, on, rank)
            assert other is not None
            return slice(*(min(end, self._N) for end in (other.columns.start, other.columns.stop)))

        down, across = np.divmod(np.arange(on.ranks.size), on.cut.grid[1])  # type: ignore[index]
        along = down if where.axis == 0 else across
        self._mine, self._others = columns(on.ranks.rank), [
            (int(rank), columns(int(rank))) for rank in np.flatnonzero(along == along[on.ranks.rank])
            if rank != on.ranks.rank]  # fmt: skip

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Multiply; collective.

        Args:
            x: K numbers, the same on every rank.

        Returns:
            ``(1, N)`` float32, on every rank.

        Raises:
            MeshError: another number of numbers: a hook may have put them there.
        """
        if x.size != self._K:
            raise MeshError(f"x {x.shape} times W ({self._K}, {self._N}): x must have {self._K} elements")
        ranks, rows, out = self._ranks, self._rows, np.empty((1, self._N), np.float32)
        coming = deque(self._expect(action) for action in self._todo if isinstance(action, Take))
        parts = [(out[0, part], ranks.receive_into(peer, out[0, part])) for peer, part in self._others]
        own = x.reshape(-1)[self._own.start : self._own.stop]
        self._x[: len(own)] = own
        self._sums(self._x, rows[: self._kept])
        for action in self._todo:
            if isinstance(action, Add):
                combine_in_order(rows, action.dst, action.src, half=self._half)
            elif isinstance(action, Send):
                ranks.send_from(action.peer, rows[action.rows].astype(self._wire, copy=False))
            else:
                request, message = coming.popleft()
                ranks.settle(request, message.nbytes)
                rows[action.rows] = message
        final = out[0, self._mine]
        final[:] = rows[self._result, : len(final)]
        for peer, _ in self._others:
            ranks.send_from(peer, final, "layout")
        for part, request in parts:
            ranks.settle(request, part.nbytes)
        ranks.finish()
        return out

    def _expect(self, take: Take) -> tuple[object, np.ndarray]:
        message = np.empty((len(take.rows), self._rows.shape[1]), self._wire)
        return self._ranks.receive_into(take.peer, message), message
