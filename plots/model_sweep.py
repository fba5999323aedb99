"""What a faster part would bring: decode of LLaMA3-8B on the WSE-2 with hops, stages, clock or vectors improved."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import perfmodel as pm
from plots.style import COLOURS

FACTORS = np.geomspace(1 / 4, 8, 25)
PARTS = {"alpha": ("hop latency", "orange", -1), "beta": ("stage latency", "vermilion", -1),
         "clock_hz": ("clock", "black", 1), "macs_per_cycle": ("vector rate", "blue", 1)}  # fmt: skip


def decode(chip: pm.Device) -> pm.Prediction:
    """One token of LLaMA3-8B at 4096 tokens on 360 x 360 cores."""
    return pm.decode(chip, "llama3-8b", context=4096, grid=360)


def draw() -> Figure:
    """Left: one part at a time. Middle: hops against stages. Right: elasticities of the constants."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), constrained_layout=True)
    wse2 = pm.device("wse2")
    for field, (label, colour, direction) in PARTS.items():
        found = pm.sweep(wse2, decode, **{field: getattr(wse2, field) * FACTORS**direction})
        axes[0].plot(FACTORS, found.tokens_per_s, color=COLOURS[colour], label=label)
    axes[0].set(xscale="log", xlabel="times better than the WSE-2", ylabel="token/s", ylim=(0, None),
                title="One part at a time")  # fmt: skip
    axes[0].set_xticks(ticks := [0.25, 0.5, 1, 2, 4, 8], [f"{tick:g}" for tick in ticks])
    axes[0].minorticks_off()
    axes[0].legend()
    _both(axes[1], figure, wse2)
    pm.draw.elasticities(decode(wse2), axes[2]).set_title("What decode is sensitive to")
    return figure


def _both(ax: Axes, figure: Figure, wse2: pm.Device) -> None:
    """Throughput over hop and stage latency."""
    alpha, beta = np.linspace(0.25, 4, 16), np.linspace(1, 20, 20)
    found = pm.sweep(wse2, decode, alpha=alpha, beta=beta)
    pm.draw.sweep(found, ax, value="tokens_per_s")
    ax.plot(wse2.beta, wse2.alpha, "o", color="white", mec="black")
    ax.set(xlabel="cycles per stage, beta", ylabel="cycles per hop, alpha", title="token/s (dot: WSE-2)")
    figure.colorbar(ax.collections[0], ax=ax)
