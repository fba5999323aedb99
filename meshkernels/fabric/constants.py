"""The single costs of a chip that the simulator uses: the only module that knows where they come from.

Hop, ramp, interval of words, stage of software and clock are in the chip's device file; the start-up of a step, a die
boundary and the local products in the fitted parameters of `perfmodel`; what neither has is in ``constants.toml``.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import perfmodel
from meshkernels.errors import FabricError
from meshkernels.readers.compliance import as_device
from perfmodel import parameters
from perfmodel.forms_gemm import local_product
from perfmodel.terms import BEAT
from perfmodel.values import ByValue

#: What ``constants.toml`` has of a chip.
OWN = ("turn", "setup", "arithmetic", "copy")
FILE = Path(__file__).parent / "constants.toml"


@dataclass(frozen=True, eq=False)
class Machine(ByValue):
    """The costs of one chip, in cycles.

    Attributes:
        device: limits and clock of the chip.
        hop: from a router to the next.
        word: a fabric word on a link.
        turn: a message bends in a router.
        ramp: between a router and its core.
        stage: software of a core handles a message that travels on: a relay, or an add in a reduction.
        setup: start of a vector instruction that moves words: a copy, a send, a receive.
        arithmetic: the same of one that computes: a product, an add of what arrives at the root of a reduction.
        startup: tasks of a step whose moves run beside its computation; contains two hops and two ramps.
        launch: before the first such step of a program.
        copy: elements per cycle of a local copy.
        die: a message crosses from one die to the next; dies are ``die_rows`` cores high.
        storage: dtype in which the chip's kernels store elements.
        product: constants of the local product of tiles.
        vector: constants of the local product of a vector by a tile.
        sources: where each of them comes from.
    """

    device: perfmodel.Device
    hop: float
    word: float
    turn: float
    ramp: float
    stage: float
    setup: float
    arithmetic: float
    startup: float
    launch: float
    copy: float
    die: float
    die_rows: float
    storage: str
    product: dict[str, float] = field(repr=False)
    vector: dict[str, float] = field(repr=False)
    sources: dict[str, str] = field(repr=False)

    @property
    def lead(self) -> float:
        """Cycles by which a message leaves before the end of the start-up: the way that the start-up contains."""
        return min(2 * self.hop + 2 * self.ramp, self.startup)

    def multiply(self, m: int, k: int, n: int, vector: bool) -> float:
        """Cycles of a product of tiles ``(m, k)`` and ``(k, n)``; ``vector``: the left operand is a vector in all."""
        if vector:
            return k * max(self.vector["row"], -(-n // BEAT) * self.vector["beat"])
        return float(local_product(self.product, m, k, n))


@functools.cache
def _own() -> dict[str, dict[str, dict]]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def _of_cluster(chip: perfmodel.Cluster) -> dict[str, dict]:
    """Of processes that send messages: words at a connection's bandwidth, copies at memory's; alpha has the rest."""
    values = {"word": 1 / chip.link_words_per_cycle, "turn": 0.0, "setup": 0.0, "arithmetic": 0.0,
              "copy": chip.memory_bytes_per_cycle / chip.word_bytes, "storage": "float32"}  # fmt: skip
    return {name: {"value": value, "source": f"the device file of {chip.name}"} for name, value in values.items()}


def machine(device: perfmodel.Device | str) -> Machine:
    """The costs of a chip.

    Args:
        device: a chip, or its name.

    Returns:
        Its costs, with the source of each.

    Raises:
        FabricError: the chip lacks some; it says which.
        MeshTypeError: no mesh of cores.
    """
    chip = as_device(device)
    named = _own().get(chip.base or chip.name, {})
    own = _of_cluster(chip) if isinstance(chip, perfmodel.Cluster) else named
    if missing := [name for name in OWN if name not in own]:
        raise FabricError(f"{chip.name} cannot be simulated: no {', '.join(missing)} is known of it; "
                          f"devices with all constants: {', '.join(sorted(_own()))}")
    gemm, gemv = parameters.on(chip, "gemm"), parameters.on(chip, "gemv")
    products = {name: gemm.values[name] for name in ("k_loop", "remainder", "vector", "beat")}
    vectors = {name: gemv.values[name] for name in ("row", "beat")}
    found = {name: (own[name]["value"], own[name]["source"]) for name in OWN}
    found |= {name: (getattr(chip, theirs), chip.quantity(theirs).source)
              for name, theirs in (("hop", "alpha"), ("ramp", "ramp"), ("stage", "beta"), ("die_rows", "die_rows"))}
    found["word"] = 1 / chip.link_words_per_cycle, chip.quantity("link_words_per_cycle").source
    found |= {name: (gemm.values[name], gemm.parameters[name].origin) for name in ("startup", "launch")}
    was = perfmodel.device(chip.base) if chip.base else chip  # whose start-up was measured, and the way in it
    way = 2 * (chip.alpha - was.alpha) + 2 * (chip.ramp - was.ramp)
    found["startup"] = gemm.values["startup"] + way, gemm.parameters["startup"].origin
    found |= {"die": (gemv.values["die"], gemv.parameters["die"].origin)}
    sources = {name: source for name, (_, source) in found.items()}
    sources |= {f"product.{name}": gemm.parameters[name].origin for name in products}
    sources |= {f"vector.{name}": gemv.parameters[name].origin for name in vectors}
    return Machine(chip, storage=own["storage"]["value"], product=products, vector=vectors, sources=sources,
                   **{name: float(value) for name, (value, _) in found.items()})


