"""PLMR compliance, from counts: Parallelism, Latency, Memory, Routing, each as measured value, limit, verdict.

The limits do not know any algorithm:

* **P**: the grid lies on the device's fabric, and the mean core has at least half of the busiest core's work.
* **L**: the critical path costs at most what the mesh makes unavoidable, with a factor of two to spare: 2 alpha
  per step that moves anything, since a ring laid on a line has an edge of two hops; and for each reduction over a
  line of P cores 2 (alpha P + beta sqrt(P)): to the far core and back, in sqrt(P) stages (He et al., section 6, K = 2).
  A reduction begins where what it combines is computed; a combination that moves nothing is none.
* **M**: bytes of all buffers of a core, double buffers included, against the core's memory.
* **R**: routing paths through the busiest router against the colours that a program may use.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

import perfmodel
from meshkernels.errors import DeviceLimitError, MeshTypeError
from meshkernels.mesh import Mesh
from meshkernels.readers.ledger import Ledger, count
from meshkernels.schedules.routes import Permute
from meshkernels.schedules.steps import Move, Multiply, Schedule, unrolled
from perfmodel import tables

MINIMUM_BALANCE = 0.5


@dataclass(frozen=True)
class Verdict:
    """One letter of PLMR: what was measured, the limit (``at_most``, or at least), and whether it holds."""

    letter: str
    what: str
    measured: float
    limit: float
    at_most: bool = True

    @property
    def ok(self) -> bool:
        """Whether the limit is kept."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit


@dataclass(frozen=True, repr=False)
class Compliance:
    """The four verdicts on one schedule and one device.

    Attributes:
        algorithm: name of the schedule.
        device: name of the chip.
        verdicts: on P, L, M and R, in this order.

    Examples:
        >>> import meshkernels as mk
        >>> table = mk.compliance(mk.schedule("cannon", mk.Mesh(16), 64, 64, 64), "wse2")
        >>> table.fails, table.compliant
        ('L', False)
    """

    algorithm: str
    device: str
    verdicts: tuple[Verdict, ...]

    def __repr__(self) -> str:
        return f"Compliance({self._verdict()})"

    @property
    def compliant(self) -> bool:
        """Whether all four hold."""
        return not self.fails

    @property
    def fails(self) -> str:
        """The letters that fail, in the order P L M R."""
        return "".join(v.letter for v in self.verdicts if not v.ok)

    def __getitem__(self, letter: str) -> Verdict:
        return {v.letter: v for v in self.verdicts}[letter]

    def __str__(self) -> str:
        return f"{self._verdict()}\n{tables.text(self._rows())}"

    def _repr_html_(self) -> str:
        return tables.html(self._verdict(), self._rows(), ("", "", "measured", "", "limit", ""))

    def _verdict(self) -> str:
        return f"{self.algorithm} on {self.device}: {'complies' if self.compliant else 'fails ' + self.fails}"

    def _rows(self) -> list[list[str]]:
        return [[v.letter, v.what, f"{v.measured:,.6g}", "<=" if v.at_most else ">=", f"{v.limit:,.6g}",
                 "ok" if v.ok else "FAILS"] for v in self.verdicts]  # fmt: skip


def compliance(counted: Ledger | Schedule, device: perfmodel.Device | str) -> Compliance:
    """Judge a schedule by PLMR, from its counts.

    Args:
        counted: a ledger, or a schedule (then counted in float16, the wafer's storage).
        device: a device with a mesh, or its name.

    Returns:
        Four verdicts; printing it gives the table.

    Raises:
        MeshTypeError: neither a ledger nor a schedule, or a device without a mesh.
    """
    ledger = count(counted) if isinstance(counted, Schedule) else counted
    if not isinstance(ledger, Ledger):
        raise MeshTypeError(f"compliance judges a Ledger or a Schedule, not {type(counted).__name__}")
    device, mesh = as_device(device), ledger.mesh
    if _on_fabric(mesh, device):
        work = Verdict("P", "mean work of a core / the busiest core's", 1 / ledger.imbalance, MINIMUM_BALANCE, False)
    else:
        what = f"cores of {mesh.rows} x {mesh.cols} on a fabric of {device.rows} x {device.cols}"
        fit = min(mesh.rows, device.rows) * min(mesh.cols, device.cols)
        work = Verdict("P", what, mesh.cores, fit)
    cycles = device.alpha * ledger.critical_hops + device.beta * ledger.stages
    return Compliance(
        ledger.schedule.name,
        device.name,
        (
            work,
            Verdict("L", "critical path, alpha hops + beta stages, cycles", cycles, latency_limit(ledger, device)),
            Verdict("M", "bytes per core", ledger.peak_bytes_per_core, device.memory_per_core),
            Verdict("R", "colours at the busiest router", ledger.colours, device.colours),
        ),
    )


def _on_fabric(mesh: Mesh, device: perfmodel.Device) -> bool:
    return mesh.rows <= device.rows and mesh.cols <= device.cols


def latency_limit(ledger: Ledger, device: perfmodel.Device) -> float:
    """Cycles that the critical path may cost: the limit of L in the module's text."""
    schedule, mesh = ledger.schedule, ledger.mesh
    combines = {move.buffer for step, t, s in unrolled(schedule.program) for move in step.moves
                if move.combine and _sends(move, mesh, t, s)}  # fmt: skip
    limit, still, lines, products = 0.0, 0, 0, 0  # of the stretch since the last computation of what is combined
    for (step, t, s), hops in zip(unrolled(schedule.program), ledger.step_hops.tolist()):
        if any(op.into in combines for op in step.compute):
            limit += _allowed(device, still, lines, products)
            still, lines, products = 0, 0, any(isinstance(op, Multiply) for op in step.compute)
        still += hops > 0
        for move in step.moves:
            if move.combine and _sends(move, mesh, t, s):
                lines = max(lines, max(mesh.shape) if isinstance(move.route, Permute) else mesh.length(move.route.axis))
    return limit + _allowed(device, still, lines, products)


def _sends(move: Move, mesh: Mesh, t: int, s: int) -> bool:
    """Whether any core sends anything to another one."""
    route = move.route
    if isinstance(route, Permute):
        source, to_y, to_x = route.targets(mesh, t, s)
        return bool((source != to_y * mesh.cols + to_x).any())
    source = route.sources(mesh, t, s)
    here = np.arange(mesh.length(route.axis)).reshape((-1, 1) if route.axis == 0 else (1, -1))
    return bool(((source >= 0) & (source != here)).any())


def _allowed(device: perfmodel.Device, steps: int, line: int, product: int) -> float:
    """Cycles for what happens between two computations: one reduction over ``line`` cores, or ``steps`` that move."""
    if not line:
        return 2 * device.alpha * steps
    return 2 * (device.alpha * line + device.beta * sqrt(line)) + 2 * device.alpha * product


def as_device(device: perfmodel.Device | str | Path) -> perfmodel.Device:
    """The mesh device called ``device``, or ``device`` itself.

    Args:
        device: a device, its name, or the path of its file.

    Returns:
        The device.

    Raises:
        MeshTypeError: it is no mesh of cores (a GPU, say).
    """
    found = perfmodel.device(device) if isinstance(device, str | Path) else device
    if not isinstance(found, perfmodel.Device):
        raise MeshTypeError(f"{getattr(found, 'name', found)!r} is not a mesh of cores: {type(found).__name__}")
    return found


def require(ledger: Ledger, device: perfmodel.Device | str) -> None:
    """Refuse a schedule that the device cannot run.

    Raises:
        DeviceLimitError: the grid is larger than the fabric, a core's buffers than its memory, or a router
            needs more colours than there are; it names the core, the number and the limit.
    """
    device, mesh, name = as_device(device), ledger.mesh, ledger.schedule.name
    require_fabric(mesh, device)
    if ledger.peak_bytes_per_core > device.memory_per_core:
        raise DeviceLimitError(
            f"{name}: core (0, 0), like every other, needs {ledger.peak_bytes_per_core:,} bytes; "
            f"a core of {device.name} has {device.memory_per_core:,}"
        )
    if ledger.colours > device.colours:
        y, x = np.unravel_index(ledger.colours_per_core.argmax(), mesh.shape)
        raise DeviceLimitError(
            f"{name}: core ({y}, {x}) needs {ledger.colours} colours; {device.name} has {device.colours}"
        )


def require_fabric(mesh: Mesh, device: perfmodel.Device | str) -> None:
    """Refuse a grid of cores that is larger than the device's fabric.

    Raises:
        DeviceLimitError: it is; it names both.
    """
    device = as_device(device)
    if not _on_fabric(mesh, device):
        raise DeviceLimitError(
            f"a grid of {mesh.rows} x {mesh.cols} cores does not fit {device.name}, "
            f"which has {device.rows} x {device.cols}"
        )
