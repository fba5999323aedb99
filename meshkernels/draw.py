"""Pictures of rings, schedules, ledgers and simulations: Axes in, Axes out; matplotlib's settings are left alone.

>>> import meshkernels as mk
>>> axes = mk.draw.steps(mk.schedule("cannon", mk.Mesh(3), 6, 6, 6))
>>> axes.shape, axes[0, 0].texts[5].get_text()  # core (1, 2) multiplies A(1, 0) first
((2, 3), '1,0')
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.readers.ledger import Ledger
from meshkernels.readers.lockstep import Tracker
from meshkernels.readers.traffic import EAST, NORTH, SOUTH, WEST
from meshkernels.rings import Ring
from meshkernels.schedules import Multiply, Schedule, Tiles
from meshkernels.schedules.steps import unrolled

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes

    from meshkernels.fabric import Run

#: Okabe and Ito (2008), colours that survive the common colour deficiencies.
_BLUE, _VERMILION, _GREEN, _BLACK, _PALE = "#0072B2", "#D55E00", "#009E73", "#000000", "#BBBBBB"
#: Cores a side up to which each core's block is written out; steps and cores that a strip shows at most.
_WRITTEN, _MOST_STEPS, _MOST_CORES = 12, 64, 4096


def _axes(ax: Axes | None) -> Axes:
    """``ax``, or the Axes of a new figure of the caller's pyplot."""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1]
    return ax


def ring(ring: Ring, ax: Axes | None = None) -> Axes:
    """Who sends to whom on one line of cores; an arc's height grows with its length in hops.

    Args:
        ring: the cycle.
        ax: where to draw; None: a new figure.

    Returns:
        The Axes: edges to higher cores above the line, to lower ones below, those of more than two hops in red.

    Examples:
        >>> len(ring(Ring.interleaved(6)).patches)
        6
    """
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    ax = _axes(ax)
    heights = [0.28 * float(hops) ** 0.9 for hops in ring.hops]
    for core, (to, hops, height) in enumerate(zip(ring.send.tolist(), ring.hops.tolist(), heights)):
        side = 1 if to > core else -1
        colour = _VERMILION if hops > 2 else _BLUE if side > 0 else _GREEN
        inset = 0.14 * side
        top = ((core + to) / 2, (2 * height - 0.1) * side)
        arc = Path([(core + inset, 0.16 * side), top, (to - inset, 0.16 * side)],
                   [Path.MOVETO, Path.CURVE3, Path.CURVE3])  # fmt: skip
        ax.add_patch(FancyArrowPatch(path=arc, arrowstyle="-|>", mutation_scale=13, color=colour, lw=2))
        ax.text((core + to) / 2, (height + 0.1) * side, f"{hops} hop{'s' if hops > 1 else ''}", ha="center",
                va="bottom" if side > 0 else "top", fontsize=9, color=colour)  # fmt: skip
    cores = np.arange(len(ring))
    ax.plot(cores, 0 * cores, "-", color=_PALE, lw=6, zorder=0, solid_capstyle="butt")
    ax.plot(cores, 0 * cores, "o", ms=23, mfc="white", mec=_BLACK, mew=1.4, zorder=3)
    for core in range(len(ring)):
        ax.text(core, 0, str(core), ha="center", va="center", zorder=4)
    ax.text(len(ring) - 0.4, 0, "ring order\n" + " ".join(map(str, ring.order)), va="center", fontsize=9)
    ax.set_xlim(-0.5, len(ring) + 1.1)
    ax.set_ylim(-0.95, max(heights) + 0.42)
    ax.axis("off")
    return ax


def links(ledger: Ledger, ax: Axes | None = None, *, top: float | None = None) -> Axes:
    """The load of every link of a mesh: each line between two cores is a link.

    Args:
        ledger: what was counted.
        ax: where to draw; None: a new figure.
        top: words at the upper end of the colours, for pictures that are compared; None: the busiest link's.

    Returns:
        The Axes; ``ax.collections[0]`` are the links, coloured by the words of the busier direction, for a colour bar.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    ax, words = _axes(ax), ledger.link_words
    rows, cols = ledger.mesh.shape
    y, x = np.mgrid[:rows, : cols - 1]
    across = np.stack([np.stack([x, y], -1), np.stack([x + 1, y], -1)], 2).reshape(-1, 2, 2)
    load_x = np.maximum(words[EAST][:, :-1], words[WEST][:, 1:]).ravel()
    y, x = np.mgrid[: rows - 1, :cols]
    down = np.stack([np.stack([x, y], -1), np.stack([x, y + 1], -1)], 2).reshape(-1, 2, 2)
    load_y = np.maximum(words[SOUTH][:-1], words[NORTH][1:]).ravel()
    scale = Normalize(0, float(words.max()) if top is None else top)
    ax.add_collection(LineCollection(list(np.concatenate([across, down])), array=np.concatenate([load_x, load_y]),
                                     cmap="viridis", linewidths=5, norm=scale))
    y, x = np.mgrid[:rows, :cols]
    ax.plot(x.ravel(), y.ravel(), "s", ms=3.5, color=_BLACK)
    ax.set(xlim=(-0.7, cols - 0.3), ylim=(rows - 0.3, -0.7), aspect="equal")
    return _of_cores(ax)


def busy(run: Run, ax: Axes | None = None, *, top: float | None = None) -> Axes:
    """How busy the links of a simulation were: of each core, the busiest of the four that leave it.

    Args:
        run: of `meshkernels.simulate`.
        ax: where to draw; None: a new figure.
        top: per cent of the time at the upper end of the colours, for pictures that are compared; None: the busiest's.

    Returns:
        The Axes; ``ax.images[0]`` holds per cent of the makespan, for a colour bar.

    Examples:
        >>> import meshkernels as mk
        >>> ax = busy(mk.simulate(mk.schedule("cannon", 4, 8, 8, 8), "wse3"))
        >>> ax.images[0].get_array().shape
        (4, 4)
    """
    ax = _axes(ax)
    ax.imshow(100 * run.utilisation["links"].max(axis=0), vmin=0, vmax=top, cmap="viridis")
    return _of_cores(ax)


def _of_cores(ax: Axes) -> Axes:
    """An axis counts cores: whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.set(xlabel="x (column of cores)", ylabel="y (row of cores)")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(False)
    return ax


class _Scene(NamedTuple):
    """One step: what it is, and the block that each core holds of every operand shown, ``(rows, cols)`` each."""

    title: str
    names: list[str]
    blocks: list[np.ndarray]


def _scenes(schedule: Schedule) -> Iterator[_Scene]:
    """Steps with a product show what every core multiplies; other schedules show every buffer's first slot."""
    if schedule.mesh.cores > _MOST_CORES:
        raise MeshError(f"{schedule.mesh.rows} x {schedule.mesh.cols} cores: at most {_MOST_CORES} can be drawn")
    tracker = Tracker(schedule)
    products = any(isinstance(op, Multiply) for step, _, _ in unrolled(schedule.program) for op in step.compute)
    for number, (step, t, s) in enumerate(unrolled(schedule.program), 1):
        title = f"step {number}: {step.label}"
        ops = [op for op in step.compute if isinstance(op, Multiply)]
        if ops:
            op = ops[0]
            yield _Scene(title, [op.left, op.right],
                         [tracker.ids(op.left, op.left_slot, t, s), tracker.ids(op.right, op.right_slot, t, s)])
        elif not products:
            names = [name for name, held in schedule.buffers.items() if isinstance(held, Tiles)]
            yield _Scene(title, names, [tracker.ids(name, 0) for name in names])
        tracker.move(step, t, s)


def _paint(schedule: Schedule, ax: Axes, name: str, blocks: np.ndarray, title: str = "") -> None:
    """One operand on the mesh: a cell is a core, its text the block's row and column, its colour the block of K."""
    held = schedule.buffers[name]
    assert isinstance(held, Tiles)
    tiling = schedule.operands[held.operand]
    down, across = tiling.block(blocks)
    task = schedule.task
    inner = across if held.operand == task.operands[0] or task.kind == "product_t" else down  # the block of K
    count = tiling.grid[1 if inner is across else 0]
    rows, cols = blocks.shape
    ax.clear()
    ax.imshow(np.where(blocks < 0, np.nan, inner / max(count, 1)), cmap="hsv", vmin=0, vmax=1, alpha=0.45)
    if max(rows, cols) <= _WRITTEN:
        for y, x in np.argwhere(blocks >= 0):
            ax.text(x, y, f"{down[y, x]},{across[y, x]}", ha="center", va="center", fontsize=7)
    ax.set_xticks(np.arange(cols + 1) - 0.5, [])
    ax.set_yticks(np.arange(rows + 1) - 0.5, [])
    ax.tick_params(length=0)
    ax.grid(True, color="white", lw=1)
    ax.set_title(title, fontsize=9)
    ax.set_ylabel(name)


def steps(schedule: Schedule, axes: Any = None, *, most: int = 8) -> np.ndarray:
    """What every core multiplies in each step, as a strip: equal colours are equal blocks of the contraction.

    Args:
        schedule: one whose mesh is small.
        axes: ``(operands, steps)`` Axes to draw on; None: a new figure.
        most: show so many steps, the first ones.

    Returns:
        The Axes, ``(operands, steps)``: a row for each operand, a column for each step. Steps that only move tiles are
        left out of a product's strip.

    Raises:
        MeshError: a mesh too large to draw, or axes of another shape.
    """
    scenes = [scene for scene, _ in zip(_scenes(schedule), range(min(most, _MOST_STEPS)))]
    shape = len(scenes[0].names), len(scenes)
    if axes is None:
        import matplotlib.pyplot as plt

        side = 1.7
        axes = plt.subplots(*shape, figsize=(side * shape[1], side * shape[0] + 0.4), squeeze=False)[1]
    axes = np.asarray(axes)
    if axes.shape != shape:
        raise MeshError(f"axes {axes.shape}: {schedule.name} needs {shape}, a row for each operand and a column for "
                        "each step")
    for j, scene in enumerate(scenes):
        for i, (name, blocks) in enumerate(zip(scene.names, scene.blocks)):
            _paint(schedule, axes[i, j], name, blocks, scene.title if i == 0 else "")
            if j:
                axes[i, j].set_ylabel("")
    return axes


def animation(schedule: Schedule, axes: Any = None, *, interval: float = 700.0) -> FuncAnimation:
    """The same, one step after the other.

    Args:
        schedule: one whose mesh is small.
        axes: an Axes for each operand; None: a new figure.
        interval: milliseconds of a step.

    Returns:
        The animation: ``.save("cannon.gif")`` writes it, a notebook shows ``.to_jshtml()``.

    Raises:
        MeshError: a mesh too large to draw.
    """
    from matplotlib.animation import FuncAnimation

    scenes = list(_scenes(schedule))
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots(1, len(scenes[0].names), figsize=(3.2 * len(scenes[0].names), 3.6), squeeze=False)[1][0]
    axes = np.asarray(axes).ravel()

    def show(number: int) -> list[Axes]:
        for ax, name, blocks in zip(axes, scenes[number].names, scenes[number].blocks):
            _paint(schedule, ax, name, blocks, scenes[number].title)
        return list(axes)

    return FuncAnimation(axes[0].figure, show, frames=len(scenes), interval=interval)
