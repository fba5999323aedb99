"""One look for every figure: colour-blind safe (Okabe-Ito), labelled, readable in grey."""

from __future__ import annotations

import matplotlib as mpl
from cycler import cycler
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

#: Okabe & Ito (2008), the palette that survives the common colour deficiencies.
COLOURS = {
    "blue": "#0072B2", "vermilion": "#D55E00", "green": "#009E73", "purple": "#CC79A7",
    "orange": "#E69F00", "sky": "#56B4E9", "black": "#000000", "grey": "#7F7F7F",
}


def use() -> None:
    """Apply the house style to matplotlib (headless)."""
    mpl.use("Agg")
    mpl.rcParams.update({
        "figure.dpi": 110, "savefig.dpi": 150, "savefig.bbox": "tight", "font.size": 10, "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.25,
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.prop_cycle": cycler(color=list(COLOURS.values())[:6]),
    })


def thousands(value: float, _: int = 0) -> str:
    """A label of a tick: 500, 2k, 5M."""
    size, unit = next((size, unit) for size, unit in ((1e6, "M"), (1e3, "k"), (0, "")) if abs(value) >= size)
    return f"{value / (size or 1):g}{unit}"


def log_ticks(axis: Axis, *subs: int) -> None:
    """Label a logarithmic axis at 1, 2 and 5 (or ``subs``) times the powers of ten: one decade is readable."""
    axis.set_major_locator(LogLocator(subs=subs or (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(thousands))
    axis.set_minor_formatter(NullFormatter())
