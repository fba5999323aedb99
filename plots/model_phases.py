"""Decode by phase: what each part of a layer costs, compute and communication apart, on both wafers."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import perfmodel as pm


def draw() -> Figure:
    """Cycles a layer and token of LLaMA3-8B at 4096 tokens on 360 x 360 cores."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), constrained_layout=True, sharey=True)
    for ax, chip in zip(axes, ("wse2", "wse3")):
        model = pm.model("llama3-8b")
        p = pm.decode(chip, model, context=4096, grid=360)
        pm.draw.phases(p, ax, layers=model.layers)
        share = float(p.terms["communication"] / (p.terms["communication"] + p.terms["compute"]))
        ax.set(ylabel="", title=f"{pm.device(chip).title}: {share:.0%} of the phases is communication")
    axes[0].set_ylabel("predicted cycles a layer and token")
    axes[0].legend()
    figure.suptitle("A token waits for ten all-reduces: norms and softmax compute nothing and cost as much as any",
                    x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure
