"""Types of a schedule's fields, checked at run time, parts included.

Invariant: a schedule that conforms consists of plain integers below 2^31, texts, booleans, tuples and the dataclasses
of the vocabulary, nested as the annotations say, and of nothing else. A checking function is built once for each
annotation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from meshkernels.errors import ScheduleError

#: Integers of a schedule are smaller.
MOST = 1 << 31
_PLAIN = {int, str, bool, NoneType}


class _Unfit(Exception):
    """A value is not what it must be; ``where`` grows on the way out."""

    def __init__(self, says: str):
        self.says, self.where = says, ""

    def inside(self, part: str) -> _Unfit:
        self.where = part + self.where
        return self


def conform(value: Any, hint: Any, where: str) -> None:
    """Refuse a value that is not what its field's type says, parts included.

    Raises:
        ScheduleError: it names the field, the value and what it must be.
    """
    try:
        _checker(hint)(value)
    except _Unfit as unfit:
        raise ScheduleError(f"{(where + unfit.where).lstrip('.')} {unfit.says}") from None
    except RecursionError:
        raise ScheduleError(f"{where or 'the schedule'} is nested too deeply: repeats are two deep at most") from None


@cache
def hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    found = get_type_hints(cls)
    return {f.name: found[f.name] for f in fields(cls)}


def parts(*values: Any) -> Iterator[Any]:
    """All dataclasses in a schedule or in parts of one, in order."""
    todo = list(reversed(values))
    while todo:
        one = todo.pop()
        if isinstance(one, tuple):
            todo += reversed(one)
        elif isinstance(one, Mapping):
            todo += reversed(list(one.values()))
        elif hasattr(type(one), "__dataclass_fields__"):
            yield one
            held, kind = one.__dict__, type(one)
            todo += [part for name in _nesting(kind) if type(part := held[name]) not in _PLAIN]  # type: ignore[arg-type]


@cache
def _nesting(cls: Any) -> tuple[str, ...]:
    """Fields that may hold dataclasses, the last first."""
    return tuple(name for name, hint in reversed(hints(cls).items()) if _may_nest(hint))


def _may_nest(hint: Any) -> bool:
    return is_dataclass(hint) or any(_may_nest(each) for each in get_args(hint))


@cache
def _checker(hint: Any) -> Callable[[Any], None]:
    origin, args = get_origin(hint), get_args(hint)
    if hint is int:
        return _whole
    if origin in (Union, UnionType):
        return _one_of(hint, {get_origin(a) or a: _checker(a) for a in args})
    if origin is tuple:
        return _whole_numbers if args == (int, Ellipsis) else _many(hint, args)
    if origin is not None:
        return _mapping(_checker(args[1]))
    if is_dataclass(hint):
        return _record(hint)

    def exact(value: Any) -> None:
        if type(value) is not hint:
            _unlike(value, hint)
        if hint is str and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _Unfit(f"is {value!r}, which is no text") from None

    return exact


def _whole(value: Any) -> None:
    if type(value) is not int or not -MOST < value < MOST:
        raise _Unfit(f"is {shown(value)}; it must be an integer below 2^31")


def _whole_numbers(value: Any) -> None:
    if type(value) is not tuple:
        _unlike(value, tuple[int, ...])
    if value and not (set(map(type, value)) == {int} and min(value) > -MOST and max(value) < MOST):
        raise _Unfit("must be integers below 2^31")


def _one_of(hint: Any, kinds: dict[Any, Callable[[Any], None]]) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        kind = kinds.get(type(value))
        if kind is None:
            _unlike(value, hint)
        kind(value)

    return check


def _many(hint: Any, args: tuple[Any, ...]) -> Callable[[Any], None]:
    each = None if args[-1] is not Ellipsis else _checker(args[0])
    kinds = [_checker(a) for a in args if a is not Ellipsis]

    def check(value: Any) -> None:
        if type(value) is not tuple:
            _unlike(value, hint)
        if each is None and len(value) != len(kinds):
            raise _Unfit(f"has {len(value)} parts, not {len(kinds)}")
        i = 0
        try:
            for i, part in enumerate(value):
                (each or kinds[i])(part)
        except _Unfit as unfit:
            raise unfit.inside(f"[{i}]") from None

    return check


def _mapping(each: Callable[[Any], None]) -> Callable[[Any], None]:
    text = _checker(str)

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise _Unfit("must be a mapping")
        for key, held in value.items():
            try:
                text(key)
            except _Unfit:
                raise _Unfit("has a key that is no name") from None
            try:
                each(held)
            except _Unfit as unfit:
                raise unfit.inside(f"[{key!r}]") from None

    return check


def _record(cls: Any) -> Callable[[Any], None]:
    checks: list[tuple[str, Callable[[Any], None]]] = []  # made at the first value: types may hold themselves

    def check(value: Any) -> None:
        if type(value) is not cls:
            _unlike(value, cls)
        if not checks:
            checks.extend((name, _checker(kind)) for name, kind in hints(cls).items())  # type: ignore[arg-type]
        held, name = value.__dict__, ""
        try:
            for name, part in checks:
                part(held[name])
        except _Unfit as unfit:
            raise unfit.inside(f".{name}") from None

    return check


def _unlike(value: Any, hint: Any) -> NoReturn:
    raise _Unfit(f"is {shown(value)}; it must be {_named(hint)}")


def _named(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_named(a) for a in get_args(hint))
    return "None" if hint is NoneType else getattr(hint, "__name__", str(hint))


def shown(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
