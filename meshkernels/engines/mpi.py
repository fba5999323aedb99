"""Run a schedule on the ranks of a mesh: what crosses from rank to rank is a message, everything else a local move.

A rank keeps the tiles that its cores hold, each once however many of its cores hold it, and hands them from core to
core by number. In every step it posts the messages of tiles, computes, and takes what has arrived. Two ways to compute,
the same bits: core by core in each step, overlapped with that step's messages (``"lockstep"``: a rank never holds more
than its cores do), or all the steps of its cores as one product when the last tile has arrived (``"fused"``: a rank
holds each tile that came by), where sums stay on their cores and each is a chain along a ring.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from meshkernels.engines.cut import Cut, crossing
from meshkernels.engines.matrix import DistMatrix, Layout, fetch
from meshkernels.engines.messages import Messages, additions, messages, slots_of
from meshkernels.engines.ranks import Distribution, Incoming
from meshkernels.kernels import memory, ring
from meshkernels.kernels.reduce import combined
from meshkernels.mesh import Tiling, ceil_div
from meshkernels.readers import lockstep
from meshkernels.schedules import Index, Multiply, Reduce, RingOrder, Tiles, Values
from meshkernels.schedules.steps import Copy, Move, Schedule, Step, unrolled

#: Stages whose messages are expected before those of the one at hand have come, where nothing is computed in between.
AHEAD = 16
#: Bytes of a block from which on blocks are copied one by one.
LARGE = 16 << 10
Peers = list[tuple[int, np.ndarray]]


@dataclass
class TileMove:
    """Blocks of one operand that travel between this rank and others: ``[(rank, block ids)]``; -1: an empty slot.

    Attributes:
        needs: stages whose messages must have arrived before this can be sent: the last one that brought any of it.
    """

    operand: str
    sends: Peers
    receives: Peers
    needs: int = 0


@dataclass
class ValueMove:
    """Numbers that arrive on cores of this rank: from other cores of it first, then from other ranks.

    Attributes:
        sends: ``[(rank, (2, n): core and slot of each piece)]``.
        receives: ``[(rank, n)]`` pieces.
        local: ``(2, n)`` core and slot that each piece comes from within this rank.
        which: ``(m,)`` the received piece that each further arrival is.
        into: ``(2, n + m)`` core and slot of every arrival.
    """

    move: Move
    sends: Peers
    receives: list[tuple[int, int]]
    local: np.ndarray
    which: np.ndarray
    into: np.ndarray


@dataclass
class SumMove:
    """A `Reduce`: in each round some cores send their sums to other ranks, receive one, or add that of a core here.

    Attributes:
        rounds: ``[(sends, receives, (2, n): source and target)]``.
        slots: ``(cores,)`` the slot that is added up on each core; None: all.
        roots: ``(2, r)`` cores that get a sum, and in which slot.
    """

    move: Move
    rounds: list[tuple[Peers, Peers, np.ndarray]]
    slots: np.ndarray | None
    roots: np.ndarray


@dataclass
class Stage:
    """One step as a rank does it.

    Attributes:
        compute: each operation with the block ids that every core of this rank reads, ``(1 or 2, cores)``.
        kept: for each operand the ids of the blocks that cores of this rank hold after the step, where that changed.
    """

    tiles: list[TileMove] = field(default_factory=list)
    compute: list[tuple[Multiply | Copy, np.ndarray, Any]] = field(default_factory=list)
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    values: list[ValueMove] = field(default_factory=list)
    sums: list[SumMove] = field(default_factory=list)


@dataclass
class Plan:
    """A schedule as one rank does it.

    Attributes:
        home: for each operand ``(ranks, blocks)``: whether a core of each rank holds the block at first.
        touched: for each operand the blocks that this rank ever holds.
        result: which rank has each block of the result.
        collected: ``(3, n)`` core, slot and block of those of this rank, in the order of blocks.
        order: the order of summation if this rank can do all its steps as one product, else None.
    """

    stages: list[Stage]
    home: dict[str, np.ndarray]
    touched: dict[str, np.ndarray]
    result: Layout
    collected: np.ndarray
    order: RingOrder | None


class _Planner:
    """Follows every tile by its block's id, and keeps what concerns one rank."""

    def __init__(self, schedule: Schedule, cut: Cut, rank: int, stepping: bool):
        self.schedule, self.mesh, self.cut, self.rank = schedule, schedule.mesh, cut, rank
        self.own, self.owner, self.place = cut.cores(rank), cut.owner, cut.place
        self.held = {name: self._home(held) for name, held in schedule.buffers.items() if isinstance(held, Tiles)}
        self.order = None if stepping else self._one_product()

    def plan(self) -> Plan:
        home = {name: np.zeros((self.cut.ranks, tiling.grid[0] * tiling.grid[1]), bool)
                for name, tiling in self.schedule.operands.items()}  # fmt: skip
        for buffer, ids in self.held.items():
            operand, owner = self._operand(buffer), np.repeat(self.owner, ids.shape[1])
            home[operand][owner[ids.ravel() >= 0], ids[ids >= 0]] = True
        touched = {name: held[self.rank].copy() for name, held in home.items()}
        stages = []
        since = {name: np.zeros(len(held), np.int64) for name, held in touched.items()}  # stages before a block is here
        for step, t, s in unrolled(self.schedule.program):
            stages.append(self._stage(step, t, s))
            for move in stages[-1].tiles:
                move.needs = max((int(since[move.operand][ids[ids >= 0]].max(initial=0)) for _, ids in move.sends),
                                 default=0)  # fmt: skip
            for move in stages[-1].tiles:
                for _, ids in move.receives:
                    new = ids[ids >= 0]
                    new = new[~touched[move.operand][new]]
                    since[move.operand][new] = len(stages)
                    touched[move.operand][new] = True
        layout, collected = self._collect()
        return Plan(stages, home, {name: np.flatnonzero(each) for name, each in touched.items()}, layout, collected,
                    self.order)  # fmt: skip

    def _operand(self, buffer: str) -> str:
        return self.schedule.buffers[buffer].operand  # type: ignore[union-attr]

    def _home(self, tiles: Tiles) -> np.ndarray:
        """``(cores, depth)`` ids of the blocks that each core holds at first, or -1."""
        if tiles.home is None:
            return np.full((self.mesh.cores, tiles.depth), -1)
        down, across = tiles.home.at(self.mesh, tiles.depth)
        ids = np.where((down >= 0) & (across >= 0),
                       down.astype(np.int64) * self.schedule.operands[tiles.operand].grid[1] + across, -1)  # fmt: skip
        return np.broadcast_to(ids, (*self.mesh.shape, tiles.depth)).reshape(self.mesh.cores, -1).copy()

    def _stage(self, step: Step, t: int, s: int) -> Stage:
        stage = Stage()
        if self.order is None:
            for op in step.compute:
                pairs = ((op.left, op.left_slot), (op.right, op.right_slot)) if isinstance(op, Multiply) else (
                    (op.source, op.slot),)  # fmt: skip
                ids = np.stack([self.held[name][self.own, self._slots(slot, t, s)] for name, slot in pairs])
                piece = None if op.piece is None else self._slots(op.piece, t, s)
                stage.compute.append((op, ids, piece if piece is None or (piece != piece[0]).any() else int(piece[0])))
        arriving = []
        for move in step.moves:
            if isinstance(move.route, Reduce):
                stage.sums.append(self._sum(move, t, s))
                continue
            found = messages(move, self.mesh, self.schedule.slots(move.buffer), t, s)
            if move.buffer in self.held:
                ids = self.held[move.buffer][found.source, found.sent]
                stage.tiles.append(TileMove(self._operand(move.buffer), *self._between(found, ids)[:2]))
                arriving.append((move.target, found, ids))
            else:
                stage.values.append(self._values(move, found))
        changed = set()
        for target, found, ids in arriving:
            self.held[target][found.target, found.into] = ids
            changed.add(self._operand(target))
        if self.order is None:
            for operand in changed:
                kept = [held[self.own].ravel() for name, held in self.held.items() if self._operand(name) == operand]
                stage.kept[operand] = np.unique(np.concatenate(kept))
        return stage

    def _slots(self, value: int | Index, t: int, s: int) -> np.ndarray:
        return slots_of(value, self.mesh, t, s)[self.own]

    def _between(self, found: Messages, what: np.ndarray) -> tuple[Peers, Peers, np.ndarray, np.ndarray]:
        """What this rank sends and receives of ``what (..., n)`` that the messages carry.

        Returns:
            ``(sends, receives, place, entries)``: the entries that arrive from other ranks, and the place of each among
            all that this rank receives.
        """
        first, which, going = crossing(found, self.owner)
        source, target = self.owner[found.source[first]], self.owner[found.target[first]]
        sends = [(int(peer), what[..., first[(source == self.rank) & (target == peer)]])
                 for peer in np.unique(target[source == self.rank])]  # fmt: skip
        place, receives, total = np.full(len(first), -1), [], 0
        for peer in np.unique(source[target == self.rank]):
            coming = np.flatnonzero((source == peer) & (target == self.rank))
            place[coming] = total + np.arange(len(coming))
            total += len(coming)
            receives.append((int(peer), what[..., first[coming]]))
        here = self.owner[found.target[going]] == self.rank
        return sends, receives, place[which[here]], going[here]

    def _values(self, move: Move, found: Messages) -> ValueMove:
        pieces = np.stack([self.place[found.source], found.sent])
        sends, receives, which, coming = self._between(found, pieces)
        inside = np.flatnonzero((self.owner[found.source] == self.rank) & (self.owner[found.target] == self.rank))
        entries = np.concatenate([inside, coming])
        into = np.stack([self.place[found.target[entries]], found.into[entries]])
        counts = [(peer, part.shape[1]) for peer, part in receives]
        return ValueMove(move, sends, counts, pieces[:, inside], which, into)

    def _sum(self, move: Move, t: int, s: int) -> SumMove:
        assert isinstance(move.route, Reduce)
        adds = additions(move.route, self.mesh, t, s)
        from_rank, to_rank, rounds = self.owner[adds.source], self.owner[adds.target], []
        for number in range(1 + int(adds.round.max(initial=-1))):
            sends: Peers = []
            receives: Peers = []
            now = adds.round == number
            for peer in range(self.cut.ranks):
                if peer != self.rank:
                    going = np.sort(adds.source[now & (from_rank == self.rank) & (to_rank == peer)])
                    pairs = now & (from_rank == peer) & (to_rank == self.rank)
                    coming = adds.target[pairs][np.argsort(adds.source[pairs])]
                    sends += [(peer, self.place[going])] if len(going) else []
                    receives += [(peer, self.place[coming])] if len(coming) else []
            here = now & (from_rank == self.rank) & (to_rank == self.rank)
            inside = self.place[np.stack([adds.source[here], adds.target[here]])]
            if sends or receives or inside.size:
                rounds.append((sends, receives, inside))
        roots = adds.roots[self.owner[adds.roots] == self.rank]
        into = move.into_slot if move.into_slot is not None else move.slot
        where = np.zeros(len(roots), np.int64) if into is None else slots_of(into, self.mesh, t, s)[roots]
        return SumMove(move, rounds, None if move.slot is None else self._slots(move.slot, t, s),
                       np.stack([self.place[roots], where]))  # fmt: skip

    def _collect(self) -> tuple[Layout, np.ndarray]:
        collect, tiling = self.schedule.collect, self.schedule.result
        slots = 1 if collect.whole else self.schedule.slots(collect.buffer)
        down, across = (np.broadcast_to(part, (*self.mesh.shape, slots)).reshape(-1, slots).astype(np.int64)
                        for part in collect.place.at(self.mesh, slots))  # fmt: skip
        core, slot = np.nonzero((down >= 0) & (across >= 0))
        block = down[core, slot] * tiling.grid[1] + across[core, slot]
        owner = np.zeros(tiling.grid[0] * tiling.grid[1], np.int64)
        owner[block] = self.owner[core]
        mine = np.flatnonzero(self.owner[core] == self.rank)
        mine = mine[np.argsort(block[mine])]
        collected = np.stack([self.place[core[mine]], slot[mine], block[mine]])
        return Layout(tiling, tuple(owner.tolist())), collected

    def _one_product(self) -> RingOrder | None:
        """The order of this rank's own rows and columns, if every rank can do its steps as one product."""
        schedule, order = self.schedule, self.schedule.proof.order
        moved = {move.buffer for step, _, _ in unrolled(schedule.program) for move in step.moves}
        if not isinstance(order, RingOrder) or self.cut.grid is None or any(
                isinstance(schedule.buffers[name], Values) for name in moved):  # fmt: skip
            return None
        layout, _ = self._collect()
        owner = np.array(layout.owner).reshape(layout.tiling.grid)
        for rank in range(self.cut.ranks):
            mine = owner == rank
            if not np.array_equal(mine, mine.any(axis=1)[:, None] & mine.any(axis=0)):
                return None
        mine = owner == self.rank
        rows, cols = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
        return replace(order, row_start=order.row_start[rows], col_start=order.col_start[cols])


def plan(schedule: Schedule, cut: Cut, rank: int, stepping: bool) -> Plan:
    """What one rank does, worked out once for a schedule and a cut."""
    return schedule.derived(f"ranks {cut} {rank} {stepping}", lambda given: _Planner(given, cut, rank, stepping).plan())


class Pool:
    """Blocks of one operand that a rank holds now, each once.

    Attributes:
        array: ``(places, h, w)``.
        place: ``(blocks,)`` where each block lies, or -1.
    """

    def __init__(self, tiling: Tiling, dtype: np.dtype):
        self.array = np.zeros((0, *tiling.tile), dtype)
        self.place = np.full(tiling.grid[0] * tiling.grid[1], -1)
        self._free: list[int] = []

    def take(self, ids: np.ndarray, out: np.ndarray) -> None:
        """Write blocks ``(n, h, w)``; zeros for an id of -1."""
        if len(ids) and ids.min() < 0:
            out[ids < 0] = 0
            out[ids >= 0] = self.array[self.place[ids[ids >= 0]]]
        else:
            np.take(self.array, self.place[ids], axis=0, out=out, mode="clip")

    def put(self, ids: np.ndarray, blocks: np.ndarray) -> None:
        """Keep blocks, those of an id of -1 left out."""
        new = np.flatnonzero((ids >= 0) & (self.place[ids] < 0))
        new = new[np.unique(ids[new], return_index=True)[1]]
        short = len(new) - len(self._free)
        if short > 0:
            held = len(self.array)
            self.array = np.concatenate([self.array, np.zeros((short, *self.array.shape[1:]), self.array.dtype)])
            self._free += range(held, held + short)
        if len(new):
            self.place[ids[new]] = [self._free.pop() for _ in new]
            self.array[self.place[ids[new]]] = blocks[new]

    def keep(self, ids: np.ndarray) -> None:
        """Let go of all other blocks."""
        gone = self.place >= 0
        gone[ids[ids >= 0]] = False
        self._free += self.place[gone].tolist()
        self.place[gone] = -1


class Panel:
    """Blocks of one operand that a rank ever holds, where they lie in the matrix: rows and columns of blocks.

    Attributes:
        rows, cols: the block rows and block columns.
        array: ``(rows, h, columns, w)``.
    """

    def __init__(self, tiling: Tiling, touched: np.ndarray, dtype: np.dtype):
        self.across, (h, w) = tiling.grid[1], tiling.tile
        self.rows, self.cols = np.unique(touched // self.across), np.unique(touched % self.across)
        shape = len(self.rows), h, len(self.cols), w
        self._memory = memory.borrow(int(np.prod(shape)), dtype)
        self.array = self._memory.reshape(shape)
        self._there = np.zeros(tiling.grid[0] * tiling.grid[1], bool)

    def close(self) -> None:
        """Let the memory go to the next product."""
        memory.give_back(self._memory)

    def _at(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.searchsorted(self.rows, ids // self.across), np.searchsorted(self.cols, ids % self.across)

    def take(self, ids: np.ndarray, out: np.ndarray) -> None:
        """Write blocks ``(n, h, w)``; zeros for an id of -1."""
        held = np.flatnonzero(ids >= 0)
        row, col = self._at(ids[held])
        if len(held) < len(ids):
            out[...] = 0
        if out[:1].nbytes < LARGE:
            out[held] = self.array[row, :, col]
        else:  # in half the time
            for i, y, x in zip(held.tolist(), row.tolist(), col.tolist()):
                out[i] = self.array[y, :, x]

    def put(self, ids: np.ndarray, blocks: np.ndarray) -> None:
        """Keep blocks, those of an id of -1 left out; one that is here already stays as it is."""
        new = (ids >= 0) & ~self._there[ids]
        if not new.all():
            ids, blocks = ids[new], blocks[new]
        row, col = self._at(ids)
        if blocks[:1].nbytes < LARGE:
            self.array[row, :, col] = blocks
        else:
            for y, x, block in zip(row.tolist(), col.tolist(), blocks):
                self.array[y, :, x] = block
        self._there[ids] = True

    def matrix(self, rows: np.ndarray | None, cols: np.ndarray | None, tiling: Tiling) -> np.ndarray:
        """The elements in block rows and columns (None: in all), padding left out."""
        every = np.arange(tiling.grid[0]), np.arange(tiling.grid[1])
        down, right = (all_of if some is None else some for some, all_of in zip((rows, cols), every))
        array, (h, w) = self.array, tiling.tile
        if not (np.array_equal(down, self.rows) and np.array_equal(right, self.cols)):
            array = array[np.searchsorted(self.rows, down)][:, :, np.searchsorted(self.cols, right)]
        flat = array.reshape(len(down) * h, len(right) * w)
        return flat[: tiling.useful(0)[down].sum(), : tiling.useful(1)[right].sum()]


def run(schedule: Schedule, operands: dict[str, np.ndarray | DistMatrix], accumulate: np.dtype, stored: np.dtype,
        on: Distribution, stepping: bool) -> DistMatrix:  # fmt: skip
    """Execute ``schedule`` on all ranks; collective.

    Args:
        schedule: what to do, verified.
        operands: whole on every rank, or distributed.
        accumulate: dtype of sums; float16 rounds after every multiply-add.
        stored: dtype of tiles and of the result.
        on: the ranks.
        stepping: compute in every step, even where all steps could be one product.

    Returns:
        The result where the schedule leaves it.
    """
    return _Rank(schedule, accumulate, stored, on, stepping).run(operands)


class _Rank:
    """One run of a schedule on this rank."""

    def __init__(self, schedule: Schedule, accumulate: np.dtype, stored: np.dtype, on: Distribution, stepping: bool):
        self.schedule, self.on, self.ranks, self.stored = schedule, on, on.ranks, stored
        self.half, self.accumulate = accumulate == np.float16, accumulate
        self.wide = np.dtype(np.float32) if self.half else accumulate
        self.plan = plan(schedule, on.cut, self.ranks.rank, stepping)
        self.cores = len(on.cut.cores(self.ranks.rank))
        self.tiles: dict[str, Pool | Panel] = {}
        self.values: dict[str, np.ndarray] = {}  # (pieces, cores, h, w)

    def run(self, operands: dict[str, np.ndarray | DistMatrix]) -> DistMatrix:
        order = self.plan.order
        for name, tiling in self.schedule.operands.items():
            store = Pool(tiling, self.stored) if order is None else Panel(tiling, self.plan.touched[name], self.stored)
            self._home(operands[name], tiling, self.plan.home[name], store)
            self.tiles[name] = store
        if order is None:
            self.values = {name: np.zeros((held.pieces, self.cores, *held.shape), self.wide)
                           for name, held in self.schedule.buffers.items() if isinstance(held, Values)}  # fmt: skip
            for stage in self.plan.stages:
                self._step(stage)
            blocks = self._collected()
        else:
            self._pass_on()
            blocks = self._product(order)
        self.ranks.finish()
        return DistMatrix(self.plan.result, self.on, blocks.astype(self.stored, copy=False))

    def _home(self, given: np.ndarray | DistMatrix, tiling: Tiling, home: np.ndarray, store: Pool | Panel) -> None:
        """Put the blocks of an operand where the cores of this rank hold them at first."""
        if isinstance(given, DistMatrix):
            fetch(given, tiling, home, store.put)
            return
        ids = np.flatnonzero(home[self.ranks.rank])
        (h, w), blocks = tiling.tile, np.zeros((len(ids), *tiling.tile), self.stored)
        for block, (i, j) in zip(blocks, zip(*np.divmod(ids, tiling.grid[1]))):
            part = given[i * h : (i + 1) * h, j * w : (j + 1) * w]
            block[: part.shape[0], : part.shape[1]] = part
        store.put(ids, blocks)

    def _pass_on(self) -> None:
        """All messages of tiles: each is sent as soon as what it passes on is here, however late others are."""
        stages, coming = self.plan.stages, deque[list[tuple[Panel | Pool, np.ndarray, Incoming]]]()
        arrived = posted = 0
        for stage in stages:
            while posted < min(len(stages), arrived + AHEAD):
                coming.append(self._expected(stages[posted]))
                posted += 1
            needs = max((move.needs for move in stage.tiles), default=0)
            while arrived < needs:
                self._take(coming.popleft())
                arrived += 1
            self._send(stage)
        while arrived < len(stages):
            if not coming:
                coming.append(self._expected(stages[arrived]))
            self._take(coming.popleft())
            arrived += 1
        self.ranks.finish()  # nobody waits for a message while this rank computes

    def _send(self, stage: Stage) -> None:
        for move in stage.tiles:
            store, tile = self.tiles[move.operand], self.schedule.operands[move.operand].tile
            for peer, ids in move.sends:
                self.ranks.send_filled(peer, (len(ids), *tile), self.stored, partial(store.take, ids))

    def _expected(self, stage: Stage) -> list[tuple[Panel | Pool, np.ndarray, Incoming]]:
        return [(self.tiles[move.operand], ids,
                 self.ranks.receive(peer, (len(ids), *self.schedule.operands[move.operand].tile), self.stored))
                for move in stage.tiles for peer, ids in move.receives]  # fmt: skip

    def _take(self, coming: list[tuple[Panel | Pool, np.ndarray, Incoming]]) -> None:
        for store, ids, message in coming:
            with message.arrived() as blocks:
                store.put(ids, blocks)

    def _step(self, stage: Stage) -> None:
        self._send(stage)
        coming = self._expected(stage)
        for op, ids, piece in stage.compute:
            self._compute(op, ids, piece)
        found = [self._post(move) for move in stage.values]
        self._take(coming)
        for operand, ids in stage.kept.items():
            self.tiles[operand].keep(ids)  # type: ignore[union-attr]
        arrived = [(move, self._arrived(move, received)) for move, received in zip(stage.values, found)]
        summed = [(move, self._summed(move)) for move in stage.sums]
        for value, numbers in arrived:
            self.values[value.move.target][value.into[1], value.into[0]] = numbers
        for total, sums in summed:
            (core, slot), target = total.roots, self.values[total.move.target]
            if total.slots is None:
                target[:, core] = sums[:, core]
            else:
                target[slot, core] = sums[0, core]

    def _compute(self, op: Multiply | Copy, ids: np.ndarray, piece: Any) -> None:
        names = (op.left, op.right) if isinstance(op, Multiply) else (op.source,)
        pools = [self.tiles[self.schedule.buffers[name].operand] for name in names]  # type: ignore[union-attr]
        found = [(pool.array, pool.place[each]) for pool, each in zip(pools, ids)]  # type: ignore[union-attr]
        piece = piece[None] if isinstance(piece, np.ndarray) else piece  # a mesh of one row of cores
        into = self.values[op.into][:, None]
        if piece is None:  # cut over as many pieces as are not wholly padding
            width = pools[-1].array.shape[2 - getattr(op, "transposed", False)]
            into = into[: max(1, ceil_div(width, max(1, into.shape[4])))]
        lockstep.compute(op, piece, found, into, self.half)

    # ------------------------------------------------------------------------------------------ moves of numbers

    def _wire(self, buffer: str) -> np.dtype:
        """As wide as the schedule says: the dtype of tiles, or that of sums."""
        return self.stored if self.schedule.stored(buffer) else self.accumulate

    def _post(self, value: ValueMove) -> list[Incoming]:
        held, wire = self.values[value.move.buffer], self._wire(value.move.buffer)
        for peer, (core, slot) in value.sends:
            self.ranks.send(peer, held[slot, core].astype(wire, copy=False))
        return [self.ranks.receive(peer, (count, *held.shape[2:]), wire) for peer, count in value.receives]

    def _arrived(self, value: ValueMove, received: list[Incoming]) -> np.ndarray:
        """What arrives, combined with what is there, ``(n, h, w)``."""
        held, target = self.values[value.move.buffer], self.values[value.move.target]
        numbers = held[value.local[1], value.local[0]]
        if received:
            came = []
            for message in received:
                with message.arrived() as pieces:
                    came.append(pieces.astype(self.wide))
            numbers = np.concatenate([numbers, np.concatenate(came)[value.which]])
        if value.move.combine:
            numbers = combined(target[value.into[1], value.into[0]], numbers, op=value.move.combine, half=self.half)
        return numbers

    def _summed(self, total: SumMove) -> np.ndarray:
        """Sums ``(pieces, cores, h, w)``, complete on the roots."""
        held, op, wire = self.values[total.move.buffer], total.move.combine or "add", self._wire(total.move.buffer)
        sums = held.copy() if total.slots is None else held[total.slots, np.arange(self.cores)][None]
        for sends, receives, (source, target) in total.rounds:
            for peer, cores in sends:
                self.ranks.send(peer, sums[:, cores].astype(wire, copy=False))
            shape = len(sums), -1, *sums.shape[2:]
            coming = [(cores, self.ranks.receive(peer, (shape[0], len(cores), *shape[2:]), wire))
                      for peer, cores in receives]  # fmt: skip
            if len(source):
                sums[:, target] = combined(sums[:, target], sums[:, source], op=op, half=self.half)
            for cores, message in coming:
                with message.arrived() as numbers:
                    sums[:, cores] = combined(sums[:, cores], numbers.astype(self.wide), op=op, half=self.half)
        return sums

    # ------------------------------------------------------------------------------------------ the result

    def _collected(self) -> np.ndarray:
        held, (core, slot, _) = self.values[self.schedule.collect.buffer], self.plan.collected
        if not self.schedule.collect.whole:
            return held[slot, core]
        pieces, _, h, w = held.shape
        side_by_side = held[:, core].transpose(1, 2, 0, 3).reshape(len(core), h, pieces * w)
        return side_by_side[..., : self.schedule.result.tile[1]]

    def _product(self, order: RingOrder) -> np.ndarray:
        """All steps of this rank's cores at once: the same chain of additions for each element."""
        result, (_, _, ids) = self.schedule.result, self.plan.collected
        rows, cols = np.unique(ids // result.grid[1]), np.unique(ids % result.grid[1])
        left, right = self.schedule.task.operands
        transposed = self.schedule.task.kind == "product_t"
        A = self._matrix(left, rows, None)
        B = self._matrix(right, cols, None).T if transposed else self._matrix(right, None, cols)
        (h, w), whole = result.tile, None
        if A.size and B.size:
            whole = ring.ring_product(A, B, order, accumulate="float16" if self.half else None,
                                         out_dtype=self.stored)  # fmt: skip
        for panel in self.tiles.values():
            panel.close()  # type: ignore[union-attr]
        if whole is None or whole.shape != (len(rows) * h, len(cols) * w):
            padded = np.zeros((len(rows) * h, len(cols) * w), self.stored)
            if whole is not None:
                padded[: whole.shape[0], : whole.shape[1]] = whole
            whole = padded
        return whole.reshape(len(rows), h, len(cols), w).swapaxes(1, 2).reshape(len(ids), h, w)

    def _matrix(self, name: str, rows: np.ndarray | None, cols: np.ndarray | None) -> np.ndarray:
        panel = self.tiles[name]
        assert isinstance(panel, Panel)
        return panel.matrix(rows, cols, self.schedule.operands[name])
