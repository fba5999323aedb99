"""Simulated, predicted and measured cycles of the WSE-3's published sweeps, with no constant fitted to an algorithm."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import meshkernels as mk
import perfmodel as pm
from meshkernels.fabric import machine, play
from plots.style import COLOURS

GRIDS = (16, 80, 208)


def draw() -> Figure:
    """Deviation from silicon of the simulator and of the closed form, for MeshGEMM and for MeshGEMV."""
    figure, axes = plt.subplots(1, 2, figsize=(12.5, 4.4), constrained_layout=True, sharey=True)
    chip, costs = pm.device("wse3"), machine("wse3")
    gemm = [row for row in _rows("wse3_meshgemm") if row["P"] in GRIDS[:2]][::3]
    simulated = [play(mk.schedule("meshgemm", mk.Mesh(r["P"]), r["M"], r["K"], r["N"]), costs).cycles for r in gemm]
    closed = [pm.gemm(chip, r["M"], r["K"], r["N"], grid=r["P"]).cycles for r in gemm]
    _deviations(axes[0], "MeshGEMM", gemm, simulated, closed)
    gemv = [row for row in _rows("wse3_meshgemv") if row["P"] in GRIDS]
    simulated = [play(mk.schedule("ktree", mk.Mesh(r["P"], 1), r["M"], r["N"] // r["P"], groups=r["groups"]),
                      costs).cycles for r in gemv]  # fmt: skip
    closed = [pm.gemv(chip, r["M"], r["N"], grid=r["P"], groups=r["groups"]).cycles for r in gemv]
    _deviations(axes[1], "MeshGEMV", gemv, simulated, closed)
    axes[0].set_ylabel("cycles, % off the measured ones")
    axes[0].legend()
    figure.suptitle("Simulated from costs of single operations and steps; the closed form was fitted to these rows",
                    x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure


def _rows(name: str) -> list[dict]:
    table = pm.measurements(name)
    columns = {name: values.tolist() for name, values in table.columns.items()} | {"cycles": table.measured.tolist()}
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _deviations(ax: Axes, title: str, rows: list[dict], simulated: list[float], closed: list[float]) -> None:
    measured = np.array([row["cycles"] for row in rows])
    for found, label, colour, marker in ((simulated, "fabric", "blue", "o"), (closed, "closed form", "orange", "x")):
        ax.plot(measured, 100 * (np.array(found) / measured - 1), marker, color=COLOURS[colour], label=label, ms=4)
    ax.axhline(0, color=COLOURS["black"], lw=1)
    ax.set(xscale="log", xlabel="measured cycles", title=f"{title}, {len(rows)} launches")
