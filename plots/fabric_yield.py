"""How much slower MeshGEMM is on 1,000 wafers with one core in a hundred dead (bench/results/yields.json)."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from plots.style import COLOURS

RESULT = Path(__file__).parents[1] / "bench" / "results" / "yields.json"


def draw() -> Figure:
    """Share of wafers that are at most so much slower, for each size of the tiles; refused ones never are."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    figure, ax = plt.subplots(figsize=(7.5, 4.2), constrained_layout=True)
    for (tile, ratios), colour in zip(found["slower"].items(), ("vermilion", "blue", "green")):
        slower = np.sort([100 * (ratio - 1) for ratio in ratios if ratio is not None])
        ax.step(slower, 100 * np.arange(1, len(slower) + 1) / len(ratios), where="post", color=COLOURS[colour], lw=2,
                label=f"tiles of {tile} x {tile}, {len(ratios) - len(slower)} refused")  # fmt: skip
    ax.set(xlabel="slower than without faults, %", ylabel="wafers, at most so much slower, %", ylim=(0, 102),
           title=f"{found['side']} x {found['side']} cores on {found['fabric']} x {found['fabric']}, "
                 f"{found['dead']:.0%} dead: {len(ratios):,} fault maps")  # fmt: skip
    ax.set_xlim(left=0)
    ax.legend()
    return figure
