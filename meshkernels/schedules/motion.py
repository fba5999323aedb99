"""What a move does to per-core data of any kind: block ids, proofs about numbers, or the numbers themselves.

Per-core data are arrays ``(rows or 1, cols or 1, slots or 1, ...)``; a side of 1 stands for "the same on all of them",
so that a broadcast panel of a 720 x 720 mesh is 720 numbers and not half a million. Everything is taken from what stood
there before the step, then everything arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from meshkernels.mesh import Mesh
from meshkernels.schedules.index import Index, at, number
from meshkernels.schedules.routes import Permute, Route
from meshkernels.schedules.steps import Move

#: Which slots: all (None), one, or one for each core ``(rows or 1, cols or 1)``.
Slots = int | np.ndarray | None
#: The place on its line that each core receives from, and which cores do: ``(rows or 1, cols or 1)``; None: all.
Sources = tuple[np.ndarray, np.ndarray | None]


@lru_cache(maxsize=64)
def places(n: int) -> np.ndarray:
    """``0 .. n-1``, not to be changed."""
    found = np.arange(n)
    found.flags.writeable = False
    return found


def pull(array: np.ndarray, source: np.ndarray, axis: int) -> np.ndarray:
    """``array`` as it is on the core of its line that each core names: ``source (rows or 1, cols or 1)``."""
    if array.shape[axis] == 1:
        return array
    if source.shape[1 - axis] == 1:
        return array.take(source.reshape(-1), axis)
    lines = places(source.shape[1 - axis])
    lines = np.zeros_like(lines) if array.shape[1 - axis] == 1 else lines
    return array[source, lines] if axis == 0 else array[lines[:, None], source]


def pick(array: np.ndarray, slots: Slots) -> np.ndarray:
    """The chosen slots of ``array (rows or 1, cols or 1, slots or 1, ...)``: all of them, or ``(.., .., 1, ...)``."""
    if slots is None or array.shape[2] == 1:
        return array
    if isinstance(slots, int):
        return array[:, :, slots : slots + 1]
    rows, cols = array.shape[:2]
    return array[0 if rows == 1 else places(rows)[:, None], 0 if cols == 1 else places(cols), slots][:, :, None]


def put(array: np.ndarray, slots: Slots, arriving: np.ndarray, mask: np.ndarray | None) -> None:
    """What arrives on the cores of ``mask`` (None: on all), into ``array (rows, cols, slots, ...)`` in place."""
    shape = array.shape[:2]
    if isinstance(slots, np.ndarray):
        y, x = np.nonzero(np.broadcast_to(True if mask is None else mask, shape))
        arriving = np.broadcast_to(arriving, (*shape, *arriving.shape[2:]))
        array[y, x, np.broadcast_to(slots, shape)[y, x]] = arriving[y, x, 0]
        return
    place = array if slots is None else array[:, :, slots : slots + 1]
    if mask is None or mask.size == 1:
        if mask is None or mask.all():
            place[...] = arriving
    elif mask.shape[0] == 1:  # whole columns of cores
        cores = np.flatnonzero(mask[0])
        place[:, cores] = arriving[:, cores] if arriving.shape[1] > 1 else arriving
    elif mask.shape[1] == 1:
        cores = np.flatnonzero(mask[:, 0])
        place[cores] = arriving[cores] if arriving.shape[0] > 1 else arriving
    else:
        place[mask] = np.broadcast_to(arriving, (*shape, *arriving.shape[2:]))[mask]


@dataclass(frozen=True, eq=False)
class Arrival:
    """What one move leaves: where, and how to fetch it. Not for a `Reduce`, which computes.

    Attributes:
        mask: ``(rows or 1, cols or 1)`` cores that receive; None: all.
        slots: in which slots of the receiving buffer.
    """

    move: Move
    source: np.ndarray
    mask: np.ndarray | None
    sent: Slots
    slots: Slots

    def fetch(self, array: np.ndarray) -> np.ndarray:
        """What arrives on each core, of data of the sending buffer."""
        return pull(pick(array, self.sent), self.source, self.move.route.axis)  # type: ignore[union-attr]


@dataclass(frozen=True, eq=False)
class Delivery:
    """The same for a `Permute`: n messages from core (y, x) to core (to_y, to_x)."""

    move: Move
    y: np.ndarray
    x: np.ndarray
    to_y: np.ndarray
    to_x: np.ndarray
    sent: np.ndarray | None
    slots: np.ndarray | None

    def fetch(self, array: np.ndarray) -> np.ndarray:
        """What arrives, ``(n, slots, ...)``, or ``(n, ...)`` of one slot each."""
        y, x = (0 if n == 1 else part for n, part in zip(array.shape, (self.y, self.x)))
        if self.sent is not None:
            found = array[y, x, 0 if array.shape[2] == 1 else self.sent]
            return np.broadcast_to(found, (len(self.y), *array.shape[3:]))
        return np.broadcast_to(array[y, x], (len(self.y), *array.shape[2:]))


def slots_at(value: int | Index | None, t: int, s: int) -> Slots:
    """The slots that a field names in iteration (t, s)."""
    if value is None:
        return None
    one = number(value, t, s)
    return at(value, t, s) if one is None else int(one)


class Arrivals:
    """Who receives what in the moves of one schedule; what is the same in every iteration is worked out once."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        # by their ids: each move and route itself, and what it does if that is always the same
        self._moves: dict[int, tuple[Move, Arrival | Delivery | None]] = {}
        self._sources: dict[int, tuple[Route, Sources | None]] = {}

    def of(self, move: Move, t: int, s: int) -> Arrival | Delivery:
        """Who receives what in one move, in iteration (t, s). Not for a `Reduce`."""
        seen = self._moves.get(id(move))
        if seen is not None and seen[1] is not None:
            return seen[1]
        found = self._permuted(move, t, s) if isinstance(move.route, Permute) else self._along(move, t, s)
        if seen is None:
            self._moves[id(move)] = move, found if move.steady else None
        return found

    def _permuted(self, move: Move, t: int, s: int) -> Delivery:
        assert isinstance(move.route, Permute)
        shape, sent, slots = self.mesh.shape, slots_at(move.slot, t, s), slots_at(move.into_slot, t, s)
        source, to_y, to_x = move.route.targets(self.mesh, t, s)
        y, x = np.unravel_index(source, shape)
        from_slots = None if sent is None else np.broadcast_to(sent, shape)[y, x]
        into = from_slots if slots is None else np.broadcast_to(slots, shape)[y, x]
        return Delivery(move, y, x, to_y, to_x, from_slots, into)

    def _along(self, move: Move, t: int, s: int) -> Arrival:
        sent, slots = slots_at(move.slot, t, s), slots_at(move.into_slot, t, s)
        source, mask = self._source(move.route, t, s)
        if slots is None:
            slots = sent
            if isinstance(sent, np.ndarray):
                slots = pull(sent[:, :, None], source, move.route.axis)[:, :, 0]  # type: ignore[union-attr]
        return Arrival(move, source, mask, sent, slots)

    def _source(self, route: Route, t: int, s: int) -> Sources:
        seen = self._sources.get(id(route))
        if seen is not None and seen[1] is not None:
            return seen[1]
        source = route.sources(self.mesh, t, s)  # type: ignore[union-attr]
        mask = source >= 0
        found = (source, None) if mask.all() else (np.maximum(source, 0), mask)
        if seen is None:
            self._sources[id(route)] = route, found if route.steady else None
        return found


def deliver(arrived: Arrival | Delivery, array: np.ndarray, values: np.ndarray) -> None:
    """The ``values`` that were fetched, into ``array (rows, cols, slots, ...)`` of the receiving buffer, in place."""
    if isinstance(arrived, Arrival):
        put(array, arrived.slots, values, arrived.mask)
    elif arrived.slots is None:
        array[arrived.to_y, arrived.to_x] = values
    else:
        array[arrived.to_y, arrived.to_x, arrived.slots] = values
