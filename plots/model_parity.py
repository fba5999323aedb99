"""Predicted against published, every row: fitted rows hollow, rows predicted or held out filled."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import perfmodel as pm
from perfmodel import report
from plots.style import COLOURS

SYSTEMS = {
    "waferllm": ("WaferLLM", "blue", "o"), "t10": ("T10", "orange", "s"), "ladder": ("Ladder", "vermilion", "^"),
    "a100x1": ("A100", "green", "D"), "a100x8": ("8 A100", "sky", "D"), "a100x16": ("16 A100", "purple", "D"),
}  # fmt: skip


def draw() -> Figure:
    """Left: throughputs of tables 2 to 4. Middle: the WSE-3 sweeps, each grid held out. Right: their errors."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.0), constrained_layout=True)
    _tables(axes[0])
    _sweeps(axes[1], axes[2])
    figure.suptitle("What the model predicts, and what was published", x=0.01, ha="left", fontsize=13)
    return figure


def _tables(ax: Axes) -> None:
    """Tables 2 to 4: from 1 to 28 000 tokens per second."""
    rows = [row for row in report.rows() if row.table in ("2", "3", "4")]
    for system, (label, colour, marker) in SYSTEMS.items():
        for fitted in (True, False):
            chosen = [row for row in rows if row.system == system and row.fitted == fitted]
            pm.draw.parity([row.published for row in chosen], [row.predicted for row in chosen], ax, unit="token/s",
                           label=label if fitted else "", marker=marker, ms=6, mew=1.4, color=COLOURS[colour],
                           mfc="none" if fitted else COLOURS[colour])  # fmt: skip
    ax.set_xlabel("published, token/s")
    ax.legend(fontsize=9, loc="upper left")
    ax.set_title("Tables 2, 3, 4 (hollow: fitted; filled: predicted)")
    worst = max(rows, key=lambda row: abs(row.error))
    ax.annotate("A100, 4096 + 4096 tokens:\npublished at twice the rate\nof the other requests",
                (worst.published, worst.predicted), (600, 4), fontsize=8,
                arrowprops={"arrowstyle": "-", "color": COLOURS["grey"]})  # fmt: skip


def _sweeps(ax: Axes, errors: Axes) -> None:
    """Both sweeps with every grid predicted by a fit that never saw it, and the distribution of those errors."""
    for name, label, colour in (("wse3_meshgemm", "MeshGEMM", "blue"), ("wse3_meshgemv", "MeshGEMV", "vermilion")):
        data = pm.measurements(name)
        fit = pm.fit(data)
        held_out = fit.cross_validate("grid").errors
        pm.draw.parity(data.measured, data.measured * (1 + held_out), ax, ms=4, color=COLOURS[colour],
                       label=f"{label}, {len(data)} rows")  # fmt: skip
        above = data.columns["P"] > 16
        percent = 100 * np.sort(np.abs(held_out[above]))
        errors.plot(percent, np.arange(1, len(percent) + 1) / len(percent), color=COLOURS[colour], lw=2,
                    label=f"{label}: mean {percent.mean():.2f} %, worst {percent[-1]:.1f} %")  # fmt: skip
    ax.legend(fontsize=9, loc="upper left")
    ax.set_title("WSE-3 sweeps, each grid held out")
    errors.set(xlabel="error of the held-out row, %", ylabel="share of rows", xlim=(0, None), ylim=(0, 1.02))
    errors.set_title("Their errors, above 16 cores a side")
    errors.legend(fontsize=9, loc="lower right")
