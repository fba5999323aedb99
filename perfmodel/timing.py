"""The time of a schedule from its counts, whoever made them: constants times counts, step by step.

`time` reads a mapping of plain numbers, as ``mk.count(schedule).to_dict()`` gives it or as anybody may write it:

===================  ====================================================================================
key                  meaning
===================  ====================================================================================
rows, cols           cores of the mesh
steps                steps, one after the other
step_hops            ``(steps,)`` links on the longest path of a step's messages; or critical_hops, their sum
step_stages          ``(steps,)`` software-handled stages on such a path; or stages, their sum
step_bytes           ``(steps,)`` bytes of the longest message of a step; or bytes_per_link, their sum
step_messages        optional: ``(steps,)`` messages that a core handles one after the other; default: 1
step_streams         optional: ``(steps,)`` bytes of reductions of a step's products that only the end reads; default: 0
step_products        ``(steps,)`` lists of ``[m, k, n]``: the tile products of a core in a step; or macs_per_core
links                optional: ``{"bytes": {"east": (rows, cols) ...}}``: all bytes of the links, by direction
peak_bytes_per_core  optional: buffers of a core, held against its memory
colours              optional: routing paths of the busiest router, held against the device's
===================  ====================================================================================

A step costs ``startup`` (for each of its messages, if there are several) plus the longer of its products and its
messages; a message costs its words, hops and stages. A stream begins when the products of its step have ended, and its
words add to them; but it goes on while the next step works, so that the way is waited for once, at the end. Sums
instead of lists are shared out evenly over the steps. With the constants of the GEMV kernel, a vector instruction is
issued for each row of a product, and the steps of the reduction follow each other without a start-up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from perfmodel import checks, parameters
from perfmodel.counts import cdiv
from perfmodel.device import Device
from perfmodel.errors import DoesNotFit, ModelError, shown
from perfmodel.forms import STREAMS
from perfmodel.forms_gemm import local_product
from perfmodel.operators import Constants, mesh
from perfmodel.prediction import Prediction, Use, check_grid, lift
from perfmodel.terms import BEAT, Terms

#: most steps that are read one by one: MeshGEMM on the widest wafer has 1,800
MOST_STEPS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Steps:
    """Columns of a schedule's steps; ``products`` are rows of (step, m, k, n)."""

    hops: np.ndarray
    stages: np.ndarray
    bytes: np.ndarray
    messages: np.ndarray
    streams: np.ndarray
    products: np.ndarray
    macs: np.ndarray

    @property
    def kernel(self) -> str:
        """The kernel that a schedule is like: one product of a vector and no more is a GEMV."""
        return "gemv" if len(self.products) == 1 and self.products[0, 1] == 1 else "gemm"


def time(counts: Any, device: Device | str, *, kernel: str | None = None, constants: Constants = None) -> Prediction:
    """Predict the time of any schedule from its counts.

    Args:
        counts: a mapping with the keys above, or an object with ``to_dict()``.
        device: a mesh device, or its name.
        kernel: whose constants: "gemm" or "gemv"; default: "gemv" if all there is to multiply is one vector per core.
        constants: a `perfmodel.Fit`, or constants by name, instead of the calibration.

    Returns:
        Time, terms, bounds and notes.

    Raises:
        DoesNotFit: the mesh exceeds the device, or the buffers a core's memory.
        ModelError: a count is missing, or is none.

    >>> ring = {"rows": 4, "cols": 4, "steps": 2, "step_hops": [2, 2], "step_stages": [0, 0],
    ...         "step_bytes": [32, 32], "step_products": [[[4, 4, 4]], [[4, 4, 4]]]}
    >>> time(ring, "wse3").bound
    'compute'
    """
    chip = mesh(device)
    found = _mapping(counts)
    rows, cols = (checks.size(name, _need(found, name), checks.LONGEST_SIDE, "the widest mesh that is counted")
                  for name in ("rows", "cols"))
    check_grid(chip, rows, cols)
    _held(chip, found)
    steps = _steps(found)
    name = checks.choice("kernel", kernel, ("gemm", "gemv")) if kernel is not None else steps.kernel
    calibration = parameters.on(chip, name, constants)
    extra = _busiest(found) - float(steps.bytes.sum())
    terms_of = _vectors if name == "gemv" else _stepwise

    def form(c: Mapping[str, float]) -> Terms:
        terms = terms_of(c, chip, steps)
        return {**terms, "transfer": terms["transfer"] + _words(chip, max(extra, 0.0))}

    macs = float((steps.products[:, 1:].prod(axis=1)).sum() + steps.macs.sum())
    limits = {"compute": macs / chip.macs_per_cycle, "link": _words(chip, _busiest(found)), "distance": 0.0}
    terms, cycles = lift(form(calibration.values), limits)
    return Prediction(cycles, cycles / chip.clock_hz, terms, limits, _notes(calibration, chip, found),
                      label=f"{found.get('algorithm', 'a schedule')} on {rows} x {cols} cores of {chip.name}",
                      uses=(Use(calibration, lambda c: lift(form(c), limits)[1]),), chip=chip)


def _stepwise(c: Mapping[str, float], chip: Device, steps: Steps) -> Terms:
    """Of every step its start-up and the longer of products and messages."""
    at, m, k, n = steps.products.T
    work = c["beat"] / BEAT * steps.macs
    np.add.at(work, at, local_product(c, m, k, n))
    streaming = steps.streams > 0
    words = _words(chip, np.where(steps.streams >= steps.bytes, 0.0, steps.bytes))
    hops, relays = (np.where(streaming, 0.0, column) for column in (steps.hops * chip.alpha, steps.stages * chip.beta))
    way = [float(column[streaming].max(initial=0.0)) for column in (steps.hops, steps.stages)]
    message = words + hops + relays
    with np.errstate(divide="ignore", invalid="ignore"):
        exposed = np.where(message > work, (message - work) / message, 0.0)
    return {"compute": float(work.sum()), "transfer": float(exposed @ words + _words(chip, steps.streams).sum()),
            "alpha": float(exposed @ hops) + way[0] * chip.alpha, "beta": float(exposed @ relays) + way[1] * chip.beta,
            "overhead": c["launch"] + c["startup"] * float(np.maximum(steps.messages, 1).sum())}


def _vectors(c: Mapping[str, float], chip: Device, steps: Steps) -> Terms:
    """A GEMV: a vector instruction per row of a tile, then the reduction."""
    _, m, k, n = steps.products.T
    words = np.maximum(steps.bytes // chip.word_bytes, steps.bytes > 0)
    rows = (m * k * np.maximum(c["row"], cdiv(n, BEAT) * c["beat"])).sum()
    return {
        "compute": float(rows + steps.macs.sum() * c["beat"] / BEAT),
        "transfer": float(np.maximum(words - 1, 0).sum() / STREAMS["ktree"] * c["stream"]),
        "alpha": float(steps.hops.sum() * c["alpha"]), "beta": float(steps.stages.sum() * c["beta"]),
        "overhead": c["launch"],
    }


def _words(chip: Device, bytes_: Any) -> Any:
    """Cycles in which bytes pass a link, in whole words."""
    return cdiv(bytes_, chip.word_bytes) / chip.link_words_per_cycle


def _mapping(counts: Any) -> Mapping[str, Any]:
    """The counts as a mapping."""
    if dataclasses.is_dataclass(counts) and not isinstance(counts, type) and not hasattr(counts, "to_dict"):
        raise ModelError(f"{type(counts).__name__} says nothing of single steps; time takes a mapping of counts")
    found = counts.to_dict() if hasattr(counts, "to_dict") else counts
    if not isinstance(found, Mapping):
        raise ModelError(f"counts = {shown(counts)} must be a mapping of names to numbers, as a ledger's to_dict()")
    return found


def _need(found: Mapping[str, Any], name: str) -> Any:
    if name not in found:
        raise ModelError(f"counts lack {name!r}; they have {shown(', '.join(map(str, found)))[1:-1]}")
    return found[name]


def _steps(found: Mapping[str, Any]) -> Steps:
    """The columns, checked; what is given as a sum is shared out evenly."""
    number = checks.size("steps", _need(found, "steps"), MOST_STEPS, "each is predicted")
    hops, stages, moved = (_column(found, number, *names) for names in (
        ("step_hops", "critical_hops"), ("step_stages", "stages"), ("step_bytes", "bytes_per_link")))
    messages, streams = (_column(found, number, name, "") if name in found else default for name, default in (
        ("step_messages", np.ones(number)), ("step_streams", np.zeros(number))))
    products, macs = np.zeros((0, 4), np.int64), np.zeros(number)
    if "step_products" in found:
        products = _products(found["step_products"], number)
    elif "macs_per_core" in found:
        macs += _numbers("macs_per_core", found["macs_per_core"]).max(initial=0.0) / number
    else:
        raise ModelError("counts lack 'step_products' and 'macs_per_core': give one of them")
    return Steps(hops, stages, moved, messages, streams, products, macs)


def _products(given: Any, number: int) -> np.ndarray:
    """Rows of (step, m, k, n)."""
    if not isinstance(given, list | tuple) or len(given) != number:
        raise ModelError(f"step_products must be a list for each of {number} steps, not {shown(given)}")
    try:
        rows = [(at, *product) for at, products in enumerate(given) for product in products]
        table = np.array(rows, float).reshape(-1, 4)
    except (TypeError, ValueError):
        raise ModelError("step_products must hold lists of [m, k, n]") from None
    if not ((table[:, 1:] >= 1) & (table[:, 1:] <= 1 << 20) & (table == np.floor(table))[:, 1:]).all():
        raise ModelError(f"step_products must hold whole numbers of 1 to {1 << 20}")
    return table.astype(np.int64)


def _column(found: Mapping[str, Any], number: int, listed: str, total: str) -> np.ndarray:
    """A column of the steps, or a sum shared out over them."""
    if listed in found:
        values = _numbers(listed, found[listed])
        if values.shape != (number,):
            raise ModelError(f"{listed} has shape {values.shape}, expected ({number},), a number for each step")
        return values
    value = _numbers(total, _need(found, total) if total != "bytes_per_link" else found.get(total, _busiest(found)))
    if value.shape:
        raise ModelError(f"{total} = {shown(found[total])} must be one number")
    return np.full(number, float(value) / number)


def _numbers(name: str, given: Any) -> np.ndarray:
    """An array of finite numbers of at least 0."""
    try:
        values = np.asarray(given)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0, object)
    if values.dtype.kind not in "iuf":
        raise ModelError(f"{name} = {shown(given)} must be numbers")
    if not ((values >= 0) & (values <= checks.LARGEST)).all():
        raise ModelError(f"{name} must be from 0 to 2^53")
    return values.astype(float)


def _busiest(found: Mapping[str, Any]) -> float:
    """Bytes over the busiest link, if the counts have the links."""
    links = found.get("links")
    if not isinstance(links, Mapping) or not isinstance(links.get("bytes"), Mapping):
        return 0.0
    most = [_numbers(f"links: {way}", array).max(initial=0.0) for way, array in links["bytes"].items()]
    return float(max(most, default=0.0))


def _held(chip: Device, found: Mapping[str, Any]) -> None:
    """Buffers must fit a core."""
    held = _numbers("peak_bytes_per_core", found.get("peak_bytes_per_core", 0)).max(initial=0.0)
    if held > chip.memory_per_core:
        raise DoesNotFit(f"the schedule's buffers need {held:.0f} bytes per core; {chip.name} has "
                         f"{chip.memory_per_core}")


def _notes(kernel: parameters.Kernel, chip: Device, found: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader of the time must know."""
    notes = kernel.notes
    colours = _numbers("colours", found.get("colours", 0)).max(initial=0.0)
    if colours > chip.colours:
        notes += (f"the busiest router needs {colours:.0f} routing paths; {chip.name} has {chip.colours}",)
    if "step_products" not in found:
        notes += ("products are given as multiply-adds: nothing is charged for starting loops and vectors",)
    return notes
