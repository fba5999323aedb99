"""Which contributions every number is the sum of, while a schedule is walked.

Of every number it is known to which block of the result it belongs, which ``part`` of it, how many contributions have
been added so far, ``n``, and the sum of a ``weight`` of each. Invariant: n is never more than there are contributions
(so that no weight overflows), and only numbers of one block and part are ever added to each other.

While all numbers are chains, one product added after another, the first and the last block of the contraction are known
too, and so is the ``successor``: the block that follows each block, the same in every chain. Once sums are added to
sums, these are no longer tracked.

What is certain and what is not: that a sum holds *each* contribution once, and not one twice and another never, is
concluded from its weight, the contributions' being 40-bit random numbers. A wrong sum has the right weight with
probability 2^-40; all other checks are exact.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import proxy

import numpy as np

from meshkernels.schedules.holdings import STALE, TRUE, ZERO, Holdings, Write
from meshkernels.schedules.motion import Arrival, Delivery, Slots, places, pull, slots_at
from meshkernels.schedules.routes import Reduce, groups
from meshkernels.schedules.steps import Move, Multiply

if TYPE_CHECKING:
    from meshkernels.schedules.walk import Walk

#: To which block of the result a number belongs; what is known of chains only.
NAMES, COUNTS, CHAIN = ("down", "across", "part"), ("n", "weight"), ("first", "last")
_PART, _STALE = np.zeros((1, 1, 1), np.int32), np.full((1, 1, 1), STALE, np.int32)
_ONE = np.ones((1, 1, 1), np.int64)
for _array in (_PART, _STALE, _ONE, TRUE):
    _array.flags.writeable = False


@lru_cache(maxsize=32)
def _weights(n: int) -> np.ndarray:
    """A random number below 2^40 for each contribution: sums of `check.MOST_TERMS` of them are exact.

    They are others in every process, so that no schedule can be made to fit them.

    Returns:
        ``(n,)`` int64.
    """
    return np.random.default_rng().integers(1, 1 << 40, n)


class Contributions:
    """What has been added up so far, on all cores.

    Attributes:
        terms: contributions to each number of the result.
        weights: ``(terms,)`` of each; ``total``: of all.
        successor: ``(terms,)`` the block that follows each block in all chains, -1: not seen yet; None: no chains.
        product: blocks ``(i, k, j)`` of the first product of each core; ``multiplied``: how many there were.
        same: whether i, k and j of a core are those of its first product in all products.
        two_sided: whether nothing but single products have been added up, by streams into one root a row.
        roots: ``(J,)`` that root of each block column of the result; -1: not seen yet.
    """

    def __init__(self, walk: Walk):
        self.walk: Walk = proxy(walk)  # no cycle: a walk's arrays are freed as soon as it is over
        task, schedule = walk.task, walk.schedule
        first = schedule.operands[task.operands[0]]
        self.terms = {"product": first.grid[1], "product_t": first.grid[1],
                      "allreduce": first.grid[task.axis]}.get(task.kind, 1)
        self.weights = _weights(self.terms)
        self.total = int(self.weights.sum())
        multiplies = task.kind in ("product", "product_t")
        self.successor: np.ndarray | None = np.full(self.terms, -1, np.int32) if multiplies else None
        self.product: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.multiplied = 0
        self.same = [True, True, True]
        self.two_sided = task.kind == "product_t"
        self.roots = np.full(schedule.result.grid[1], -1)
        self.rooted: list[tuple[np.ndarray, np.ndarray]] = []  # block columns and their roots, as they were seen

    @property
    def fields(self) -> tuple[str, ...]:
        """What is known of a number besides its name."""
        return (*COUNTS, *CHAIN) if self.successor is not None else COUNTS

    def no_chains(self) -> None:
        """From now on sums are added to sums."""
        if self.successor is not None:
            self.successor = None
            for name in self.walk.values:
                self.walk.held[name].forget(CHAIN)

    # ---------------------------------------------------------------------------------------------------- additions
    def remember(self, i: np.ndarray, k: np.ndarray, j: np.ndarray, op: Multiply) -> None:
        """Record one product on every core."""
        self.multiplied += 1
        if self.product is None:
            self.product = i, k, j
        for n, (now, first) in enumerate(zip((i, k, j), self.product)):
            self.same[n] = self.same[n] and (now is first or bool((now == first).all()))
        self.two_sided = self.two_sided and not op.accumulate and op.transposed

    def add(self, into: str, piece: Slots, i: np.ndarray, j: np.ndarray, k: np.ndarray, accumulate: bool) -> None:
        """Contribution k to block (i, j) of the result, in one piece or cut over all; ``(rows or 1, cols or 1, 1)``."""
        held = self.walk.held[into]
        name = {"down": i, "across": j, "part": places(held.slots)[None, None] if piece is None else _PART}
        begun: dict[str, np.ndarray] = {"n": _ONE, "weight": self.weights[k]}
        begun |= {"first": k, "last": k} if self.successor is not None else {}
        fresh = self._fresh(into, held, piece, name) if accumulate else TRUE
        if fresh is TRUE or fresh.all():
            held.write(Write(into, name | begun, piece))
            return
        new = {key: held.peek(key, piece) + begun[key] for key in COUNTS}
        if self.successor is not None:
            self._follow(held.peek("last", piece), k, ~fresh)
        if self.successor is not None:
            new |= {"first": held.take("first", piece), "last": k}
        if fresh.any():
            new = name | {key: np.where(fresh, begun[key], field) for key, field in new.items()}
        self.walk.require(new["n"] <= self.terms,
                          f"adds more contributions to a number in {into!r} than there are")  # fmt: skip
        held.write(Write(into, new, piece))

    def _fresh(self, into: str, held: Holdings, piece: Slots, name: dict[str, np.ndarray]) -> np.ndarray:
        """Where nothing has been added yet; refuses what belongs to another block."""
        old = {key: held.peek(key, piece) for key in name}
        fresh = old["down"] == ZERO if old["down"] is not name["down"] else ~TRUE
        if old["down"] is not name["down"]:
            self.walk.require(old["down"] != STALE, f"adds to numbers in {into!r} that have been sent on already")
        some = fresh.any()
        for key, mine in name.items():  # one by one: each is small by itself
            if old[key] is not mine:
                same = (old[key] == mine) | fresh if some else old[key] == mine
                self.walk.require(same, f"adds a product to numbers in {into!r} that belong to another block of the "
                                  "result")  # fmt: skip
        return fresh

    def _follow(self, last: np.ndarray, k: np.ndarray, where: np.ndarray) -> None:
        """Chains go on: after block ``last`` comes ``k``; see whether that is the same everywhere and always."""
        assert self.successor is not None
        if not where.all():
            last, k, where = np.broadcast_arrays(last, k, where)
            last, k = last[where], k[where]
        if last.size == 1 and k.size == 1:
            before, after = int(last.ravel()[0]), int(k.ravel()[0])
            right = self.successor[before] in (-1, after)
            self.successor[before] = after
        else:
            last, k = np.broadcast_arrays(last, k)
            unknown = self.successor[last] < 0
            self.successor[last[unknown]] = k[unknown]
            right = np.array_equal(self.successor[last], k)
        if not right:
            self.no_chains()

    # -------------------------------------------------------------------------------------------------- combinations
    def combined(self, move: Move, place: Arrival | Delivery) -> Write:
        """Numbers that arrive at others are added to them."""
        self.two_sided = False
        sent, held = self.walk.held[move.buffer], self.walk.held[move.target]
        care = place.mask[:, :, None] if isinstance(place, Arrival) and place.mask is not None else None
        for name in NAMES:
            mine, got = self._both(name, held, sent, place)
            right = (mine == got) & (mine >= 0) if name == "down" else mine == got if mine is not got else TRUE
            if not (right if care is None else right | ~care).all():
                self.walk.refuse(f"numbers that arrive in {move.target!r} are combined with numbers of another block "
                                 "of the result, or with none")  # fmt: skip
        counts = {name: np.add(*self._both(name, held, sent, place)) for name in COUNTS}
        self._bound(counts["n"], TRUE if care is None else care, move)
        self.no_chains()
        if isinstance(place, Delivery):
            return Write(move.target, counts, place.slots, cores=(place.to_y, place.to_x))
        return Write(move.target, counts, place.slots, care)

    def _both(self, name: str, held: Holdings, sent: Holdings, place: Arrival | Delivery) -> tuple[np.ndarray, ...]:
        """A field of the numbers that are there, and of those that arrive."""
        if isinstance(place, Arrival):
            axis = place.move.route.axis  # type: ignore[union-attr]
            return held.peek(name, place.slots), pull(sent.peek(name, place.sent), place.source, axis)
        mesh, field = self.walk.mesh, held.peek(name, None)
        whole = np.broadcast_to(field, (*mesh.shape, field.shape[2]))
        if place.slots is None:
            return whole[place.to_y, place.to_x], place.fetch(sent.peek(name, None))
        mine = whole[place.to_y, place.to_x, place.slots if field.shape[2] > 1 else 0]
        return mine[:, None], place.fetch(sent.peek(name, None))[:, None]

    def _bound(self, n: np.ndarray, care: np.ndarray, move: Move) -> None:
        if ((n > self.terms) & care).any():
            self.walk.refuse(f"numbers in {move.target!r} are added up more often than there are contributions")

    def reduced(self, move: Move, t: int, s: int) -> list[Write]:
        """A `Reduce`: the roots hold the sums, and the numbers of the other members are invalid."""
        walk, route = self.walk, move.route
        assert isinstance(route, Reduce)
        axis, size, root = route.axis, walk.mesh.length(route.axis), route.sources(walk.mesh, t, s)
        here = places(size).reshape((-1, 1) if axis == 0 else (1, -1))
        whole = root.shape[axis] == 1 and bool((root >= 0).all())  # all cores of a line stream into one
        sent, slots = slots_at(move.slot, t, s), slots_at(move.into_slot, t, s)
        slots = sent if slots is None else slots
        state = {name: walk.held[move.buffer].take(name, sent) for name in (*NAMES, *COUNTS)}
        taking, to = (root >= 0)[:, :, None], np.maximum(root, 0)
        if not whole:
            own = pull(np.broadcast_to(root, np.broadcast_shapes(root.shape, here.shape))[:, :, None], to, axis)
            walk.require((own[:, :, 0] == root) | (root < 0), f"streams {move.buffer!r} to a core that is not the root "
                         "of its own group")  # fmt: skip
        walk.require((state["down"] >= 0) | ~taking, f"adds up numbers in {move.buffer!r} that are no longer valid")
        for name in NAMES:
            roots = pull(state[name], to, axis)
            if roots is not state[name]:
                alike = (state[name] == roots) | ~taking
                walk.require(alike, f"adds up numbers in {move.buffer!r} of different blocks")
        sums = {name: state[name] for name in NAMES}
        sums |= {name: _group_sums(state[name], root, size, axis) for name in COUNTS}
        self._bound(sums["n"], TRUE if whole else (root == here)[:, :, None], move)
        self._root(move, root, state, whole and route.low_first)
        self.no_chains()
        # the numbers of all members are invalid, but for those of a root that keeps the sum where it was
        if move.into is None:
            mask = (root >= 0) & (root != here)
        else:
            mask = None if whole else np.broadcast_to(root >= 0, np.broadcast_shapes(root.shape, here.shape))
        left = Write(move.buffer, {"down": _STALE}, sent, None if mask is None else mask[:, :, None])
        if not whole or root.size == 1:
            return [Write(move.target, sums, slots, (root == here)[:, :, None]), left]
        lines = places(root.size)  # another root on each line: a few cores, by their coordinates
        cores = y, x = (root.ravel(), lines) if axis == 0 else (lines, root.ravel())
        at_roots = {name: field[y if field.shape[0] > 1 else 0, x if field.shape[1] > 1 else 0]
                    for name, field in sums.items()}  # fmt: skip
        at_roots = {name: np.broadcast_to(field, (root.size, field.shape[-1])) for name, field in at_roots.items()}
        if slots is not None:
            slots = np.broadcast_to(slots, walk.mesh.shape)[y, x]
        return [Write(move.target, at_roots, slots, cores=cores), left]

    def _root(self, move: Move, root: np.ndarray, state: dict[str, np.ndarray], plain: bool) -> None:
        """Remember at which core the two-sided chains of each block column of the result end."""
        if not self.two_sided:
            return
        axis = move.route.axis  # type: ignore[union-attr]
        alike = state["across"].shape[1] == 1 and state["across"].shape[2] == 1 and state["down"].shape[2] == 1
        if not (plain and alike and axis == 1 and move.into == self.walk.schedule.collect.buffer):
            self.two_sided = False
            return
        j, r = np.broadcast_arrays(state["across"][:, :, 0], root)
        self.rooted.append((j, r))
        self.rooted_at(j, r)

    def rooted_at(self, j: np.ndarray, r: np.ndarray) -> None:
        """Block columns ``j`` of the result end at the cores ``r`` of their rows."""
        fits = (self.roots[j] < 0) | (self.roots[j] == r)
        self.roots[j] = r
        self.two_sided = self.two_sided and bool((fits & (self.roots[j] == r)).all())


def _group_sums(field: np.ndarray, root: np.ndarray, size: int, axis: int) -> Any:
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
        line = np.broadcast_to(places(roots.shape[1]), roots.shape)
        part = roots >= 0
        np.add.at(sums, (roots[part], line[part]), whole[part])
    return np.moveaxis(sums, 0, axis)
