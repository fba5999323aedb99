"""What a move does to per-core data of any kind: block ids, proofs about numbers, or the numbers themselves.

Per-core data are arrays ``(rows or 1, cols or 1, slots or 1, ...)``; a side of 1 stands for "the same on all of them",
so that a broadcast panel of a 720 x 720 mesh is 720 numbers and not half a million. Everything is taken from what stood
there before the step, then everything arrives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meshkernels.mesh import Mesh
from meshkernels.schedules.index import Index, at, number
from meshkernels.schedules.routes import Permute
from meshkernels.schedules.steps import Move, require

#: Numbers of one kind that are kept for all slots of all cores: 2 GiB.
MOST_CELLS = 1 << 28

#: Which slots: all (None), one, or one for each core ``(rows or 1, cols or 1)``.
Slots = int | np.ndarray | None


def pull(array: np.ndarray, source: np.ndarray, axis: int) -> np.ndarray:
    """``array`` as it is on the core of its line that each core names: ``source (rows or 1, cols or 1)``."""
    if array.shape[axis] == 1:
        return array
    if source.shape[1 - axis] == 1:
        return array.take(source.reshape(-1), axis)
    if array.ndim == 2:
        array, source, flat = array[..., None], source, True
    else:
        flat = False
    lines = np.arange(source.shape[1 - axis])
    lines = np.zeros_like(lines) if array.shape[1 - axis] == 1 else lines
    taken = array[source, lines] if axis == 0 else array[lines[:, None], source]
    return taken[..., 0] if flat else taken


def pick(array: np.ndarray, slots: Slots) -> np.ndarray:
    """The chosen slots of ``array (rows or 1, cols or 1, slots or 1, ...)``: all of them, or ``(.., .., 1, ...)``."""
    if slots is None or array.shape[2] == 1:
        return array
    if isinstance(slots, int):
        return array[:, :, slots : slots + 1]
    y, x = (np.zeros(1, np.intp) if n == 1 else np.arange(n) for n in array.shape[:2])
    return array[y[:, None], x, slots][:, :, None]


def put(array: np.ndarray, slots: Slots, arriving: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """``array`` with what arrives on the cores of ``mask`` (None: on all), in place where its shape allows it."""
    if mask is None and (slots is None or array.shape[2] == 1):
        if array.shape == arriving.shape:
            array[...] = arriving
            return array
        return arriving.copy()
    shape = np.broadcast_shapes(array.shape[:2], arriving.shape[:2], (1, 1) if mask is None else mask.shape,
                                slots.shape if isinstance(slots, np.ndarray) else (1, 1))  # fmt: skip
    if array.shape[:2] != shape:
        require(shape[0] * shape[1] * array[0, 0].size <= MOST_CELLS, "this schedule is too large to be walked: "
                f"{array.shape[2]} slots on each of {shape[0]} x {shape[1]} cores")  # fmt: skip
        array = np.broadcast_to(array, (*shape, *array.shape[2:])).copy()
    if isinstance(slots, np.ndarray):
        y, x = np.nonzero(np.broadcast_to(True if mask is None else mask, shape))
        arriving = np.broadcast_to(arriving, (*shape, *arriving.shape[2:]))
        array[y, x, np.broadcast_to(slots, shape)[y, x]] = arriving[y, x, 0]
        return array
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
        arriving = np.broadcast_to(arriving, (*shape, *arriving.shape[2:]))
        place[mask] = arriving[mask]
    return array


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


def arrival(move: Move, mesh: Mesh, t: int, s: int) -> Arrival | Delivery:
    """Who receives what in one move, in iteration (t, s)."""
    route, sent, slots = move.route, slots_at(move.slot, t, s), slots_at(move.into_slot, t, s)
    if isinstance(route, Permute):
        source, to_y, to_x = route.targets(mesh, t, s)
        y, x = np.unravel_index(source, mesh.shape)
        from_slots = None if sent is None else np.broadcast_to(sent, mesh.shape)[y, x]
        into = from_slots if slots is None else np.broadcast_to(slots, mesh.shape)[y, x]
        return Delivery(move, y, x, to_y, to_x, from_slots, into)
    source = route.sources(mesh, t, s)
    mask = source >= 0
    if slots is None:
        slots = sent if sent is None or isinstance(sent, int) else pull(sent, np.maximum(source, 0), route.axis)
    if mask.all():
        return Arrival(move, source, None, sent, slots)
    return Arrival(move, np.maximum(source, 0), mask, sent, slots)


def deliver(arrived: Arrival | Delivery, array: np.ndarray, values: np.ndarray, mesh: Mesh) -> np.ndarray:
    """``array``, of the receiving buffer, with the ``values`` that were fetched; in place where its shape allows it."""
    if isinstance(arrived, Arrival):
        return put(array, arrived.slots, values, arrived.mask)
    if array.shape[:2] != mesh.shape:
        array = np.broadcast_to(array, (*mesh.shape, *array.shape[2:])).copy()
    if arrived.slots is None:
        array[arrived.to_y, arrived.to_x] = values
    else:
        array[arrived.to_y, arrived.to_x, arrived.slots] = values
    return array
