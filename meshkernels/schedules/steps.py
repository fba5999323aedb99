"""Steps, repeats and the schedule that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NoReturn

from meshkernels.errors import ScheduleError
from meshkernels.mesh import Mesh, Tiling
from meshkernels.schedules.buffers import Collect, Tiles, Values
from meshkernels.schedules.index import Index, steady
from meshkernels.schedules.routes import Route, Shift

if TYPE_CHECKING:
    from meshkernels.schedules.verify import Proof


@dataclass(frozen=True)
class Multiply:
    """On every core ``into[piece] += left[left_slot] @ right[right_slot]``, of tiles that it holds.

    Attributes:
        left, right: buffers of `Tiles`.
        into: a buffer of `Values`.
        left_slot, right_slot: which tiles.
        piece: which piece of ``into``; None: the product is cut over all pieces, side by side.
        transposed: multiply by ``right.T``.
        accumulate: add to what is there; False starts from zero.
    """

    left: str
    right: str
    into: str
    left_slot: int | Index = 0
    right_slot: int | Index = 0
    piece: int | Index | None = 0
    transposed: bool = False
    accumulate: bool = True


@dataclass(frozen=True)
class Copy:
    """On every core ``into[piece] = source[slot]``: a tile becomes numbers.

    Attributes:
        source: a buffer of `Tiles`.
        into: a buffer of `Values`.
        slot: which tile.
        piece: which piece of ``into``; None: the tile is cut over all pieces, side by side.
        transposed: copy the tile's transpose.
    """

    source: str
    into: str
    slot: int | Index = 0
    piece: int | Index | None = 0
    transposed: bool = False


@dataclass(frozen=True)
class Move:
    """One communication by all cores that its route names.

    Attributes:
        buffer: what is sent.
        route: from whom to whom.
        slot: which tile or piece each core sends; None: all.
        into: the buffer in which it arrives; None: the same.
        into_slot: the slot in which it arrives, named by the receiving core (in a `Permute` by the sending one);
            None: the one that it was sent from.
        combine: ``"add"``, ``"max"`` or ``"logsumexp"``: what becomes of numbers that meet, in a `Reduce`, or where
            numbers arrive by `Shift` or `Permute` at others; None: what arrives replaces what was there.
    """

    buffer: str
    route: Route
    slot: int | Index | None = None
    into: str | None = None
    into_slot: int | Index | None = None
    combine: str | None = None

    @property
    def whole_shift(self) -> bool:
        """Whether all slots of a buffer go on by a `Shift` in it, so that such moves add up."""
        return isinstance(self.route, Shift) and self.target == self.buffer and self.slot is None and not self.combine

    @property
    def steady(self) -> bool:
        """Whether it does the same in every iteration."""
        return self.route.steady and steady(self.slot, self.into_slot)

    @property
    def target(self) -> str:
        """The buffer in which it arrives."""
        return self.buffer if self.into is None else self.into


@dataclass(frozen=True)
class Step:
    """All cores compute, one operation after the other; then everything moves at once.

    Attributes:
        label: what tables and pictures call the step.
        compute: what every core does, in this order; a single operation may stand for itself.
        moves: what is sent; a single move may stand for itself.
    """

    label: str
    compute: tuple[Multiply | Copy, ...] = ()
    moves: tuple[Move, ...] = ()

    def __post_init__(self) -> None:
        for name in ("compute", "moves"):
            given = getattr(self, name)
            object.__setattr__(self, name, tuple(given) if isinstance(given, (list, tuple)) else (given,))

    def at(self, t: int, s: int) -> Step:
        """The step of one iteration.

        Args:
            t: iteration of the innermost repeat around the step.
            s: iteration of the repeat around that.

        Returns:
            The step with every `Index` evaluated as far as it depends on iterations.
        """
        return settled(self, t, s)


@dataclass(frozen=True)
class Repeat:
    """``body``, ``times`` over; a repeat in a repeat is the deepest there is.

    Attributes:
        times: iterations.
        body: steps, or repeats of steps.
    """

    times: int
    body: tuple[Step | Repeat, ...]

    def __post_init__(self) -> None:
        given = self.body
        object.__setattr__(self, "body", tuple(given) if isinstance(given, (list, tuple)) else (given,))


@dataclass(frozen=True)
class Task:
    """What a schedule computes; `verify` holds the schedule to it.

    =============== ====================================================================================
    kind            result, of operands cut into blocks
    =============== ====================================================================================
    ``product``     ``C(i, j) = sum_k A(i, k) B(k, j)``
    ``product_t``   ``C(i, j) = sum_k A(i, k) B(j, k)^T``
    ``allreduce``   along ``axis`` 0 ``y(0, j) = sum_i x(i, j)``, along 1 ``y(i, 0) = sum_j x(i, j)``; or another op
    ``transpose``   ``T(j, i) = A(i, j)^T``
    ``alltoall``    ``R(l P + j, i) = A(l P + i, j)``, with P block columns
    =============== ====================================================================================

    Attributes:
        kind: one of the table's.
        operands: names of the operands, in the order of the formula.
        op: of ``allreduce`` ``"add"``, ``"max"``, or ``"logsumexp"``, which combines softmax states, one a row.
        axis: of ``allreduce``: 0 down the columns of cores, 1 along the rows.
    """

    kind: str
    operands: tuple[str, ...]
    op: str = "add"
    axis: int = 0


class Frozen(dict[str, Any]):
    """A mapping that does not change, and is hashed by value."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))  # equal mappings may be in another order

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a schedule does not change; dataclasses.replace makes another one")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refuse

    def __reduce__(self) -> Any:
        return Frozen, (dict(self),)


@dataclass(frozen=True)
class Schedule:
    """One algorithm on one mesh for one problem, ready to be read: plain data, compared and hashed by value.

    Attributes:
        name: the algorithm's name, for tables.
        task: what it computes.
        mesh: the cores.
        operands: how each input is cut, by name.
        result: how the result is cut.
        buffers: what every core keeps in its memory, by name.
        program: steps and repeats, in order.
        collect: where the result lies at the end.
    """

    name: str
    task: Task
    mesh: Mesh
    operands: Mapping[str, Tiling] = field(repr=False)
    result: Tiling
    buffers: Mapping[str, Tiles | Values] = field(repr=False)
    program: tuple[Step | Repeat, ...] = field(repr=False)
    collect: Collect = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("operands", "buffers"):
            given = getattr(self, name)
            object.__setattr__(self, name, Frozen(given) if isinstance(given, dict) else given)
        if isinstance(self.program, list):
            object.__setattr__(self, "program", tuple(self.program))

    @property
    def steps(self) -> Sequence[Step]:
        """All steps, one after the other, repeats written out as they are looked at."""
        return Steps(self.program)

    def tile(self, buffer: str) -> tuple[int, int]:
        """The shape of one tile or piece.

        Args:
            buffer: its buffer.

        Returns:
            ``(h, w)``, in elements.
        """
        held = self.buffers[buffer]
        return self.operands[held.operand].tile if isinstance(held, Tiles) else held.shape

    def slots(self, buffer: str) -> int:
        """How many tiles or pieces a buffer has room for.

        Args:
            buffer: its name.

        Returns:
            ``depth`` of a buffer of `Tiles`, ``pieces`` of one of `Values`.
        """
        held = self.buffers[buffer]
        return held.depth if isinstance(held, Tiles) else held.pieces

    def words(self, move: Move) -> int:
        """The size of one message.

        Args:
            move: a move of this schedule.

        Returns:
            Elements in a message, padding included.
        """
        h, w = self.tile(move.buffer)
        return h * w * (1 if move.slot is not None else self.slots(move.buffer))

    def stored(self, buffer: str) -> bool:
        """How wide the elements of a buffer are.

        Args:
            buffer: its name.

        Returns:
            True: as wide as the operands' elements; False: as wide as sums.
        """
        held = self.buffers[buffer]
        return isinstance(held, Tiles) or held.dtype == "stored"

    def to_json(self) -> str:
        """The schedule as text.

        Returns:
            JSON that `from_json` reads: ``Schedule.from_json(s.to_json()) == s``.
        """
        from meshkernels.schedules.text import write

        return write(self)

    @staticmethod
    def from_json(text: str) -> Schedule:
        """The schedule that `to_json` wrote.

        Args:
            text: JSON, of any origin. It is held to types and ranges here, and proved when it is first used.

        Returns:
            A schedule equal to the one that was written.

        Raises:
            ScheduleError: no schedule, one of another version, or a value of another type than it must have.
        """
        from meshkernels.schedules.text import read

        return read(text)

    @property
    def proof(self) -> Proof:
        """What `verify` found out, worked out once.

        Raises:
            ScheduleError: the schedule does not do what it says.
        """
        from meshkernels.schedules.verify import prove

        return self.derived("proof", prove)

    def derived(self, key: str, derive: Callable[[Schedule], Any]) -> Any:
        """What a reader derives from this schedule, computed once and kept as long as the schedule.

        Args:
            key: under which name the result is kept.
            derive: computes it; called with this schedule at the first call only.

        Returns:
            ``derive(self)``.
        """
        kept = self.__dict__.setdefault("_kept", {})
        if key not in kept:
            kept[key] = derive(self)
        return kept[key]

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: self.__dict__[f.name] for f in fields(self)}  # without what was worked out

    def __str__(self) -> str:
        from meshkernels.schedules.text import describe

        return describe(self)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


class Steps(Sequence[Step]):
    """The steps of a program written out: ``len``, indexing and iteration, each `Step` with plain integers."""

    def __init__(self, program: tuple[Step | Repeat, ...]):
        self._program = program

    def __len__(self) -> int:
        return _length(self._program)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return settled(*_find(self._program, range(len(self))[index]))

    def __iter__(self) -> Iterator[Step]:
        return (settled(*each) for each in unrolled(self._program))


def _length(program: Sequence[Step | Repeat]) -> int:
    return sum(node.times * _length(node.body) if isinstance(node, Repeat) else 1 for node in program)


def _find(program: Sequence[Step | Repeat], index: int, t: int = 0, s: int = 0) -> tuple[Step, int, int]:
    for node in program:
        length = node.times * _length(node.body) if isinstance(node, Repeat) else 1
        if index < length:
            if isinstance(node, Step):
                return node, t, s
            iteration, rest = divmod(index, _length(node.body))
            return _find(node.body, rest, iteration, t)
        index -= length
    raise IndexError(index)


def unrolled(program: Sequence[Step | Repeat], t: int = 0, s: int = 0) -> Iterator[tuple[Step, int, int]]:
    """The steps of a program, repeats written out.

    Args:
        program: steps and repeats.
        t: iteration of the innermost repeat around the program.
        s: iteration of the repeat around that.

    Yields:
        ``(step, t, s)`` in order: t counts the innermost repeat around the step, s the one around that.
    """
    for node in program:
        if isinstance(node, Step):
            yield node, t, s
        else:
            for i in range(node.times):
                yield from unrolled(node.body, i, t)


def settled(value: Any, t: int, s: int = 0) -> Any:
    """A step, an operation, a move or a tuple of them, as it is in one iteration.

    Args:
        value: what may contain an `Index`.
        t: iteration of the innermost repeat.
        s: iteration of the repeat around it.

    Returns:
        The same with every `Index` evaluated as far as it depends on iterations: an integer, or an `Index` by core.
    """
    if isinstance(value, Index):
        if not value.step and not value.outer:
            return value
        add = value.step * t + value.outer * s
        if not value.y and not value.x:
            return value.table[add % len(value.table)]
        if value.y:
            return Index(value.table, tuple(n + add for n in value.y), value.x)
        return Index(value.table, (), tuple(n + add for n in value.x))
    if isinstance(value, tuple):
        return tuple(settled(each, t, s) for each in value)
    if isinstance(value, Step | Multiply | Copy | Move | Route):
        changes = {f.name: settled(getattr(value, f.name), t, s) for f in fields(value)
                   if not isinstance(getattr(value, f.name), str)}
        return replace(value, **changes) if any(getattr(value, k) is not v for k, v in changes.items()) else value
    return value


def require(condition: Any, message: str) -> None:
    """Raise `ScheduleError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ScheduleError(message)
