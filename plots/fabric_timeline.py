"""One step of MeshGEMM on four cores: tiles travel while their predecessors are multiplied."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import meshkernels as mk
from meshkernels.fabric.timeline import record
from plots.style import COLOURS


def draw(grid: int = 8, tile: int = 8) -> Figure:
    """Work and arrivals of the first cores of a row, around a step in the middle of the product."""
    size = grid * tile
    run = mk.simulate(mk.schedule("meshgemm", mk.Mesh(grid), size, size, size), "wse3")
    work, messages = record(run, [(0, x) for x in range(4)])
    step = len(run.schedule.steps) - grid // 2
    first = min(w.start for w in work if w.step == step - 1)
    last = max(w.end for w in work if w.step == step + 1)
    figure, ax = plt.subplots(figsize=(10.5, 3.6), constrained_layout=True)
    for w in work:
        if first <= w.start and w.end <= last:
            ax.barh(w.core[1], w.end - w.start, left=w.start, height=0.36, color=COLOURS["blue"],
                    alpha=1.0 if w.step == step else 0.35)  # fmt: skip
    shown = [m for m in messages if m.step in (step - 1, step, step + 1)]
    for m in shown:
        ax.annotate("", (m.end, m.target[1] - 0.2), (m.start, m.source[1] + 0.2),
                    arrowprops={"arrowstyle": "->", "color": COLOURS["vermilion"],
                                "alpha": 1.0 if m.step == step else 0.35})  # fmt: skip
    begin, end = min(first, *(m.start for m in shown)), max(last, *(m.end for m in shown))
    margin = 0.01 * (end - begin)
    ax.set(xlim=(begin - margin, end + margin), yticks=range(4), yticklabels=[f"core (0, {x})" for x in range(4)],
           xlabel="cycles",
           title="Tiles of A on their way (arrows, until the receiver ends its step) while products run (bars)")
    ax.invert_yaxis()
    return figure
