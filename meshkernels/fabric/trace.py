"""Trace events, as Chrome's and Perfetto's viewers and speedscope read them: a track per core, a flow per message.

The format is the published one ("Trace Event Format"): a JSON object with ``traceEvents``; ``X`` is a slice with a
begin ``ts`` and a duration ``dur``, ``s`` and ``f`` begin and end a flow, ``M`` names a track. A process is a row of
cores, a thread a core. Times are in microseconds at the device's clock; ``args`` have the cycles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meshkernels.errors import FabricError
from meshkernels.fabric.engine import Engine
from meshkernels.schedules import Permute

if TYPE_CHECKING:
    from meshkernels.fabric.run import Run

#: Events that a file may have, at about 150 bytes each.
MOST_EVENTS, EVENT_BYTES = 2_000_000, 150


def write(run: Run, path: Any, cores: Any = None) -> None:
    """Write the trace of a run; the same run makes the same bytes.

    Args:
        run: what was simulated; it is played once more.
        path: file to write.
        cores: ``(row, column)`` pairs to write; None: all.

    Raises:
        FabricError: a core outside the mesh, or more than `MOST_EVENTS` events.
    """
    mesh = run.schedule.mesh
    chosen = [(y, x) for y in range(mesh.rows) for x in range(mesh.cols)] if cores is None else [
        (int(y), int(x)) for y, x in cores]  # fmt: skip
    for y, x in chosen:
        if not (0 <= y < mesh.rows and 0 <= x < mesh.cols):
            raise FabricError(f"core ({y}, {x}) is not on a mesh of {mesh.rows} x {mesh.cols} cores")
    share = len(chosen) / mesh.cores
    events = int(len(chosen) * len(run.schedule.steps) + 2 * run.messages * share)
    if events > MOST_EVENTS:
        raise FabricError(f"a trace of {len(chosen):,} cores would have about {events:,} events, "
                          f"{events * EVENT_BYTES / 1e9:.1f} GB; at most {MOST_EVENTS:,}: choose cores, "
                          "by cores=[(row, column), ...] or --cores ROW,COLUMN ...")  # fmt: skip
    found = list(_events(run, chosen))
    text = json.dumps({"displayTimeUnit": "ns", "traceEvents": found}, separators=(",", ":"))
    Path(path).write_text(text, encoding="utf-8")


def _events(run: Run, chosen: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    mesh, per = run.schedule.mesh, 1e6 / run.machine.device.clock_hz
    numbers = {y * mesh.cols + x: (y, x) for y, x in chosen}
    cores = np.array(sorted(numbers), np.intp)
    for y in sorted({y for y, _ in chosen}):
        yield {"ph": "M", "name": "process_name", "pid": y, "args": {"name": f"row {y}"}}
    for c in cores.tolist():
        y, x = numbers[c]
        yield {"ph": "M", "name": "thread_name", "pid": y, "tid": x, "args": {"name": f"core ({y}, {x})"}}
    ends, computing, flows = [np.zeros(mesh.cores)], [np.zeros(mesh.cores)], []

    def watch(i: int, engine: Engine) -> None:
        ends.append(engine.end.copy())
        computing.append(engine.computing.copy())
        flows.append(list(_messages(engine, i, numbers)))

    engine = run.fresh()
    engine.run(watch)
    number = 0
    for i, (step, _, _) in enumerate(engine.steps):
        for c in cores.tolist():
            y, x = numbers[c]
            work, end = computing[i + 1][c] - computing[i][c], ends[i + 1][c]
            if work:  # the computation is the last thing that a core does by itself
                yield {"ph": "X", "name": step.label, "cat": "compute", "pid": y, "tid": x,
                       "ts": round((end - work) * per, 6), "dur": round(work * per, 6),
                       "args": {"step": i, "cycles": round(work, 6)}}  # fmt: skip
        for source, target, buffer in flows[i]:
            (sy, sx), (ty, tx) = numbers[source], numbers[target]
            common = {"name": buffer, "cat": "message", "id": number}
            yield {"ph": "s", "pid": sy, "tid": sx, "ts": round(ends[i][source] * per, 6), **common}
            yield {"ph": "f", "bp": "e", "pid": ty, "tid": tx, "ts": round(ends[i + 1][target] * per, 6), **common}
            number += 1


def _messages(engine: Engine, i: int, numbers: dict[int, tuple[int, int]]) -> Iterator[tuple[int, int, str]]:
    """Sender, receiver and buffer of the messages of a step between cores that are written."""
    step, t, s = engine.steps[i]
    cols = engine.mesh.cols
    for m, move in enumerate(step.moves):
        if isinstance(move.route, Permute):
            source, to_y, to_x = move.route.targets(engine.mesh, t, s)
            pairs = zip(source.tolist(), (to_y * cols + to_x).tolist())
        else:
            table = engine.plan(step).tables[m]
            assert table is not None
            pattern, axis = table.at(t, s), move.route.axis
            by_line, by_place = (1, cols) if axis == 0 else (cols, 1)
            pairs = ((line * by_line + a * by_place, line * by_line + b * by_place)
                     for line, p in enumerate(pattern) for a, b in table.ends(int(p)))  # type: ignore[assignment]
        for source, target in pairs:
            if source != target and source in numbers and target in numbers:
                yield source, target, move.buffer
