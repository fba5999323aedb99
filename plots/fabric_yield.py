"""How much slower MeshGEMM is on wafers with one core in a hundred dead, for tiles of three sizes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import meshkernels as mk
from meshkernels.arguments import MeshLike, as_mesh
from meshkernels.fabric.yields import scan
from plots.style import COLOURS


def draw(grid: MeshLike = 24, spare: int = 2, maps: int = 40) -> Figure:
    """Distribution of the slow-down over random fault maps; the mesh is laid on so many spare rows and columns."""
    mesh = as_mesh(grid)
    fabric = mesh.rows + spare, mesh.cols + spare
    figure, ax = plt.subplots(figsize=(7.5, 4.2), constrained_layout=True)
    for tile, colour in ((1, "vermilion"), (4, "orange"), (8, "blue")):
        M, K, N = (side * tile for side in (mesh.rows, mesh.lcm, mesh.cols))
        found = scan(mk.schedule("meshgemm", mesh, M, K, N), "wse3", fabric, maps=maps)
        slower = np.sort(100 * (found[~np.isnan(found)] - 1))
        ax.step(slower, np.arange(1, len(slower) + 1) / maps, where="post", color=COLOURS[colour], lw=2,
                label=f"tiles of {tile} x {tile}")  # fmt: skip
    ax.set(xlabel="slower than without faults, %", ylabel="share of wafers, at most so much slower", ylim=(0, 1.02),
           title=f"{mesh.rows} x {mesh.cols} cores on {fabric[0]} x {fabric[1]}, 1 % dead: {maps} maps")
    ax.legend()
    return figure
