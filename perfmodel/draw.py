"""Pictures of predictions, sweeps and fits: Axes in, Axes out; matplotlib's settings and back end are left alone.

>>> import perfmodel as pm
>>> ax = pm.draw.terms(pm.decode("wse2", "llama3-8b", context=4096, grid=360))
>>> ax.get_xlabel()
'cycles'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perfmodel.errors import ModelError, shown
from perfmodel.explore import Sweep, sensitivity
from perfmodel.fitting import Fit
from perfmodel.prediction import Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Label and colour (Okabe and Ito, 2008) of the terms that predictions have; others are grey.
TERMS = {
    "compute": ("local products", "#0072B2"), "transfer": ("words on links", "#56B4E9"), "alpha": ("hops", "#E69F00"),
    "beta": ("routing stages", "#D55E00"), "overhead": ("start-ups of steps", "#7F7F7F"),
    "communication": ("communication", "#D55E00"), "around": ("around the layers", "#CC79A7"),
}  # fmt: skip
_BLUE, _VERMILION, _BLACK, _GREY = "#0072B2", "#D55E00", "#000000", "#7F7F7F"
#: relative width of the band around the line of perfect prediction
_BAND = 0.15


def _axes(ax: Axes | None) -> Axes:
    """``ax``, or the Axes of a new figure of the caller's pyplot."""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1]
    return ax


def terms(prediction: Prediction, ax: Axes | None = None, *, x: Any = None) -> Axes:
    """Where the cycles go: the terms of a prediction, stacked, and the lower bound as a dashed line.

    Args:
        prediction: of one point: one bar; of many along one axis: areas.
        ax: where to draw; None: a new figure.
        x: ``(points,)`` what the points differ in, such as the grid; None: their numbers.

    Returns:
        The Axes, labelled for a legend.

    Raises:
        ModelError: no prediction, or one of points along several axes.

    Examples:
        >>> import perfmodel as pm
        >>> sides = np.arange(240, 721, 60)
        >>> ax = terms(pm.gemm("wse2", 4096, 4096, 4096, grid=sides), x=sides)
        >>> len(ax.collections) == len(pm.gemm("wse2", 4096, 4096, 4096, grid=sides).terms)
        True
    """
    if not isinstance(prediction, Prediction) or np.ndim(prediction.cycles) > 1:
        raise ModelError(f"{shown(prediction)} is no prediction of one point, or of points along one axis")
    ax, parts = _axes(ax), prediction.parts.get("communication", {})
    shares = {**{kind: value for kind, value in prediction.terms.items() if not (parts and kind == "communication")},
              **parts}  # fmt: skip
    looks = [TERMS.get(kind, (kind, _GREY)) for kind in shares]
    if np.ndim(prediction.cycles) == 0:
        left = 0.0
        for (label, colour), value in zip(looks, shares.values()):
            ax.barh(0, float(value), left=left, color=colour, label=label)
            left += float(value)
        ax.axvline(float(prediction.lower_bound), color=_BLACK, ls="--", label="lower bound")
        ax.set_yticks([])
        ax.set_xlabel("cycles")
        return ax
    points = np.shape(prediction.cycles)
    along = np.arange(*points) if x is None else np.asarray(x)
    ax.stackplot(along, [np.broadcast_to(value, points) for value in shares.values()], lw=0,
                 colors=[colour for _, colour in looks], labels=[label for label, _ in looks])  # fmt: skip
    ax.plot(along, np.broadcast_to(prediction.lower_bound, points), "--", color=_BLACK, lw=1.2, label="lower bound")
    ax.set(xlim=(along[0], along[-1]), ylim=(0, None), ylabel="cycles")
    return ax


def phases(prediction: Prediction, ax: Axes | None = None, *, layers: int = 1) -> Axes:
    """Compute and communication of each phase of decode, side by side.

    Args:
        prediction: of `perfmodel.decode`, one point.
        ax: where to draw; None: a new figure.
        layers: cycles are divided by so many.

    Returns:
        The Axes.

    Raises:
        ModelError: a prediction without phases, or of several points.
    """
    found = prediction.phases if isinstance(prediction, Prediction) else {}
    if not found or np.ndim(prediction.cycles):
        raise ModelError(f"{shown(prediction)} has no phases: predict one point by perfmodel.decode")
    ax, places = _axes(ax), np.arange(len(found))
    for kind, colour, at in (("compute", _BLUE, -0.2), ("communication", _VERMILION, 0.2)):
        ax.bar(places + at, [float(phase[kind]) / layers for phase in found.values()], 0.38, color=colour, label=kind)
    ax.set_xticks(places, [name.replace("_", ", ") for name in found], fontsize=9)
    ax.set_ylabel("cycles")
    return ax


def elasticities(prediction: Prediction, ax: Axes | None = None) -> Axes:
    """The constants behind a time: percent of the time per percent of each, the strongest on top.

    Args:
        prediction: of one point.
        ax: where to draw; None: a new figure.

    Returns:
        The Axes.

    Raises:
        ModelError: no prediction, or one of several points.
    """
    ranked = [entry for entry in sensitivity(prediction) if entry.elasticity][::-1]
    ax = _axes(ax)
    ax.barh([entry.constant for entry in ranked], [entry.elasticity for entry in ranked], color="#56B4E9")
    ax.set_xlabel("elasticity: % of time per % of constant")
    return ax


def sweep(found: Sweep, ax: Axes | None = None, *, value: str = "cycles") -> Axes:
    """A sweep over one device parameter as a line, over two as filled contours.

    Args:
        found: of `perfmodel.sweep`.
        ax: where to draw; None: a new figure.
        value: "cycles", "seconds" or "tokens_per_s".

    Returns:
        The Axes; of two parameters, the second runs to the right, and ``ax.collections[0]`` serves a colour bar.

    Raises:
        ModelError: another value, or a sweep over more than two parameters.
    """
    if value not in ("cycles", "seconds", "tokens_per_s"):
        raise ModelError(f"value = {shown(value)}: cycles, seconds or tokens_per_s")
    if len(found.axes) > 2:
        raise ModelError(f"a sweep over {', '.join(found.axes)}: one or two parameters can be drawn")
    ax, names, numbers = _axes(ax), list(found.axes), getattr(found, value)
    if len(names) == 1:
        ax.plot(found.axes[names[0]], numbers, color=_BLUE)
        ax.set(xlabel=names[0], ylabel=value.replace("_per_", "/"))
        return ax
    ax.contourf(found.axes[names[1]], found.axes[names[0]], numbers, levels=12, cmap="cividis")
    ax.set(xlabel=names[1], ylabel=names[0], title=value.replace("_per_", "/"))
    return ax


def parity(measured: Any, predicted: Any = None, ax: Axes | None = None, *, unit: str = "cycles", label: str = "",
           **line: Any) -> Axes:
    """Predicted against measured on logarithmic axes, with the line of perfect prediction and a band of 15 %.

    Args:
        measured: ``(n,)`` numbers; or a `Fit`, whose own rows and residuals are drawn.
        predicted: ``(n,)`` of the same; None for a fit.
        ax: where to draw; None: a new figure. Rows are added to what is there.
        unit: of both.
        label: of the rows, for a legend.
        **line: as `matplotlib.axes.Axes.plot` takes it.

    Returns:
        The Axes.

    Raises:
        ModelError: no predictions, or of another number.

    Examples:
        >>> import perfmodel as pm
        >>> parity(pm.fit("wse2_decode")).get_xlabel()
        'measured, cycles'
    """
    if isinstance(measured, Fit):
        measured, predicted = measured.measurements.measured, measured.measurements.measured * (1 + measured.residuals)
    if np.ndim(measured) != 1 or np.shape(measured) != np.shape(predicted):
        raise ModelError(f"measured {np.shape(measured)} and predicted {np.shape(predicted)} must be of one length")
    first, ax = ax is None or not ax.lines, _axes(ax)
    ax.plot(measured, predicted, **{"marker": ".", "ls": "", "label": label or None, **line})
    ax.set(xscale="log", yscale="log")
    if first:
        ax.axline((1, 1), (10, 10), color=_BLACK, lw=0.8, zorder=0)
        ends = np.array([1e-12, 1e18])
        ax.fill_between(ends, ends / (1 + _BAND), ends * (1 + _BAND), color=_GREY, alpha=0.15, lw=0, zorder=0,
                        label=f"within {_BAND:.0%}")  # fmt: skip
        ax.set(xlabel=f"measured, {unit}", ylabel=f"predicted, {unit}")
    rows = [np.asarray(line.get_xydata()) for line in ax.lines if line.get_linestyle() == "None"]
    points = np.concatenate([np.zeros((0, 2)), *rows])
    if points.size:
        low, high = points.min() / 1.5, points.max() * 1.5
        ax.set(xlim=(low, high), ylim=(low, high))
    return ax
