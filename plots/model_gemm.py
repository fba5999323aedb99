"""GEMM on a wafer, predicted: MeshGEMM against SUMMA, Cannon and all-gather, measured points where they exist."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import perfmodel as pm
from perfmodel import counts
from plots.style import COLOURS, log_ticks

ALGORITHMS = {
    "meshgemm": ("MeshGEMM", "blue", "-"), "cannon": ("Cannon", "vermilion", "--"),
    "summa_relay": ("SUMMA", "orange", "-."), "allgather_relay": ("all-gather", "grey", ":"),
}  # fmt: skip
GRIDS = np.arange(240, 751, 6)


def draw() -> Figure:
    """Left: fixed problems on the WSE-2 (the paper's Figure 9). Right: a fixed tile on the WSE-3, with measurements."""
    figure, axes = plt.subplots(1, 4, figsize=(15.5, 4.4), constrained_layout=True)
    for ax, size in zip(axes, (2048, 4096, 8192)):
        _problem(ax, size)
    axes[0].set_ylabel("predicted cycles (WSE-2)")
    _weak(axes[3])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle("MeshGEMM's time falls or stays flat as cores are added; broadcasts and wraps pay for the distance",
                    x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure


def _problem(ax: Axes, size: int) -> None:
    """One problem size: every algorithm on the grids whose cores can hold it, and the bound none can beat."""
    chip = pm.device("wse2")
    for algorithm, (label, colour, line) in ALGORITHMS.items():
        fits = counts.gemm_bytes(algorithm, size, size, size, GRIDS, GRIDS) <= chip.memory_per_core
        if fits.any():
            sides = GRIDS[fits]
            cycles = pm.gemm(chip, size, size, size, grid=sides, algorithm=algorithm).cycles
            ax.plot(sides, cycles, line, color=COLOURS[colour], lw=2, label=label)
        else:
            ax.text(0.03, 0.03, f"{label}: exceeds 48 KB per core", transform=ax.transAxes, fontsize=8,
                    color=COLOURS[colour])  # fmt: skip
    bound = pm.gemm(chip, size, size, size, grid=GRIDS).lower_bound
    ax.plot(GRIDS, bound, color=COLOURS["black"], lw=1, label="lower bound")
    ax.set(yscale="log", xlabel="cores on a side, P", title=f"GEMM {size // 1024}K")
    log_ticks(ax.yaxis)


def _weak(ax: Axes) -> None:
    """Cycles per step at a constant tile of 8^3: a horizontal line is the two-hop claim."""
    chip, tile = pm.device("wse3"), 8
    sides = np.arange(16, 745, 8)
    for algorithm, (label, colour, line) in ALGORITHMS.items():
        if algorithm.startswith("allgather"):
            continue
        cycles = pm.gemm(chip, tile * sides, tile * sides, tile * sides, grid=sides, algorithm=algorithm).cycles
        ax.plot(sides, cycles / sides, line, color=COLOURS[colour], lw=2, label=label)
    data = pm.measurements("wse3_meshgemm")
    chosen = data.labels["tile"] == f"{tile}x{tile}x{tile}"
    grids = data.columns["P"][chosen]
    ax.plot(grids, data.measured[chosen] / grids, "o", color=COLOURS["black"], ms=6, mfc="none", mew=1.5)
    ax.set(yscale="log", xlabel="cores on a side, P", ylabel="cycles per step", title="Tile $8^3$ on the WSE-3")
    log_ticks(ax.yaxis)
    ax.annotate("MeshGEMM, measured", (400, 668), (330, 760), fontsize=9)
