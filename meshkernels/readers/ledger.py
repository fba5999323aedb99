"""The ledger: what a schedule makes the mesh do, counted from the schedule itself.

Counting is by symmetry, in `traffic`. A mesh of 720 x 720 cores takes about a second; tests hold the counts equal to a
message-by-message count on small meshes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from meshkernels.errors import MeshError, MeshTypeError, MissingExtra, ScheduleError, shown
from meshkernels.mesh import Mesh
from meshkernels.readers.traffic import Routes, Tally, walked_macs
from meshkernels.schedules.check import check
from meshkernels.schedules.routes import Reduce
from meshkernels.schedules.steps import Move, Multiply, Repeat, Schedule, Step
from perfmodel import tables
from perfmodel.values import ByValue

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
            (`traffic.EAST`, ...).
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
    tally = Tally(schedule, stored, summed)
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
