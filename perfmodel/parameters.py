"""The values of the constants on a device, and where each comes from.

``data/parameters.toml``, which `perfmodel.calibrate` writes, holds the constants of the kernels that were measured.
A constant is *measured* (a microbenchmark or a publication), *fitted* to rows of a sweep, or *carried* over from
another kernel; it belongs to the chip, to the way a kernel is written, or to the system around it.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from perfmodel import checks
from perfmodel.chips import Calibrated, Device
from perfmodel.constants import KERNELS, MEANING
from perfmodel.device import device
from perfmodel.errors import ModelError, shown

FILE = Path(__file__).parent / "data" / "parameters.toml"

#: cycles of the things on a device that a constant may stand for; a constant scales with them
COSTS: dict[str, Callable[[Device], float]] = {
    "hop": lambda chip: chip.alpha,
    "stage": lambda chip: chip.beta,
    "word": lambda chip: 1 / chip.link_words_per_cycle,
    "vector": lambda chip: 1 / chip.vector_rate,
    "matrix": lambda chip: 1 / chip.macs_per_cycle,
}


@dataclass(frozen=True)
class Parameter:
    """One constant: its value and where it comes from.

    Attributes:
        value, unit, meaning: as in `perfmodel.constants.MEANING`.
        origin: which measurements, publication, or other kernel.
        how: "measured", "fitted" or "carried"; "data sheet" on a device that nobody measured.
        stderr: standard error, None if not fitted.
        rows: rows it was fitted to.
        stands_for, belongs_to: as in `perfmodel.constants.Meaning`.
    """

    value: float
    unit: str
    meaning: str
    origin: str
    how: str = "carried"
    stderr: float | None = None
    rows: int | None = None
    stands_for: str = ""
    belongs_to: str = "kernel"


@dataclass(frozen=True)
class Kernel:
    """The constants of one kernel on one device, and the range of sizes they were fitted on.

    Attributes:
        correlation: of the fitted constants, in their order.
        held_out: relative error that 90 % of the rows stay within when their group is left out of the fit, less what
            the uncertainty of the constants explains.
    """

    device: str
    name: str
    parameters: Mapping[str, Parameter]
    fitted_range: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...] = ()
    correlation: tuple[tuple[float, ...], ...] = ()
    held_out: float | None = None

    @property
    def values(self) -> dict[str, float]:
        """Name -> value."""
        return {name: parameter.value for name, parameter in self.parameters.items()}

    @property
    def fitted(self) -> dict[str, Parameter]:
        """The constants that have a standard error."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.stderr}

    def covariance(self) -> np.ndarray:
        """Of the fitted constants, ``(n, n)``; uncorrelated where no correlation is known."""
        errors = np.array([parameter.stderr for parameter in self.fitted.values()], float)
        correlation = np.array(self.correlation) if len(self.correlation) == len(errors) else np.eye(len(errors))
        return correlation * np.outer(errors, errors)


@functools.cache
def kernels() -> dict[tuple[str, str], Kernel]:
    """Every fitted kernel, by (device or system, kernel)."""
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {(owner, name): _kernel(owner, name, table)
            for owner, kinds in tables.items() for name, table in kinds.items()}


def _kernel(owner: str, name: str, table: dict[str, Any]) -> Kernel:
    """One table of the file."""
    about = table.get("about", {})
    fitted_range = {key: (float(low), float(high)) for key, (low, high) in table.get("range", {}).items()}
    parameters = {}
    for key, entry in table.items():
        if key not in ("range", "about"):
            meaning = MEANING[key]
            parameters[key] = Parameter(entry["value"], meaning.unit, meaning.meaning, entry["origin"], entry["how"],
                                        entry.get("stderr"), entry.get("rows"), meaning.stands_for, meaning.belongs_to)
    return Kernel(owner, name, MappingProxyType(parameters), MappingProxyType(fitted_range),
                  _borrowed(owner, name, parameters), tuple(map(tuple, about.get("correlation", []))),
                  about.get("held_out"))


def _borrowed(owner: str, name: str, parameters: Mapping[str, Parameter]) -> tuple[str, ...]:
    """A note for a kernel of which nothing was fitted: whose constants it has."""
    if any(p.stderr is not None for p in parameters.values()):
        return ()
    lenders: dict[str, list[str]] = {}
    for key, p in parameters.items():
        origin = p.origin.partition(",")[0].partition(";")[0]
        lender = origin.removeprefix("carried over from ") if p.how == "carried" else "publications"
        lenders.setdefault(lender, []).append(key)
    loans = "; ".join(f"{', '.join(keys)} from {lender}" for lender, keys in lenders.items())
    return (f"{owner}.{name} is borrowed, not measured on {owner}: {loans}",)


def kernel(owner: str, name: str) -> Kernel:
    """The constants of a kernel on a packaged device or system.

    Args:
        owner: name of the device or system.
        name: of the kernel, a key of `perfmodel.constants.KERNELS`.

    Returns:
        Constants with their errors, range and source.

    Raises:
        UnknownName: no calibration of such a kernel.

    >>> kernel("wse3", "gemv").values["alpha"] > 1
    True
    """
    if (owner, name) not in kernels():
        checks.choice("kernel", f"{owner}.{name}", [".".join(key) for key in kernels()])  # refuses
    return kernels()[owner, name]


def on(chip: Device, name: str, constants: Any = None) -> Kernel:
    """The constants of a kernel on any device.

    Args:
        chip: a device; one that was changed keeps the calibration of its base, scaled.
        name: a key of `perfmodel.constants.KERNELS`.
        constants: a `perfmodel.Fit`, or name -> value, that replace the calibration.

    Returns:
        The fitted constants, scaled to the device, or those its data sheet implies.

    Raises:
        UnknownName: a constant that the kernel does not have.
        DataError: a constant that is no number, or out of range.
        ModelError: constants of another kernel, or neither a Fit nor a mapping.
    """
    calibrated = kernels().get((chip.base, name))
    found = data_sheet(chip, name) if calibrated is None else scaled(calibrated, chip, _reference(chip.base))
    for entry in chip.constants:
        if entry.kernel == name:
            found = given(found, entry, chip, f"the device file of {chip.name}")
    if constants is None:
        return found
    if isinstance(constants, Mapping):
        for key, value in constants.items():
            checks.choice(f"constant of {name}", key, KERNELS[name])
            checks.number(f"constants: {key}", value, 0.0, 1e12)
        return replaced(found, constants, "the caller")
    if getattr(constants, "kernel", None) is None:
        raise ModelError(f"constants = {shown(constants)} are neither a Fit nor a mapping of names to values")
    if constants.kernel != name:
        raise ModelError(f"the fit of {constants.measurements.name} has constants of {constants.kernel!r}, not of "
                         f"{name!r}")
    return given(found, constants.calibrated(), chip, f"the fit of {constants.measurements.name}")


@functools.cache
def _reference(base: str) -> Device:
    return device(base)


def ratio(name: str, chip: Device, reference: Device) -> float:
    """How much more a constant costs on ``chip`` than on ``reference``: the ratio of what it stands for.

    Args:
        name: of the constant, a key of `perfmodel.constants.MEANING`.
        chip: the device that is predicted.
        reference: the device that was measured.

    Returns:
        The factor; 1 for a constant that stands for nothing in the device file.

    >>> ratio("beta", device("wse3"), device("wse2")), ratio("startup", device("wse3"), device("wse2"))
    (2.0, 1.0)
    """
    stands_for = MEANING[name].stands_for
    return COSTS[stands_for](chip) / COSTS[stands_for](reference) if stands_for else 1.0


def scaled(kernel: Kernel, chip: Device, reference: Device) -> Kernel:
    """The constants as they are on a changed device: their held-out error is not known there."""
    ratios = {key: ratio(key, chip, reference) for key in kernel.parameters}
    if all(factor == 1.0 for factor in ratios.values()):
        return kernel
    parameters = {
        key: dataclasses.replace(p, value=p.value * ratios[key], stderr=p.stderr and p.stderr * ratios[key])
        for key, p in kernel.parameters.items()}
    changed = ", ".join(f"{key} by {factor:.3g}" for key, factor in ratios.items() if factor != 1.0)
    note = f"constants of {kernel.device}.{kernel.name} are scaled to {chip.title}, not measured there: {changed}"
    return dataclasses.replace(kernel, parameters=MappingProxyType(parameters), held_out=None,
                               notes=(*kernel.notes, note))


def replaced(kernel: Kernel, values: Mapping[str, float], whose: str) -> Kernel:
    """A kernel with some constants given from outside; it says so in a note."""
    parameters = dict(kernel.parameters)
    for key, value in values.items():
        meaning = MEANING[key]
        parameters[key] = Parameter(float(value), meaning.unit, meaning.meaning, f"given by {whose}", "fitted",
                                    stands_for=meaning.stands_for, belongs_to=meaning.belongs_to)
    note = f"{', '.join(values)} of {kernel.name} are given by {whose}"
    kept = kernel.notes if set(values) < set(kernel.parameters) else ()
    return dataclasses.replace(kernel, parameters=MappingProxyType(parameters), correlation=(), notes=(*kept, note))


def given(kernel: Kernel, own: Calibrated, chip: Device, whose: str) -> Kernel:
    """A kernel with constants of one's own, scaled from the device they held on, with what is known of their errors.

    Args:
        kernel: as it would be without them.
        own: the constants.
        chip: the device to predict for.
        whose: for the note.

    Returns:
        The kernel with these constants.
    """
    factors = {name: ratio(name, chip, own.reference) for name, _ in own.values}
    found = replaced(kernel, {name: value * factors[name] for name, value in own.values}, whose)
    errors = {name: error * factors[name] for name, error in own.stderr if error}
    entries = {name: dataclasses.replace(p, stderr=errors.get(name)) if name in factors else p
               for name, p in found.parameters.items()}
    order, names = [name for name, p in entries.items() if p.stderr], [name for name, _ in own.stderr]
    correlation: tuple[tuple[float, ...], ...] = ()
    if len(own.correlation) == len(names) and set(order) <= set(names):
        at = [names.index(name) for name in order]
        correlation = tuple(tuple(own.correlation[i][j] for j in at) for i in at)
    moved = any(factor != 1.0 for factor in factors.values())
    return dataclasses.replace(
        found, parameters=MappingProxyType(entries), correlation=correlation,
        fitted_range=dict(own.ranges) or found.fitted_range,
        held_out=None if moved else found.held_out if own.held_out is None else own.held_out)


def data_sheet(chip: Device, name: str) -> Kernel:
    """Constants of a device nobody measured: peak rate, alpha and beta from its file, and no other cost.

    A step costs two stages (one message per axis), a beat of four multiply-accumulates 4 / macs_per_cycle.

    Args:
        chip: a mesh device.
        name: of the kernel, a key of `perfmodel.constants.KERNELS`.

    Returns:
        The constants, with a note that nothing was measured.
    """
    word = COSTS["word"](chip)
    values = {
        "startup": 2 * chip.beta, "beat": 4 / chip.macs_per_cycle, "alpha": chip.alpha, "beta": chip.beta,
        "stream": word, "word": word, "multicast": word, "latency": 2 * chip.ramp, "row": float(name == "decode"),
    }
    parameters = {}
    for key in KERNELS[name]:
        meaning = MEANING[key]
        parameters[key] = Parameter(values.get(key, 0.0), meaning.unit, meaning.meaning, "data sheet", "data sheet",
                                    stands_for=meaning.stands_for, belongs_to=meaning.belongs_to)
    note = f"{chip.name}: no kernel was measured on it; its data sheet's rates give an optimistic time"
    return Kernel(chip.name, name, parameters, {}, (note,))
