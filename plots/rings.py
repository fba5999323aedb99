"""Why two hops suffice: the interleaved ring against the natural ring on a line of eight cores."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

import meshkernels as mk
from plots.style import COLOURS


def draw(size: int = 8) -> Figure:
    """Both rings on one line of ``size`` cores; an arc's height grows with its length in hops."""
    rings = {
        "Natural ring (Cannon)": mk.Ring.natural(size),
        "Interleaved ring (MeshGEMM)": mk.Ring.interleaved(size),
    }
    figure, axes = plt.subplots(2, 1, figsize=(8.6, 5.0), height_ratios=(2.2, 1.5), constrained_layout=True)
    for ax, (name, ring) in zip(axes, rings.items()):
        heights = _arcs(ax, ring)
        ax.set_ylim(-0.95, max(heights) + 0.42)
        ax.set_title(f"{name}: a shift lasts as long as its longest edge, {ring.hops.max()} hops")
    figure.suptitle("One shift along a line of cores: who sends to whom", x=0.01, ha="left", fontsize=13)
    return figure


def _arcs(ax, ring: mk.Ring) -> list[float]:
    """Draw one ring: edges to higher cores above the line, to lower ones below; returns the arcs' heights."""
    heights = [0.28 * float(hops) ** 0.9 for hops in ring.hops]
    for core, (to, hops, height) in enumerate(zip(ring.send.tolist(), ring.hops.tolist(), heights)):
        side = 1 if to > core else -1
        colour = COLOURS["vermilion"] if hops > 2 else COLOURS["blue"] if side > 0 else COLOURS["green"]
        inset = 0.14 * side
        top = ((core + to) / 2, (2 * height - 0.1) * side)
        arc = Path([(core + inset, 0.16 * side), top, (to - inset, 0.16 * side)],
                   [Path.MOVETO, Path.CURVE3, Path.CURVE3])  # fmt: skip
        ax.add_patch(FancyArrowPatch(path=arc, arrowstyle="-|>", mutation_scale=13, color=colour, lw=2))
        ax.text((core + to) / 2, (height + 0.1) * side, f"{hops} hop{'s' if hops > 1 else ''}", ha="center",
                va="bottom" if side > 0 else "top", fontsize=9, color=colour)  # fmt: skip
    cores = np.arange(len(ring))
    ax.plot(cores, 0 * cores, "-", color="#BBBBBB", lw=6, zorder=0, solid_capstyle="butt")
    ax.plot(cores, 0 * cores, "o", ms=23, mfc="white", mec=COLOURS["black"], mew=1.4, zorder=3)
    for core in range(len(ring)):
        ax.text(core, 0, str(core), ha="center", va="center", zorder=4)
    ax.text(len(ring) - 0.4, 0, "ring order\n" + " ".join(map(str, ring.order)), va="center", fontsize=9)
    ax.set_xlim(-0.5, len(ring) + 1.1)
    ax.axis("off")
    return heights
