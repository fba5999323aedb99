"""One page that plays runs side by side, complete in itself: no network, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshkernels.errors import FabricError
from meshkernels.fabric.timeline import record
from meshkernels.readers.lockstep import walk

if TYPE_CHECKING:
    from meshkernels.fabric.run import Run

PAGE = Path(__file__).parent / "replay.html"
#: Cores and messages of a run that a page can show.
MOST_CORES, MOST_MESSAGES = 1024, 200_000


def write(runs: Sequence[Run], path: Any) -> None:
    """Write the page.

    Args:
        runs: what is shown, side by side.
        path: file to write.

    Raises:
        FabricError: a mesh or a run too large to be looked at.
    """
    data = json.dumps([_data(run) for run in runs], separators=(",", ":")).replace("</", "<\\/")
    title = " and ".join(run.schedule.name for run in runs)
    page = PAGE.read_text(encoding="utf-8").replace("{{title}}", escape(title)).replace("{{data}}", data)
    Path(path).write_text(page, encoding="utf-8")


def _data(run: Run) -> dict[str, Any]:
    mesh = run.schedule.mesh
    if mesh.cores > MOST_CORES or run.messages > MOST_MESSAGES:
        raise FabricError(f"{run.schedule.name} on {mesh.rows} x {mesh.cols} cores sends {run.messages:,} messages: a "
                          f"replay shows at most {MOST_CORES} cores and {MOST_MESSAGES:,} messages: take a smaller "
                          "grid")
    work, messages = record(run, [(y, x) for y in range(mesh.rows) for x in range(mesh.cols)])
    holds = []
    for _, _, held in walk(run.schedule):  # block numbers of every buffer of every core, before each step
        holds.append({name: ids.reshape(mesh.cores, -1).tolist() for name, ids in held.items()})
    return {
        "name": run.schedule.name, "rows": mesh.rows, "cols": mesh.cols, "makespan": run.makespan, "holds": holds,
        "work": [[w.core[0] * mesh.cols + w.core[1], w.step, round(w.start, 2), round(w.end, 2)] for w in work],
        "messages": [[*m.source, *m.target, m.buffer, m.step, round(m.start, 2), round(m.end, 2)] for m in messages],
    }  # fmt: skip
