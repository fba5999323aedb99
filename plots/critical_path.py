"""Critical path against the side of the mesh: hops per shift of four GEMMs, cycles of five all-reduces."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import meshkernels as mk
import perfmodel
from plots.style import COLOURS

SIDES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 720, 1000)

GEMMS = {
    "allgather": ("all-gather", "grey", "v"), "summa": ("SUMMA", "orange", "s"), "cannon": ("Cannon", "vermilion", "^"),
    "meshgemm": ("MeshGEMM", "blue", "o"),
}  # fmt: skip
REDUCTIONS = {
    "ring": ("ring", {}, "grey", "v"),
    "pipeline": ("pipeline", {}, "orange", "s"),
    "ktree 1": ("chain = K-tree, K = 1", {"levels": 1}, "vermilion", "^"),
    "ktree 2": ("K-tree, K = 2", {"levels": 2}, "blue", "o"),
    "ktree 3": ("K-tree, K = 3", {"levels": 3}, "sky", "D"),
}


def draw(sides: Sequence[int] = SIDES) -> Figure:
    """Counted from the schedules: left hops of the worst step of a GEMM, right an all-reduce's whole path."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.8))
    for name, (label, colour, marker) in GEMMS.items():
        hops = [mk.count(mk.schedule(name, mk.Mesh(side), side, side, side)).hops_per_step for side in sides]
        _line(left, sides, hops, label, colour, marker)
    left.set_title("GEMM: longest path in one step")
    left.set_ylabel("hops per step")
    left.annotate("all-gather, SUMMA and Cannon coincide: P - 1", (150, 149), (5, 420), fontsize=9,
                  arrowprops={"arrowstyle": "-", "color": COLOURS["grey"]})  # fmt: skip
    left.annotate("MeshGEMM: 2 hops on any mesh", (100, 2), (40, 3.0), fontsize=9, color=COLOURS["blue"])

    chip = perfmodel.device("wse3")
    for key, (label, options, colour, marker) in REDUCTIONS.items():
        counted = [
            mk.count(mk.schedule(key.split()[0], mk.Mesh(side, 1), side, 1, **options)) for side in sides
        ]  # fmt: skip
        cycles = [chip.alpha * c.critical_hops + chip.beta * c.stages for c in counted]
        _line(right, sides, cycles, label, colour, marker)
    right.plot(sides, [chip.alpha * (side - 1) for side in sides], ":", color=COLOURS["black"],
               label="lower bound: distance")  # fmt: skip
    right.set_title("GEMV: critical path of the all-reduce")
    right.set_ylabel(f"cycles = {chip.alpha:g} per hop + {chip.beta:g} per routing stage")
    for ax in (left, right):
        ax.set(xscale="log", yscale="log", xlabel="cores on a side, P")
        ax.set_xticks([2, 8, 32, 128, 512, 1000], ["2", "8", "32", "128", "512", "1000"])
        ax.legend(fontsize=9, loc="upper left" if ax is right else "center left")
    figure.suptitle("Latency that grows with the mesh, and latency that does not", x=0.01, ha="left", fontsize=13)
    figure.tight_layout()
    return figure


def _line(ax: Axes, sides: Sequence[int], values: Sequence[float], label: str, colour: str, marker: str) -> None:
    ax.plot(sides, values, marker=marker, ms=4.5, lw=1.6, color=COLOURS[colour], label=label)
