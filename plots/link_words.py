"""Words through every link of one mesh: MeshGEMM carries more words than SUMMA, over a fraction of the hops."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

import meshkernels as mk
from meshkernels.readers.ledger import EAST, NORTH, SOUTH, WEST
from plots.style import COLOURS

SIDE, N = 16, 512


def draw() -> Figure:
    """Each line between two cores is a link; its colour is the busier direction's words.

    The alignment before MeshGEMM's main loop makes the far rows and columns busier: they turn their rings furthest.
    """
    ledgers = {
        "MeshGEMM": mk.count(mk.schedule("meshgemm", mk.Mesh(SIDE), N, N, N)),
        "SUMMA, relayed": mk.count(mk.schedule("summa_relay", mk.Mesh(SIDE), N, N, N)),
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.4), constrained_layout=True)
    top = max(float(ledger.link_words.max()) for ledger in ledgers.values())
    for ax, (name, ledger) in zip(axes, ledgers.items()):
        lines = _links(ax, ledger, top)
        ax.set_title(f"{name}\n{ledger.word_hops:,} words x links, {ledger.critical_hops:,} hops on the critical path")
    bar = figure.colorbar(lines, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("words through the link's busier direction")
    figure.suptitle(f"Link load of a {N} x {N} x {N} product on {SIDE} x {SIDE} cores: a ring pays in words, the "
                    "interleaved one saves in distance\n", x=0.01, ha="left", fontsize=13)  # fmt: skip
    return figure


def _links(ax, ledger: mk.Ledger, top: float) -> LineCollection:
    words = ledger.link_words
    rows, cols = ledger.mesh.shape
    y, x = np.mgrid[:rows, : cols - 1]
    across = np.stack([np.stack([x, y], -1), np.stack([x + 1, y], -1)], 2).reshape(-1, 2, 2)
    load_x = np.maximum(words[EAST][:, :-1], words[WEST][:, 1:]).ravel()
    y, x = np.mgrid[: rows - 1, :cols]
    down = np.stack([np.stack([x, y], -1), np.stack([x, y + 1], -1)], 2).reshape(-1, 2, 2)
    load_y = np.maximum(words[SOUTH][:-1], words[NORTH][1:]).ravel()
    lines = LineCollection(list(np.concatenate([across, down])), array=np.concatenate([load_x, load_y]), cmap="viridis",
                           linewidths=5, norm=plt.Normalize(0, top))  # fmt: skip
    ax.add_collection(lines)
    y, x = np.mgrid[:rows, :cols]
    ax.plot(x.ravel(), y.ravel(), "s", ms=3.5, color=COLOURS["black"])
    ax.set(xlim=(-0.7, cols - 0.3), ylim=(rows - 0.3, -0.7), aspect="equal", xlabel="x (column of cores)",
           ylabel="y (row of cores)")  # fmt: skip
    ax.grid(False)
    return lines
