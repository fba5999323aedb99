"""What a block is made of: tensors in their places, operations, and the schedules that operations run.

A `Plan` is one list of operations. `meshkernels.llm.block` writes the list and runs it; here the same list is counted.
Products on different strips of heads run side by side (their words add up, their hops do not); repeats run one
after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from meshkernels.algorithms import gemv as vector
from meshkernels.api import schedule
from meshkernels.errors import MeshError
from meshkernels.kept import remember
from meshkernels.kernels import attention, ring
from meshkernels.kernels.program import at_once
from meshkernels.kernels.reduce import combine
from meshkernels.kernels.resident import Columns
from meshkernels.kernels.storage import STORAGES
from meshkernels.kernels.team import Team
from meshkernels.llm.footprint import Footprint, Storages
from meshkernels.llm.layout import Layout, Placement
from meshkernels.llm.ranks import Share
from meshkernels.mesh import Mesh, ceil_div
from meshkernels.readers import fused
from meshkernels.readers.ledger import count
from meshkernels.schedules import RingOrder, Schedule, verify

#: Bytes of numbers that a stored weight is widened to at a time, for a product with a matrix: they fit a large L3.
SLAB = 32 << 20


@dataclass(frozen=True)
class Work:
    """Counts of one operation, or of several one after the other.

    Attributes:
        steps: steps of all schedules.
        hops, stages: links and software-handled stages on the critical path.
        words: elements sent (padding included).
        macs: multiply-adds of all cores together.
        buffers: bytes per core that the operation needs besides what is resident.
        all_reduces: all-reduces, a GEMV's own included.
    """

    steps: int = 0
    hops: int = 0
    stages: int = 0
    words: int = 0
    macs: int = 0
    buffers: int = 0
    all_reduces: int = 0

    def __add__(self, other: Work) -> Work:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Work(**sums | {"buffers": max(self.buffers, other.buffers)})

    def times(self, repeats: int) -> Work:
        """The same, ``repeats`` times over."""
        return Work(**{f.name: getattr(self, f.name) * repeats for f in fields(self)} | {"buffers": self.buffers})


@dataclass(frozen=True)
class Scheduled:
    """A schedule where it stands in a block; it runs and counts itself.

    Attributes:
        mesh: the cores that it runs on: the whole mesh, or one strip of heads.
        shape: ``(M, K, N)`` of a matrix product, ``(K, N)`` of a GEMV, ``(words,)`` per core of an all-reduce.
        axis: the axis that a GEMV or an all-reduce sums along: 0 = y, 1 = x; None for a matrix product.
        algorithm: the name of what builds it.
        op: "add", or "max" or "logsumexp" of an all-reduce.
        copies: side by side on different strips, all at work at once.
        repeats: one after the other on the same cores.
        stacked: blocks one below the other on every core: left operands of a matrix product, each of M rows, or the
            softmax states of an all-reduce.
        skewed: operands of MeshGEMM, or the result of its transposed form, that lie as a product leaves them.
    """

    mesh: Mesh
    shape: tuple[int, ...]
    axis: int | None = None
    algorithm: str = "ktree"
    op: str = "add"
    copies: int = 1
    repeats: int = 1
    stacked: int = 1
    skewed: str = ""

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule itself, built when it is first asked for, and verified."""
        shape = self.shape
        if self.stacked > 1 and self.multiplies:
            shape = (self.stacked * self.mesh.rows * ceil_div(shape[0], self.mesh.rows), *shape[1:])
        return _built(self.mesh, shape, self.axis, self.algorithm, self.op, self.stacked, self.skewed)

    @property
    def multiplies(self) -> bool:
        """Whether it is a product, not an all-reduce alone."""
        return len(self.shape) > 1

    @property
    def weight_copies(self) -> int:
        """Tiles of a product's right operand that a core has room for: 2 where they move."""
        return self.schedule.buffers[self.schedule.task.operands[1]].copies

    @property
    def cores(self) -> int:
        """Cores on one line of the axis: so many partial values are combined."""
        assert self.axis is not None
        return self.mesh.length(self.axis)

    @property
    def collectives(self) -> tuple[tuple[str, str, int], ...]:
        """``(op, axis, words)`` of each all-reduce: axis "y" or "x", elements per core."""
        if self.axis is None:
            return ()
        return ((self.op, "yx"[self.axis], self.schedule.result.words),) * self.repeats

    @cached_property
    def order(self) -> tuple[np.ndarray, np.ndarray, int]:
        """The order of its additions, ``(dst, src, root)``, as derived from its moves.

        ``partial[dst[i]] += partial[src[i]]`` for i = 0, 1, ..; then ``partial[root]`` is the sum. Whole vectors are
        streamed: whatever their length (that of a cache grows), their order is this one.

        Returns:
            Places on a line of the axis.
        """
        found = self.schedule.derived("sums", fused.whole_vector_sums)
        assert found is not None, "a K-tree streams whole vectors"
        dst, src, root = found
        return np.ascontiguousarray(dst), np.ascontiguousarray(src), int(root[0])

    def combine(self, partials: np.ndarray, half: bool = False, do: Callable[..., None] = at_once) -> np.ndarray:
        """Run an all-reduce of sums or maxima: partial values ``(cores, n)`` -> ``(n,)``.

        Args:
            partials: one of each core of a line; used up.
            half: round every sum to float16.
            do: calls the kernel, or records the call.

        Returns:
            The values that every core of the line ends with.

        Raises:
            MeshError: partial values of another number of cores.
        """
        dst, src, root = self.order
        shaped("partials", partials, self.cores, partials.shape[1])
        do(combine, partials, 0, partials.shape[1], dst, src, self.op == "max", half)
        return partials[root]

    def multiply(self, A: np.ndarray, B: np.ndarray | Columns, accumulate: str = "float32") -> np.ndarray:
        """Run a matrix product: float32 operands of the schedule's shapes -> ``(M, N)``.

        A may be n left operands, one below the other: ``(n M, K)`` -> ``(n M, N)``. Stacked ones are all given:
        n = ``stacked``.

        Args:
            A: ``(M, K)``, or n of them.
            B: ``(K, N)``, or ``(N, K)`` of a product with a transpose.
            accumulate: dtype of sums.

        Returns:
            The product.

        Raises:
            MeshError: operands of another shape or dtype: a hook may have put them there.
        """
        left, (M, K), right, shape = self._operands
        n = self.stacked if self.stacked > 1 else max(1, len(A) // M)
        shaped(left, A, n * M, K)
        shaped(right, B, *shape)
        order = self.schedule.proof.order
        if not isinstance(order, RingOrder):
            return fused.run(self.schedule, {left: A, right: B}, np.dtype(accumulate))
        if n > 1:
            order = _in_turn(order, self.mesh.rows, M, n)
        if isinstance(B, np.ndarray) and self.schedule.task.kind == "product_t":
            B = B.T
        if not isinstance(B, Columns) or 4 * B.shape[0] * B.shape[1] <= SLAB:
            return ring.ring_product(A, B, order, accumulate=accumulate)
        C, start = np.zeros((len(A), shape[1]), np.float32), order.col_start[np.arange(shape[1]) // order.col_tile]
        for columns, slab in B.slabs(SLAB):
            own = replace(order, col_start=start[columns], col_tile=1)
            C[:, columns] = ring.ring_product(A, slab, own, accumulate=accumulate)
        return C

    def prepared(self, W: Columns | Share, team: Team, accumulate: str = "float32") -> Callable[..., np.ndarray]:
        """A product prepared for one weight.

        Args:
            W: ``(K, N)``, referred to, not copied; or a rank's share of it.
            team: the threads of a GEMV.
            accumulate: dtype of sums.

        Returns:
            A function ``(M, K) -> (M, N)``, M = 1 for a GEMV; its second argument, where kernels shall not be called
            at once, is what calls or records them.
        """
        if isinstance(W, Share):
            # the sum of squares, one more column of a fused product, is not sent: every rank computes it
            used = self if self.axis is None else replace(self, shape=W.shape)
            by_ranks = W.product(used.schedule, accumulate)
            return lambda X, do=at_once: by_ranks(X)
        if self.axis is None:
            return lambda X, do=at_once: self.multiply(X, W, accumulate)
        product = team.product(W, self.cores, *self.order, accumulate == "float16")

        def gemv(x: np.ndarray, do: Callable[..., None] = at_once) -> np.ndarray:
            x, out = np.ascontiguousarray(x, np.float32), np.zeros((1, product.N), np.float32)
            team.run(product, x, out, do)
            return out

        return gemv

    def passing_by(self, partials: np.ndarray, half: bool = False, do: Callable[..., None] = at_once) -> np.ndarray:
        """Add up what rides along with the left operand: partial values of its tiles -> sums ``(M, 1 or cols)``.

        Args:
            partials: ``(blocks, M)``. The all-reduce of a GEMV adds them up; in a matrix product every core does, as
                the tiles pass by, in the order in which they do.
            half: round every sum to float16.
            do: calls the kernel, or records the call.

        Returns:
            The sums: one for all cores of a line, or one for each column of cores.

        Raises:
            MeshError: partial values of other tiles than the schedule's.
        """
        if self.axis is not None:
            return self.combine(partials, half, do)[:, None]
        if len(partials) == 1:  # nothing passes by
            return partials.T
        order = self.schedule.proof.order
        assert isinstance(order, RingOrder)
        blocks, rows = len(order.blocks), len(order.row_start) * order.row_tile
        if len(partials) != blocks or partials.shape[1] > rows:
            raise MeshError(f"partial values {partials.shape}; {blocks} tiles pass by, and cores hold {rows} rows")
        return attention.ring_sums(partials, order.blocks, order.row_start, order.col_start, order.row_tile, half)

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """``(length, blocks)`` of the contraction of the left operand, as the cores hold it."""
        left = next(iter(self.schedule.operands.values()))
        return left.tile[1], left.grid[1]

    @cached_property
    def _operands(self) -> tuple[str, tuple[int, int], str, tuple[int, int]]:
        """Names and shapes of both; the left one is one of those that are stacked, without what pads it."""
        (left, a), (right, b) = self.schedule.operands.items()
        return left, (self.shape[0], a.shape[1]), right, b.shape

    def work(self, itemsize: int, accumulator: int) -> Work:
        """What it makes the mesh do; arguments as of `Plan.ledger`."""
        one = _counted(replace(self, copies=1, repeats=1), itemsize, accumulator)
        return replace(one, words=one.words * self.copies, macs=one.macs * self.copies).times(self.repeats)


def shaped(name: str, array: Any, *shape: int) -> Any:
    """``array``, if it is as compiled code expects it, which checks no index; a hook may have put another there."""
    if array.shape != shape or array.dtype != np.float32:
        raise MeshError(f"{name} is {array.dtype} {array.shape}; it must be float32 {shape}")
    return np.ascontiguousarray(array)


@remember
def _in_turn(order: RingOrder, rows: int, M: int, n: int) -> RingOrder:
    """The order of n left operands ``(M, K)`` as they lie on the host: one whole operand below the other."""
    start = order.row_start[np.arange(M) // ceil_div(M, rows)]
    return replace(order, row_start=np.tile(start, n), row_tile=1)


@remember
def _built(mesh: Mesh, shape: tuple[int, ...], axis: int | None, algorithm: str, op: str, stacked: int,
           skewed: str) -> Schedule:  # fmt: skip
    if len(shape) == 1:
        found = vector.allreduce(mesh, *shape, axis=axis or 0, reduce=algorithm, op=op, height=stacked)
    else:
        options = {"axis": axis} if axis is not None else {"skewed": skewed} if skewed else {}
        found = schedule(algorithm, mesh, *shape, **options)
    verify(found)
    return found


@lru_cache(maxsize=512)
def _counted(scheduled: Scheduled, itemsize: int, accumulator: int) -> Work:
    stored = itemsize if scheduled.multiplies else accumulator  # an all-reduce alone combines sums
    ledger = count(scheduled.schedule, f"float{8 * stored}", f"float{8 * accumulator}")
    return Work(ledger.steps, ledger.critical_hops, ledger.stages, ledger.words, int(ledger.macs.sum()),
                ledger.peak_bytes_per_core, int(scheduled.axis is not None))


@dataclass(frozen=True)
class Passing:
    """Neighbours along y that pass words on, all at once: what appending to the cache moves; see `KVCache`."""

    words: int
    algorithm = "KV shift"
    axis = None
    multiplies = False
    repeats = 1
    collectives = ()

    def work(self, itemsize: int, accumulator: int) -> Work:
        """One step and one hop, if anything moves."""
        return Work(steps=int(self.words > 0), hops=int(self.words > 0), words=self.words)


@dataclass(frozen=True)
class Riding:
    """Words that travel with the messages of the operation's schedule: no step, no hop and no message more.

    Attributes:
        along: a schedule that moves as many words.
        less: one that moves the part of them that is counted elsewhere.
    """

    along: Scheduled
    less: Scheduled | None = None
    algorithm = "riding"
    axis = None
    multiplies = False
    repeats = 1
    collectives = ()

    def work(self, itemsize: int, accumulator: int) -> Work:
        """Its words."""
        both = [used.work(itemsize, accumulator).words if used else 0 for used in (self.along, self.less)]
        return Work(words=both[0] - both[1])


@dataclass(frozen=True, eq=False)
class Operation:
    """One line of a block: a local function, and the schedules that it runs.

    Attributes:
        name: what is computed, unique within its list.
        do: ``do(run, *operands, *schedules) -> results``; see `meshkernels.llm.block`.
        reads, writes: names of the tensors that it reads and writes; `Plan.placements` declares them.
        schedules: what moves, in order.
    """

    name: str
    do: Callable[..., Any]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    schedules: tuple[Scheduled | Passing | Riding, ...] = ()


@dataclass(frozen=True)
class Line:
    """One operation's line in the ledger of a block.

    Attributes:
        name: the operation.
        work: its counts.
        collectives: ``(op, axis, words)`` of each all-reduce: axis "y" or "x", elements per core.
    """

    name: str
    work: Work
    collectives: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Plan:
    """All operations of one phase.

    Attributes:
        phase: "prefill" or "decode".
        layout: the model's dimensions on the mesh.
        tokens: sequence length that lengths are given for: the prompt's, or the cache's including this token.
        before, layer, after: operations before the blocks (embedding), of each block, and after them.
        placements: what every tensor is and where it lives, by name.
        name: "paper" or "fused".
    """

    phase: str
    layout: Layout
    tokens: int
    before: tuple[Operation, ...]
    layer: tuple[Operation, ...]
    after: tuple[Operation, ...]
    placements: dict[str, Placement]
    name: str = "paper"

    @property
    def all_reduces(self) -> int:
        """All-reduces in one block."""
        return sum(len(used.collectives) for op in self.layer for used in op.schedules)

    @cached_property
    def stored(self) -> dict[str, int]:
        """Tensors that stay on the mesh, and how many there are of each: one a block, or one in all."""
        in_block = {name for op in self.layer for name in (*op.reads, *op.writes)}
        return {name: self.layout.config.blocks if name in in_block else 1
                for name, place in self.placements.items() if place.kind != "activation"}

    def weights(self, op: Operation) -> tuple[str, ...]:
        """The weights among an operation's operands."""
        return tuple(name for name in op.reads if self.placements[name].kind not in ("activation", "cache"))

    def matrices(self, op: Operation) -> tuple[str, ...]:
        """The weights that an operation multiplies by."""
        if not any(used.multiplies for used in op.schedules):
            return ()
        return tuple(name for name in self.weights(op) if self.placements[name].kind in ("weights", "table"))

    def entering(self, operations: Sequence[Operation]) -> set[str]:
        """The activations that a list finds there when it begins."""
        found, written = set[str](), set[str]()
        for op in operations:
            found |= set(op.reads) - written
            written |= set(op.writes)
        return found - set(self.stored)

    # -------------------------------------------------------------------------------------------------- counts
    def ledger(self, operations: Sequence[Operation] | None = None, itemsize: int = 2,
               accumulator: int = 2, storages: Storages | None = None) -> tuple[Line, ...]:
        """What every operation of a list makes the mesh do.

        Args:
            operations: the list; None: those of one block.
            itemsize: bytes of a stored element.
            accumulator: bytes of a sum.
            storages: of the model's tensors; None: they have elements of ``itemsize``.

        Returns:
            A line for each operation.
        """
        stored, found = None if storages is None else Footprint.of(self, storages), []
        for op in self.layer if operations is None else operations:
            work = sum((used.work(itemsize, accumulator) for used in op.schedules), Work())
            if names := self.matrices(op):  # resident, but for a second tile where they move
                tiles = sum(self.placements[name].words for name in names) * itemsize
                (used,) = op.schedules
                assert isinstance(used, Scheduled)
                copies = used.weight_copies
                moving = tiles if stored is None else stored.largest[names]
                work = replace(work, buffers=work.buffers - copies * tiles + (copies - 1) * moving)
            found.append(Line(op.name, work, sum((used.collectives for used in op.schedules), ())))
        return tuple(found)

    def total(self, itemsize: int = 2, accumulator: int = 2) -> Work:
        """Counts of the whole phase: embedding, all blocks, head; arguments as of `ledger`."""
        parts = [sum((line.work for line in self.ledger(part, itemsize, accumulator)), Work())
                 for part in (self.before, self.layer, self.after)]
        return parts[0] + parts[1].times(self.layout.config.blocks) + parts[2]

    def resident(self, itemsize: int = 2, storages: Storages | None = None) -> dict[str, int]:
        """Bytes of what stays on the fullest core, by kind: weights of all blocks, norms, biases, the table, the cache.

        Args:
            itemsize: bytes of a stored element.
            storages: of the model's tensors; None: they have elements of ``itemsize``.

        Returns:
            The bytes of each kind.
        """
        found: dict[str, int] = {}
        of_vectors = itemsize if storages is None else STORAGES[storages["output_norm.weight"]].nbytes
        for name, times in self.stored.items():
            place = self.placements[name]
            width = of_vectors if place.kind in ("norms", "biases") else itemsize
            found[place.kind] = found.get(place.kind, 0) + times * place.words * width
        if storages is not None:
            stored = Footprint.of(self, storages)
            core = stored.fullest
            found["weights"] = int(stored.held(range(len(stored.blocks)))[core])
            found["table"] = int(stored.table[core])
        return found

    def peak_bytes(self, itemsize: int = 2, accumulator: int = 2, storages: Storages | None = None) -> int:
        """Bytes on the fullest core: what is resident, and the most that an operation needs and others keep alive.

        An operation's own operands are part of its schedule's buffers where it has one product; where it has a
        product per head, those of all heads are there besides the one at work.

        Args:
            itemsize: bytes of a stored element.
            accumulator: bytes of a sum.
            storages: of the model's tensors; None: they have elements of ``itemsize``.

        Returns:
            The bytes.
        """
        needs = [self.working_bytes(operations, itemsize, accumulator, storages)
                 for operations in (self.before, self.layer, self.after)]
        return sum(self.resident(itemsize, storages).values()) + max(needs)

    def working_bytes(self, operations: Sequence[Operation], itemsize: int = 2, accumulator: int = 2,
                      storages: Storages | None = None) -> int:
        """The most bytes per core that an operation of a list needs, and others keep alive, beside what is resident.

        Args:
            operations: the list.
            itemsize: bytes of a stored element.
            accumulator: bytes of a sum.
            storages: of the model's tensors; None: they have elements of ``itemsize``.

        Returns:
            The bytes.
        """
        needs, carried = [0], self.entering(operations)
        for i, (op, line) in enumerate(zip(operations, self.ledger(operations, itemsize, accumulator, storages))):
            alive = carried & {name for later in operations[i + 1 :] for name in later.reads}
            own = {*op.reads, *op.writes}
            whole = any(used.multiplies and used.repeats == 1 for used in op.schedules)
            there = (alive - own if whole else alive | own) - set(self.stored)
            needs.append(line.work.buffers + sum(self.placements[name].words * itemsize for name in there))
            carried = alive | set(op.writes)
        return max(needs)
