"""Which links are busy: MeshGEMM, Cannon, SUMMA and HSUMMA on one mesh, simulated message by message."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import meshkernels as mk
from meshkernels.arguments import MeshLike, as_mesh

NAMES = {"meshgemm": "MeshGEMM", "cannon": "Cannon", "summa": "SUMMA", "hsumma": "HSUMMA"}


def draw(algorithm: Sequence[str] = tuple(NAMES), grid: MeshLike = 24, tile: int = 8) -> Figure:
    """The busiest link of each core, as a share of the time that the product takes; tiles of ``tile`` x ``tile``."""
    mesh = as_mesh(grid)
    M, K, N = (side * tile for side in (mesh.rows, mesh.lcm, mesh.cols))
    runs = [mk.simulate(mk.schedule(name, mesh, M, K, N), "wse3", limits=False) for name in algorithm]
    top = 100 * max(run.utilisation["links"].max() for run in runs)
    figure, axes = plt.subplots(1, len(runs), figsize=(0.7 + 3.45 * len(runs), 4.2), constrained_layout=True,
                                squeeze=False)  # fmt: skip
    for ax, name, run in zip(axes[0], algorithm, runs):
        mk.draw.busy(run, ax, top=top)
        ax.set_title(f"{NAMES.get(name, name)}: {run.cycles:,.0f} cycles")
    figure.colorbar(axes[0, 0].images[0], ax=axes, label="busiest link of the core, % of the time", shrink=0.85)
    figure.suptitle(f"The busiest link of all is busy for {top:.0f} % of the time ({mesh.rows} x {mesh.cols} cores, "
                    f"tiles of {tile} x {tile}, WSE-3)", x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure
