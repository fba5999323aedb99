"""Silicon that the model has not seen: shift and decode on the WSE-3, matmul on a card of matrix engines."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import perfmodel as pm
from perfmodel import report
from plots.style import COLOURS


def draw() -> Figure:
    """Left: shift. Middle: decode, two grids. Right: N150, each shape left out of the fit, and the P150 to come."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), constrained_layout=True)
    _shift(axes[0])
    _decode(axes[1])
    _matmul(axes[2])
    figure.suptitle("Constants belong to chips and to kernels: carried over, they predict silicon that nobody fitted",
                    x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure


def _shift(ax: Axes) -> None:
    """Cycles per step against steps, on 240 cores a side, blind."""
    data = pm.measurements("wse3_shift")
    x = data.columns
    steps = np.unique(x["L"])
    for side, colour in ((1, "blue"), (8, "vermilion")):
        rows = (x["P"] == 240) & (x["tile_rows"] == side)
        ax.plot(x["L"][rows], data.measured[rows] / x["L"][rows], "o", color=COLOURS[colour], mfc="none", mew=1.5,
                label=f"measured, tile {side} x {side}")  # fmt: skip
        predicted = pm.shift("wse3", (side, side), steps=steps, grid=240)
        low, high = predicted.interval
        ax.plot(steps, predicted.cycles / steps, color=COLOURS[colour])
        ax.fill_between(steps, low / steps, high / steps, color=COLOURS[colour], alpha=0.15, lw=0)
    errors = np.abs(pm.shift("wse3", (x["tile_rows"], x["tile_cols"]), steps=x["L"], grid=x["P"]).cycles
                    / data.measured - 1)  # fmt: skip
    ax.set(xscale="log", xlabel="steps L", ylabel="cycles per step", ylim=(0, None),
           title=f"Shift, WSE-3, blind: {errors.mean():.1%} mean, {errors.max():.1%} worst")  # fmt: skip
    ax.legend()


def _decode(ax: Axes) -> None:
    """Total and communication of one layer and token."""
    rows = [row for row in report.rows() if row.table == "decode"]
    places = np.arange(len(rows))
    ax.bar(places - 0.2, [row.published for row in rows], 0.38, color=COLOURS["grey"], label="measured")
    ax.bar(places + 0.2, [row.predicted for row in rows], 0.38, color=COLOURS["blue"], label="predicted, blind")
    for place, row in zip(places, rows):
        ax.text(place + 0.2, row.predicted, f"{row.error:+.0%}", ha="center", va="bottom", fontsize=9)
    names = [row.label.removeprefix("one layer on ").replace("^2 cores, ", "²\n") for row in rows]
    ax.set_xticks(places, names, fontsize=9)
    ax.set(ylabel="cycles a layer and token", title="Decode on the WSE-3")
    ax.legend(loc="upper left", ncols=2)
    ax.set_ylim(0, 1.2 * max(row.predicted for row in rows))


def _matmul(ax: Axes) -> None:
    """Predicted against measured utilisation of a card, and lines for another that is predicted only."""
    fitted = pm.fit("tenstorrent_n150_gemm")
    data, held_out = fitted.measurements, fitted.cross_validate("shape")
    x = data.columns
    for fidelity, colour in (("HiFi2", "blue"), ("HiFi4", "vermilion")):
        rows = x["fidelity"] == fidelity
        ideal = x["M"] * x["K"] * x["N"] / 2**15 * {"HiFi2": 32, "HiFi4": 64}[fidelity] / 64
        work = (x["M"] * x["K"] * x["N"]) ** (1 / 3)
        ax.plot(work[rows], (ideal / data.measured)[rows], "o", color=COLOURS[colour], mfc="none", mew=1.5,
                label=f"N150 {fidelity}, measured")  # fmt: skip
        ax.plot(work[rows], (ideal / data.measured / (1 + held_out.errors))[rows], "x", color=COLOURS[colour])
        sizes = np.array([512, 1024, 2048, 4096, 8192, 16384])
        p150 = pm.gemm("p150", sizes, sizes, sizes, fidelity=fidelity, storage="DRAM")
        ax.plot(sizes, p150.efficiency, "--", color=COLOURS[colour], lw=1, label=f"P150 {fidelity}, predicted")
    ax.set(xscale="log", xlabel="cube root of M K N", ylabel="utilisation", ylim=(0, 1.05),
           title=f"Matmul (x: shape left out, {held_out.mean:.1%} mean)")  # fmt: skip
    ax.legend(fontsize=8)
