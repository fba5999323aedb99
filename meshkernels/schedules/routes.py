"""Routes: who sends to whom in one move, and over which links.

Five kinds. The first four run along every line of an axis; a line in which nobody sends is idle.

=========== ================================================== ======================= ====================
kind        what happens                                       hops on critical path   routing stages
=========== ================================================== ======================= ====================
Shift       all at once; each core gets the source's old data  the longest flow        0 (1 if it combines)
Multicast   a preset route from each source to its receivers   source to farthest core 0
Relay       receiver to receiver outwards from the source      source to farthest core one per forward
Reduce      two streams into a root, each core adding its own  longest dependent chain one per add
Permute     all at once, with at most one bend                 the longest flow        0 (1 if it combines)
=========== ================================================== ======================= ====================

A *routing stage* is a core's software handling a message before it can travel on (PLMR's beta); a hop is a router
forwarding it by a preset rule (alpha). A route says either whom each core receives from or whom it sends to, as an
`Index`; `Flows` is what that makes of one line, link by link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from meshkernels.mesh import Mesh
from meshkernels.rings import Ring
from meshkernels.schedules.index import Index, at, plain, steady

SHIFT, MULTICAST, RELAY, REDUCE = "shift", "multicast", "relay", "reduce"


@dataclass(frozen=True, eq=False)
class Flows:
    """The messages of one line of ``size`` cores in one move.

    Attributes:
        kind: ``"shift"``, ``"multicast"``, ``"relay"`` or ``"reduce"``.
        size: cores on the line.
        source: ``(n,)`` sending core of each flow, in the order in which they depend on each other.
        low, high: ``(n,)`` first and last core that the flow's path touches.
        root: ``(n,)`` of a relay: the core that each flow's message comes from; flows of different roots do not depend
            on each other. Empty for the other kinds.
    """

    kind: str
    size: int
    source: np.ndarray
    low: np.ndarray
    high: np.ndarray
    root: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))

    @property
    def target(self) -> np.ndarray:
        """``(n,)`` the core at the other end of each flow (not for a multicast, which has two ends)."""
        return self.low + self.high - self.source

    def link_load(self) -> np.ndarray:
        """Messages that leave each core towards higher and lower cores: ``(2, size)`` integers."""
        load = np.zeros((2, self.size + 1), np.int64)
        np.add.at(load[0], self.source, 1)  # links source .. high-1, upwards
        np.add.at(load[0], self.high, -1)
        np.add.at(load[1], self.low + 1, 1)  # links low+1 .. source, downwards
        np.add.at(load[1], self.source + 1, -1)
        return np.cumsum(load, axis=1)[:, :-1]

    def critical_path(self) -> tuple[int, int]:
        """``(hops, stages)`` of the longest chain of dependent messages."""
        reach = np.maximum(self.high - self.source, self.source - self.low)
        if len(self.source) == 0:
            return 0, 0
        if self.kind in (SHIFT, MULTICAST):
            return int(reach.max()), 0
        source, target = self.source, self.target
        if self.kind == RELAY:  # one line of cores for each root
            source, target = source + self.size * self.root, target + self.size * self.root
        hops, stages = dict[int, int](), dict[int, int]()  # of the longest chain that ends at each core
        for s, d, r in zip(source.tolist(), target.tolist(), reach.tolist()):
            hops[d] = max(hops.get(d, 0), hops.get(s, 0) + r)
            stages[d] = max(stages.get(d, 0), stages.get(s, 0) + 1)
        return max(hops.values()), max(stages.values())


def _unicasts(kind: str, size: int, source: np.ndarray, target: np.ndarray) -> Flows:
    return Flows(kind, size, source, np.minimum(source, target), np.maximum(source, target))


@dataclass(frozen=True)
class Shift:
    """Each core of a cycle hands on to the core that is ``by`` places further on it.

    Attributes:
        axis: 0 along columns of cores (y), 1 along rows (x).
        cycles: disjoint cycles through cores of a line; cores in none of them keep what they have.
        by: places, the same on a whole line; 0: the line is idle.
    """

    axis: int
    cycles: tuple[tuple[int, ...], ...]
    by: int | Index = 1

    def __post_init__(self) -> None:
        given = (self.cycles.order,) if isinstance(self.cycles, Ring) else self.cycles
        if isinstance(given, (list, tuple)):  # what is neither is left for the check
            object.__setattr__(self, "cycles", tuple(plain(cycle) for cycle in given))

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Cores of all cycles in a row; and for each of them its place there and its cycle's begin and length."""
        cores = np.array([core for cycle in self.cycles for core in cycle], np.int32)
        length = np.array([len(cycle) for cycle in self.cycles], np.intp)
        begin = np.cumsum(length) - length
        return cores, np.arange(len(cores)), np.repeat(begin, length), np.repeat(length, length)

    @property
    def steady(self) -> bool:
        """Whether it is the same in every iteration."""
        return steady(self.by)

    def turned(self, by: np.ndarray, size: int) -> np.ndarray:
        """The core that each core receives from after shifts of ``by (n,)`` places in all: ``(n, size)``.

        Args:
            by: ``(n,)`` places, of either sign.
            size: cores of the line.

        Returns:
            ``(n, size)`` places on the line.
        """
        cores, place, begin, length = self._places
        source = np.tile(np.arange(size, dtype=np.int32), (len(by), 1))
        source[:, cores] = cores[begin + (place - begin - by[:, None]) % length]
        return source

    def lines(self, mesh: Mesh, t: int = 0, s: int = 0) -> np.ndarray:
        """``by`` of each line, ``(lines,)`` or ``(1,)`` where it is one for all.

        Args:
            mesh: the mesh of the schedule.
            t: iteration of the innermost repeat.
            s: iteration of the repeat around that.

        Returns:
            ``(lines,)`` or ``(1,)`` places.
        """
        return at(self.by, t, s)[0 if self.axis == 0 else slice(None), slice(None) if self.axis == 0 else 0]

    def sources(self, mesh: Mesh, t: int = 0, s: int = 0) -> np.ndarray:
        """The place on its line that each core receives from, ``(rows or 1, cols or 1)``; -1: it receives nothing.

        Args:
            mesh: the mesh of the schedule.
            t: iteration of the innermost repeat.
            s: iteration of the repeat around that.

        Returns:
            ``(rows or 1, cols or 1)`` places on the line.
        """
        size = mesh.length(self.axis)
        turned = self.turned(self.lines(mesh, t, s), size)
        turned[turned == np.arange(size)] = -1
        return turned if self.axis == 1 else turned.T

    def phases(self, mesh: Mesh, t: int = 0, s: int = 0) -> np.ndarray:
        """``(lines,)`` a number for what each line does: equal numbers, equal `flows`.

        Args:
            mesh: the mesh of the schedule.
            t: iteration of the innermost repeat.
            s: iteration of the repeat around that.

        Returns:
            ``(lines,)`` integers.
        """
        return np.broadcast_to(self.lines(mesh, t, s), mesh.lines(self.axis))

    def flows(self, phase: int, size: int) -> Flows:
        """The messages of a line whose phase is given.

        Args:
            phase: from `phases`, of one line.
            size: cores of the line.

        Returns:
            Source and range of every message, as places on the line.
        """
        source = self.turned(np.array([phase]), size)[0]
        moving = np.flatnonzero(source != np.arange(size))
        order = np.argsort(source[moving])
        return _unicasts(SHIFT, size, source[moving][order].astype(np.intp), moving[order])


class _ByIndex:
    """What routes along a line have in common that name one core for each core, by an `Index`."""

    axis: int
    _field = "source"

    @property
    def _named(self) -> Any:
        return getattr(self, self._field)

    @property
    def steady(self) -> bool:
        """Whether it is the same in every iteration."""
        return steady(self._named)

    def sources(self, mesh: Mesh, t: int = 0, s: int = 0) -> np.ndarray:
        """The place on its line that each core names, ``(rows or 1, cols or 1)``; -1: none."""
        return at(self._named, t, s)

    def phases(self, mesh: Mesh, t: int = 0, s: int = 0) -> np.ndarray:
        """``(lines,)`` a number for what each line does: equal numbers, equal `flows`."""
        named = self._named
        phase = named.phase(self.axis, t, s) if isinstance(named, Index) else 0
        return np.broadcast_to(phase, mesh.lines(self.axis))

    def along(self, phase: int, size: int) -> np.ndarray:
        """``(size,)`` what the cores of a line name whose phase is given."""
        named = self._named
        return named.along(self.axis, phase, size) if isinstance(named, Index) else np.full(size, named)


@dataclass(frozen=True)
class Multicast(_ByIndex):
    """Preset routes from each source to all cores that name it; a router on it delivers and forwards.

    Attributes:
        axis: 0 along columns of cores (y), 1 along rows (x).
        source: the place on its line that each core receives from (its own: a local copy); -1: nothing.
    """

    axis: int
    source: int | Index

    def flows(self, phase: int, size: int) -> Flows:
        """The messages of a line whose phase is given.

        Args:
            phase: from `phases`, of one line.
            size: cores of the line.

        Returns:
            Source and range of every message, as places on the line.
        """
        source = self.along(phase, size)
        roots = np.unique(source[source >= 0])
        spans = [(np.flatnonzero(source == r)[[0, -1]], r) for r in roots]
        reach = np.array([(r, min(a, r), max(z, r)) for (a, z), r in spans], np.intp).reshape(-1, 3)
        reach = reach[reach[:, 1] < reach[:, 2]]
        return Flows(MULTICAST, size, reach[:, 0], reach[:, 1], reach[:, 2])


@dataclass(frozen=True)
class Relay(Multicast):
    """As `Multicast`, but handed on by software from receiver to receiver, outwards from the source.

    Attributes:
        axis: 0 along columns of cores (y), 1 along rows (x).
        source: the place on its line that each core receives from; -1: nothing.
    """

    def flows(self, phase: int, size: int) -> Flows:
        """The messages of a line whose phase is given.

        Args:
            phase: from `phases`, of one line.
            size: cores of the line.

        Returns:
            Source and range of every message, as places on the line.
        """
        named = self.along(phase, size)
        root, source, target = [], [], []
        for r in np.unique(named[named >= 0]).tolist():
            cores = np.union1d(np.flatnonzero(named == r), [r])
            for path in (cores[cores >= r].tolist(), cores[cores <= r][::-1].tolist()):
                root += [r] * (len(path) - 1)
                source += path[:-1]
                target += path[1:]
        flows = _unicasts(RELAY, size, np.array(source, np.intp), np.array(target, np.intp))
        return replace(flows, root=np.array(root, np.intp))


@dataclass(frozen=True)
class Reduce(_ByIndex):
    """The cores that name one root stream into it from both sides, each adding its own to what passes.

    ``((v_low + ...) + v_root) + ...`` with the stream from the higher places first: the root adds what comes from
    there before what comes from the lower places; the other way round with ``low_first``.

    Attributes:
        axis: 0 along columns of cores (y), 1 along rows (x).
        root: the place on its line that each core streams to; -1: it takes no part.
        low_first: the root adds the stream from the lower places first.
    """

    axis: int
    root: int | Index
    low_first: bool = False
    _field = "root"

    def flows(self, phase: int, size: int) -> Flows:
        """The messages of a line whose phase is given, in the order in which they are added.

        Args:
            phase: from `phases`, of one line.
            size: cores of the line.

        Returns:
            Source and range of every message, as places on the line.
        """
        adds = [pair for r, members in groups(self.along(phase, size)) for pair in streams(r, members, self.low_first)]
        source, target = np.array(adds, np.intp).reshape(-1, 2).T
        return _unicasts(REDUCE, size, source, target)


@dataclass(frozen=True)
class Permute:
    """Each core sends to one core anywhere on the mesh: along its row first and then along a column, or reversed.

    Attributes:
        y, x: row and column that each core sends to; -1 in either: it sends nothing.
        row_first: travel along the row before the column.
    """

    y: int | Index
    x: int | Index
    row_first: bool = True

    @property
    def steady(self) -> bool:
        """Whether it is the same in every iteration."""
        return steady(self.y, self.x)

    def targets(self, mesh: Mesh, t: int = 0, s: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(source, row, column)``: flat numbers of the sending cores and whom each sends to, ``(n,)`` each.

        Args:
            mesh: the mesh of the schedule.
            t: iteration of the innermost repeat.
            s: iteration of the repeat around that.

        Returns:
            ``(source, row, column)``, one entry for each core that sends.
        """
        y, x = (np.broadcast_to(at(part, t, s), mesh.shape).ravel() for part in (self.y, self.x))
        sending = np.flatnonzero((y >= 0) & (x >= 0))
        return sending, y[sending].astype(np.intp), x[sending].astype(np.intp)


def groups(root: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """``(root, members)`` of the groups of one line whose cores name ``root (size,)``, -1: no part."""
    return [(int(r), np.flatnonzero(root == r)) for r in np.unique(root[root >= 0])]


def streams(root: int, members: Sequence[int] | np.ndarray, low_first: bool) -> list[tuple[int, int]]:
    """The additions ``(from, to)`` of one group in order: two streams towards the root."""
    cores = [int(m) for m in members]
    high = [m for m in reversed(cores) if m >= root]
    low = [m for m in cores if m <= root]
    return [pair for path in ((low, high) if low_first else (high, low)) for pair in pairwise(path)]


#: Everything that a move can travel by.
Route = Shift | Multicast | Relay | Reduce | Permute


def line(axis: int, places: Sequence[int] | np.ndarray) -> Index:
    """An `Index` that gives the i-th core of every line of an axis the i-th of some integers.

    Args:
        axis: 0: i counts along columns of cores (y), 1: along rows (x).
        places: an integer for each core of a line.

    Returns:
        The same integers in every iteration.

    Examples:
        >>> line(1, [0, 0, 2]).at().tolist()
        [[0, 0, 2]]
    """
    own = range(len(places))
    return Index(places, y=own) if axis == 0 else Index(places, x=own)
