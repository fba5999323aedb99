"""LLM plans on the fabric: tokens per second beside perfmodel and published tables, and a layer's operations."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from plots.style import COLOURS

RESULT = Path(__file__).parents[1] / "bench" / "results" / "fabric_llm.json"


def draw() -> Figure:
    """From ``bench/results/fabric_llm.json``, which ``python -m bench.fabric_llm`` writes."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(2, 2, figsize=(13, 7.4), constrained_layout=True)
    operations = dict.fromkeys(name for row in found["rows"] for name in row["operations"])  # decode has them all
    looks = {name: plt.get_cmap("tab20")(n) for n, name in enumerate(operations)}
    for column, phase in enumerate(("decode", "prefill")):
        rows = [row for row in found["rows"] if row["phase"] == phase]
        names, place = [f"{row['model']}\n{row['grid']}²" for row in rows], np.arange(len(rows))
        for i, (key, colour) in enumerate((("fabric", "blue"), ("perfmodel", "orange"), ("published", "black"))):
            axes[0, column].bar(place + (i - 1) * 0.27, [row[key] or np.nan for row in rows], 0.25, label=key,
                                color=COLOURS[colour])  # fmt: skip
        axes[0, column].set(xticks=place, xticklabels=names, ylabel="tokens per second",
                            title=f"{phase}, {found['tokens']:,} tokens, {found['device']}")  # fmt: skip
        bottom = np.zeros(len(rows))
        for name in rows[0]["operations"] if rows else ():
            cycles = np.array([row["operations"].get(name, 0.0) / row["layer_cycles"] for row in rows])
            axes[1, column].bar(place, 100 * cycles, 0.6, bottom, label=name, color=looks[name])
            bottom += 100 * cycles
        axes[1, column].set(xticks=place, xticklabels=names, ylabel="cycles of a layer, %")
        axes[1, column].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes[0, 0].legend()
    return figure
