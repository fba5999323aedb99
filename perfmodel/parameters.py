"""The constants of the model: what they mean, what they stand for on a device, and where each value comes from.

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
from typing import Any, NamedTuple

import numpy as np

from perfmodel import checks
from perfmodel.device import Device, device
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


class Meaning(NamedTuple):
    """Unit and meaning of a constant, what it stands for (a key of `COSTS`, "" for code), and whose it is."""

    unit: str
    meaning: str
    stands_for: str = ""
    belongs_to: str = "kernel"


MEANING = {
    "launch": Meaning("cycle", "start of a kernel: first task to first step, last step to result"),
    "startup": Meaning("cycle/step", "a step's tasks: start its moves, join them, go on"),
    "setup": Meaning("cycle", "set-up of a vector instruction: what a step of a shift beyond the block saves"),
    "k_loop": Meaning("cycle/pass", "one pass over k: set up descriptors, start the map over a row of B"),
    "remainder": Meaning("cycle/pass", "a pass beyond the multiples of four by which the loop over k is unrolled"),
    "vector": Meaning("cycle/vector", "start of one fp16 multiply-accumulate vector"),
    "beat": Meaning("cycle/beat", "one 64-bit word of the result column that a vector runs over", "vector", "chip"),
    "row": Meaning("cycle/row", "set-up of the vector instruction of one row of a GEMV tile"),
    "stream": Meaning("cycle/word", "one more 32-bit word in the vector that streams through the reduction", "word"),
    "alpha": Meaning("cycle/hop", "a hop through routers by a pre-set rule", "hop", "chip"),
    "beta": Meaning("cycle/stage", "a stage in which a core's software handles the message", "stage"),
    "die": Meaning("cycle/boundary", "a message crosses from one die of the wafer to the next", "hop", "chip"),
    "unprofiled": Meaning("cycle/layer", "cycles of the instrumented kernel outside its profiled phases", "", "system"),
    "latency": Meaning("cycle", "a word's way from core to core less its hops: send, receive, start of a task"),
    "issue": Meaning("cycle/tile", "fewest cycles in which a core unpacks and multiplies 32 x 32 x 32 tiles", "matrix"),
    "multicast": Meaning("cycle/word", "a word of the network received by every core of a row or column", "word"),
    "exposed": Meaning("1", "share of the shorter of product and multicast that the longer does not hide"),
    "word": Meaning("cycle/word", "a 32-bit word passes a core's ramp", "word", "chip"),
    "element": Meaning("cycle/element", "T10, Ladder: an element of the operands that travel", "word", "system"),
    "relay": Meaning("cycle/core", "T10: a core passed on the way to a logical neighbour", "stage", "system"),
    "barrier": Meaning("cycle/core", "Ladder: a core passed by the remote access that ends a step", "hop", "system"),
    "compute_efficiency": Meaning("1", "A100: share of peak flop/s that a prefill reaches", "", "system"),
    "memory_efficiency": Meaning("1", "A100: share of peak bandwidth at which weights are read", "", "system"),
    "fabric_efficiency": Meaning("1", "A100: share of NVLink bandwidth that an all-reduce reaches", "", "system"),
    "layer": Meaning("second/layer", "A100: launches of one layer in decode", "", "system"),
    "network": Meaning("second", "A100: latency that the network between two nodes adds to them", "", "system"),
    "phase": Meaning("second/phase", "A100: a phase of an all-reduce (two inside a node, one between)", "", "system"),
    "served": Meaning("1", "A100: decode in the requests of table 2 over the steady decode of table 4", "", "system"),
}

#: constants of the kernels that run on a mesh
KERNELS: dict[str, tuple[str, ...]] = {
    "gemm": ("launch", "startup", "k_loop", "remainder", "vector", "beat"),
    "gemv": ("launch", "row", "beat", "stream", "alpha", "beta", "die"),
    "decode": ("row", "beat", "stream", "alpha", "beta", "unprofiled"),
    "shift": ("startup", "setup", "latency", "alpha", "word"),
    "matmul": ("launch", "issue", "multicast", "exposed"),
}


@dataclass(frozen=True)
class Parameter:
    """One constant: its value and where it comes from.

    Attributes:
        value, unit, meaning: as in `MEANING`.
        origin: which measurements, publication, or other kernel.
        how: "measured", "fitted" or "carried"; "data sheet" on a device that nobody measured.
        stderr: standard error, None if not fitted.
        rows: rows it was fitted to.
        stands_for, belongs_to: as in `Meaning`.
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
        held_out: relative error that 90 % of the rows stay within when their group is left out of the fit.
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
        name: of the kernel, a key of `KERNELS`.

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
        name: a key of `KERNELS`.
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
    own = [entry for entry in chip.constants if entry.kernel == name]
    if own:
        values = {entry.name: entry.value * ratio(entry.name, chip, entry.reference) for entry in own}
        found = replaced(found, values, f"the device file of {chip.name}")
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
    return constants.on(chip, found)


@functools.cache
def _reference(base: str) -> Device:
    return device(base)


def ratio(name: str, chip: Device, reference: Device) -> float:
    """How much more a constant costs on ``chip`` than on ``reference``: the ratio of what it stands for.

    Args:
        name: of the constant, a key of `MEANING`.
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
    """The constants as they are on a changed device."""
    ratios = {key: ratio(key, chip, reference) for key in kernel.parameters}
    if all(factor == 1.0 for factor in ratios.values()):
        return kernel
    parameters = {
        key: dataclasses.replace(p, value=p.value * ratios[key], stderr=p.stderr and p.stderr * ratios[key])
        for key, p in kernel.parameters.items()}
    return dataclasses.replace(kernel, parameters=MappingProxyType(parameters))


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


def data_sheet(chip: Device, name: str) -> Kernel:
    """Constants of a device nobody measured: peak rate, alpha and beta from its file, and no other cost.

    A step costs two stages (one message per axis), a beat of four multiply-accumulates 4 / macs_per_cycle.

    Args:
        chip: a mesh device.
        name: of the kernel, a key of `KERNELS`.

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
