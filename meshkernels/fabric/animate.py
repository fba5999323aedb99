"""An animation of a run on a small mesh: tiles move along links, cores are coloured by what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from meshkernels.errors import FabricError
from meshkernels.fabric.timeline import Message, record

if TYPE_CHECKING:
    from meshkernels.fabric.run import Run

#: Cores that can be told apart in a picture.
MOST_CORES = 256
#: Colours of a core that computes and of one that does not, of links, and of tiles by the first letter of their buffer.
BUSY, STILL, LINK, TILES = "#0072B2", "#DDDDDD", "#BBBBBB", {"A": "#D55E00", "B": "#009E73"}


def write(run: Run, path: Any, frames: int = 120) -> None:
    """Write an animated GIF.

    Args:
        run: what is shown; it is played once more.
        path: file to write.
        frames: pictures, at 12 a second, at equal distances of the makespan.

    Raises:
        FabricError: a mesh too large to be looked at, no pictures.
    """
    if frames < 1:
        raise FabricError(f"frames = {frames}: at least 1 picture")
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    mesh = run.schedule.mesh
    if mesh.cores > MOST_CORES:
        raise FabricError(f"an animation of {mesh.rows} x {mesh.cols} cores: at most {MOST_CORES} can be told apart")
    y, x = (part.ravel() for part in np.indices(mesh.shape))
    work, messages = record(run, zip(y.tolist(), x.tolist()))
    figure, ax = plt.subplots(figsize=(0.55 * mesh.cols + 1, 0.55 * mesh.rows + 1.2))
    ax.set(xlim=(-0.7, mesh.cols - 0.3), ylim=(mesh.rows - 0.3, -0.7), aspect="equal")
    ax.axis("off")
    ax.hlines(range(mesh.rows), 0, mesh.cols - 1, color=LINK, lw=1, zorder=0)
    ax.vlines(range(mesh.cols), 0, mesh.rows - 1, color=LINK, lw=1, zorder=0)
    cores = ax.scatter(x, y, s=260, marker="s", zorder=1)
    tiles = ax.scatter([], [], s=45, zorder=2, edgecolors="white")

    def show(frame: int) -> tuple[Any, ...]:
        now = run.makespan * frame / max(frames - 1, 1)
        busy = {w.core for w in work if w.start <= now < w.end}
        cores.set_color([BUSY if core in busy else STILL for core in zip(y.tolist(), x.tolist())])
        moving = [m for m in messages if m.start <= now < m.end]
        tiles.set_offsets([_place(m, now) for m in moving] or np.empty((0, 2)))
        tiles.set_facecolor([TILES.get(m.buffer[0], "#CC79A7") for m in moving])
        ax.set_title(f"{run.schedule.name}, {now:,.0f} of {run.makespan:,.0f} cycles", fontsize=10)
        return cores, tiles

    try:
        FuncAnimation(figure, show, frames=frames, blit=False).save(path, writer=PillowWriter(fps=12))
    finally:
        plt.close(figure)


def _place(message: Message, now: float) -> tuple[float, float]:
    """``(x, y)`` of a message at a time: along its row first."""
    (y, x), (to_y, to_x) = message.source, message.target
    go = (now - message.start) / (message.end - message.start) * (abs(to_x - x) + abs(to_y - y))
    along = min(go, abs(to_x - x))
    return x + along * np.sign(to_x - x), y + (go - along) * np.sign(to_y - y)
