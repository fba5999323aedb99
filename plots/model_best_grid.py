"""The offline autotuner: the best grid of each phase for each model, by length of prompt or context."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import perfmodel as pm
from plots.style import COLOURS

#: colour and width of the line; best grids coincide, so that a later model's line lies, narrower, on an earlier one's
MODELS = {"llama3-8b": ("blue", 5.5), "llama2-13b": ("green", 3.8), "qwen2-72b": ("vermilion", 2.4),
          "codellama-34b": ("orange", 1.0)}  # fmt: skip
TOKENS = 2 ** np.arange(8, 15)


def draw() -> Figure:
    """Left and middle: the best side, with the sides within 2 % of it shaded. Right: throughput against the side."""
    chip = pm.device("wse2")
    figure, axes = plt.subplots(1, 3, figsize=(14.5, 4.4), constrained_layout=True)
    for ax, phase in zip(axes, pm.tune.PHASES):
        for name, (colour, width) in MODELS.items():
            choices = list(_choices(chip, name, phase))
            tokens = TOKENS[: len(choices)]
            near = [c.candidates[c.all_cycles <= 1.02 * c.cycles] for c in choices]
            ax.fill_between(tokens, [n.min() for n in near], [n.max() for n in near], color=COLOURS[colour], alpha=0.12,
                            lw=0)  # fmt: skip
            ax.plot(tokens, [c.value for c in choices], "o-", lw=width, ms=width + 2, color=COLOURS[colour], label=name)
        ax.set_xscale("log", base=2)
        ax.set(ylim=(0, 770), xlabel="tokens", ylabel="best side, cores", title=f"{phase.capitalize()}: best grid")
    axes[0].legend(fontsize=9, loc="lower right")
    _throughput(axes[2], chip)
    figure.suptitle("The two phases want different grids, which is why weights are re-placed between them", x=0.01,
                    ha="left", fontsize=13)  # fmt: skip
    return figure


def _choices(chip: pm.Device, model: str, phase: str) -> Iterator[pm.Choice]:
    """The best grids of ever longer prompts or contexts, as long as the wafer holds them."""
    for tokens in TOKENS.tolist():
        try:
            yield pm.best_grid(chip, model, phase=phase, tokens=tokens)
        except pm.DoesNotFit:
            return


def _throughput(ax, chip: pm.Device) -> None:
    """Throughput of 8B at 4096 tokens relative to its best, both phases."""
    llama = pm.model("llama3-8b")
    for phase, line in zip(pm.tune.PHASES, ("-", "--")):
        choice = pm.best_grid(chip, llama, phase=phase, tokens=4096)
        ax.plot(choice.candidates, choice.cycles / choice.all_cycles, line, color=COLOURS["blue"], lw=1.6,
                label=f"{phase}, best {choice.value}")  # fmt: skip
        ax.plot(choice.value, 1.0, "o", color=COLOURS["blue"])
    ax.set(xlabel="cores on a side, P", ylabel="throughput / best", ylim=(0, 1.05), title="llama3-8b at 4096 tokens")
    ax.legend(fontsize=9, loc="lower right")
