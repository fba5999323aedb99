"""What the moves of a schedule are for the simulator: tables of messages along a line, or a list of bent ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meshkernels.fabric.messages import COLUMNS, CORE, HOPS, NEXT_HOPS, NEXT_STRIDE, SENDER, STRIDE
from meshkernels.mesh import Mesh
from meshkernels.schedules import Multicast, Permute, Reduce, Relay
from meshkernels.schedules.routes import Flows


@dataclass(eq=False)
class Pattern:
    """The messages of one line in one phase of a route.

    Attributes:
        arms: ``(n, 4)`` source, end, the arm that sets it off (-1: none), whether it begins a message; a multicast has
            an arm to either side of its source.
        named: ``(size,)`` the source that each place names; -1: none.
        sends, receives: ``(size,)`` messages of each place. load: ``(2, size)`` those that leave it up and down.
    """

    arms: np.ndarray
    named: np.ndarray
    sends: np.ndarray
    receives: np.ndarray
    load: np.ndarray


def _pattern(route: Any, phase: int, size: int) -> Pattern:
    flows: Flows = route.flows(phase, size)
    multicast = isinstance(route, Multicast) and not isinstance(route, Relay)
    named = np.full(size, -1, np.int32)
    rows: list[tuple[int, int, int, int]] = []
    if multicast:
        named[:] = route.along(phase, size)
        for source, low, high in zip(flows.source.tolist(), flows.low.tolist(), flows.high.tolist()):
            ends = [end for end in (high, low) if end != source]
            rows += [(source, end, -1, int(i == 0)) for i, end in enumerate(ends)]
        sends = np.bincount(flows.source, minlength=size)
        receives = ((named >= 0) & (named != np.arange(size))).astype(np.int64)
    else:
        last = -1
        for source, end in zip(flows.source.tolist(), flows.target.tolist()):
            linked = isinstance(route, Relay | Reduce) and last == source
            rows.append((source, end, len(rows) - 1 if linked else -1, int(not linked)))
            last = end
        named[flows.target] = flows.source
        sends, receives = (np.bincount(part, minlength=size) for part in (flows.source, flows.target))
        if isinstance(route, Relay):
            own = np.flatnonzero(route.along(phase, size) == np.arange(size))
            named[own] = own
    return Pattern(np.array(rows, np.int32).reshape(-1, 4), named, sends, receives, flows.link_load())


@dataclass(eq=False)
class Table:
    """All patterns of one route along an axis, stacked; more are added as phases come up.

    Attributes:
        arms: ``(patterns, n, 4)``, padded; counts: ``(patterns,)``.
        named, sends, receives: ``(patterns, size)``.
        full: every core sends and receives once, in all patterns so far; clear: no link carries two messages;
        local: some core names itself. waits: some arm is set off by another. whole: every pattern is idle, or every
        core of the line sends and receives one message and no link carries two.
        messages: ``(patterns,)`` of each pattern.
    """

    route: Any
    mesh: Mesh
    patterns: list[Pattern] = field(default_factory=list)
    _known: dict[int, int] = field(default_factory=dict)
    _alike: dict[bytes, int] = field(default_factory=dict)
    arms: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 4), np.int32))
    messages: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    full: bool = True
    whole: bool = True
    local: bool = False
    waits: bool = False
    _sides: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def cast(self) -> bool:
        """Whether a message is delivered on its way, too."""
        return isinstance(self.route, Multicast) and not isinstance(self.route, Relay)

    def at(self, t: int, s: int) -> np.ndarray:
        """``(lines,)`` the pattern of each line in iteration (t, s)."""
        phases = np.asarray(self.route.phases(self.mesh, t, s))
        if phases.ndim == 0 or (phases[0] == phases).all():
            return np.full(self.mesh.lines(self.route.axis), self._number(int(phases.flat[0])), np.int32)
        different, which = np.unique(phases, return_inverse=True)
        return np.array([self._number(phase) for phase in different.tolist()], np.int32)[which]

    def sides(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a `whole` table: which patterns are idle, and from and to whom each place moves, ``(patterns, size)``."""
        if self._sides is None or len(self._sides[0]) != len(self.patterns):
            idle = np.array([not len(p.arms) for p in self.patterns])
            source = self.named[: len(self.patterns)].copy()
            source[idle] = 0
            self._sides = idle, source, np.argsort(source, axis=1).astype(np.int32)
        return self._sides

    def on_cores(self, values: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        """``(cores,)`` what ``(patterns, size)`` values are for each core."""
        found = values[pattern]  # (lines, size)
        return (found.T if self.route.axis == 0 else found).reshape(-1)

    def own(self, pattern: np.ndarray) -> np.ndarray:
        """The cores that name themselves as the source."""
        count = len(self.patterns)
        return np.flatnonzero(self.on_cores(self.named[:count] == np.arange(self.named.shape[1]), pattern))

    def ends(self, pattern: int) -> list[tuple[int, int]]:
        """From and to whom the messages of a pattern go, place by place; to all receivers of a multicast."""
        if self.cast:
            return [(int(a), b) for b, a in enumerate(self.patterns[pattern].named) if a >= 0]
        return [(int(a), int(b)) for a, b in self.patterns[pattern].arms[:, :2]]

    def _number(self, phase: int) -> int:
        if phase not in self._known:
            found = _pattern(self.route, phase, self.mesh.length(self.route.axis))
            key = found.arms.tobytes() + found.named.tobytes()
            if key not in self._alike:
                self._alike[key] = len(self.patterns)
                self.patterns.append(found)
                self._stack()
            self._known[phase] = self._alike[key]
        return self._known[phase]

    def _stack(self) -> None:
        size, most = len(self.patterns[0].named), max(len(p.arms) for p in self.patterns)
        if 1 < len(self.patterns) <= len(self.arms) and self.arms.shape[1] >= most:
            chosen = slice(len(self.patterns) - 1, None)
        else:
            room = max(2 * len(self.patterns), 4)
            self.arms, self.counts = np.zeros((room, most, 4), np.int32), np.zeros(room, np.int32)
            self.named = np.zeros((room, size), np.int32)
            self.sends, self.receives = (np.zeros((room, size), np.int16) for _ in range(2))
            chosen = slice(0, None)
            self.full, self.whole, self.local, self.waits = True, True, False, False
            self.messages = np.zeros(0, np.int64)
        for i, p in list(enumerate(self.patterns))[chosen]:
            self.arms[i, : len(p.arms)], self.counts[i] = p.arms, len(p.arms)
            self.named[i], self.sends[i], self.receives[i] = p.named, p.sends, p.receives
        for p in self.patterns[chosen]:
            once = bool((p.sends == 1).all() and (p.receives == 1).all())
            self.messages = np.append(self.messages, int(p.arms[:, 3].sum()) if self.cast else len(p.arms))
            self.waits |= bool((p.arms[:, 2] >= 0).any())
            self.full &= once
            self.whole &= not self.waits and not self.cast and (not len(p.arms) or (once and p.load.max() <= 1))
            self.local |= bool((p.named == np.arange(size)).any())


def clear(tables: list[Table], patterns: list[np.ndarray], known: dict) -> bool:
    """Whether no link carries two messages of these moves, which run along one axis."""
    if all(len(pattern) == 1 or (pattern[0] == pattern).all() for pattern in patterns):
        columns = [tuple(int(pattern[0]) for pattern in patterns)]
    else:
        columns = [tuple(column) for column in np.unique(np.stack(patterns), axis=1).T.tolist()]
    for column in columns:
        key = tuple(map(id, tables)), column
        if key not in known:
            load = sum(table.patterns[i].load for table, i in zip(tables, column))
            known[key] = bool(np.max(load, initial=0) <= 1)
        if not known[key]:
            return False
    return True


def bent(route: Permute, mesh: Mesh, t: int, s: int) -> tuple[np.ndarray, np.ndarray]:
    """The messages of a `Permute`: ``(n, 16)`` fields as `messages.list_arms` has them, and ``(n,)`` where they end."""
    source, to_y, to_x = route.targets(mesh, t, s)
    y, x = np.unravel_index(source, mesh.shape)
    dy, dx = to_y - y, to_x - x
    fields = np.zeros((len(source), COLUMNS), np.int32)
    along_x = np.stack([np.sign(dx), np.where(dx > 0, 0, mesh.cores), abs(dx)], axis=1)
    along_y = np.stack([np.sign(dy) * mesh.cols, np.where(dy > 0, 2, 3) * mesh.cores, abs(dy)], axis=1)
    first, second = (along_x, along_y) if route.row_first else (along_y, along_x)
    straight = first[:, 2] == 0
    first[straight], second[straight] = second[straight], 0
    fields[:, CORE], fields[:, STRIDE : HOPS + 1], fields[:, NEXT_STRIDE : NEXT_HOPS + 1] = source, first, second
    fields[:, SENDER] = source
    return fields, to_y * mesh.cols + to_x
