"""Repeats are not walked to their end: what holds of one iteration holds of the next.

Invariant: an iteration of a body acts on the state of all cores by names of blocks and by places of cores alone. So if
it left the state as it was, but for a renaming of blocks (`_Renaming`, one to one) and a turn of the mesh (see
`symmetry`), the next iteration does the same once more, renamed and turned; and so on. "The state" is all that the body
reads, with two exceptions:

* One buffer of numbers may have grown instead, if the body only adds products to it and shifts all of it. Its numbers
  are chains; if every block of the contraction has one successor, which the renaming respects, and the last blocks of
  all chains are renamed with the rest, then all further products follow the same successors.
* Buffers of numbers that the body only writes are left out. What arrives in them arrives in each further iteration,
  renamed and turned, if that is never twice in one slot.

All of it is exact but one thing: numbers that have not grown are the same sums if their weights are the same
(see `contributions`), and products must not be renamed where such numbers are made anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

import numpy as np

from meshkernels.schedules import order, symmetry
from meshkernels.schedules.buffers import Tiles
from meshkernels.schedules.check import indices
from meshkernels.schedules.contributions import COUNTS, NAMES
from meshkernels.schedules.holdings import MOST_CELLS, Write, distinct
from meshkernels.schedules.routes import Reduce
from meshkernels.schedules.steps import Multiply, Repeat, Step

if TYPE_CHECKING:
    from meshkernels.schedules.walk import Walk

State = dict[str, dict[str, np.ndarray]]


def leap(walk: Walk, node: Repeat, s: int) -> int:
    """Walk the first iterations of a repeat and leap over as many as follow from them; returns how many are done."""
    steps = [step for step in node.body if isinstance(step, Step)]
    if walk.task.kind not in ("product", "product_t") or len(steps) < len(node.body) or node.times <= 3:
        return 0
    moves = [move for step in steps for move in step.moves]
    if any(move.buffer == move.target and not move.whole_shift and move.buffer in walk.values for move in moves):
        return 0  # numbers that meet others on their way are other sums each time
    period, turn = lcm(*(index.period() for index in indices(steps))), symmetry.Turn()
    if period > 1 and node.times > 4:
        found = symmetry.find(steps, walk.mesh)
        if found is not None:  # as many iterations as add one product to each piece
            period = lcm(*(walk.held[op.into].slots for step in steps for op in step.compute
                           if isinstance(op, Multiply) and op.accumulate))  # fmt: skip
            turn = found.power(period)
    if node.times <= 3 * period:
        return 0
    for second in (False, True):
        before, multiplied = {name: held.snapshot() for name, held in walk.held.items()}, walk.sums.multiplied
        walk.recorded, walk.sums.rooted = [] if second else None, []
        for t in range(period * second, period * (second + 1)):
            walk.run(node.body, t, s)
    more = (node.times - 2 * period) // period
    step = _Iteration(walk, steps, before, turn)
    written, walk.recorded = walk.recorded or [], None
    if not step.repeats() or not step.go_on(more, written):
        return 2 * period
    walk.sums.multiplied += more * (walk.sums.multiplied - multiplied)
    walk.index += more * period * len(steps)
    return (2 + more) * period


@dataclass(frozen=True, eq=False)
class _Use:
    """How a body uses its buffers of numbers.

    Attributes:
        touched: those that change or are sent.
        grown: those to which only products are added, and which move by whole shifts or not at all.
        written: those in which only moves arrive, and which nothing reads.
    """

    touched: set[str]
    grown: set[str]
    written: set[str]

    @classmethod
    def of(cls, steps: list[Step], values: list[str]) -> _Use:
        """What the steps do to the buffers ``values``."""
        ops = [op for step in steps for op in step.compute if isinstance(op, Multiply)]
        moves = [move for step in steps for move in step.moves]
        sums, restarted = {op.into for op in ops}, {op.into for op in ops if not op.accumulate}
        shifted = {move.buffer for move in moves if move.whole_shift}
        sent = {move.buffer for move in moves if not move.whole_shift}
        arrives = {move.target for move in moves if not move.whole_shift} & set(values)
        combined = {move.target for move in moves if move.combine and not isinstance(move.route, Reduce)}
        touched = (sums | shifted | sent | arrives) & set(values)
        return cls(touched, sums - restarted - sent - arrives, arrives - sums - shifted - sent - combined)


class _Iteration:
    """What one iteration did to the state."""

    def __init__(self, walk: Walk, steps: list[Step], before: State, turn: symmetry.Turn):
        self.walk, self.before, self.turn = walk, before, turn
        self.use = _Use.of(steps, walk.values)
        result = walk.schedule.result.grid
        self.renamed = {"i": _Renaming(result[0]), "j": _Renaming(result[1]), "k": _Renaming(walk.sums.terms)}
        self.growth: dict[str, int] = {}
        self.firsts: dict[str, np.ndarray | None] = {}
        self.apart = self.use.written if walk.sums.successor is None else set[str]()

    def repeats(self) -> bool:
        """Whether the state is what it was, renamed and turned."""
        walk, of = self.walk, self.turn.of
        for name, spaces in self._spaces().items():
            old, new = self.before[name], walk.state(name)
            if not (old["held"] == of(new["held"])).all():
                return False
            if not all(self.renamed[n].match(old[key], of(new[key])) for n, key in zip(spaces, ("down", "across"))):
                return False
        chains = walk.sums.successor is not None
        for name in walk.values:
            if name in self.apart:
                continue
            old, new = self.before[name], walk.state(name)
            if not all(self.renamed[n].match(old[key], of(new[key])) for n, key in (("i", "down"), ("j", "across"))):
                return False
            counts = {int(part["n"].flat[0]) for part in (old, new)} if chains else set()
            if chains and any((part["n"] != part["n"].flat[0]).any() for part in (old, new)):
                return False
            if len(counts) == 2:
                self.growth[name] = int(new["n"].flat[0] - old["n"].flat[0])
                if name not in self.use.grown or not self.renamed["k"].match(old["last"], of(new["last"])):
                    return False
            same = ("part",) if name in self.growth else ("part", *walk.sums.fields)
            if not all((old[key] == of(new[key])).all() for key in same):
                return False
        if not all(each.closed() for each in self.renamed.values()):
            return False
        if not self.renamed["k"].keeps() and (self.apart or self.use.touched - set(self.growth)):
            return False  # numbers made anew are not the same sums if products are renamed
        self.firsts = {name: self._firsts(name) for name in self.growth}
        return not self.growth or (len(self.growth) == 1 and self._ring() and all(
            each is not None for each in self.firsts.values()))

    def _spaces(self) -> dict[str, tuple[str, str]]:
        """For each buffer of tiles what block rows and columns count: rows i, columns j of the result, or terms k."""
        walk = self.walk
        first, second = walk.task.operands
        spaces = {first: ("i", "k"), second: ("j", "k") if walk.task.kind == "product_t" else ("k", "j")}
        return {name: spaces[held.operand] for name, held in walk.schedule.buffers.items() if isinstance(held, Tiles)}

    def _ring(self) -> bool:
        """Whether all blocks of the contraction have a successor, and the renaming of them respects it."""
        after, renamed = self.walk.sums.successor, self.renamed["k"].map
        if after is None or (after < 0).any() or (renamed < 0).any() or len(np.unique(after)) < len(after):
            return False
        return bool(np.array_equal(after[renamed], renamed[after]))

    def _firsts(self, name: str) -> np.ndarray | None:
        """Where the chain of each block of the result began; None if that is not one for all of a block's chains."""
        state = self.walk.state(name)
        by_block = np.full(self.walk.schedule.result.grid, -1, np.int32)
        i, j, first = np.broadcast_arrays(state["down"], state["across"], state["first"])
        if min(i.min(), j.min()) < 0:
            return None
        by_block[i, j] = first
        return by_block if np.array_equal(by_block[i, j], first) else None

    # ------------------------------------------------------------------------------------------------------- going on
    def go_on(self, times: int, written: list[Write]) -> bool:
        """Make the state what it is after so many more iterations, or say that this cannot be done."""
        walk, back = self.walk, self.turn.power(-times)
        arriving = {name: self._arriving(name, times, [w for w in written if w.buffer == name]) for name in self.apart}
        if any(write is None for write in arriving.values()):
            return False
        powers = {space: each.power(times) for space, each in self.renamed.items()}
        spaces: dict[str, tuple[str, str]] = self._spaces() | dict.fromkeys(walk.values, ("i", "j"))
        for name, held in walk.held.items():
            if name in self.apart:
                continue
            for key, field in list(held.settle().items()):
                held.replace(key, back.of(field))
            for space, key in zip(spaces[name], ("down", "across")):
                held.replace(key, _renamed(held.settle()[key], powers[space]))
        for name, more in self.growth.items():
            self._grow(name, times * more)
        for name, write in arriving.items():
            assert write is not None
            walk.held[name].write(write)
        if walk.sums.two_sided and self.apart:
            names = self.renamed["j"].powers(times)
            for j, r in walk.sums.rooted:
                walk.sums.rooted_at(names[:, j], np.broadcast_to(r, (times, *r.shape)))
        return True

    def _grow(self, name: str, more: int) -> None:
        """Chains of one buffer go on by ``more`` blocks; a chain belongs to its block of the result, not to a core."""
        sums, held = self.walk.sums, self.walk.held[name]
        state = held.settle()
        n = int(state["n"].flat[0]) + more
        if n > sums.terms:
            self.walk.refuse(f"adds more contributions to a number in {name!r} than there are")
        firsts = self.firsts[name]
        assert sums.successor is not None and firsts is not None
        first = firsts[state["down"], state["across"]]
        cycle, place = order.cycle(sums.successor, int(first.flat[0]))
        if len(cycle) < sums.terms:
            self.walk.refuse(f"numbers in {name!r} never meet all blocks of the contraction: their chains close too "
                             "early")  # fmt: skip
        weights = np.concatenate([[0], np.cumsum(np.tile(sums.weights[cycle], 2))])
        start = place[first]
        held.replace("first", first)
        held.replace("last", cycle[(start + n - 1) % len(cycle)].astype(np.int32))
        held.replace("n", np.full((1, 1, 1), n, np.int64))
        full = n == sums.terms
        held.replace("weight", np.full((1, 1, 1), sums.total) if full else weights[start + n] - weights[start])

    def _arriving(self, name: str, times: int, writes: list[Write]) -> Write | None:
        """All that arrives in a buffer in so many more iterations; None if that cannot be said."""
        walk, slots = self.walk, self.walk.held[name].slots
        if times * max(walk.schedule.result.grid) > MOST_CELLS >> 3:
            return None
        rows, cols = (self.renamed[space].powers(times) for space in "ij")
        found: list[tuple[np.ndarray, ...]] = []
        for write in writes:
            y, x, slot = cells = write.cells(walk.mesh, slots)
            if len(y) * times > MOST_CELLS >> 3:
                return None
            cell = {key: write.values(key, cells) for key in write.fields}
            if set(cell) != {*NAMES, *COUNTS} or len(y) == 0 or min(cell["down"].min(), cell["across"].min()) < 0:
                return None
            shape, turns = (times, len(y)), np.arange(1, times + 1)[:, None]
            at = (self.turn.place(0, y, turns), self.turn.place(1, x, turns), slot)
            names = rows[:, cell["down"]], cols[:, cell["across"]], cell["part"]
            found.append(tuple(np.broadcast_to(part, shape).ravel() for part in (
                *at, *names, *(cell[key] for key in COUNTS))))  # fmt: skip
        if not found:
            return None
        y, x, slot, *new = (np.concatenate(parts) for parts in zip(*found))
        if min(new[0].min(), new[1].min()) < 0 or not distinct((y * walk.mesh.cols + x) * slots + slot):
            return None
        fields = {key: field[:, None] for key, field in zip((*NAMES, *COUNTS), new)}
        return Write(name, fields, slot, cores=(y, x))


class _Renaming:
    """A map of block numbers, found by comparing what was with what is."""

    def __init__(self, n: int):
        self.map = np.full(n, -1, np.int32)

    def match(self, old: np.ndarray, new: np.ndarray) -> bool:
        """Whether ``new`` is ``old`` renamed, as all pairs before were; what is empty stays empty."""
        if old.shape != new.shape:
            old, new = np.broadcast_arrays(old, new)
        used = old >= 0
        if not used.all():
            if not np.array_equal(old[~used], new[~used]):
                return False
            old, new = old[used], new[used]
        unknown = self.map[old] < 0
        self.map[old[unknown]] = new[unknown]
        return bool(np.array_equal(self.map[old], new) and (new >= 0).all())

    def closed(self) -> bool:
        """Whether it can be done again and again: one to one, and defined wherever it leads."""
        led = self.map[self.map >= 0]
        return len(np.unique(led)) == len(led) and bool((self.map[led] >= 0).all())

    def keeps(self) -> bool:
        """Whether nothing is called otherwise than before."""
        return bool(((self.map < 0) | (self.map == np.arange(len(self.map)))).all())

    def power(self, times: int) -> np.ndarray:
        """The map done so many times; -1 where it is not defined."""
        result, square = np.where(self.map >= 0, np.arange(len(self.map), dtype=np.int32), -1), self.map
        while times:
            if times & 1:
                result = np.where(result >= 0, square[result], -1)
            square = np.where(square >= 0, square[square], -1)
            times >>= 1
        return result

    def powers(self, times: int) -> np.ndarray:
        """``(times, n)``: the map done once, twice and so on."""
        found = np.empty((times, len(self.map)), np.int32)
        now = self.map
        for n in range(times):
            found[n] = now
            now = np.where(now >= 0, self.map[now], -1)
        return found


def _renamed(blocks: np.ndarray, names: np.ndarray) -> np.ndarray:
    return np.where(blocks >= 0, names[blocks], blocks).astype(np.int32)
