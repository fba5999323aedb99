"""Speed from release to release: the middle ratio of each group of benchmarks against its peer in the same run.

Reads bench/results/history.jsonl, to which ``python -m bench --store`` adds; drawing measures nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from plots.style import COLOURS

DATA = Path(__file__).parents[1] / "bench" / "results" / "history.jsonl"


def draw() -> Figure:
    """A line for each group; the lowest and the highest ratio of a group as a bar. Above 1 is faster than the peer."""
    releases = [json.loads(line) for line in DATA.read_text().splitlines()]
    figure, ax = plt.subplots(figsize=(9.5, 4.8), layout="constrained")
    groups = list(dict.fromkeys(group for release in releases for group in release["ratios"]))
    for number, (group, colour) in enumerate(zip(groups, [*COLOURS.values()] * len(groups))):
        found = [(x, list(release["ratios"][group].values())) for x, release in enumerate(releases)
                 if group in release["ratios"]]  # fmt: skip
        places = [x + 0.05 * (number - (len(groups) - 1) / 2) for x, _ in found]
        middle = [median(ratios) for _, ratios in found]
        reach = [[m - min(r) for m, (_, r) in zip(middle, found)], [max(r) - m for m, (_, r) in zip(middle, found)]]
        ax.errorbar(places, middle, reach, marker="o", ms=5, lw=1.5, elinewidth=1, color=colour, label=group)
    ax.axhline(1, color=COLOURS["black"], lw=0.8, ls="--")
    ax.set_xticks(range(len(releases)), [f"{release['version']}\n{release['date']}\n{release['machine']['cpu']}"
                                         for release in releases], fontsize=8)  # fmt: skip
    ax.set(xlim=(-0.5, len(releases) - 0.5), yscale="log", ylabel="peer / ours, middle and range of the group",
           title="Speed by release")
    ticks = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
    low, high = ax.get_ylim()
    ax.set_yticks([tick for tick in ticks if low <= tick <= high], [f"{t:g}" for t in ticks if low <= t <= high])
    ax.minorticks_off()
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
