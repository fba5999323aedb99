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

from meshkernels.errors import FabricError
from meshkernels.fabric.faults import as_cores
from meshkernels.fabric.timeline import record

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
    whole = ((y, x) for y in range(mesh.rows) for x in range(mesh.cols))
    chosen = list(dict.fromkeys(whole if cores is None else as_cores("cores", cores)))
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
    per = 1e6 / run.machine.device.clock_hz
    for y in sorted({y for y, _ in chosen}):
        yield {"ph": "M", "name": "process_name", "pid": y, "args": {"name": f"row {y}"}}
    for y, x in sorted(chosen):
        yield {"ph": "M", "name": "thread_name", "pid": y, "tid": x, "args": {"name": f"core ({y}, {x})"}}
    work, messages = record(run, chosen)
    for step, (y, x), label, start, end in work:
        yield {"ph": "X", "name": label, "cat": "compute", "pid": y, "tid": x, "ts": round(start * per, 6),
               "dur": round((end - start) * per, 6),
               "args": {"step": step, "cycles": round(end - start, 6)}}  # fmt: skip
    for number, (_, (sy, sx), (ty, tx), buffer, start, end) in enumerate(messages):
        common = {"name": buffer, "cat": "message", "id": number}
        yield {"ph": "s", "pid": sy, "tid": sx, "ts": round(start * per, 6), **common}
        yield {"ph": "f", "bp": "e", "pid": ty, "tid": tx, "ts": round(end * per, 6), **common}
