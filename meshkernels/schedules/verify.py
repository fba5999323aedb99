"""The proof that a schedule computes what it says, by walking it with block numbers in place of numbers.

Of every tile the walk knows which block it is; of every number which block of the result it belongs to, which blocks
of the contraction have been added to it (how many, the sum of a random weight of each, the first and the last), and
whether it still stands for anything. Arrays of one side are kept where all cores of a line agree (see `motion`).

A repeat is not walked to its end where one iteration renames the blocks (tile k becomes tile psi(k) everywhere, or on
every core what it was on another core before: see `symmetry`): then so does the next, by induction, and what holds of
one iteration holds of all. That takes two iterations, however many there are. Shifts are summed until somebody looks.

What is certain and what is not: every check is exact but one. That a sum holds *each* contribution once, and not
one twice and another never, is concluded from their number and from the sum of their weights, 40-bit random numbers:
a wrong schedule passes with probability 2^-40. Where the contributions form a ring, that is exact too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import lcm
from typing import Any, NoReturn

import numpy as np

from meshkernels.errors import ScheduleError
from meshkernels.mesh import Mesh
from meshkernels.schedules import order, symmetry
from meshkernels.schedules.buffers import Tiles
from meshkernels.schedules.check import check, indices
from meshkernels.schedules.motion import (
    Arrival,
    Delivery,
    Slots,
    arrival,
    deliver,
    pick,
    pull,
    put,
    slots_at,
)
from meshkernels.schedules.routes import Reduce, Shift, groups
from meshkernels.schedules.steps import Copy, Move, Multiply, Repeat, Schedule, Step

#: Numbers looked at while steps are walked one by one (some minutes); all further steps must follow by induction.
MOST_WALKED = 1 << 33
#: Nothing has been added yet; what was here has been sent on to be added up, and stands for nothing any more.
ZERO, STALE = -1, -2


@dataclass(frozen=True, eq=False)
class Proof:
    """What verification found out about a schedule.

    Attributes:
        order: in which order the terms of one result element are added, where that has a compact form.
        macs: factors, each ``(rows or 1, cols or 1)``, whose product is the useful multiply-adds of each core; None
            where only walking every step tells.
    """

    order: order.Order | None
    macs: tuple[np.ndarray, ...] | None


def verify(schedule: Schedule) -> Proof:
    """Prove that ``schedule`` computes its task, or say where it does not.

    Every core holds what it reads, nothing is overwritten before it is read, every contribution to every block of the
    result arrives exactly once, and the result lies where `Schedule.collect` says. The proof is kept with the schedule.

    Raises:
        ScheduleError: it does not; the message names step, core and buffer.

    Examples:
        >>> import meshkernels as mk
        >>> type(mk.verify(mk.schedule("meshgemm", mk.Mesh(5), 10, 10, 10)).order).__name__
        'RingOrder'
    """
    if not isinstance(schedule, Schedule):
        raise ScheduleError(f"verify takes a Schedule, not {type(schedule).__name__}")
    return schedule.proof


def prove(schedule: Schedule) -> Proof:
    """As `verify`, worked out anew."""
    check(schedule)
    walk = Walk(schedule)
    walk.run(schedule.program)
    walk.finish()
    return Proof(order.derive(walk), walk.macs())


@lru_cache(maxsize=32)
def _weights(n: int) -> np.ndarray:
    """A random number below 2^40 for each block of a contraction: sums of `check.MOST_TERMS` of them are exact."""
    return np.random.default_rng(0x5EED).integers(1, 1 << 40, n)


class Holdings:
    """What is known of one buffer, by name ``(rows or 1, cols or 1, slots or 1)`` each, and shifts still to be done."""

    def __init__(self, mesh: Mesh, fields: dict[str, np.ndarray]):
        self.mesh, self._fields = mesh, fields
        self._shift: Shift | None = None
        self._by = np.zeros(1, np.int64)

    @classmethod
    def of_tiles(cls, mesh: Mesh, tiles: Tiles) -> Holdings:
        """Block rows and columns, ``"down"`` and ``"across"``, and whether there is a tile, ``"held"``, at first."""
        empty = np.full((1, 1, tiles.depth), ZERO)
        parts = (empty, empty) if tiles.home is None else tiles.home.at(mesh, tiles.depth)
        down, across = (np.array(part, np.int32) for part in parts)
        return cls(mesh, {"down": down, "across": across, "held": (down >= 0) & (across >= 0)})

    def shift(self, route: Shift, t: int, s: int) -> None:
        """All slots of the buffer go on by one `Shift`."""
        if self._shift is not None and (self._shift.axis, self._shift.cycles) != (route.axis, route.cycles):
            self.settle()
        if self._shift is None:
            self._shift, self._by = route, np.zeros(1, np.int64)
        self._by = self._by + route.lines(self.mesh, t, s)

    def settle(self) -> dict[str, np.ndarray]:
        """Do the shifts that are still to be done; returns what is known, to be read and replaced."""
        if self._shift is not None:
            axis = self._shift.axis
            source = self._shift.turned(self._by, self.mesh.length(axis))
            source = source.T if axis == 0 else source
            for name, part in self._fields.items():
                self._fields[name] = pull(part, source, axis)
            self._shift = None
        return self._fields


class Walk:
    """The state of all cores, symbolically."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.mesh, self.task = schedule, schedule.mesh, schedule.task
        self.index, self.walked, self.step = 0, 0, Step("")
        self.held = {name: Holdings.of_tiles(self.mesh, held) if isinstance(held, Tiles) else self._zeros()
                     for name, held in schedule.buffers.items()}
        self.tiles = {name for name, held in schedule.buffers.items() if isinstance(held, Tiles)}
        self.values = [name for name in schedule.buffers if name not in self.tiles]
        first = schedule.operands[self.task.operands[0]]
        self.terms = {"product": first.grid[1], "product_t": first.grid[1],
                      "allreduce": first.grid[self.task.axis]}.get(self.task.kind, 1)
        self.weights = _weights(self.terms)
        self.successor: np.ndarray | None = np.full(self.terms, -1, np.int32)  # of each block in a chain
        self.product: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # (i, k, j) of the first one
        self.multiplied = 0
        self.roots = np.full(schedule.result.grid[1], -1)  # of chains, by block column
        self.only_chains = self.task.kind == "product_t"
        self.same = [True, True, True]  # whether i, k, j of a core are those of its first product in all

    def _zeros(self) -> Holdings:
        fields = {name: np.full((1, 1, 1), ZERO, np.int32) for name in ("down", "across", "part", "first", "last")}
        return Holdings(self.mesh, fields | {name: np.zeros((1, 1, 1), np.int64) for name in ("n", "weight")})

    def state(self, buffer: str) -> dict[str, np.ndarray]:
        """What is known of a buffer now."""
        return self.held[buffer].settle()

    # ------------------------------------------------------------------------------------------------- refusals
    def refuse(self, message: str) -> NoReturn:
        """Raise `ScheduleError` for the step at hand."""
        raise ScheduleError(f"{self.schedule.name}, step {self.index} ({self.step.label}): {message}")

    def require(self, holds: np.ndarray, message: str) -> None:
        """Refuse where ``holds (rows or 1, cols or 1, ...)`` is not true, naming the first such core."""
        if not holds.all():
            y, x = np.argwhere(~holds)[0][:2]
            self.refuse(f"core ({y}, {x}) {message}")

    # ----------------------------------------------------------------------------------------------------- walking
    def run(self, program: tuple[Step | Repeat, ...], t: int = 0, s: int = 0) -> None:
        """Walk steps and repeats."""
        for node in program:
            if isinstance(node, Step):
                self.do(node, t, s)
            else:
                self._repeat(node, t)

    def _repeat(self, node: Repeat, s: int) -> None:
        period, turn, done = lcm(*(index.period() for index in indices(node.body))), None, 0
        if period > 1 and node.times > 4:
            turn = symmetry.find(node.body, self.mesh)
            period = 1 if turn else period
        if node.times > 3 * period and all(isinstance(step, Step) for step in node.body):
            for _ in range(2):
                before = self._snapshot()
                for _ in range(period):
                    self.run(node.body, done, s)
                    done += 1
            rest = (node.times - done) // period
            if self._leap(before, rest, turn or symmetry.Turn()):
                done += rest * period
                self.index += rest * period * len(node.body)
        for t in range(done, node.times):
            before_this = self.walked
            self.run(node.body, t, s)
            ahead = (self.walked - before_this) * (node.times - t - 1)
            if self.walked + ahead > MOST_WALKED:
                self.refuse("proving this schedule would take hours, one step after another: choose sides of the mesh "
                            "that share a factor")  # fmt: skip

    def do(self, step: Step, t: int, s: int) -> None:
        """One step: compute, then move."""
        self.step, self.walked = step, self.walked + 1000 + 20_000 * len(step.moves)
        for op in step.compute:
            if isinstance(op, Multiply):
                self.multiply(op, t, s)
            else:
                self.copy(op, t, s)
        self.move(step, t, s)
        self.index += 1

    def selected(self, buffer: str, slot: Any, t: int, s: int) -> tuple[np.ndarray, np.ndarray]:
        """``(down, across)`` of one tile of each core, ``(rows or 1, cols or 1)``."""
        chosen = slots_at(slot, t, s)
        down, across, held = (pick(part, chosen)[:, :, 0] for part in self.state(buffer).values())
        self.require(held, f"does not hold a tile in {buffer!r} that it should use")
        return down, across

    def multiply(self, op: Multiply, t: int, s: int) -> None:
        """One product on every core."""
        i, k = self.selected(op.left, op.left_slot, t, s)
        down, across = self.selected(op.right, op.right_slot, t, s)
        k_right, j = (across, down) if op.transposed else (down, across)
        self.require(k == k_right, f"does not hold tiles of {op.left!r} and {op.right!r} that belong to the same part "
                     "of the contraction")  # fmt: skip
        self.walked += 8 * k.size
        self._remember(i, k, j, op)
        self._add(op.into, slots_at(op.piece, t, s), i, j, k, op.accumulate)

    def copy(self, op: Copy, t: int, s: int) -> None:
        """One tile becomes numbers on every core."""
        down, across = self.selected(op.source, op.slot, t, s)
        kind, axis = self.task.kind, self.task.axis
        if op.transposed != (kind == "transpose"):
            self.refuse(f"tiles are copied {'transposed' if op.transposed else 'as they are'}; the task is {kind}")
        zero = np.zeros((1, 1), np.int32)
        if kind == "allreduce":
            i, j, k = (zero, across, down) if axis == 0 else (down, zero, across)
        elif kind == "alltoall":
            P = self.schedule.result.grid[1]
            i, j, k = down // P * P + across, down % P, zero
        else:
            i, j, k = across, down, zero
        self._add(op.into, slots_at(op.piece, t, s), i, j, k, False)

    def _add(self, into: str, piece: Slots, i: np.ndarray, j: np.ndarray, k: np.ndarray, accumulate: bool) -> None:
        """Contribution k to block (i, j) of the result, in one piece or cut over all."""
        state = self.state(into)
        pieces = self.schedule.slots(into)
        part = np.arange(pieces, dtype=np.int32)[None, None] if piece is None else np.zeros((1, 1, 1), np.int32)
        old = {name: pick(field, piece) for name, field in state.items()}
        i, j, k = i[:, :, None], j[:, :, None], k[:, :, None]
        weight, fresh = self.weights[k], np.ones((1, 1, 1), bool)
        if accumulate:
            self.require(old["down"] != STALE, f"adds to numbers in {into!r} that have been sent on already")
            fresh = old["n"] == 0
            for key, mine in (("down", i), ("across", j), ("part", part)):  # one by one: each is small by itself
                same = (old[key] == mine) | fresh if fresh.any() else old[key] == mine
                self.require(same, f"adds a product to numbers in {into!r} that belong to another block of the result")
        new = {"down": i, "across": j, "part": part}
        if fresh.all():
            new |= {"n": np.ones((1, 1, 1), np.int64), "weight": weight, "first": k, "last": k}
        else:
            self._follow(old["last"], k, ~fresh)
            n, first, total = old["n"] + 1, old["first"], old["weight"] + weight
            if fresh.any():
                n, first, total = np.where(fresh, 1, n), np.where(fresh, k, first), np.where(fresh, weight, total)
            new |= {"n": n, "first": first, "last": k, "weight": total}
            self.require(n <= self.terms, f"adds more contributions to a number in {into!r} than there are")
        for name, field in new.items():
            self._write(into, name, piece, field, None)

    def _follow(self, last: np.ndarray, k: np.ndarray, where: np.ndarray) -> None:
        """Chains go on: after block ``last`` comes ``k``; see whether that is the same everywhere and always."""
        if self.successor is None:
            return
        if not where.all():
            last, k, where = np.broadcast_arrays(last, k, where)
            last, k = last[where], k[where]
        if (last < 0).any():  # a sum of several chains: it has no last block
            self.successor = None
            return
        if last.size == 1 and k.size == 1:
            before, after = int(last.ravel()[0]), int(k.ravel()[0])
            if self.successor[before] not in (-1, after):
                self.successor = None
            else:
                self.successor[before] = after
            return
        last, k = np.broadcast_arrays(last, k)
        unknown = self.successor[last] < 0
        self.successor[last[unknown]] = k[unknown]
        if not np.array_equal(self.successor[last], k):
            self.successor = None

    def _remember(self, i: np.ndarray, k: np.ndarray, j: np.ndarray, op: Multiply) -> None:
        self.multiplied += 1
        if self.product is None:
            self.product = i, k, j
        for n, (now, first) in enumerate(zip((i, k, j), self.product)):
            self.same[n] = self.same[n] and bool((now == first).all())
        self.only_chains = self.only_chains and not op.accumulate and op.transposed

    # ------------------------------------------------------------------------------------------------------- moves
    def move(self, step: Step, t: int, s: int) -> None:
        """All moves of a step at once: first everything is taken, then everything arrives."""
        writes: list[tuple[Any, list[tuple[str, np.ndarray]]]] = []
        shifts, written = [], {move.target for move in step.moves}
        reads = {name for op in step.compute for name in
                 ((op.left, op.right) if isinstance(op, Multiply) else (op.source,))} | {m.buffer for m in step.moves}
        for move in step.moves:
            buffers, name = self.schedule.buffers, move.target
            if name in reads and buffers[name].copies < 2:
                self.refuse(f"buffer {name!r} is overwritten while it is read: it needs copies = 2")
            if move.whole_shift:
                shifts.append(move)
                self.only_chains = self.only_chains and move.buffer in self.tiles
            else:
                reduce = isinstance(move.route, Reduce)
                writes += self._reduced(move, t, s) if reduce else [self._arriving(move, written, t, s)]
        self._once(step, writes, shifts, t, s)
        for place, new in writes:
            for name, field in new:
                self._put(place, name, field)
        for move in shifts:
            assert isinstance(move.route, Shift)
            self.held[move.buffer].shift(move.route, t, s)

    def _put(self, place: Any, name: str, field: np.ndarray) -> None:
        if isinstance(place, Arrival):
            self._write(place.move.target, name, place.slots, field, place.mask)
        elif isinstance(place, Delivery):
            state = self.state(place.move.target)
            array = self._every_slot(place.move.target, state[name])
            state[name] = deliver(place, array, field, self.mesh)
        else:
            self._write(place[0], name, place[1], field, place[2])

    def _write(self, buffer: str, name: str, slots: Slots, field: np.ndarray, mask: np.ndarray | None) -> None:
        """Put ``field`` in slots of a buffer; cores are told apart only where that makes a difference."""
        state = self.state(buffer)
        array, before = state[name], pick(state[name], slots)
        if buffer in self.values and (mask is not None or slots is not None):
            same = before == field
            if (same if mask is None else same | ~mask[:, :, None]).all():
                return
        elif mask is not None and name != "held":  # where no tile is held, it does not matter which
            other = ~pick(state["held"], slots) | (before == field)
            mask = None if (other | mask[:, :, None]).all() else mask
        if slots is not None or (mask is not None and field.shape[2] > 1):
            array = self._every_slot(buffer, array)
        state[name] = put(array, slots, field, mask)

    def _every_slot(self, buffer: str, array: np.ndarray) -> np.ndarray:
        count = self.schedule.slots(buffer)
        return array if array.shape[2] == count else np.broadcast_to(array, (*array.shape[:2], count)).copy()

    def _arriving(self, move: Move, written: set[str], t: int, s: int) -> tuple[Any, list[tuple[str, np.ndarray]]]:
        place = arrival(move, self.mesh, t, s)
        sent, held = self.state(move.buffer), self.state(move.target)
        if self.successor is None:  # no ring: nobody asks where a chain began
            sent = {name: field for name, field in sent.items() if name not in ("first", "last")}
        fetched = {name: place.fetch(field) for name, field in sent.items()}
        if move.buffer in written:  # these may be views of it
            fetched = {name: field.copy() for name, field in fetched.items()}
        empty = ~fetched["held"] if move.buffer in self.tiles else fetched["down"] < 0
        if isinstance(place, Arrival):
            lost = empty if place.mask is None else empty & place.mask[:, :, None]
            if lost.any() and (move.buffer in self.tiles or ((fetched["down"] == STALE) & lost).any()):
                y, x = np.argwhere(np.broadcast_to(lost, (*self.mesh.shape, lost.shape[2])))[0][:2]
                if move.buffer in self.values or move.slot is not None:  # an empty slot among others may travel along
                    self.refuse(f"core ({y}, {x}) is sent a slot of {move.buffer!r} that holds nothing")
        elif empty.any() and (move.slot is not None or move.buffer in self.values):
            n = int(np.argwhere(empty)[0][0])
            self.refuse(f"core ({place.y[n]}, {place.x[n]}) sends a slot of {move.buffer!r} that holds nothing")
        if move.buffer in self.values:
            self.only_chains = False
        if move.combine:
            fetched = self._combined(move, place, held, fetched)
        return place, list(fetched.items())

    def _combined(self, move: Move, place: Arrival | Delivery, held: dict[str, np.ndarray],
                  fetched: dict[str, np.ndarray]) -> dict[str, np.ndarray]:  # fmt: skip
        """Numbers that arrive at others are added to them."""
        if isinstance(place, Arrival):
            mine = {name: pick(field, place.slots) for name, field in held.items()}
            care = np.ones((1, 1, 1), bool) if place.mask is None else place.mask[:, :, None]
        else:
            slots = slice(None) if place.slots is None else place.slots
            whole = {name: np.broadcast_to(f, (*self.mesh.shape, self.schedule.slots(move.target)))
                     for name, f in held.items()}
            mine = {name: field[place.to_y, place.to_x, slots] for name, field in whole.items()}
            care = np.ones((1,), bool)
        ok = (mine["down"] >= 0) & (fetched["down"] >= 0)
        for name in ("down", "across", "part"):
            ok = ok & (mine[name] == fetched[name])
        if not (ok | ~care).all():
            self.refuse(f"numbers that arrive in {move.target!r} are combined with numbers of another block of the "
                        "result, or with none")  # fmt: skip
        self.successor = None
        return fetched | {"n": self._counted(mine["n"] + fetched["n"], care, move),
                          "weight": mine["weight"] + fetched["weight"]}  # fmt: skip

    def _counted(self, n: np.ndarray, care: np.ndarray, move: Move) -> np.ndarray:
        if ((n > self.terms) & care).any():
            self.refuse(f"numbers in {move.target!r} are added up more often than there are contributions")
        return n

    def _reduced(self, move: Move, t: int, s: int) -> list[tuple[Any, list[tuple[str, np.ndarray]]]]:
        """A `Reduce`: members' numbers stand for nothing afterwards, the roots hold the sums."""
        route, axis = move.route, move.route.axis  # type: ignore[union-attr]
        assert isinstance(route, Reduce)
        size, root = self.mesh.length(axis), route.sources(self.mesh, t, s)
        here = np.arange(size).reshape((-1, 1) if axis == 0 else (1, -1))
        whole = root.shape[axis] == 1 and bool((root >= 0).all())  # all cores of a line stream into one
        sent, slots = slots_at(move.slot, t, s), slots_at(move.into_slot, t, s)
        slots = sent if slots is None else slots
        state = {name: pick(field, sent) for name, field in self.state(move.buffer).items()}
        taking, to = (root >= 0)[:, :, None], np.maximum(root, 0)
        if not whole:
            own = pull(np.broadcast_to(root, np.broadcast_shapes(root.shape, here.shape)), to, axis)
            self.require((own == root) | (root < 0), f"streams {move.buffer!r} to a core that is not the root of its "
                         "own group")  # fmt: skip
        self.require((state["down"] >= 0) | ~taking, f"adds up numbers in {move.buffer!r} that stand for nothing")
        for name in ("down", "across", "part"):
            self.require((state[name] == pull(state[name], to, axis)) | ~taking,
                         f"adds up numbers in {move.buffer!r} of different blocks")  # fmt: skip
        sums = {name: state[name] for name in ("down", "across", "part")}
        sums |= {name: _group_sums(state[name], root, size, axis) for name in ("n", "weight")}
        sums |= {name: np.full((1, 1, 1), STALE, np.int32) for name in ("first", "last")}
        self._counted(sums["n"], np.ones((1, 1, 1), bool) if whole else (root == here)[:, :, None], move)
        self._chain(move, root, state, whole and route.low_first)
        if size > 1:
            self.successor = None
        # everybody who took part is stale, except for a root that keeps the sum where it was
        stale = np.full((1, 1, 1), STALE, np.int32)
        if move.into is not None:
            mask = None if whole else np.broadcast_to(root >= 0, np.broadcast_shapes(root.shape, here.shape))
        else:
            mask = (root >= 0) & (root != here)
        left = (move.buffer, sent, mask), [("down", stale)]
        if whole and root.size > 1:  # another root on each line: a few cores, by their coordinates
            lines = np.arange(root.size)
            y, x = (root.ravel(), lines) if axis == 0 else (lines, root.ravel())
            chosen = None if slots is None else np.broadcast_to(slots, self.mesh.shape)[y, x]
            place = Delivery(move, y, x, y, x, None, chosen)
            new = [(name, place.fetch(field)) for name, field in sums.items()]
            new = new if chosen is None else [(name, field[:, 0]) for name, field in new]
            return [(place, new), left]
        new = [(name, field.copy()) for name, field in sums.items()]
        return [((move.target, slots, root == here), new), left]

    def _chain(self, move: Move, root: np.ndarray, state: dict[str, np.ndarray], plain: bool) -> None:
        """Remember at which core the two-sided chains of each block column of the result end."""
        if not self.only_chains:
            return
        axis = move.route.axis  # type: ignore[union-attr]
        if not plain or axis != 1 or state["down"].shape[2] != 1 or move.into != self.schedule.collect.buffer:
            self.only_chains = False
            return
        j, r = np.broadcast_arrays(state["across"][:, :1, 0], root)
        known = self.roots[j]
        self.only_chains = bool(((known < 0) | (known == r)).all()) and state["across"].shape[1] == 1
        self.roots[j] = r

    def _once(self, step: Step, writes: list[Any], shifts: list[Move], t: int, s: int) -> None:
        """Refuse two arrivals in one place in one step."""
        targets = [name for move in step.moves for name in
                   ({move.target, move.buffer} if isinstance(move.route, Reduce) else {move.target})]  # fmt: skip
        for name in sorted({n for n in targets if targets.count(n) > 1}):
            if any(move.buffer == name for move in shifts):
                self.refuse(f"two moves arrive in buffer {name!r}, one of them in all of it")
            mine = [place for place, _ in writes
                    if (place.move.target if isinstance(place, Arrival | Delivery) else place[0]) == name]
            chosen = [p[1] if isinstance(p, tuple) else p.slots for p in mine]
            if all(isinstance(c, int) for c in chosen) and len(set(chosen)) == len(chosen):
                continue
            count = np.zeros((*self.mesh.shape, self.schedule.slots(name)), np.int32)
            for place in mine:
                one = np.zeros_like(count)
                if isinstance(place, Delivery):
                    deliver(place, one, np.ones(1, np.int32), self.mesh)
                else:
                    mask, slots = (place[2], place[1]) if isinstance(place, tuple) else (place.mask, place.slots)
                    ones = np.ones((*self.mesh.shape, one.shape[2] if slots is None else 1), np.int32)
                    put(one, slots, ones, np.broadcast_to(True if mask is None else mask, self.mesh.shape))
                count += one
            self.require(count <= 1, f"receives two messages in one slot of {name!r}")
        for place, _ in writes:
            if isinstance(place, Delivery):
                slots = np.zeros(len(place.y), np.int64) if place.slots is None else place.slots
                key = (place.to_y * self.mesh.cols + place.to_x) * self.schedule.slots(place.move.target) + slots
                if len(np.unique(key)) < len(key):
                    self.refuse(f"a core receives two messages in one slot of {place.move.target!r}")

    # ---------------------------------------------------------------------------------------------------- induction
    def _snapshot(self) -> Any:
        known = {name: {key: field.copy() for key, field in self.state(name).items()} for name in self.held}
        return known, self.multiplied, self.only_chains

    def _leap(self, before: Any, times: int, turn: symmetry.Turn) -> bool:
        """Go ``times`` more periods ahead, if the last one renamed the blocks since ``before``, seen from turned cores.

        A renaming is one permutation each of block rows of the result, of its block columns and of the contraction's
        blocks, under which all tiles and all numbers become what they are now. The next period then renames once more.
        Numbers that grow must be chains whose successor is known for every block and agrees with the renaming.
        """
        known, multiplied, only_chains = before
        if self.task.kind not in ("product", "product_t") or self.successor is None or only_chains or self.only_chains:
            return False
        result, name_of = self.schedule.result.grid, self._spaces()
        renamed = {"i": _Renaming(result[0]), "j": _Renaming(result[1]), "k": _Renaming(self.terms)}
        for name in self.tiles:
            old, state = known[name], self.state(name)
            if not (old["held"] == turn.of(state["held"])).all():
                return False
            for space, key in zip(name_of[name], ("down", "across")):
                if not renamed[space].match(old[key], turn.of(state[key])):
                    return False
        growth = {}
        for name in self.values:
            old, state = known[name], self.state(name)
            blocks = all(renamed[n].match(old[key], turn.of(state[key])) for n, key in (("i", "down"), ("j", "across")))
            if not blocks or not (old["part"] == turn.of(state["part"])).all():
                return False
            counts = old["n"].min(), old["n"].max(), state["n"].min(), state["n"].max()
            if counts[0] != counts[1] or counts[2] != counts[3]:
                return False
            growth[name] = int(counts[2] - counts[0])
            still = ("weight", "first", "last") if not growth[name] else ()  # sums begun anew differ, and do not grow
            if not all((old[key] == turn.of(state[key])).all() for key in still):
                return False
        if not all(each.closed() for each in renamed.values()):
            return False
        grown = [name for name, more in growth.items() if more]
        if grown and not (len(grown) == 1 and self.schedule.slots(grown[0]) == 1 and self._ring(renamed["k"])):
            return False
        powers, back = {space: each.power(times) for space, each in renamed.items()}, turn.power(-times)
        for name in self.tiles:
            state = self.state(name)
            state |= {key: back.of(field) for key, field in state.items()}
            state |= {key: _renamed(state[key], powers[n]) for n, key in zip(name_of[name], ("down", "across"))}
        for name in self.values:
            state = self.state(name)
            old = dict(state)
            state |= {key: back.of(field) for key, field in state.items()}
            state["down"], state["across"] = (_renamed(state[key], powers[space])
                                              for key, space in (("down", "i"), ("across", "j")))
            if growth[name]:
                self._grow(name, old, times * growth[name])
        self.multiplied += times * (self.multiplied - multiplied)
        return True

    def _spaces(self) -> dict[str, tuple[str, str]]:
        """For each buffer of tiles what block rows and columns count: rows i, columns j of the result, or terms k."""
        first, second = self.task.operands
        spaces = {first: ("i", "k"), second: ("j", "k") if self.task.kind == "product_t" else ("k", "j")}
        return {name: spaces[held.operand] for name, held in self.schedule.buffers.items() if isinstance(held, Tiles)}

    def _ring(self, terms: _Renaming) -> bool:
        """Whether all blocks of the contraction have a successor, and the renaming of them respects it."""
        after = self.successor
        assert after is not None
        if (after < 0).any() or len(np.unique(after)) < len(after):
            return False
        known = terms.map >= 0
        return bool((terms.map >= 0).all() and np.array_equal(after[terms.map[known]], terms.map[after[known]]))

    def _grow(self, name: str, old: dict[str, np.ndarray], more: int) -> None:
        """Chains of one buffer go on by ``more`` blocks; a chain belongs to its block of the result, not to a core."""
        state, after = self.state(name), self.successor
        assert after is not None
        n = int(old["n"].max()) + more
        if n > self.terms:
            self.refuse(f"adds more contributions to a number in {name!r} than there are")
        first = old["first"]
        if not (np.array_equal(old["down"], state["down"]) and np.array_equal(old["across"], state["across"])):
            i, j, first = np.broadcast_arrays(old["down"], old["across"], first)
            by_block = np.full(self.schedule.result.grid, -1, np.int32)
            by_block[i, j] = first
            if not np.array_equal(by_block[i, j], first):
                self.successor = None
            first = by_block[state["down"], state["across"]]
        cycle, place = order.cycle(after, int(first.ravel()[0]))
        if len(cycle) < self.terms:
            self.refuse(f"numbers in {name!r} never meet all blocks of the contraction: their chains close too early")
        sums = np.concatenate([[0], np.cumsum(np.tile(self.weights[cycle], 2))])
        start = place[first]
        state["first"], state["last"] = first, cycle[(start + n - 1) % len(cycle)].astype(np.int32)
        state["n"] = np.full((1, 1, 1), n, np.int64)
        state["weight"] = np.full((1, 1, 1), sums[n]) if n == self.terms else sums[start + n] - sums[start]

    # ----------------------------------------------------------------------------------------------------- the end
    def finish(self) -> None:
        """The result lies, whole and complete, where the schedule says."""
        schedule, collect = self.schedule, self.schedule.collect
        name, state = collect.buffer, self.state(collect.buffer)
        pieces = schedule.slots(name)
        claimed = collect.place.at(self.mesh, 1 if collect.whole else pieces)
        taken = np.broadcast_to((claimed[0] >= 0) & (claimed[1] >= 0), (*self.mesh.shape, claimed[0].shape[2]))
        down, across = (np.broadcast_to(part, taken.shape)[taken] for part in claimed)
        ids = down.astype(np.int64) * schedule.result.grid[1] + across
        blocks = schedule.result.grid[0] * schedule.result.grid[1]
        times = np.bincount(ids, minlength=blocks)
        if not (times == 1).all():
            wrong = int(np.argmin(times == 1))
            raise ScheduleError(f"{schedule.name}: block {divmod(wrong, schedule.result.grid[1])} of the result is "
                                f"collected {times[wrong]} times from buffer {name!r}; once is right")  # fmt: skip
        part = np.arange(pieces) if collect.whole else np.zeros(1, int)
        total = int(self.weights.sum())
        for key, wanted, what in (
            ("n", self.terms, "does not hold all contributions to"),
            ("weight", total, "holds other contributions than each once to"),
            ("down", claimed[0], "does not hold"), ("across", claimed[1], "does not hold"),
            ("part", part, "does not hold"),
        ):  # fmt: skip
            right = (state[key] == wanted) | ~((claimed[0] >= 0) & (claimed[1] >= 0))
            if not right.all():
                y, x, slot = np.argwhere(~right)[0]
                y, x = (int(v) for v in (y, x))
                raise ScheduleError(f"{schedule.name}: at the end core ({y}, {x}) {what} the block of the result that "
                                    f"is collected from slot {slot} of its buffer {name!r}")  # fmt: skip

    def macs(self) -> tuple[np.ndarray, ...] | None:
        """Factors of the useful multiply-adds, where all products of a core share two of their three blocks."""
        if self.product is None:
            return (np.zeros((1, 1), np.int64),)
        i, k, j = self.product
        same_i, same_k, same_j = self.same
        A, C = self.schedule.operands[self.task.operands[0]], self.schedule.result
        rows, terms, cols = C.useful(0)[i], A.useful(1)[k], C.useful(1)[j]
        whole = [np.full((1, 1), n) for n in (C.shape[0], A.shape[1], C.shape[1])]
        for same, times, factors in (
            (True, 1, (rows, terms, cols)), (same_i and same_j, self.terms, (rows, whole[1], cols)),
            (same_i and same_k, C.grid[1], (rows, terms, whole[2])),
            (same_k and same_j, C.grid[0], (whole[0], terms, cols)),
        ):  # fmt: skip
            if same and self.multiplied == times:
                return factors
        return None


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

    def power(self, times: int) -> np.ndarray:
        """The map done so many times; -1 where it is not defined."""
        result, square = np.where(self.map >= 0, np.arange(len(self.map), dtype=np.int32), -1), self.map
        while times:
            if times & 1:
                result = np.where(result >= 0, square[result], -1)
            square = np.where(square >= 0, square[square], -1)
            times >>= 1
        return result


def _renamed(blocks: np.ndarray, names: np.ndarray) -> np.ndarray:
    return np.where(blocks >= 0, names[blocks], blocks).astype(np.int32)


def _group_sums(field: np.ndarray, root: np.ndarray, size: int, axis: int) -> np.ndarray:
    """``field (rows or 1, cols or 1, slots)`` added up over the cores that name one root; right on the roots."""
    if root.shape[axis] == 1:  # the whole line, or none of it
        total = field.sum(axis=axis, keepdims=True)
        return total * size if field.shape[axis] == 1 else total
    shape = np.broadcast_shapes(field.shape[:2], root.shape)
    whole = np.moveaxis(np.broadcast_to(field, (*shape, field.shape[2])), axis, 0)  # (size, lines, slots)
    roots = np.moveaxis(np.broadcast_to(root, shape), axis, 0)
    if root.shape[1 - axis] == 1:  # all lines alike
        sums = np.zeros_like(whole)
        for r, members in groups(roots[:, 0]):
            sums[r] = whole[members].sum(axis=0)
    else:
        sums = np.zeros((size, *whole.shape[1:]), field.dtype)
        line = np.broadcast_to(np.arange(roots.shape[1]), roots.shape)
        part = roots >= 0
        np.add.at(sums, (roots[part], line[part]), whole[part])
    return np.moveaxis(sums, 0, axis)
