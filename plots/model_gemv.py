"""GEMV on a wafer, predicted: K-tree against pipeline and ring all-reduce, with the measured K-trees."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import perfmodel as pm
from plots.style import COLOURS, log_ticks

REDUCES = {
    "ring": ("ring", "grey", ":"), "pipeline": ("pipeline (vendor's)", "orange", "-."),
    "chain": ("chain, K = 1", "vermilion", "--"), "ktree": ("K-tree, K = 2", "blue", "-"),
}  # fmt: skip
GRIDS = np.arange(120, 745, 12)


def draw() -> Figure:
    """Left: GEMV 8K and 16K on the WSE-2 (the paper's Figure 10). Right: the sweep measured on the WSE-3."""
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.6), constrained_layout=True)
    for ax, size in zip(axes, (8192, 16384)):
        _problem(ax, size)
    axes[0].set_ylabel("predicted cycles (WSE-2)")
    _sweep(axes[2])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=5)
    figure.suptitle("A GEMV is its all-reduce: trees of two levels cut the routing stages from P to about $\\sqrt{P}$",
                    x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure


def _problem(ax: Axes, size: int) -> None:
    """One matrix: total cycles by all-reduce, and the bound none can beat."""
    chip = pm.device("wse2")
    tile = -(-size // GRIDS)
    sides = GRIDS[2 * (tile * tile + 3 * tile) <= chip.memory_per_core]
    for reduce, (label, colour, line) in REDUCES.items():
        cycles = pm.gemv(chip, size, size, grid=sides, reduce=reduce).cycles
        ax.plot(sides, cycles, line, color=COLOURS[colour], lw=2, label=label)
    ax.plot(sides, pm.gemv(chip, size, size, grid=sides).lower_bound, color=COLOURS["black"], lw=1,
            label="lower bound")  # fmt: skip
    gain = pm.gemv(chip, size, size, grid=720, reduce="pipeline").cycles / pm.gemv(chip, size, size, grid=720).cycles
    ax.set(yscale="log", xlabel="cores on a side, P", title=f"GEMV {size // 1024}K: {gain:.1f}x over pipeline at 720")
    log_ticks(ax.yaxis)


def _sweep(ax: Axes) -> None:
    """Tile 8 x 8, three numbers of groups: measured points on predicted curves, with the steps at die boundaries."""
    chip, data, tile = pm.device("wse3"), pm.measurements("wse3_meshgemv"), 8
    sides = np.arange(16, 745, 8)
    for groups, colour in ((2, "vermilion"), (4, "orange"), (8, "blue")):
        curve = pm.gemv(chip, tile * sides, tile * sides, grid=sides, groups=groups).cycles
        ax.plot(sides, curve, color=COLOURS[colour], lw=1.5, label=f"{groups} groups")
        chosen = (data.labels["tile"] == f"{tile}x{tile}") & (data.columns["groups"] == groups)
        ax.plot(data.columns["P"][chosen], data.measured[chosen], "o", ms=6, mfc="none", mew=1.5, color=COLOURS[colour])
    ax.plot([], [], "o", mfc="none", mew=1.5, color=COLOURS["black"], label="measured")
    ax.set(xlabel="cores on a side, P", ylabel="cycles", title="Tile $8^2$ on the WSE-3")
    ax.legend(fontsize=9, loc="upper left")
