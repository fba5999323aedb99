"""Words through every link of one mesh: MeshGEMM carries more words than SUMMA, over a fraction of the hops."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import meshkernels as mk
from meshkernels.arguments import MeshLike, as_mesh

NAMES = {"meshgemm": "MeshGEMM", "summa_relay": "SUMMA, relayed"}


def draw(algorithm: Sequence[str] = tuple(NAMES), grid: MeshLike = 16, N: int = 512) -> Figure:
    """Each line between two cores is a link; its colour is the busier direction's words.

    The alignment before MeshGEMM's main loop makes the far rows and columns busier: they turn their rings furthest.
    """
    mesh = as_mesh(grid)
    ledgers = {name: mk.count(mk.schedule(name, mesh, N, N, N)) for name in algorithm}
    figure, axes = plt.subplots(1, len(ledgers), figsize=(5.5 * len(ledgers), 5.4), constrained_layout=True,
                                squeeze=False)  # fmt: skip
    top = max(float(ledger.link_words.max()) for ledger in ledgers.values())
    for ax, (name, ledger) in zip(axes[0], ledgers.items()):
        mk.draw.links(ledger, ax, top=top)
        ax.set_title(f"{NAMES.get(name, name)}\n{ledger.word_hops:,} words x links, {ledger.critical_hops:,} hops on "
                     "the critical path")
    bar = figure.colorbar(axes[0, 0].collections[0], ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("words through the link's busier direction")
    figure.suptitle(f"Link load of a {N} x {N} x {N} product on {mesh.rows} x {mesh.cols} cores\n", x=0.01, ha="left",
                    fontsize=13)  # fmt: skip
    return figure
