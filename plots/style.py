"""One look for every figure: colour-blind safe (Okabe-Ito), labelled, readable in grey."""

from __future__ import annotations

import matplotlib as mpl
from cycler import cycler

#: Okabe & Ito (2008), the palette that survives the common colour deficiencies.
COLOURS = {
    "blue": "#0072B2", "vermilion": "#D55E00", "green": "#009E73", "purple": "#CC79A7",
    "orange": "#E69F00", "sky": "#56B4E9", "black": "#000000", "grey": "#7F7F7F",
}


def use() -> None:
    """Apply the house style to matplotlib (headless)."""
    mpl.use("Agg")
    mpl.rcParams.update({
        "figure.dpi": 110, "savefig.dpi": 150, "savefig.bbox": "tight", "font.size": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.prop_cycle": cycler(color=list(COLOURS.values())[:6]), "legend.frameon": False,
    })
