"""Decode by phase: what each part of a layer costs, compute and communication apart, on both wafers."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import perfmodel as pm
from plots.style import COLOURS

PHASES = {"norm": "norms", "qkv": "Q, K, V", "scores": "scores", "softmax": "softmax", "values": "values",
          "output": "output", "gate_up": "gate, up", "down": "down"}  # fmt: skip


def draw() -> Figure:
    """Cycles a layer and token of LLaMA3-8B at 4096 tokens on 360 x 360 cores."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), constrained_layout=True, sharey=True)
    places = np.arange(len(PHASES))
    for ax, chip in zip(axes, ("wse2", "wse3")):
        model = pm.model("llama3-8b")
        p = pm.decode(chip, model, context=4096, grid=360)
        for kind, colour, at in (("compute", "blue", -0.2), ("communication", "vermilion", 0.2)):
            cycles = [float(p.phases[name][kind]) / model.layers for name in PHASES]
            ax.bar(places + at, cycles, 0.38, color=COLOURS[colour], label=kind)
        share = float(p.terms["communication"] / (p.terms["communication"] + p.terms["compute"]))
        ax.set_xticks(places, list(PHASES.values()), fontsize=9)
        ax.set(title=f"{pm.device(chip).title}: {share:.0%} of the phases is communication")
    axes[0].set_ylabel("predicted cycles a layer and token")
    axes[0].legend()
    figure.suptitle("A token waits for ten all-reduces: norms and softmax compute nothing and cost as much as any",
                    x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure
