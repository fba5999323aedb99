"""KV cache occupancy per row of cores: concatenation fills one row, the shift keeps all rows within one entry."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from meshkernels import Mesh
from meshkernels.files.checkpoint import Config
from meshkernels.llm import CacheOverflow, KVCache, Layout
from plots.style import COLOURS

ROWS, LIMIT = 8, 12  # rows of cores, and entries that fit on one
CONFIG = Config(blocks=1, dim=16, ffn=16, heads=1, kv_heads=1, head_dim=16, vocab=16, context=9999)


def fill(policy: str) -> np.ndarray:
    """``(tokens, rows)`` occupancy after each append, until a core refuses the next."""
    layout = Layout(CONFIG, Mesh(ROWS, 1))
    entry = KVCache(layout, policy, None, itemsize=2).entry_words * 2
    cache, history = KVCache(layout, policy, limit=LIMIT * entry, itemsize=2), []
    try:
        while True:
            cache.advance()
            history.append(cache.occupancy)
    except CacheOverflow:
        return np.array(history)


def draw() -> Figure:
    """Occupancy over time for both policies, on one time axis."""
    figure, axes = plt.subplots(2, 1, figsize=(10, 4.6), sharex=True, layout="constrained")
    runs = {"concat": fill("concat"), "shift": fill("shift")}
    longest = max(map(len, runs.values()))
    for axis, (policy, history) in zip(axes, runs.items()):
        picture = axis.imshow(history.T, aspect="auto", vmin=0, vmax=LIMIT, cmap="cividis", interpolation="nearest",
                              extent=(0.5, len(history) + 0.5, ROWS - 0.5, -0.5))
        axis.set_xlim(0.5, longest + 8)
        axis.axvline(len(history) + 0.5, color=COLOURS["vermilion"], linewidth=2)
        axis.annotate(f"full after {len(history)} tokens", (len(history) + 1, ROWS / 2 - 0.5), va="center",
                      color=COLOURS["vermilion"])
        axis.set_ylabel("row of cores")
        axis.set_yticks(range(ROWS))
        axis.grid(False)
        spread = (history.max(axis=1) - history.min(axis=1)).max()
        axis.set_title(f"{policy}: rows differ by at most {spread}")
    axes[1].set_xlabel("tokens appended")
    figure.colorbar(picture, ax=axes, label=f"entries on each core of a row ({LIMIT} fit)", shrink=0.9)
    return figure
