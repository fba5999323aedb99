"""Why two hops suffice: the interleaved ring against the natural ring on a line of eight cores."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import meshkernels as mk


def draw(size: int = 8) -> Figure:
    """Both rings on one line of ``size`` cores; an arc's height grows with its length in hops."""
    rings = {
        "Natural ring (Cannon)": mk.Ring.natural(size),
        "Interleaved ring (MeshGEMM)": mk.Ring.interleaved(size),
    }
    figure, axes = plt.subplots(2, 1, figsize=(8.6, 5.0), height_ratios=(2.2, 1.5), constrained_layout=True)
    for ax, (name, ring) in zip(axes, rings.items()):
        mk.draw.ring(ring, ax)
        ax.set_title(f"{name}: a shift lasts as long as its longest edge, {ring.hops.max()} hops")
    figure.suptitle("One shift along a line of cores: who sends to whom", x=0.01, ha="left", fontsize=13)
    return figure
