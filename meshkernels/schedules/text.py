"""A schedule as JSON, and as a page that a person reads.

JSON: every part is an object whose ``"is"`` names its class and whose other keys are the fields that are not at their
default; the outermost one says the version of the format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from meshkernels.errors import MeshError, MeshTypeError, ScheduleError
from meshkernels.schedules.check import check
from meshkernels.schedules.conform import conform, hints
from meshkernels.schedules.index import Index
from meshkernels.schedules.routes import Permute, Reduce, Shift
from meshkernels.schedules.steps import Frozen, Move, Multiply, Repeat, Schedule, Step, require

#: Of the format.
VERSION = 1
#: Characters of a JSON text: a schedule of the largest wafer takes a few MB if nothing in it repeats.
MOST_TEXT = 256 << 20


def write(schedule: Schedule) -> str:
    """The schedule as JSON."""
    return json.dumps({"version": VERSION, **_plain(schedule)}, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if not is_dataclass(value):
        return value
    found = {"is": type(value).__name__}
    for f in fields(value):
        each = getattr(value, f.name)
        if f.default is MISSING or each != f.default or type(each) is not type(f.default):
            found[f.name] = _plain(each)
    return found


def read(text: str) -> Schedule:
    """The schedule that `write` wrote.

    Args:
        text: JSON.

    Returns:
        The schedule, checked but not verified.

    Raises:
        ScheduleError: no JSON, no schedule, another version, an unknown or missing field, or a value of another type.
    """
    require(isinstance(text, str), f"a schedule is read from text, not from {type(text).__name__}")
    require(len(text) <= MOST_TEXT, f"{len(text)} characters: a schedule has at most {MOST_TEXT}")
    try:
        data = json.loads(text, parse_constant=_no_number, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise ScheduleError(f"this is not JSON: {error}") from None
    require(isinstance(data, dict), "this JSON is no schedule: it is not an object")
    version = data.pop("version", None)
    require(type(version) is int and version == VERSION, f"version is {version!r}; {VERSION} can be read")
    try:
        schedule = _build(data, Schedule, "schedule")
    except RecursionError:
        raise ScheduleError("this JSON is nested too deeply: repeats are two deep at most") from None
    check(schedule)
    return schedule


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of a schedule")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _build(data: Any, hint: Any, where: str) -> Any:
    """The value of type ``hint`` that ``data`` describes."""
    origin: Any = get_origin(hint)
    args: tuple[Any, ...] = get_args(hint)
    if origin in (Union, UnionType):
        if isinstance(data, dict):
            kinds = {kind.__name__: kind for kind in args if is_dataclass(kind) and isinstance(kind, type)}
            chosen = kinds.get(str(data.get("is")))
            require(chosen, f"{where} is {data.get('is')!r}; it must be one of {', '.join(kinds)}")
            return _build(data, chosen, where)
        conform(data, hint, where)
        return data
    if origin is tuple:
        require(isinstance(data, list), f"{where} must be a list")
        if args[-1] is Ellipsis and args[0] is int:
            return tuple(data)
        each_kind = [args[0]] * len(data) if args[-1] is Ellipsis else args
        require(len(each_kind) == len(data), f"{where} has {len(data)} parts, not {len(each_kind)}")
        return tuple(_build(each, kind, f"{where}[{i}]") for i, (each, kind) in enumerate(zip(data, each_kind)))
    if origin is not None:  # a mapping of names
        require(isinstance(data, dict), f"{where} must be an object")
        return Frozen({key: _build(each, args[1], f"{where}.{key}") for key, each in data.items()})
    if not (isinstance(hint, type) and is_dataclass(hint)):
        conform(data, hint, where)
        return data
    require(isinstance(data, dict) and data.get("is") == hint.__name__, f"{where} must be a {hint.__name__}")
    typed = hints(hint)
    unknown = set(data) - {"is"} - set(typed)
    require(not unknown, f"{where} has unknown fields: {', '.join(sorted(map(repr, unknown)))}")
    given = {name: _build(data[name], kind, f"{where}.{name}") for name, kind in typed.items() if name in data}
    missing = [f.name for f in fields(hint) if f.name not in given and f.default is MISSING]
    require(not missing, f"{where} lacks {', '.join(missing)}")
    try:
        return hint(**given)
    except (MeshError, MeshTypeError) as error:
        raise ScheduleError(f"{where}: {error}") from None


# --------------------------------------------------------------------------------------------------- for people
def describe(schedule: Schedule) -> str:
    """The schedule as a page: what is kept, and what happens step by step, repeats as repeats."""
    mesh = schedule.mesh
    lines = [f"{schedule.name} on {mesh.rows} x {mesh.cols} cores: {_task(schedule)}", "buffers:"]
    for name, held in schedule.buffers.items():
        h, w = schedule.tile(name)
        what = f"tiles of {held.operand}" if hasattr(held, "operand") else f"numbers ({held.dtype})"
        copies = f", {held.copies} copies" if held.copies > 1 else ""
        lines.append(f"  {name}: {schedule.slots(name)} x {h} x {w} {what}{copies}")
    lines += [f"{len(schedule.steps)} steps:", *_program(schedule.program, "  ")]
    return "\n".join(lines)


def _task(schedule: Schedule) -> str:
    task = schedule.task
    shapes = ", ".join(f"{n} {t.shape[0]} x {t.shape[1]} in {t.grid[0]} x {t.grid[1]} blocks"
                       for n, t in schedule.operands.items())  # fmt: skip
    form = {"product": "{0} @ {1}", "product_t": "{0} @ {1}.T", "allreduce": "{op} of {0} along axis {axis}",
            "transpose": "{0}.T", "alltoall": "all-to-all of {0}"}.get(task.kind, task.kind)  # fmt: skip
    return f"{form.format(*task.operands, op=task.op, axis=task.axis)}; {shapes}"


def _program(program: Sequence[Step | Repeat], indent: str) -> Iterator[str]:
    for node in program:
        if isinstance(node, Repeat):
            yield f"{indent}{node.times} times:"
            yield from _program(node.body, indent + "  ")
            continue
        ops = [f"{op.into} {'+=' if op.accumulate else '='} {op.left} @ {op.right}{'.T' if op.transposed else ''}"
               if isinstance(op, Multiply) else f"{op.into} = {op.source}{'.T' if op.transposed else ''}"
               for op in node.compute]  # fmt: skip
        yield f"{indent}{node.label}: {'; '.join(_few(ops + [_move(move) for move in node.moves])) or 'nothing'}"


def _few(items: list[str]) -> list[str]:
    return items if len(items) <= 6 else [*items[:5], f"... {len(items) - 5} more"]


def _move(move: Move) -> str:
    route = move.route
    way = "" if isinstance(route, Permute) else f" along {'yx'[route.axis]}"
    into = f" into {move.into}" if move.into else ""
    combine = f" ({move.combine})" if move.combine and not isinstance(route, Reduce) else ""
    by = f" by {route.by}" if isinstance(route, Shift) and not isinstance(route.by, Index) and route.by != 1 else ""
    return f"{type(route).__name__.lower()} {move.buffer}{way}{by}{into}{combine}"

