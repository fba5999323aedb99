"""Plans: lists of operations with schedules, as a block of an LLM is, each schedule played once.

What runs on a core alone (rotations, activations, residuals) has no schedule and takes no time here; of a sequence each
operation counts its `Run.cycles`, as if it followed itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import perfmodel
from meshkernels.errors import FabricError, MeshTypeError
from meshkernels.fabric.constants import Machine, machine
from meshkernels.fabric.player import play
from meshkernels.fabric.published import hand_up
from meshkernels.readers.compliance import require_fabric
from meshkernels.schedules import Schedule


class OperationTime(NamedTuple):
    """One operation: the part of the plan that it is in (before, layer, after), its name, cycles and messages."""

    part: str
    name: str
    cycles: float
    messages: int


@dataclass(frozen=True)
class PlanRun:
    """What a plan takes on a machine.

    Attributes:
        plan: what was simulated.
        machine: the costs.
        operations: one for each operation of the plan, in order; those of a layer once.
        layers: how often the operations of the layer run.
    """

    plan: Any
    machine: Machine
    operations: tuple[OperationTime, ...]
    layers: int

    @property
    def layer_cycles(self) -> float:
        """Cycles of one layer."""
        return sum(op.cycles for op in self.operations if op.part == "layer")

    @property
    def cycles(self) -> float:
        """Cycles of the whole plan: what comes before the layers, all layers, what comes after."""
        return sum(op.cycles * (self.layers if op.part == "layer" else 1) for op in self.operations)

    @property
    def seconds(self) -> float:
        """`cycles` at the device's clock."""
        return self.cycles / self.machine.device.clock_hz


def simulate_plan(plan: Any, device: perfmodel.Device | str = "wse2") -> PlanRun:
    """Play every schedule of a plan on a chip; equal schedules are played once.

    Args:
        plan: has lists of operations ``before``, ``layer`` and ``after`` and a ``layout``, as
            `meshkernels.llm.decode_plan` and `meshkernels.llm.prefill_plan` make them.
        device: a chip whose costs are known.

    Returns:
        Cycles of every operation, and of the whole.

    Raises:
        MeshTypeError: no plan.
        FabricError: the device lacks constants; words ride on messages of a schedule that does not have them, as in
            prefill by the fused plan (its decode has none and is played).
        DeviceLimitError: a mesh larger than the device's.

    Examples:
        >>> from meshkernels.llm import Layout, decode_plan
        >>> from meshkernels.files import Config
        >>> from meshkernels import Mesh
        >>> small = Config(blocks=2, dim=32, ffn=64, heads=4, kv_heads=2, head_dim=8, vocab=50, context=64)
        >>> run = simulate_plan(decode_plan(Layout(small, Mesh(8)), 16), "wse3")
        >>> run.cycles > 2 * run.layer_cycles > 0
        True
    """
    if not all(hasattr(plan, name) for name in ("before", "layer", "after", "layout")):
        raise MeshTypeError(f"simulate_plan plays a Plan, not {type(plan).__name__}")
    costs = machine(device)
    require_fabric(plan.layout.mesh, costs.device)
    found = []
    for part in ("before", "layer", "after"):
        operations: Sequence[Any] = getattr(plan, part)
        for op in operations:
            times = [(used.repeats, _played(_schedule(plan, op, used), costs)) for used in op.schedules]
            found.append(OperationTime(part, op.name, sum(n * cycles for n, (cycles, _) in times),
                                       sum(n * messages for n, (_, messages) in times)))  # fmt: skip
    return PlanRun(plan, costs, tuple(found), plan.layout.config.blocks)


def _schedule(plan: Any, op: Any, used: Any) -> Schedule:
    """The schedule of one use: its own, or that of a cache that is passed on."""
    if isinstance(schedule := getattr(used, "schedule", None), Schedule):
        return schedule
    if not hasattr(used, "words"):
        raise FabricError(
            f"operation {op.name!r} of {plan.phase} by plan {plan.name!r} sends words that ride on the messages of "
            "another schedule, and a schedule is played with its own words only: simulate plan 'paper', or each "
            "`op.schedules[i].schedule` with `simulate`")
    return hand_up(plan.layout.mesh.rows, sum(plan.layout.qkv[1:]) if used.words else 0)


def _played(schedule: Schedule, costs: Machine) -> tuple[float, int]:
    """Cycles and messages, kept with the schedule."""
    def derive(given: Schedule) -> tuple[float, int]:
        run = play(given, costs, causes=False)
        return run.cycles, run.messages

    return schedule.derived(f"played on {costs}", derive)
