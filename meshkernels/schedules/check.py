"""What a schedule must be before anything is walked: types, ranges, names, and the table of what is allowed.

=============== ============================= ==================================================================
what moves      by                            with
=============== ============================= ==================================================================
Tiles           Shift Multicast Relay Permute into Tiles of the same operand; no combine
Values          Shift Permute                 into Values of the same shape and dtype; combine: None or an op
Values          Multicast Relay               into Values of the same shape and dtype; no combine
Values          Reduce                        into Values of the same shape and dtype; combine: an op
=============== ============================= ==================================================================

A combination is that of the task: products are added, an all-reduce has an op of `OPS`. The rows that "logsumexp"
combines are whole: their first element scales the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from meshkernels.errors import ScheduleError
from meshkernels.mesh import Mesh, Tiling, ceil_div
from meshkernels.schedules.buffers import Place, Tiles, Values
from meshkernels.schedules.conform import MOST, conform, parts
from meshkernels.schedules.index import Index, bounds
from meshkernels.schedules.routes import Multicast, Permute, Reduce, Relay, Route, Shift
from meshkernels.schedules.steps import Copy, Move, Multiply, Repeat, Schedule, Step, require

#: Bounds on what is walked: cores, slots of a buffer, steps; and blocks of a contraction, each of which has a number in
#: the proof.
MOST_CORES, MOST_SLOTS, MOST_STEPS, MOST_TERMS = 1 << 24, 1 << 16, 1 << 21, 1 << 22
#: Blocks of a result, and places (slots of cores that are told apart) in a table of what lies where: a proof holds some
#: ten numbers for each, about 3 GiB.
MOST_BLOCKS = 1 << 26

#: The kinds of task: operands, and what combines.
TASKS = {"product": 2, "product_t": 2, "allreduce": 1, "transpose": 1, "alltoall": 1}
#: What combines numbers that meet: see `meshkernels.kernels.reduce`.
OPS = ("add", "max", "logsumexp")


def indices(program: Sequence[Step | Repeat]) -> Iterator[Index]:
    """Every `Index` in a program."""
    return (part for part in parts(*program) if isinstance(part, Index))


def check(schedule: Schedule) -> None:
    """Refuse a schedule whose fields do not fit each other.

    Raises:
        ScheduleError: it names the field, its value and what would be right.
    """
    _shape(schedule)
    _task(schedule)
    _buffers_and_steps(schedule)
    held, mesh = _named_buffer(schedule, schedule.collect.buffer, Values, "collect"), schedule.mesh
    h, w = schedule.result.tile
    require(held.shape == (h, ceil_div(w, held.pieces) if schedule.collect.whole else w),
            f"collect: pieces of {held.shape} in {schedule.collect.buffer!r} do not make blocks of {(h, w)}")
    _blocks(schedule.collect.place, schedule.result, 1 if schedule.collect.whole else held.pieces, mesh, "collect")


def check_program(schedule: Schedule) -> None:
    """Refuse buffers and steps whose fields do not fit each other, whatever the schedule's task and result are.

    Raises:
        ScheduleError: it names the field, its value and what would be right.
    """
    _shape(schedule)
    _buffers_and_steps(schedule)


def _shape(schedule: Schedule) -> None:
    """Types, the mesh, indices, and how operands and result are cut."""
    conform(schedule, Schedule, "")
    mesh = schedule.mesh
    require(mesh.rows >= 1 and mesh.cols >= 1 and mesh.cores <= MOST_CORES,
            f"mesh is {mesh.rows} x {mesh.cols}; 1 to {MOST_CORES} cores can be walked")
    for index in (part for part in parts(schedule) if isinstance(part, Index)):
        _index(index, mesh)
    for name, tiling in schedule.operands.items():
        _tiling(f"operand {name}", tiling)
    _tiling("result", schedule.result)


def _buffers_and_steps(schedule: Schedule) -> None:
    for name, held in schedule.buffers.items():
        _buffer(schedule, name, held)
    require(_steps(schedule.program, 0) <= MOST_STEPS, f"the program has more than {MOST_STEPS} steps")
    _program(schedule, schedule.program, 0)


def _index(index: Index, mesh: Mesh) -> None:
    require(index.table, "an Index has an empty table")
    require(len(index.y) in (0, mesh.rows) and len(index.x) in (0, mesh.cols),
            f"an Index has {len(index.y)} entries in y and {len(index.x)} in x; the mesh is {mesh.rows} x {mesh.cols}")


def _tiling(name: str, tiling: Tiling) -> None:
    for n, least, what in ((tiling.shape, 0, "shape"), (tiling.grid, 1, "grid")):
        require(min(n) >= least, f"{name}.{what} is {n}; its sides are at least {least}")
    blocks, most = tiling.grid[0] * tiling.grid[1], MOST_BLOCKS if name == "result" else MOST
    if blocks > most:
        raise ScheduleError(f"{name} has {blocks} blocks in a grid of {tiling.grid}, each of which a proof looks at; "
                            f"{most} at most: choose fewer cores, or sides of the mesh that share a factor")


def _task(schedule: Schedule) -> None:
    """Operands and result fit each other and the task."""
    task, result = schedule.task, schedule.result
    require(task.kind in TASKS, f"task.kind is {task.kind!r}; known: {', '.join(TASKS)}")
    require(task.op in (OPS if task.kind == "allreduce" else OPS[:1]),
            f"task.op is {task.op!r}; it must be 'add', or in an all-reduce one of {', '.join(OPS)}")
    require(task.axis in (0, 1), f"task.axis is {task.axis}; it must be 0 or 1")
    require(len(task.operands) == TASKS[task.kind] == len(set(task.operands)) == len(schedule.operands)
            and set(task.operands) == set(schedule.operands),
            f"a task of kind {task.kind!r} takes {TASKS[task.kind]} operand(s); {', '.join(task.operands)} are named, "
            f"{', '.join(schedule.operands)} are there")  # fmt: skip
    first, *rest = (schedule.operands[name] for name in task.operands)
    if task.kind in ("product", "product_t"):
        turned = 1 if task.kind == "product_t" else 0
        (rows, terms), both = zip(first.shape, first.grid), tuple(zip(rest[0].shape, rest[0].grid))
        cols = both[1 - turned]
        require(terms[1] <= MOST_TERMS, f"the contraction is cut into {terms[1]} blocks; {MOST_TERMS} at most")
        require(terms == both[turned], f"{' and '.join(task.operands)} are not cut alike along the contraction")
    elif task.kind == "allreduce":
        size = (first.tile[task.axis], 1)
        pair = [(first.shape[a], first.grid[a]) for a in (0, 1)]
        rows, cols = (size, pair[1]) if task.axis == 0 else (pair[0], size)
        require(_whole(first), f"an all-reduce takes whole blocks; {first.shape} is cut {first.grid}")
    elif task.kind == "transpose":
        rows, cols = ((first.shape[a], first.grid[a]) for a in (1, 0))
    else:
        require(_whole(first) and first.grid[0] % first.grid[1] == 0, "an all-to-all exchanges whole blocks, in groups "
                f"of as many block rows as there are block columns; {first.shape} is cut {first.grid}")  # fmt: skip
        rows, cols = ((first.shape[a], first.grid[a]) for a in (0, 1))
    right = Tiling((rows[0], cols[0]), (rows[1], cols[1]))
    require(result == right,
            f"result is {result.shape} cut {result.grid}; the task makes {right.shape} cut {right.grid}")


def _whole(tiling: Tiling) -> bool:
    """Whether no block has padding."""
    return tiling.shape == tuple(t * g for t, g in zip(tiling.tile, tiling.grid))


def _blocks(place: Place, tiling: Tiling, depth: int, mesh: Mesh, what: str) -> None:
    tables = [part for part in (place.down, place.across) if isinstance(part, Index)]
    places = max((max(len(part.y), 1) * max(len(part.x), 1) * depth for part in tables), default=0)
    require(places <= MOST_BLOCKS, f"{what}: {depth} slots on each of {mesh.rows} x {mesh.cols} cores are {places} "
            f"places; {MOST_BLOCKS} at most can be told apart")  # fmt: skip
    for part, blocks, name in ((place.down, tiling.grid[0], "down"), (place.across, tiling.grid[1], "across")):
        low, high = bounds(part)
        require(low >= -1 and high < blocks,
                f"{what}: block {name} {low} to {high}; there are {blocks}, and -1 for none")


def _buffer(schedule: Schedule, name: str, held: Tiles | Values) -> None:
    where = f"buffer {name!r}"
    require(name, "a buffer has no name")
    require(1 <= held.copies <= 16, f"{where} has copies = {held.copies}; 1 to 16")
    if isinstance(held, Tiles):
        require(held.operand in schedule.operands, f"{where} holds operand {held.operand!r}, which there is not")
        require(1 <= held.depth <= MOST_SLOTS, f"{where} has depth = {held.depth}; 1 to {MOST_SLOTS}")
        if held.home is not None:
            _blocks(held.home, schedule.operands[held.operand], held.depth, schedule.mesh, f"{where}, home")
    else:
        require(1 <= held.pieces <= MOST_SLOTS, f"{where} has pieces = {held.pieces}; 1 to {MOST_SLOTS}")
        h, w = schedule.result.tile
        fitting = (h, w), (h, ceil_div(w, held.pieces))
        require(held.shape in fitting, f"{where} has shape = {held.shape}; a block of the result is {(h, w)}, or "
                f"{fitting[1]} cut over all pieces")  # fmt: skip
        require(held.dtype in ("sum", "stored"), f"{where} has dtype = {held.dtype!r}; known: 'sum', 'stored'")
        require(held.dtype == "sum" or schedule.task.kind in ("transpose", "alltoall"),
                f"{where} has dtype 'stored': a {schedule.task.kind} adds up, in 'sum'")


def _steps(program: Sequence[Step | Repeat], depth: int) -> int:
    require(depth <= 2, "repeats in repeats are two deep at most")
    require(program, "a program or a repeat has no steps")
    total = 0
    for node in program:
        if isinstance(node, Repeat):
            require(0 <= node.times <= MOST_STEPS, f"a repeat has times = {node.times}; 0 to {MOST_STEPS}")
            total += node.times * _steps(node.body, depth + 1)
        else:
            total += 1
    return total


def _program(schedule: Schedule, program: Sequence[Step | Repeat], depth: int) -> None:
    for node in program:
        if isinstance(node, Repeat):
            _program(schedule, node.body, depth + 1)
        else:
            for op in node.compute:
                _compute(schedule, op, f"step {node.label!r}")
            for move in node.moves:
                _move(schedule, move, f"step {node.label!r}, move of {move.buffer!r}")


def _named_buffer(schedule: Schedule, name: str, kind: type, where: str) -> Any:
    held = schedule.buffers.get(name)
    require(isinstance(held, kind), f"{where}: {name!r} is not a buffer of {kind.__name__}")
    return held


def _slot(slot: int | Index | None, count: int, where: str) -> None:
    if slot is not None:
        low, high = bounds(slot)
        if not 0 <= low <= high < count:
            raise ScheduleError(f"{where}: slot {low} to {high} of {count}")


def _compute(schedule: Schedule, op: Multiply | Copy, where: str) -> None:
    task, into = schedule.task, _named_buffer(schedule, op.into, Values, where)
    if isinstance(op, Multiply):
        left, right = (_named_buffer(schedule, name, Tiles, where) for name in (op.left, op.right))
        require(task.kind in ("product", "product_t"), f"{where}: nothing is multiplied in a {task.kind}")
        require((left.operand, right.operand) == task.operands,
                f"{where}: multiplies {left.operand} by {right.operand}, not {' by '.join(task.operands)}")
        require(op.transposed == (task.kind == "product_t"), f"{where}: transposed is {op.transposed} in a {task.kind}")
        _slot(op.left_slot, left.depth, where)
        _slot(op.right_slot, right.depth, where)
        h, w = schedule.result.tile
    else:
        source = _named_buffer(schedule, op.source, Tiles, where)
        require(task.kind not in ("product", "product_t"), f"{where}: a {task.kind} multiplies tiles, it copies none")
        _slot(op.slot, source.depth, where)
        h, w = schedule.operands[source.operand].tile
        h, w = (w, h) if op.transposed else (h, w)
    _slot(op.piece, into.pieces, where)
    fitting = (h, ceil_div(w, into.pieces) if op.piece is None else w)
    require(into.shape == fitting, f"{where}: {op.into!r} has pieces of {into.shape}, a result makes {fitting}")


def _move(schedule: Schedule, move: Move, where: str) -> None:
    mesh, route = schedule.mesh, move.route
    require(move.buffer in schedule.buffers, f"{where}: there is no such buffer")
    require(move.target in schedule.buffers, f"{where}: there is no buffer {move.target!r}")
    held, into = schedule.buffers[move.buffer], schedule.buffers[move.target]
    require(type(held) is type(into), f"{where}: {move.target!r} is of another kind")
    if isinstance(held, Tiles):
        assert isinstance(into, Tiles)
        require(held.operand == into.operand, f"{where}: {move.target!r} holds tiles of {into.operand!r}")
        require(not isinstance(route, Reduce) and move.combine is None, f"{where}: tiles cannot be combined")
    else:
        assert isinstance(into, Values)
        op = schedule.task.op
        same = (held.shape, held.dtype) == (into.shape, into.dtype)
        require(same, f"{where}: {move.target!r} is of another shape or dtype")
        require(move.combine in (None, op), f"{where}: combine is {move.combine!r}, the task's op {op!r}")
        broadcast = isinstance(route, Multicast | Relay)
        require(not (broadcast and move.combine), f"{where}: what is broadcast replaces; combine must be None")
        require(not isinstance(route, Reduce) or move.combine, f"{where}: a Reduce needs combine = {op!r}")
        require(move.combine != "logsumexp" or held.shape == schedule.result.tile,
                f"{where}: logsumexp combines whole rows of {schedule.result.tile[1]}, not parts of {held.shape[1]}")
        require(move.combine is None or schedule.task.kind in ("product", "product_t", "allreduce"),
                f"{where}: nothing is combined in a task of kind {schedule.task.kind!r}")
    _slot(move.slot, schedule.slots(move.buffer), where)
    _slot(move.into_slot, schedule.slots(move.target), where)
    if move.slot is None:
        require(move.into_slot is None and schedule.slots(move.buffer) == schedule.slots(move.target),
                f"{where}: all slots are sent; {move.target!r} must have as many, and into_slot be None")
    elif move.into_slot is None:
        _slot(move.slot, schedule.slots(move.target), where)
    _route(route, mesh, where)
    if isinstance(route, Reduce):
        require(not isinstance(move.slot, Index), f"{where}: a Reduce adds up one slot, the same on all cores, or all")


def _route(route: Route, mesh: Mesh, where: str) -> None:
    if isinstance(route, Permute):
        for part, size in ((route.y, mesh.rows), (route.x, mesh.cols)):
            _places(part, size, where)
        return
    require(route.axis in (0, 1), f"{where}: axis is {route.axis}; it must be 0 or 1")
    size = mesh.length(route.axis)
    if not isinstance(route, Shift):
        _places(route.root if isinstance(route, Reduce) else route.source, size, where)
        return
    cores = [core for cycle in route.cycles for core in cycle]
    require(all(route.cycles), f"{where}: a cycle is empty")
    require(len(set(cores)) == len(cores) and all(0 <= core < size for core in cores),
            f"{where}: cycles must visit cores 0 to {size - 1} of a line, each once at most")
    if isinstance(route.by, Index):
        along = route.by.y if route.axis == 0 else route.by.x
        require(not any(along), f"{where}: by must be the same on a whole line of axis {route.axis}")


def _places(named: int | Index, size: int, where: str) -> None:
    low, high = bounds(named)
    require(low >= -1 and high < size,
            f"{where}: cores {low} to {high} of a line are named; there are {size}, and -1 for none")

