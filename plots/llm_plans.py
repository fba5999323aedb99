"""The fused plan: scores without chains (tiles of K go down, partial sums across), and decode beside the paper's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import meshkernels as mk
from meshkernels.readers.lockstep import walk
from plots.style import COLOURS

P = 4
SHADES = ["#D9E8F5", "#F9DDB1", "#CBE8DC", "#F2D5E4"]
STORED = Path(__file__).parents[1] / "bench" / "results" / "plans.json"


def blocks() -> list[np.ndarray]:
    """``(P, P)`` at each of the P products: which block k of K a core holds, read off the schedule."""
    schedule = mk.schedule("meshgemm_t", mk.Mesh(P), P, P, P)
    return [holds["B"][:, :, 0] // P for _, step, holds in walk(schedule) if step.compute]


def draw() -> Figure:
    """Above: the invariant of Q K^T for P = 4. Below: tokens per second of both plans, predicted and simulated."""
    figure = plt.figure(figsize=(13, 8.2), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    upper, lower = halves
    axes = upper.subplots(1, P)
    for t, (axis, k) in enumerate(zip(axes, blocks())):
        _mesh(axis, k, t)
    upper.suptitle("Q K$^T$ without chains: core (y, x) keeps Q(y, x), holds K(k, x) and the partial sum of S(y, k), "
                   "and adds Q(y, x) K(k, x)$^T$;\nthen tiles of K move along the ring of their column (blue), sums "
                   "along that of their row (red): two hops at most", x=0.01, ha="left", fontsize=11)
    _decode(lower)
    return figure


def _mesh(axis: Axes, k: np.ndarray, t: int) -> None:
    """One product; the rings are drawn beside the first column and above the first row."""
    axis.set(xlim=(-1.1, P), ylim=(P, -1.1), aspect="equal", title=f"t = {t}", xlabel="x", ylabel="y",
             xticks=np.arange(P) + 0.5, yticks=np.arange(P) + 0.5)
    axis.set_xticklabels(map(str, range(P)))
    axis.set_yticklabels(map(str, range(P)))
    axis.grid(False)
    axis.spines[:].set_visible(False)
    for y, x in np.ndindex(P, P):
        axis.add_patch(plt.Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, facecolor=SHADES[k[y, x]], edgecolor="grey"))
        axis.text(x + 0.5, y + 0.32, f"K({k[y, x]}, {x})", ha="center", va="center", fontsize=7, color=COLOURS["blue"])
        axis.text(x + 0.5, y + 0.68, f"S({y}, {k[y, x]})", ha="center", va="center", fontsize=7,
                  color=COLOURS["vermilion"])
    if t + 1 == P:
        return
    order = mk.Ring.interleaved(P).order
    for a, b in zip(order, np.roll(order, -1)):
        bend = 0.55 if b > a else -0.35
        for start, end, colour in (((-0.08, a + 0.5), (-0.08, b + 0.5), "blue"),
                                   ((a + 0.5, -0.08), (b + 0.5, -0.08), "vermilion")):
            curve = bend if colour == "blue" else -bend
            axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": COLOURS[colour], "lw": 1.1,
                                                      "connectionstyle": f"arc3,rad={curve}", "shrinkA": 0,
                                                      "shrinkB": 0})


def _decode(figure: Any) -> None:
    """Bars of both plans on the paper's grid of each model, from the stored rows of ``bench.plans``."""
    rows = [r for r in json.loads(STORED.read_text(encoding="utf-8"))["decode"] if r["kind"] == "paper"]
    models = list(dict.fromkeys(r["model"] for r in rows))
    axes = figure.subplots(1, 2)
    for axis, chip in zip(axes, ("wse2", "wse3")):
        for i, (plan, how, colour, hatch) in enumerate((
                ("paper", "predicted", "grey", ""), ("fused", "predicted", "blue", ""),
                ("paper", "simulated", "grey", "////"), ("fused", "simulated", "blue", "////"))):
            found = [next(r for r in rows if (r["model"], r["chip"], r["plan"]) == (m, chip, plan)) for m in models]
            place, values = np.arange(len(models)) + 0.2 * (i - 1.5), [r[how] for r in found]
            axis.bar(place, values, 0.18, color=COLOURS[colour] if not hatch else "white", edgecolor=COLOURS[colour],
                     hatch=hatch, label=f"{plan}, {how}")
            if how == "predicted":
                edges = [[r[how] - r["low"] for r in found], [r["high"] - r[how] for r in found]]
                axis.errorbar(place, values, edges, fmt="none", color="black", lw=1, capsize=2)
            if plan == "fused":
                paper = [next(r for r in rows if (r["model"], r["chip"], r["plan"]) == (m, chip, "paper"))[how]
                         for m in models]
                tops = [r["high"] for r in found] if how == "predicted" else values
                for x, top, value, other in zip(place, tops, values, paper):
                    axis.annotate(f"{value / other:.2f} x", (x, top), (0, 3), textcoords="offset points", ha="center",
                                  fontsize=7, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        one = {r["plan"]: r for r in rows if (r["model"], r["chip"]) == (models[0], chip)}
        text = "\n".join(f"{models[0]}, {r['grid']}$^2$, {plan}: {r['all_reduces']} all-reduces, {r['hops']:,} hops, "
                         f"{r['stages']:,} stages a block" for plan, r in one.items())
        axis.set(xticks=range(len(models)), ylabel="token/s, 4096 in the cache",
                 title=f"Decode on {chip.upper().replace('WSE', 'WSE-')}: nobody ran the fused plan on a wafer")
        axis.set_xticklabels([f"{m}\n{next(r['grid'] for r in rows if r['model'] == m)}$^2$" for m in models])
        axis.set_ylim(0, 1.25 * max(r["simulated"] for r in rows if r["chip"] == chip))
        axis.annotate(text, (0.99, 0.78), xycoords="axes fraction", ha="right", fontsize=8)
        axis.legend(fontsize=8, loc="upper right", ncols=2)
