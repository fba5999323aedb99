"""The fabric: how long a schedule takes on a chip, message by message.

Costs come from `meshkernels.fabric.constants`, each with its source; none is fitted to make an algorithm right.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import perfmodel
from meshkernels.errors import DeviceLimitError, MeshTypeError
from meshkernels.fabric.constants import Machine, machine
from meshkernels.fabric.faults import Faults
from meshkernels.fabric.plans import OperationTime, PlanRun, simulate_plan
from meshkernels.fabric.player import play
from meshkernels.fabric.run import Event, Run
from meshkernels.readers import compliance
from meshkernels.readers.ledger import count
from meshkernels.schedules import Schedule
from meshkernels.schedules.check import TASKS, check_program

__all__ = ["Event", "Faults", "Machine", "OperationTime", "PlanRun", "Run", "machine", "play", "simulate",
           "simulate_plan"]


def simulate(schedule: Schedule, device: perfmodel.Device | str = "wse3", *,
             dtype: np.typing.DTypeLike | None = None, accumulate: np.typing.DTypeLike | None = None,
             faults: Faults | None = None, limits: bool = True, progress: bool | None = None) -> Run:  # fmt: skip
    """Play ``schedule`` on a chip, every core and message at its own time.

    Args:
        schedule: any schedule.
        device: a chip whose costs are known, ``"wse3"`` or ``"wse2"``.
        dtype: of the stored elements; None: the device's storage type, float16 on a wafer.
        accumulate: dtype of sums; None: the same.
        faults: dead cores and links, which the mesh is laid around; None: there are none.
        limits: refuse a schedule that needs more colours than the device has; False: play it as if it had them.
        progress: show a bar on stderr for what takes longer than a second; None: if stderr is a terminal.

    Returns:
        Times, loads, and where the time went.

    Raises:
        MeshTypeError: no schedule, or no mesh of cores.
        ScheduleError: the schedule does not do what it says.
        FabricError: the device lacks constants; it says which. Faults that are not on the fabric, leave too few cores,
            or cut one off.
        DeviceLimitError: more cores, bytes per core or colours than the device has.

    Examples:
        >>> import meshkernels as mk
        >>> run = simulate(mk.schedule("meshgemm", mk.Mesh(4), 8, 8, 8), "wse3")
        >>> round(run.makespan) == round(sum(run.terms.values()))
        True
    """
    if not isinstance(schedule, Schedule):
        raise MeshTypeError(f"simulate plays a Schedule, not {type(schedule).__name__}")
    if faults is not None and not isinstance(faults, Faults):
        raise MeshTypeError(f"faults = {faults!r}: mk.Faults(cores=[...], links=[...]) is expected")
    costs = machine(device)
    dtype = _element("dtype", costs.storage if dtype is None else dtype)
    accumulate = dtype if accumulate is None else _element("accumulate", accumulate)
    compliance.require_fabric(schedule.mesh, costs.device)
    if schedule.task.kind in TASKS:
        counted = count(schedule, dtype, accumulate)
        device = costs.device if limits else dataclasses.replace(costs.device, colours=max(
            costs.device.colours, counted.colours))  # fmt: skip
        try:
            compliance.require(counted, device)
        except DeviceLimitError as refusal:
            remedy = "; limits=False plays it as if it had them" if "colours" in str(refusal) else ""
            raise DeviceLimitError(f"{refusal}{remedy}") from None
    else:
        check_program(schedule)  # compiled code checks no index
    return play(schedule, costs, dtype, accumulate, faults, progress)


def _element(name: str, given: Any) -> np.dtype:
    """The dtype of an element that is computed with."""
    try:
        found = np.dtype(given)
    except TypeError:
        raise MeshTypeError(f"{name} = {given!r} is no dtype") from None
    if found.itemsize not in (1, 2, 4, 8) or found.kind in "OSUMmbc":
        raise MeshTypeError(f"{name} = {found}: elements are real numbers of 1 to 8 bytes")
    return found
