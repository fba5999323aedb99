"""How much slower MeshGEMM is on wafers with one core in a hundred dead, for tiles of three sizes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import meshkernels as mk
from meshkernels.fabric.yields import scan
from plots.style import COLOURS


def draw(side: int = 24, spare: int = 2, maps: int = 40) -> Figure:
    """Distribution of the slow-down over random fault maps; the mesh is laid on ``side + spare`` cores a side."""
    figure, ax = plt.subplots(figsize=(7.5, 4.2), constrained_layout=True)
    for tile, colour in ((1, "vermilion"), (4, "orange"), (8, "blue")):
        size = side * tile
        found = scan(mk.schedule("meshgemm", mk.Mesh(side), size, size, size), "wse3", (side + spare,) * 2, maps=maps)
        slower = np.sort(100 * (found[~np.isnan(found)] - 1))
        ax.step(slower, np.arange(1, len(slower) + 1) / maps, where="post", color=COLOURS[colour], lw=2,
                label=f"tiles of {tile} x {tile}")  # fmt: skip
    ax.set(xlabel="slower than without faults, %", ylabel="share of wafers, at most so much slower", ylim=(0, 1.02),
           title=f"{side} x {side} cores on {side + spare} x {side + spare}, 1 % dead: {maps} maps")
    ax.legend()
    return figure
