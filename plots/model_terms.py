"""Where the cycles go as the grid grows: compute, transfer, hops, stages and start-ups of four operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

import perfmodel as pm
from plots.style import thousands

GRIDS = np.arange(240, 751, 10)


def draw() -> Figure:
    """Stacked terms of MeshGEMM 4K, GEMV 16K, and prefill and decode of LLaMA3-8B on the WSE-2."""
    chip, llama = pm.device("wse2"), pm.model("llama3-8b")
    cases: dict[str, Callable[[Any], pm.Prediction]] = {
        "MeshGEMM 4K": lambda g: pm.gemm(chip, 4096, 4096, 4096, grid=g),
        "GEMV 16K": lambda g: pm.gemv(chip, 16384, 16384, grid=g, groups=20),
        "Prefill of 4096 tokens, 8B": lambda g: pm.prefill(chip, llama, tokens=4096, grid=g),
        "Decode at 4096 tokens, 8B": lambda g: pm.decode(chip, llama, context=4096, grid=g, groups=20),
    }
    figure, axes = plt.subplots(1, 4, figsize=(15.5, 4.2), constrained_layout=True)
    for ax, (title, predict) in zip(axes, cases.items()):
        pm.draw.terms(predict(GRIDS), ax, x=GRIDS)
        ax.set(title=title, xlabel="cores on a side, P", ylabel="")
        ax.yaxis.set_major_formatter(FuncFormatter(thousands))
    axes[0].set_ylabel("predicted cycles")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.suptitle("More cores shrink the products and stretch the reductions: prefill wants many, decode fewer",
                    x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure
