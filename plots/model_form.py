"""What a step costs on silicon: vectors run in 64-bit beats, loops in fours; a plain linear form misses both."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import perfmodel as pm
from perfmodel import parameters
from perfmodel.forms_gemm import gemm, local_product
from perfmodel.terms import total
from plots.style import COLOURS

GRID = 656


def draw() -> Figure:
    """Left: cycles per vector by its length. Middle: cycles per step by passes over k. Right: errors of both forms."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), constrained_layout=True, width_ratios=(1, 1, 1.2))
    data = pm.measurements("wse3_meshgemm")
    sides = np.array([[int(v) for v in label.split("x")] for label in data.labels["tile"]])
    _vectors(axes[0], data, sides)
    _passes(axes[1], data, sides)
    _errors(axes[2], data, sides)
    title = "What the measured step suggests: vectors run over aligned 64-bit words, a loop is unrolled by four"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def _per_step(data: pm.Measurements, sides: np.ndarray, m: int, k: int, n: int) -> float:
    """Measured cycles per step of one tile on the largest grid."""
    chosen = (data.columns["P"] == GRID) & (sides == (m, k, n)).all(axis=1)
    return float(data.measured[chosen][0]) / GRID


def _vectors(ax: Axes, data: pm.Measurements, sides: np.ndarray) -> None:
    """One more column of C costs k vectors: the slope between 1 and 8 columns, by the vectors' length m."""
    lengths, k = np.arange(1, 17), 8
    c = parameters.kernel("wse3", "gemm").values
    curve = [float(local_product(c, m, k, 8) - local_product(c, m, k, 1)) / (7 * k) for m in lengths]
    ax.plot(lengths, curve, ".-", color=COLOURS["blue"], label="model: start + beats of 4 elements, aligned")
    points = [1, 2, 3, 8]
    measured = [(_per_step(data, sides, m, k, 8) - _per_step(data, sides, m, k, 1)) / (7 * k) for m in points]
    ax.plot(points, measured, "o", ms=8, mfc="none", mew=1.6, color=COLOURS["black"], label="measured, k = 8")
    slope, start = np.polyfit(points, measured, 1)
    ax.plot(lengths, start + slope * lengths, "--", color=COLOURS["vermilion"], label="straight line through them")
    ax.set(xlabel="length of the vector, m", ylabel="cycles per vector", ylim=(0, None), title="A vector by its length")
    ax.legend(fontsize=9, loc="upper left")


def _passes(ax: Axes, data: pm.Measurements, sides: np.ndarray) -> None:
    """Cycles per pass after the first: passes beyond a multiple of four cost more."""
    passes, points = np.arange(2, 17), [2, 3, 8]
    c = parameters.kernel("wse3", "gemm").values
    for (m, n), colour in (((1, 1), "blue"), ((2, 2), "orange"), ((8, 8), "vermilion")):
        work = local_product(c, m, passes, n) - local_product(c, m, 1, n)
        ax.plot(passes, work / (passes - 1), ".-", color=COLOURS[colour], lw=1)
        first = _per_step(data, sides, m, 1, n)
        measured = [(_per_step(data, sides, m, k, n) - first) / (k - 1) for k in points]
        ax.plot(points, measured, "o", ms=8, mfc="none", mew=1.6, color=COLOURS[colour], label=f"m = n = {m}")
    ax.set(xlabel="passes over k", ylabel="cycles per pass after the first", xlim=(1.5, 16.5), ylim=(0, None),
           title="A pass over k (circles: measured)")  # fmt: skip
    ax.legend(fontsize=9, loc="lower right")


def _errors(ax: Axes, data: pm.Measurements, sides: np.ndarray) -> None:
    """Mean and worst error of the model and of the linear form, in sample and with all long vectors left out."""
    long = sides[:, 0] == 8
    every = np.zeros(len(data), bool)
    regimes = {"in sample": (every, ~every), "m = 8 never seen": (long, long)}
    for i, (form, colour) in enumerate((("linear", "vermilion"), ("model", "blue"))):
        for j, (left_out, judged) in enumerate(regimes.values()):
            fitted = _linear if form == "linear" else _model
            error = 100 * np.abs(fitted(data, sides, ~left_out)[judged])
            at = j + 0.36 * (i - 0.5)
            ax.bar(at, error.mean(), 0.32, color=COLOURS[colour], label=f"{form}: mean" if j == 0 else None)
            ax.plot([at - 0.14, at + 0.14], [error.max()] * 2, color=COLOURS["black"], lw=2,
                    label="worst" if i == j == 0 else None)  # fmt: skip
            ax.text(at, error.max() + 0.15, f"{error.mean():.1f} / {error.max():.1f}", ha="center", fontsize=9)
    ax.set_xticks(range(len(regimes)), list(regimes))
    ax.set(ylabel="error, %", ylim=(0, 9), title="Errors over all grids (mean / worst)")
    ax.legend(fontsize=9, loc="upper left", ncols=3)


def _linear(data: pm.Measurements, sides: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Relative errors of P (a + b k + c k n + d m k n + e m k), least squares on ``rows``."""
    m, k, n = sides.T
    work = np.stack([np.ones(len(data)), k, k * n, m * k * n, m * k], axis=1) * data.columns["P"][:, None]
    relative = work / data.measured[:, None]
    constants = np.linalg.lstsq(relative[rows], np.ones(rows.sum()), rcond=None)[0]
    return relative @ constants - 1


def _model(data: pm.Measurements, sides: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Relative errors of the package's form fitted to ``rows``."""
    columns = {name: values[rows] for name, values in data.columns.items()}
    labels = {name: values[rows] for name, values in data.labels.items()}
    fit = pm.fit(pm.Measurements(data.name, data.kind, data.device, columns, data.measured[rows], labels))
    x = data.columns
    terms = gemm({**fit.params, **fit.fixed}, pm.device("wse3"), "meshgemm", x["M"], x["K"], x["N"], x["P"],
                       x["P"])  # fmt: skip
    return total(terms) / data.measured - 1
