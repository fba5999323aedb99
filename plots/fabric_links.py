"""Which links are busy: MeshGEMM, Cannon, SUMMA and HSUMMA on one mesh, simulated message by message."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import meshkernels as mk

NAMES = {"meshgemm": "MeshGEMM", "cannon": "Cannon", "summa": "SUMMA", "hsumma": "HSUMMA"}


def draw(side: int = 24, tile: int = 8) -> Figure:
    """The busiest link of each core, as a share of the time that the product takes; tiles of ``tile`` x ``tile``."""
    size = side * tile
    runs = {label: mk.simulate(mk.schedule(name, mk.Mesh(side), size, size, size), "wse3", limits=False)
            for name, label in NAMES.items()}  # fmt: skip
    shares = {label: run.utilisation["links"].max(axis=0) for label, run in runs.items()}
    top = max(share.max() for share in shares.values())
    figure, axes = plt.subplots(1, len(runs), figsize=(14.5, 4.2), constrained_layout=True)
    for ax, (label, run) in zip(axes, runs.items()):
        image = ax.imshow(100 * shares[label], vmin=0, vmax=100 * top, cmap="viridis")
        ax.set(title=f"{label}: {run.cycles:,.0f} cycles", xlabel="column of cores", ylabel="row of cores")
        ax.grid(False)
    figure.colorbar(image, ax=axes, label="busiest link of the core, % of the time", shrink=0.85)
    figure.suptitle(f"Rings load all links alike and lightly; what is left is start-ups ({side} x {side} cores, "
                    f"tiles of {tile} x {tile}, WSE-3)", x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure
