"""Fabric, closed form and silicon side by side: every published sweep of the wafers."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import meshkernels as mk
import perfmodel as pm
from meshkernels.fabric import machine, play, published
from plots.style import COLOURS, log_ticks

GRIDS = (16, 80, 208)


def draw() -> Figure:
    """Deviation from what was measured of the simulator and of the closed form, sweep by sweep."""
    figure, axes = plt.subplots(2, 2, figsize=(12.5, 7.6), constrained_layout=True, sharey=True)
    chip, costs = pm.device("wse3"), machine("wse3")
    rows = [row for row in _rows("wse3_meshgemm") if row["P"] in GRIDS[:2]][::3]
    simulated = [play(mk.schedule("meshgemm", mk.Mesh(r["P"]), r["M"], r["K"], r["N"]), costs).cycles for r in rows]
    closed = [pm.gemm(chip, r["M"], r["K"], r["N"], grid=r["P"]).cycles for r in rows]
    _deviations(axes[0, 0], "MeshGEMM, WSE-3", rows, simulated, closed, "fitted to them")
    rows = [row for row in _rows("wse3_meshgemv") if row["P"] in GRIDS]
    simulated = [play(mk.schedule("ktree", mk.Mesh(r["P"], 1), r["M"], r["N"] // r["P"], groups=r["groups"]),
                      costs).cycles for r in rows]  # fmt: skip
    closed = [pm.gemv(chip, r["M"], r["N"], grid=r["P"], groups=r["groups"]).cycles for r in rows]
    _deviations(axes[0, 1], "MeshGEMV, WSE-3", rows, simulated, closed, "fitted to them")
    rows = [row for row in _rows("wse3_shift") if row["L"] <= row["P"]]
    simulated = []
    for r in rows:
        run = play(published.shift(r["P"], r["L"], r["tile_rows"], r["tile_cols"], rows=1), costs)
        simulated.append(float(run.ends[:, published.block(r["P"], r["L"])].mean()))
    closed = [float(pm.shift(chip, (r["tile_rows"], r["tile_cols"]), steps=r["L"], grid=r["P"]).cycles) for r in rows]
    _deviations(axes[1, 0], "KV-cache shift by at most the block, WSE-3", rows, simulated, closed, "blind")
    rows = _rows("wse2_reduce_two_phase")
    simulated = [play(published.two_phase_reduce(r["P"], r["B_words"], r["group_size"]), machine("wse2"),
                      np.float32).makespan for r in rows]  # fmt: skip
    closed = [float(pm.reduce("wse2", r["B_words"], cores=r["P"], group_size=r["group_size"]).cycles) for r in rows]
    _deviations(axes[1, 1], "Two-phase reduce, WSE-2, vendor's simulator", rows, simulated, closed, "nothing fitted")
    for ax in axes[:, 0]:
        ax.set_ylabel("cycles, % off the measured ones")
    figure.suptitle("The simulator takes single costs of the chip, a step's start-up and the local product: nothing is "
                    "fitted to these rows", x=0.01, ha="left", fontsize=12)  # fmt: skip
    return figure


def _rows(name: str) -> list[dict]:
    table = pm.measurements(name)
    columns = {name: values.tolist() for name, values in table.columns.items()} | {"cycles": table.measured.tolist()}
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _deviations(ax: Axes, title: str, rows: list[dict], simulated: list[float], closed: list[float], how: str) -> None:
    measured = np.array([row["cycles"] for row in rows])
    for found, label, colour, marker in ((simulated, "fabric", "blue", "o"),
                                         (closed, f"closed form, {how}", "orange", "x")):
        off = 100 * (np.array(found) / measured - 1)
        ax.plot(measured, off, marker, color=COLOURS[colour], ms=4,
                label=f"{label}: mean {abs(off).mean():.1f} %, worst {abs(off).max():.1f} %")  # fmt: skip
    ax.axhline(0, color=COLOURS["black"], lw=1)
    ax.set(xscale="log", xlabel="measured cycles", title=f"{title}, {len(rows)} rows")
    log_ticks(ax.xaxis, *((1, 2, 5) if measured.max() > 2 * measured.min() else range(1, 10)))
    ax.legend(fontsize=8)
