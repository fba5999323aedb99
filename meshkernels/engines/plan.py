"""What one rank does in a schedule, worked out once for a schedule and a cut of its mesh."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from meshkernels.engines.cut import Cut, crossing
from meshkernels.engines.matrix import Layout
from meshkernels.engines.messages import Messages, additions, messages, slots_of
from meshkernels.schedules import Index, Multiply, Reduce, RingOrder, Tiles, Values
from meshkernels.schedules.steps import Copy, Move, Schedule, Step, unrolled

Peers = list[tuple[int, np.ndarray]]


@dataclass
class TileMove:
    """Blocks of one operand that travel between this rank and others: ``[(rank, block ids)]``.

    An id of -1 is an empty slot; of what a rank receives to do all its steps at once also a block that is here already.

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


def home(schedule: Schedule, operand: str) -> np.ndarray:
    """``(cores, slots)`` ids of the blocks of an operand that each core holds at first, or -1."""
    return np.concatenate([_held(schedule, held) for held in schedule.buffers.values()
                           if isinstance(held, Tiles) and held.operand == operand], axis=1)  # fmt: skip


def _held(schedule: Schedule, tiles: Tiles) -> np.ndarray:
    mesh = schedule.mesh
    if tiles.home is None:
        return np.full((mesh.cores, tiles.depth), -1)
    down, across = tiles.home.at(mesh, tiles.depth)
    ids = np.where((down >= 0) & (across >= 0),
                   down.astype(np.int64) * schedule.operands[tiles.operand].grid[1] + across, -1)  # fmt: skip
    return np.broadcast_to(ids, (*mesh.shape, tiles.depth)).reshape(mesh.cores, -1).copy()


class _Planner:
    """Follows every tile by its block's id, and keeps what concerns one rank."""

    def __init__(self, schedule: Schedule, cut: Cut, rank: int, stepping: bool):
        self.schedule, self.mesh, self.cut, self.rank = schedule, schedule.mesh, cut, rank
        self.own, self.owner, self.place = cut.cores(rank), cut.owner, cut.place
        self.held = {name: _held(schedule, held) for name, held in schedule.buffers.items() if isinstance(held, Tiles)}
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
                here = touched[move.operand]
                for i, (peer, ids) in enumerate(move.receives):
                    new = np.zeros(len(ids), bool)
                    new[np.unique(ids, return_index=True)[1]] = True  # one of those that are alike
                    new &= (ids >= 0) & ~here[ids]
                    since[move.operand][ids[new]] = len(stages)
                    here[ids[new]] = True
                    if self.order is not None:
                        move.receives[i] = peer, np.where(new, ids, -1)
        layout, collected = self._collect()
        return Plan(stages, home, {name: np.flatnonzero(each) for name, each in touched.items()}, layout, collected,
                    self.order)  # fmt: skip

    def _operand(self, buffer: str) -> str:
        return self.schedule.buffers[buffer].operand  # type: ignore[union-attr]

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
