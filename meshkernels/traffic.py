"""Traffic of one line of cores in one step: the vocabulary in which schedules say who sends to whom.

All communication of the kernels here runs along the rows or the columns of the mesh, so one step of one line
is a handful of *flows*: a source, and the span ``low .. high`` of cores that its route touches. Four kinds:

=========== ================================================= ======================= ====================
kind        what happens                                      hops on critical path   routing stages
=========== ================================================= ======================= ====================
shift       all at once; each target gets the source's old    the longest flow        0 (1 if it combines)
multicast   one preset route from a root delivers to all      root to farthest core   0
relay       neighbour to neighbour outwards from a root       root to farthest core   one per forward
reduce      streams into roots, each core adding its own      longest dependent chain one per add
=========== ================================================= ======================= ====================

A *routing stage* is a core's software handling a message before it can travel on (PLMR's beta); a hop is a
router forwarding it by a preset rule (alpha).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from meshkernels.kept import remember
from meshkernels.rings import Ring

SHIFT, MULTICAST, RELAY, REDUCE = "shift", "multicast", "relay", "reduce"


@dataclass(frozen=True, eq=False)
class Traffic:
    """The flows of one line of ``size`` cores.

    Attributes:
        kind: ``"shift"``, ``"multicast"``, ``"relay"`` or ``"reduce"``.
        size: cores on the line.
        source: ``(n,)`` sending core of each flow, in the order in which they depend on each other.
        low, high: ``(n,)`` first and last core that the flow's route touches.
        roots: ``(r,)`` where a multicast or relay begins, or where the streams of a reduce end.
    """

    kind: str
    size: int
    source: np.ndarray
    low: np.ndarray
    high: np.ndarray
    roots: np.ndarray

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
        hops, stages = [0] * self.size, [0] * self.size  # of the longest chain that ends at each core
        for s, d, r in zip(self.source.tolist(), self.target.tolist(), reach.tolist()):
            hops[d] = max(hops[d], hops[s] + r)
            stages[d] = max(stages[d], stages[s] + 1)
        return max(hops), max(stages)


def _unicast(kind: str, size: int, source: np.ndarray, target: np.ndarray, roots) -> Traffic:
    low, high = np.minimum(source, target), np.maximum(source, target)
    return Traffic(kind, size, source, low, high, np.asarray(roots, np.intp))


def _paths(kind: str, size: int, paths: Sequence[Sequence[int]], roots) -> Traffic:
    source = np.array([s for path in paths for s in path[:-1]], np.intp)
    target = np.array([d for path in paths for d in path[1:]], np.intp)
    return _unicast(kind, size, source, target, roots)


def shift(ring: Ring) -> Traffic:
    """Every core hands its tile to the next core of ``ring``; a ring of one core moves nothing."""
    cores = np.arange(len(ring))
    moving = ring.send != cores
    return _unicast(SHIFT, len(ring), cores[moving], ring.send[moving], [])


@lru_cache(maxsize=4096)
def multicast(root: int, size: int) -> Traffic:
    """One preset route from ``root`` to both ends of the line; every router on it delivers and forwards."""
    at = np.array([root] if size > 1 else [], np.intp)
    return Traffic(MULTICAST, size, at, 0 * at, 0 * at + size - 1, np.array([root], np.intp))


@remember
def relay(root: int, size: int) -> Traffic:
    """From ``root`` outwards, handed on from neighbour to neighbour by software."""
    return _paths(RELAY, size, [range(root, size), range(root, -1, -1)], [root])


def reduce(size: int, groups: Sequence[tuple[Sequence[int], int]]) -> Traffic:
    """Two-sided streams inside each group of cores, ending at its root.

    Args:
        size: cores on the line.
        groups: ``(members, r)`` for each group: its cores in line order, and the place of the root among
            them. The last member's stream arrives first, then the first member's: the order in which the
            root adds them.
    """
    paths: list[Sequence[int]] = []
    for members, r in groups:
        paths += [members[: r - 1 if r else None : -1], members[: r + 1]]
    return _paths(REDUCE, size, paths, [members[r] for members, r in groups])


@remember
def chain(root: int, size: int) -> Traffic:
    """The whole line streams into ``root`` from both ends; it adds the stream from the lower end first."""
    return _paths(REDUCE, size, [range(root + 1), range(size - 1, root - 1, -1)], [root])
