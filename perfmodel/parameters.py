"""The fitted constants: loaded from ``data/parameters.toml``, which `perfmodel.calibrate` writes."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from perfmodel.device import Device, device, devices
from perfmodel.errors import unknown

FILE = Path(__file__).parent / "data" / "parameters.toml"

#: unit and meaning of every constant of the model
MEANING = {
    "launch": ("cycle", "start of a kernel: first task to first step, last step to result"),
    "startup": ("cycle/step", "a step's tasks: start four moves, join them, go on; includes its two hops"),
    "k_loop": ("cycle/pass", "one pass over k: set up descriptors, start the map over a row of B"),
    "remainder": ("cycle/pass", "a pass beyond the multiples of four by which the loop over k is unrolled"),
    "vector": ("cycle/vector", "start of one fp16 multiply-accumulate vector"),
    "beat": ("cycle/beat", "one 64-bit word of the result column that a vector runs over"),
    "row": ("cycle/row", "issue of the vector of one row of a GEMV tile"),
    "stream": ("cycle/word", "one more 32-bit word in the vector that streams through the reduction"),
    "alpha": ("cycle/hop", "a hop through routers by a pre-set rule"),
    "beta": ("cycle/stage", "a stage in which a core's software handles the message"),
    "die": ("cycle/boundary", "a message crosses from one die of the wafer to the next"),
    "word": ("cycle/element", "T10, Ladder: an element of the operands that travel"),
    "relay": ("cycle/core", "T10: a core passed on the way to a logical neighbour"),
    "barrier": ("cycle/core", "Ladder: a core passed by the remote access that ends a step"),
    "compute_efficiency": ("1", "A100: share of peak flop/s that a prefill reaches"),
    "memory_efficiency": ("1", "A100: share of peak bandwidth at which weights are read"),
    "fabric_efficiency": ("1", "A100: share of NVLink bandwidth that an all-reduce reaches"),
    "layer_x1": ("second/layer", "A100: launches of one layer in decode, one GPU"),
    "layer_x8": ("second/layer", "A100: the same with collectives over 8 GPUs"),
    "layer_x16": ("second/layer", "A100: the same over two nodes"),
    "collective_x8": ("second/collective", "A100: latency of an all-reduce of 8 GPUs in prefill, or of a lone GEMV"),
    "collective_x16": ("second/collective", "A100: the same over two nodes"),
    "served": ("1", "A100: decode in the requests of table 2 over the steady decode of table 4"),
}


@dataclass(frozen=True)
class Parameter:
    """One constant: its value, standard error (None if not fitted) and where it comes from."""

    value: float
    unit: str
    meaning: str
    origin: str
    stderr: float | None = None


@dataclass(frozen=True)
class Kernel:
    """The constants of one kernel on one device, and the range of sizes they were fitted on."""

    device: str
    name: str
    parameters: Mapping[str, Parameter]
    fitted_range: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, float]:
        """Name -> value."""
        return {name: parameter.value for name, parameter in self.parameters.items()}


@functools.cache
def kernels() -> dict[tuple[str, str], Kernel]:
    """Every fitted kernel, by (device or system, kernel)."""
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {(owner, name): _kernel(owner, name, table)
            for owner, kinds in tables.items() for name, table in kinds.items()}


def _kernel(owner: str, name: str, table: dict[str, Any]) -> Kernel:
    """One table of the file."""
    fitted_range = {key: (float(low), float(high)) for key, (low, high) in table.get("range", {}).items()}
    parameters = {
        key: Parameter(entry["value"], *MEANING[key], origin=entry["origin"], stderr=entry.get("stderr"))
        for key, entry in table.items() if key != "range"
    }
    return Kernel(owner, name, MappingProxyType(parameters), MappingProxyType(fitted_range),
                  _borrowed(owner, name, parameters))


def _borrowed(owner: str, name: str, parameters: Mapping[str, Parameter]) -> tuple[str, ...]:
    """A note for a kernel of which nothing was fitted: whose constants it has."""
    if any(p.stderr is not None for p in parameters.values()):
        return ()
    lenders: dict[str, list[str]] = {}
    for key, p in parameters.items():
        lender = p.origin.removeprefix("carried over from ") if p.origin.startswith("carried") else "publications"
        lenders.setdefault(lender, []).append(key)
    loans = "; ".join(f"{', '.join(keys)} from {lender}" for lender, keys in lenders.items())
    return (f"{owner}.{name} is borrowed, not measured on {owner}: {loans}",)


def kernel(owner: str, name: str) -> Kernel:
    """The constants of a kernel on a packaged device or system.

    >>> kernel("wse3", "gemv").values["alpha"] > 1
    True
    """
    if (owner, name) not in kernels():
        raise unknown("kernel", f"{owner}.{name}", [".".join(key) for key in kernels()])
    return kernels()[owner, name]


def on(chip: Device, name: str) -> Kernel:
    """The constants of a kernel on any device: the fitted ones, or those its data sheet implies."""
    packaged = chip.name in devices() and device(chip.name) == chip
    if packaged and (chip.name, name) in kernels():
        return kernel(chip.name, name)
    return data_sheet(chip, name)


def data_sheet(chip: Device, name: str) -> Kernel:
    """Constants of a device nobody measured: peak rate, alpha and beta from its file, and no other cost.

    A step costs two stages (one message per axis), a beat of four multiply-accumulates 4 / macs_per_cycle.
    """
    values = {
        "launch": 0.0, "startup": 2 * chip.beta, "k_loop": 0.0, "remainder": 0.0, "vector": 0.0,
        "beat": 4 / chip.macs_per_cycle, "row": 0.0, "alpha": chip.alpha, "beta": chip.beta, "die": 0.0,
        "stream": 1 / chip.link_words_per_cycle,
    }
    if name == "decode":
        values["row"] = 1.0
    parameters = {key: Parameter(value, *MEANING[key], origin="data sheet") for key, value in values.items()}
    note = f"{chip.name}: no kernel was measured on it; its data sheet's rates give an optimistic time"
    return Kernel(chip.name, name, parameters, {}, (note,))
