"""The competitors, each from its own mechanism, on the same footing as the mesh kernels.

* **T10** plans compute-shift for a crossbar. On a mesh its logical neighbours lie O(P) apart and every core on the
  way relays in software: weights rotate through all cores (``element`` each), each of the P steps of a product ends
  with a relay past P cores (``relay``). In decode ten pipelined all-reduces pass P cores each.
* **Ladder** sees one shared memory. Every operand element is a remote load (``element``), and every step ends with an
  access across the mesh (``barrier`` per core passed).
* **A100 x N**: a roofline with tensor parallelism: flops at a share of peak in prefill, weights at a share of
  memory bandwidth in decode, two all-reduces per layer. Another GPU has its own rates and the A100's constants.

T10 and Ladder have no re-placement between the phases, so they decode on the grid of their prefill.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perfmodel import parameters
from perfmodel.checks import choice
from perfmodel.counts import cdiv
from perfmodel.device import Device, Gpu, device
from perfmodel.forms import ALLREDUCES, Terms, prefill_products
from perfmodel.model import Model
from perfmodel.parameters import Kernel

#: what can be asked for as ``system``
SYSTEMS = ["waferllm", "t10", "ladder", "a100x1", "a100x8", "a100x16"]

Constants = Mapping[str, float]
Columns = Mapping[str, Any]


def check(system: str) -> str:
    """The system's name, or an error that lists the known ones."""
    return choice("system", system, SYSTEMS)


def gpus(system: str) -> int:
    """GPUs of an A100 system, 0 for a wafer.

    Args:
        system: a name such as "a100x8" or "t10".

    Returns:
        The number of GPUs.

    >>> gpus("a100x16"), gpus("t10")
    (16, 0)
    """
    return int(system.removeprefix("a100x")) if system.startswith("a100x") else 0


def operands(dim: Any, ffn: Any, tokens: Any) -> tuple[Any, Any]:
    """Elements of the left and of the right operands of the nine products of a layer."""
    products = prefill_products(dim, ffn, tokens)
    return sum(p.times * p.M * p.K for p in products), sum(p.times * p.K * p.N for p in products)


PRODUCTS = 9


def t10_prefill(c: Constants, x: Columns, _: Any = None) -> Terms:
    """Cycles per layer: right operands rotate; every step of every product relays past the mesh's side."""
    right = operands(x["dim"], x["ffn"], x["tokens"])[1]
    return {"transfer": c["element"] * right, "beta": c["relay"] * PRODUCTS * x["P"] ** 2}


def t10_decode(c: Constants, x: Columns, _: Any = None) -> Terms:
    """Cycles per layer and token: ten pipelined all-reduces along the mesh's side."""
    return {"beta": c["relay"] * ALLREDUCES * x["P"]}


def ladder_prefill(c: Constants, x: Columns, _: Any = None) -> Terms:
    """Cycles per layer: both operands are loaded remotely; every step of every product waits for the mesh."""
    return {"transfer": c["element"] * sum(operands(x["dim"], x["ffn"], x["tokens"])),
            "beta": c["barrier"] * PRODUCTS * x["P"] ** 2}


def ladder_decode(c: Constants, x: Columns, _: Any = None) -> Terms:
    """Cycles per layer and token: a tile's weights and cache are loaded across P cores, one after the other."""
    tile = (4 * x["dim"] ** 2 + 3 * x["dim"] * x["ffn"] + 2 * x["tokens"] * x["dim"]) / x["P"] ** 2
    return {"transfer": c["element"] * tile * x["P"], "beta": c["barrier"] * ALLREDUCES * x["P"]}


def _nodes(count: Any, chip: Gpu) -> Any:
    """Nodes that the GPUs fill.

    Returns:
        Nodes, the last of them perhaps in part.

    >>> [int(_nodes(count, device("a100"))) for count in (8, 16)]
    [1, 2]
    """
    return cdiv(np.asarray(count), chip.gpus_per_node)


def _phases(count: Any, chip: Gpu) -> Any:
    """Phases of an all-reduce: reduce-scatter and all-gather inside a node, and one exchange between nodes.

    Returns:
        0 to 3 phases.

    >>> [int(_phases(count, device("a100"))) for count in (1, 8, 16)]
    [0, 2, 3]
    """
    return (np.asarray(count) > 1) * 2 + (_nodes(count, chip) > 1)


def a100_prefill(c: Constants, x: Columns, chip: Gpu) -> Terms:
    """Seconds of a prefill: matrix flops and causal attention, and two all-reduces of the activations a layer."""
    flops = 2 * x["weights"] * x["tokens"] + 2 * x["layers"] * x["tokens"] ** 2 * x["dim"]
    moved = 2 * (1 - 1 / x["gpus"]) * 2 * x["tokens"] * x["dim"]  # bytes of one all-reduce, fp16
    return {
        "compute": flops / (x["gpus"] * chip.peak_flops * c["compute_efficiency"]),
        "transfer": 2 * x["layers"] * moved / (chip.link_bandwidth * c["fabric_efficiency"]),
        "beta": 2 * x["layers"] * _phases(x["gpus"], chip) * c["phase"],
    }


def a100_decode(c: Constants, x: Columns, chip: Gpu) -> Terms:
    """Seconds per token: weights, head and cache read once; launches, and the network between nodes, in every layer."""
    cache = 2 * x["layers"] * x["kv_dim"] * x["tokens"]
    moved = 2 * (x["weights"] + x["vocab"] * x["dim"] + cache)  # fp16
    return {
        "compute": moved / (x["gpus"] * chip.memory_bandwidth * c["memory_efficiency"]),
        "beta": x["layers"] * (c["layer"] + (_nodes(x["gpus"], chip) - 1) * c["network"]),
    }


def a100_gemv(c: Constants, x: Columns, chip: Gpu) -> Terms:
    """Seconds of one GEMV cut over GPUs: the matrix read once, and one collective.

    The product is launched on its own; a phase is launched too, and then waits for the other GPUs, as long again. (With
    nothing charged for the product's launch one GPU is 6 % too fast, sixteen are 11 % too slow.)

    Returns:
        Seconds by kind of cost.
    """
    return {
        "compute": 2 * x["weights"] / (x["gpus"] * chip.memory_bandwidth * c["memory_efficiency"]),
        "beta": (_phases(x["gpus"], chip) + 0.5) * c["phase"],
    }


#: form of each phase of each competitor: of constants, sizes and chip; cycles per layer on the wafer, seconds in all on
#: GPUs
FORMS: dict[str, Callable[[Constants, Columns, Any], Terms]] = {
    "t10_prefill": t10_prefill, "t10_decode": t10_decode,
    "ladder_prefill": ladder_prefill, "ladder_decode": ladder_decode,
    "a100_prefill": a100_prefill, "a100_decode": a100_decode,
    "a100_gemv": a100_gemv,
}


def gpu_of(chip: Device | Gpu) -> Gpu:
    """The GPU that a system of GPUs consists of: the one given, or the A100 beside a wafer."""
    return chip if isinstance(chip, Gpu) else device("a100")


def clock(chip: Device | Gpu) -> float:
    """Cycles per second in which times are stated: those of a mesh; of a GPU a cycle is a nanosecond."""
    return 1e9 if isinstance(chip, Gpu) else chip.clock_hz


def kernel_of(system: str, phase: str, chip: Device | Gpu) -> Kernel:
    """The constants of a competitor; T10's and Ladder's, fitted on the WSE-2, scaled to the chip they run on."""
    if not isinstance(chip, Gpu):
        kernel = parameters.kernel("a100" if gpus(system) else system, phase)
        return kernel if gpus(system) else parameters.scaled(kernel, chip, device("wse2"))
    kernel = parameters.kernel("a100", phase)
    if chip == device("a100"):
        return kernel
    note = f"{chip.name} has the shares of its rates, and the launches, that were fitted to the A100"
    return dataclasses.replace(kernel, held_out=None, notes=(*kernel.notes, note))


def held(system: str, chip: Device | Gpu, model: Model) -> tuple[str, ...]:
    """A note if the weights exceed the memory of the GPUs: the published times are of fewer layers, scaled."""
    need, have = 2.0 * model.layer_weights * model.layers, gpus(system) * gpu_of(chip).memory_bytes
    if need <= have:
        return ()
    return (f"the weights of {model.name} are {need / 1e9:.0f} GB, {system} holds {have / 1e9:.0f}: the time is that "
            f"of fewer layers, scaled",)


def terms(system: str, phase: str, chip: Device | Gpu, model: Model, tokens: Any, grid: Any, c: Constants) -> Terms:
    """Cycles of `clock` by kind of a phase: a whole prefill, or one token of decode, over all layers."""
    owner = "a100" if gpus(system) else system
    tokens = np.asarray(tokens, float)[()]  # its square may exceed an int64
    x = {"dim": model.dim, "ffn": model.ffn, "tokens": tokens, "layers": model.layers, "vocab": model.vocab,
         "kv_dim": model.kv_dim, "weights": model.layer_weights * model.layers, "P": grid, "gpus": gpus(system)}
    scale, on = (clock(chip), gpu_of(chip)) if gpus(system) else (model.layers, chip)
    return {kind: value * scale for kind, value in FORMS[f"{owner}_{phase}"](c, x, on).items()}
