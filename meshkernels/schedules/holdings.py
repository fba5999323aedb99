"""What a proof knows of one buffer on all cores, and how an arrival changes it.

Fields are arrays ``(rows or 1, cols or 1, slots or 1)``; a side of 1 stands for "the same on all of them", and cores or
slots are told apart only where that makes a difference. Invariant: arrays are shared freely and never change, but for
those in ``_own``, which no one else refers to and which are written in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meshkernels.mesh import Mesh
from meshkernels.schedules.buffers import Tiles
from meshkernels.schedules.motion import Arrival, Delivery, Slots, pick, places, pull
from meshkernels.schedules.routes import Shift
from meshkernels.schedules.steps import Move, require

#: In place of a block: nothing has been added yet; what was here has been added up elsewhere and is invalid.
ZERO, STALE = -1, -2
#: Entries of one field that are kept for all slots of all cores.
MOST_CELLS = 1 << 26
#: On all cores, in all slots.
TRUE = np.ones((1, 1, 1), bool)


@dataclass(frozen=True, eq=False)
class Write:
    """What arrives in a buffer in one step.

    Attributes:
        buffer: the receiving buffer.
        fields: what is known of it, by name: ``(rows or 1, cols or 1, slots or 1)``, or ``(n, slots or 1)`` where there
            are ``cores``.
        slots: in which slots; ``(n,)`` with ``cores``.
        mask: ``(rows or 1, cols or 1, 1)`` the receiving cores; None: all.
        cores: ``(y, x)``, ``(n,)`` each, where it arrives on these cores only.
    """

    buffer: str
    fields: dict[str, np.ndarray]
    slots: Slots = None
    mask: np.ndarray | None = None
    cores: tuple[np.ndarray, np.ndarray] | None = None

    def cells(self, mesh: Mesh, slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(y, x, slot)``, ``(n,)`` each: every place in which something arrives, of a buffer of so many slots."""
        if self.cores is not None:
            y, x = self.cores
        else:
            y, x = np.nonzero(np.broadcast_to(True if self.mask is None else self.mask[:, :, 0], mesh.shape))
        if self.slots is None:
            return np.repeat(y, slots), np.repeat(x, slots), np.tile(places(slots), len(y))
        if isinstance(self.slots, np.ndarray):
            return y, x, self.slots if self.cores is not None else np.broadcast_to(self.slots, mesh.shape)[y, x]
        return y, x, np.full(len(y), self.slots)

    def values(self, name: str, cells: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """``(n,)`` what is known of a field in each of the `cells`."""
        field, (y, x, slot) = self.fields[name], cells
        if self.cores is not None:  # (n, slots or 1)
            return np.broadcast_to(field, (len(field), len(y) // max(1, len(field)))).ravel()
        at = (part if n > 1 else 0 for n, part in zip(field.shape, (y, x, slot)))
        return np.broadcast_to(field[tuple(at)], len(y))


class Holdings:
    """What is known of one buffer by name of the field, and whole shifts of it that are still to be done.

    Args:
        mesh: the cores.
        slots: of the buffer.
        fields: what is known at first.
        tiles: whether it holds tiles, of which ``fields["held"]`` says where there are any.
    """

    def __init__(self, mesh: Mesh, slots: int, fields: dict[str, np.ndarray], tiles: bool):
        self.mesh, self.slots, self.tiles, self._fields = mesh, slots, tiles, fields
        self._own = set[str]()
        self._shift: Shift | None = None
        self._by = np.zeros(1, np.int64)

    @classmethod
    def of_tiles(cls, mesh: Mesh, tiles: Tiles) -> Holdings:
        """Block rows and columns, ``"down"`` and ``"across"``, and whether there is a tile, ``"held"``, at first."""
        parts = (np.full((1, 1, 1), ZERO),) * 2 if tiles.home is None else tiles.home.at(mesh, tiles.depth)
        down, across = (_alike(np.array(part, np.int32)) for part in parts)
        held = (down >= 0) & (across >= 0)
        return cls(mesh, tiles.depth, {"down": down, "across": across, "held": TRUE if held.all() else held}, True)

    @classmethod
    def of_values(cls, mesh: Mesh, pieces: int, names: tuple[str, ...]) -> Holdings:
        """Block row and column of the result, ``"part"`` of it, and ``names``, which count contributions."""
        fields = {name: np.full((1, 1, 1), ZERO, np.int32) for name in ("down", "across", "part")}
        return cls(mesh, pieces, fields | {name: np.zeros((1, 1, 1), np.int64) for name in names}, False)

    # ------------------------------------------------------------------------------------------------------ reading
    def shift(self, route: Shift, t: int, s: int) -> None:
        """All slots of the buffer go on by one `Shift`."""
        if self._shift is not None and (self._shift.axis, self._shift.cycles) != (route.axis, route.cycles):
            self.settle()
        if self._shift is None:
            self._shift, self._by = route, np.zeros(1, np.int64)
        self._by = self._by + route.lines(self.mesh, t, s)

    def settle(self) -> dict[str, np.ndarray]:
        """Do the shifts that are still to be done; returns what is known, to be read."""
        if self._shift is not None:
            source = self._source()
            for name, part in self._fields.items():
                self._fields[name] = pull(part, source, self._shift.axis)
            self._shift = None
        return self._fields

    def _source(self) -> np.ndarray:
        """The place on its line where what each core holds still lies: ``(rows or 1, cols or 1)``."""
        assert self._shift is not None
        source = self._shift.turned(self._by, self.mesh.length(self._shift.axis))
        return source.T if self._shift.axis == 0 else source

    def _lies(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(y, x)`` where what each core holds still lies in a field's array, to be broadcast."""
        y, x = places(array.shape[0])[:, None], places(array.shape[1])[None]
        if self._shift is None or array.shape[self._shift.axis] == 1:
            return y, x
        return (self._source(), x) if self._shift.axis == 0 else (y, self._source())

    def peek(self, name: str, slots: Slots) -> np.ndarray:
        """The chosen slots of a field, to be looked at before the next write."""
        if self._shift is None or slots is None or self.slots == 1:
            return pick(self.settle()[name], slots)
        array, axis = self._fields[name], self._shift.axis  # only these slots are looked up where they come from
        if not isinstance(slots, np.ndarray) or array.shape[2] == 1 or array.shape[axis] == 1:
            return pull(pick(array, slots), self._source(), axis)
        return array[(*self._lies(array), slots)][:, :, None]

    def take(self, name: str, slots: Slots) -> np.ndarray:
        """The chosen slots of a field, to be kept."""
        if self._fields[name].shape[2] == 1:
            self._own.discard(name)
            return self.settle()[name]
        taken = self.peek(name, slots)
        return taken if isinstance(slots, np.ndarray) else taken.copy()

    def forget(self, names: tuple[str, ...]) -> None:
        """Keep these fields no longer; what arrives of them is dropped."""
        for name in names:
            self._fields.pop(name, None)

    def replace(self, name: str, field: np.ndarray) -> None:
        """A field becomes another one on all cores, in all slots; ``field`` must not be changed afterwards."""
        self._own.discard(name)
        self.settle()[name] = field

    def snapshot(self) -> dict[str, np.ndarray]:
        """All fields as they are now, whatever becomes of the buffer."""
        self._own.clear()
        return dict(self.settle())

    # ------------------------------------------------------------------------------------------------------ writing
    def write(self, arriving: Write) -> None:
        """What arrives is known from now on."""
        known = self._fields
        for name, field in arriving.fields.items():
            if name not in known:
                continue
            if arriving.cores is None and arriving.mask is None and self._in_place(name, arriving.slots, field):
                continue
            self.settle()
            if arriving.cores is not None:
                self._scatter(name, arriving, field)
            else:
                self._put(name, arriving.slots, field, arriving.mask)

    def _in_place(self, name: str, slots: Slots, field: np.ndarray) -> bool:
        """Write one slot of each core where it lies, or see that it is there already; False: neither can be done."""
        array = self._fields[name]
        if slots is None or self.slots == 1:
            return False
        y, x = self._lies(array)
        if name not in self._own or not all(_fits(part, array) for part in (field, y, x, slots)):
            return self._shift is not None and bool((self.peek(name, slots) == field).all())
        if self._shift is None and isinstance(slots, int):
            array[:, :, slots : slots + 1] = field
        else:
            array[y, x, slots] = field[:, :, 0]
        return True

    def _put(self, name: str, slots: Slots, field: np.ndarray, mask: np.ndarray | None) -> None:
        array = self._fields[name]
        if array is field:
            return
        if mask is None and (slots is None or self.slots == 1):
            self.replace(name, field)
            return
        before = pick(array, slots)
        same = before == field
        if same.all():
            return
        if mask is not None:
            if self.tiles and name != "held":  # where no tile is held, it does not matter which
                other = ~pick(self._fields["held"], slots) | same
                mask = None if (other | mask).all() else mask
            elif (same | ~mask).all():
                return
        if slots is None or self.slots == 1:
            if mask is None:
                self.replace(name, field)
                return
            if array.shape[2] == field.shape[2]:
                self.replace(name, np.where(mask, field, array))
                return
        cores = np.broadcast_shapes(array.shape[:2], field.shape[:2], (1, 1) if mask is None else mask.shape[:2],
                                    slots.shape if isinstance(slots, np.ndarray) else (1, 1))  # fmt: skip
        own = self._mine(name, cores)
        if not isinstance(slots, np.ndarray):
            place = own if slots is None else own[:, :, slots : slots + 1]
            np.copyto(place, field, where=True if mask is None else mask)
        elif mask is None:
            y, x = places(cores[0]), places(cores[1])
            own[y[:, None], x, slots] = field[:, :, 0]
        else:
            y, x = np.nonzero(np.broadcast_to(mask[:, :, 0], cores))
            own[y, x, np.broadcast_to(slots, cores)[y, x]] = np.broadcast_to(field[:, :, 0], cores)[y, x]

    def _scatter(self, name: str, arriving: Write, field: np.ndarray) -> None:
        assert arriving.cores is not None
        y, x = arriving.cores
        own = self._mine(name, self.mesh.shape)
        if arriving.slots is None or self.slots == 1:
            own[y, x] = field
        else:
            own[y, x, arriving.slots] = field[:, 0]

    def _mine(self, name: str, cores: tuple[int, ...]) -> np.ndarray:
        """The array of a field, with all slots and at least these ``(rows or 1, cols or 1)``, to be written to."""
        array = self._fields[name]
        shape = (*np.broadcast_shapes(array.shape[:2], cores), self.slots)
        if name not in self._own or array.shape != shape:
            require(shape[0] * shape[1] * shape[2] <= MOST_CELLS, "this schedule is too large to be proved: "
                    f"{shape[2]} slots on each of {shape[0]} x {shape[1]} cores; at most {MOST_CELLS} can be "
                    "told apart")  # fmt: skip
            array = self._fields[name] = np.array(np.broadcast_to(array, shape))
            self._own.add(name)
        return array


def arriving(move: Move, place: Arrival | Delivery, sent: Holdings) -> Write:
    """What one move brings, of all that is known of the buffer that it is sent from."""
    if isinstance(place, Arrival):
        axis = move.route.axis  # type: ignore[union-attr]
        fetched = {name: pull(sent.take(name, place.sent), place.source, axis) for name in list(sent.settle())}
        return Write(move.target, fetched, place.slots, None if place.mask is None else place.mask[:, :, None])
    fetched = {name: place.fetch(field) for name, field in sent.settle().items()}
    if place.slots is not None:
        fetched = {name: field[:, None] for name, field in fetched.items()}
    return Write(move.target, fetched, place.slots, cores=(place.to_y, place.to_x))


def distinct(numbers: np.ndarray) -> bool:
    """Whether no natural number comes twice."""
    if numbers.size == 0 or numbers.max() >= min(MOST_CELLS, 64 * numbers.size):
        return len(np.unique(numbers)) == len(numbers)
    seen = np.zeros(int(numbers.max()) + 1, bool)
    seen[numbers] = True
    return int(np.count_nonzero(seen)) == len(numbers)


def _fits(part: int | np.ndarray, array: np.ndarray) -> bool:
    """Whether ``array`` tells all cores apart that ``part`` tells apart."""
    return isinstance(part, int) or all(n in (1, m) for n, m in zip(part.shape[:2], array.shape))


def _alike(array: np.ndarray) -> np.ndarray:
    """The same with one slot, if all slots are alike."""
    return array[:, :, :1].copy() if array.shape[2] > 1 and (array == array[:, :, :1]).all() else array
