"""What one move of a schedule means to an engine: messages between cores, and the additions of a `Reduce` in rounds.

Cores are numbered row by row: core (y, x) is ``y * cols + x``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshkernels.mesh import Mesh
from meshkernels.schedules import Index, Permute, Reduce
from meshkernels.schedules.index import at
from meshkernels.schedules.routes import groups, streams
from meshkernels.schedules.steps import Move


class Messages(NamedTuple):
    """One entry per tile or piece and receiving core; an entry from a core to itself is a local copy.

    Attributes:
        source, target: ``(n,)`` cores.
        sent, into: ``(n,)`` the slot that it leaves and the one that it arrives in.
    """

    source: np.ndarray
    target: np.ndarray
    sent: np.ndarray
    into: np.ndarray


class Additions(NamedTuple):
    """The additions of a `Reduce`: ``sum[target] = sum[target] + sum[source]``, sums beginning as what the cores hold.

    Attributes:
        source, target: ``(n,)`` cores.
        round: ``(n,)`` from 0: those of one round depend on earlier rounds only.
        roots: ``(r,)`` cores whose sums are the result.
    """

    source: np.ndarray
    target: np.ndarray
    round: np.ndarray
    roots: np.ndarray


def slots_of(value: int | Index, mesh: Mesh, t: int, s: int) -> np.ndarray:
    """``(cores,)`` the slot that every core names in iteration (t, s)."""
    return np.broadcast_to(at(value, t, s), mesh.shape).ravel()


def messages(move: Move, mesh: Mesh, slots: int, t: int = 0, s: int = 0) -> Messages:
    """Who sends what to whom in a move that is no `Reduce`.

    Args:
        move: the move.
        mesh: the cores.
        slots: tiles or pieces in the buffer that is sent.
        t: iteration of the innermost repeat.
        s: iteration of the repeat around it.

    Returns:
        The messages, ordered by receiving core.
    """
    route = move.route
    assert not isinstance(route, Reduce)
    if isinstance(route, Permute):
        source, y, x = route.targets(mesh, t, s)
        target, names_into = y * mesh.cols + x, source
    else:
        place = np.broadcast_to(route.sources(mesh, t, s), mesh.shape)
        y, x = np.nonzero(place >= 0)
        from_y, from_x = (place[y, x], x) if route.axis == 0 else (y, place[y, x])
        source, target = from_y * mesh.cols + from_x, y * mesh.cols + x
        names_into = target
    if move.slot is None:  # all of them
        every = np.tile(np.arange(slots), len(source))
        return Messages(np.repeat(source, slots), np.repeat(target, slots), every, every)
    sent = slots_of(move.slot, mesh, t, s)[source]
    into = sent if move.into_slot is None else slots_of(move.into_slot, mesh, t, s)[names_into]
    return Messages(source, target, sent, into)


def additions(route: Reduce, mesh: Mesh, t: int = 0, s: int = 0) -> Additions:
    """What is added to what in a `Reduce`, in the order that its streams ask for."""
    size, phases = mesh.length(route.axis), route.phases(mesh, t, s)
    along, across = (1, mesh.cols) if route.axis == 1 else (mesh.cols, 1)  # between cores of a line, between lines
    parts: tuple[list[np.ndarray], ...] = ([], [], [], [])
    for phase in np.unique(phases):
        lines = np.flatnonzero(phases == phase)
        begin = lines[:, None] * across
        source, target, when, roots = _rounds(route.along(int(phase), size), route.low_first)
        for found, cores in zip(parts, (begin + source * along, begin + target * along, np.tile(when, (len(lines), 1)),
                                        begin + roots * along)):  # fmt: skip
            found.append(cores.ravel())
    return Additions(*(np.concatenate(found) for found in parts))


def _rounds(root: np.ndarray, low_first: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of one line whose cores name ``root (size,)``: ``(source, target, round)`` of the additions, and the roots."""
    adds, ready = [], np.zeros(len(root), np.int64)  # the first round that may read or add to each core's sum
    gathered = groups(root)
    for centre, members in gathered:
        for a, b in streams(centre, members, low_first):
            when = max(ready[a], ready[b])
            adds.append((a, b, when))
            ready[b] = when + 1
    source, target, when = np.array(adds, np.int64).reshape(-1, 3).T
    return source, target, when, np.array([centre for centre, _ in gathered], np.int64)
