"""Run a schedule on the ranks of a mesh: what crosses from rank to rank is a message, everything else a local move.

A rank keeps the tiles that its cores hold, each once however many of its cores hold it, and hands them from core to
core by number. In every step it posts the messages of tiles, computes, and takes what has arrived. Two ways to compute,
the same bits: core by core in each step, overlapped with that step's messages (``"lockstep"``: a rank never holds more
than its cores do), or all the steps of its cores as one product when the last tile has arrived (``"fused"``: a rank
holds each tile that came by), where sums stay on their cores and each is a chain along a ring.
"""

from __future__ import annotations

from collections import deque
from itertools import chain, islice
from typing import Any

import numpy as np

from meshkernels.engines.distribution import Distribution
from meshkernels.engines.matrix import DistMatrix, fetch, lies
from meshkernels.engines.plan import Stage, SumMove, ValueMove, plan
from meshkernels.engines.ranks import Incoming
from meshkernels.engines.stores import Panel, Pool, Store
from meshkernels.kernels import ring
from meshkernels.kernels.pack import Blocks
from meshkernels.kernels.reduce import combined
from meshkernels.mesh import Tiling, ceil_div
from meshkernels.readers import lockstep
from meshkernels.schedules import Multiply, RingOrder, Values
from meshkernels.schedules.steps import Copy, Schedule

#: Stages whose messages are expected before those of the one at hand have come, where nothing is computed in between.
AHEAD = 16
#: Messages that are expected: the blocks that each brings, and the store that they are for.
Expected = list[tuple[Store, np.ndarray, Incoming]]


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
            self.tiles[name] = self._home(operands[name], name, tiling)
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

    def _home(self, given: np.ndarray | DistMatrix, name: str, tiling: Tiling) -> Pool | Panel:
        """The blocks of an operand that cores of this rank hold at first."""
        home, touched, stepping = self.plan.home[name], self.plan.touched[name], self.plan.order is None
        ids = np.flatnonzero(home[self.ranks.rank])
        if isinstance(given, DistMatrix) and given.dtype == self.stored and lies(given, tiling, home):
            if not stepping:
                return Panel(tiling, touched, self.stored, ids, given.blocks)
            if len(ids) == len(touched):  # none comes, none goes
                return Pool(tiling, self.stored, ids, given.blocks)
        store = Pool(tiling, self.stored) if stepping else Panel(tiling, touched, self.stored)
        if isinstance(given, DistMatrix):
            fetch(given, tiling, home, store.put)
            return store
        (h, w), blocks = tiling.tile, np.zeros((len(ids), *tiling.tile), self.stored)
        for block, (i, j) in zip(blocks, zip(*np.divmod(ids, tiling.grid[1]))):
            part = given[i * h : (i + 1) * h, j * w : (j + 1) * w]
            block[: part.shape[0], : part.shape[1]] = part
        store.put(ids, blocks)
        return store

    def _pass_on(self) -> None:
        """All messages of tiles: each is sent as soon as what it passes on is here, however late others are."""
        stages, coming = self.plan.stages, deque[Expected]()
        expected = (self._expected(stage) for stage in stages)
        arrived = 0
        for stage in stages:
            needs = max((move.needs for move in stage.tiles), default=0)
            while arrived < needs:
                coming += islice(expected, AHEAD - len(coming))
                self._take(coming.popleft())
                arrived += 1
            coming += islice(expected, AHEAD - len(coming))
            self._send(stage)
        for last in chain(coming, expected):
            self._take(last)
        self.ranks.finish_together()  # nobody waits for a message while this rank computes

    def _send(self, stage: Stage) -> None:
        for move in stage.tiles:
            for peer, ids in move.sends:
                self.tiles[move.operand].send(self.ranks, peer, ids)

    def _expected(self, stage: Stage) -> Expected:
        return [(store, ids, store.expect(self.ranks, peer, ids)) for move in stage.tiles
                for store in [self.tiles[move.operand]] for peer, ids in move.receives]  # fmt: skip

    def _take(self, coming: Expected) -> None:
        for store, ids, message in coming:
            with message.arrived() as blocks:
                if blocks is not None:
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
            width = found[-1][0].shape[2 - getattr(op, "transposed", False)]
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
        left, right = (self.tiles[name] for name in self.schedule.task.operands)
        assert isinstance(left, Panel) and isinstance(right, Panel)
        transposed = self.schedule.task.kind == "product_t"
        A, B = left.matrix(rows, None), right.matrix(cols, None).T if transposed else right.matrix(None, cols)
        M, N = A.shape[0], B.shape[1]
        whole = (len(rows) * result.tile[0], len(cols) * result.tile[1]) == (M, N) and 0 not in A.shape
        blocks = (np.empty if whole else np.zeros)((len(rows), len(cols), *result.tile), self.stored)
        if M * N > 0 and A.shape[1] > 0:
            ring.ring_product(A, B, order, accumulate="float16" if self.half else None,
                              out=Blocks(blocks.transpose(0, 2, 1, 3), (M, N)))  # fmt: skip
        for panel in (left, right):
            panel.close()
        return blocks.reshape(len(ids), *result.tile)
