"""Host time of MeshGEMM, SUMMA and Cannon executed step by step: measured, and predicted by constants fitted to it.

Reads bench/results/host.json, which ``make host-scaling`` measures; drawing measures nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import perfmodel as pm
from perfmodel.errors import DataError
from plots.style import COLOURS

DATA = Path(__file__).parents[1] / "bench" / "results" / "host.json"
#: label, colour, marker of what was measured, line of the fit: Cannon's counts are MeshGEMM's, so one is dashed
LOOKS = {"meshgemm": ("MeshGEMM", "blue", "o", "-"), "summa": ("SUMMA", "orange", "s", "-"),
         "cannon": ("Cannon", "vermilion", "^", "--")}  # fmt: skip


def draw() -> Figure:
    """Left: against cores, of the middle size. Right: against size, on the middle grid. Lines are predictions."""
    if not DATA.exists():
        raise DataError(f"no file {str(DATA)!r}; `make host-scaling` measures it")
    fitted = pm.fit(DATA)
    info = [entry["extra_info"] for entry in json.loads(DATA.read_text())["benchmarks"]]
    n, side = (np.array([one[key] for one in info]) for key in ("n", "side"))
    algorithm = np.array([one["algorithm"] for one in info])
    measured = fitted.measurements.measured
    predicted = measured * (1 + fitted.residuals)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    size, grid = np.unique(n)[-2], np.unique(side)[len(np.unique(side)) // 2]
    for name, (label, colour, marker, dashes) in LOOKS.items():
        for axis, x, chosen in ((axes[0], side, n == size), (axes[1], n, side == grid)):
            rows = np.flatnonzero((algorithm == name) & chosen)
            rows = rows[np.argsort(x[rows])]
            axis.plot(x[rows], predicted[rows], dashes, color=COLOURS[colour], lw=1.5)
            axis.plot(x[rows], measured[rows], marker, color=COLOURS[colour], label=label, mfc="none", mew=1.5)
    for axis, ticks in ((axes[0], np.unique(side)), (axes[1], np.unique(n))):
        axis.set(xscale="log", yscale="log", ylabel="host time in s")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0].set(xlabel="cores on a side", title=f"n = {size}, by cores")
    axes[1].set(xlabel="n", title=f"{grid} x {grid} cores, by size")
    axes[0].plot([], [], color=COLOURS["grey"], lw=1.5, label="fitted to all points")
    axes[0].legend(loc="upper left")
    errors = np.abs(fitted.residuals)
    held_out = fitted.cross_validate("algorithm")
    costs = ", ".join(f"{key} {value if value > 1e-15 else 0:.2g} s" for key, value in fitted.params.items())
    text = (f"{len(info)} points, mean error {errors.mean():.0%}, worst {errors.max():.0%}; with an algorithm left out "
            f"{held_out.mean:.0%}. {costs}")
    print(text)
    figure.supxlabel(text, fontsize=8, color=COLOURS["grey"])
    return figure
