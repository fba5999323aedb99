"""How long a context fits: a byte budget per core.

The layers are shared out over all cores of the wafer, a region of grid^2 cores each: with regions of P^2 on C cores a
core serves ceil(layers P^2 / C) of them. Of each it stores padded tiles of the weights, W_O in both placements (decode
reduces along x what prefill reduces along y), and the two norms; beside them the activations of the layer in work,
15 d + 3 f elements of tiles d = dim / P and f = ffn / P, and `CODE` bytes. Weights may be stored as codes with scales
(`perfmodel.storage`); norms, activations and the cache are fp16. What is left holds keys and values: those of
a token are spread along a row of cores, so a core spends 2 ceil(kv_dim / P) elements on it, and each row holds
``per_row`` tokens. Concatenation fills one row only; the balanced shift fills all of them.

`CODE` is the one number that is fitted, to two published rows: it leaves 8B on 360^2 0.8 % short and 13B on 375^2 1.0 %
long, which is as even as one constant gets (their own would be 5,947 and 6,194 bytes). A minimal kernel takes 4,176
bytes. The published kernels also have two score buffers of as many elements as a row holds tokens; with them the two
rows ask for constants 1,709 bytes apart, so that scores must be kept elsewhere, or in pieces.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from perfmodel.checks import choice, size
from perfmodel.counts import ELEMENT_BYTES, cdiv
from perfmodel.device import Device
from perfmodel.errors import DoesNotFit
from perfmodel.model import Model, as_model
from perfmodel.operators import mesh
from perfmodel.prediction import check_grid, side
from perfmodel.storage import tile_bytes

CACHES = ["shift", "concat"]
#: bytes of code, stack and descriptors on a core, fitted to LLaMA3-8B (shift) and LLaMA2-13B (shift) of table 5
CODE = 6131


@dataclass(frozen=True)
class Capacity:
    """Longest context, and the budget behind it (bytes are per core).

    Attributes:
        tokens: longest context.
        per_row: tokens that one row of cores can hold, before rounding.
        regions: whole regions of the wafer.
        layers_per_region: layers that a core serves.
        weight_bytes: all but the cache: weights of these layers, activations and code.
        token_bytes: keys and values of one token.
        memory_bytes: what a core has.
        storage: how weights are stored.
    """

    tokens: int
    per_row: float
    regions: int
    layers_per_region: int
    weight_bytes: int
    token_bytes: int
    memory_bytes: int
    storage: str = "F16"

    def as_dict(self) -> dict[str, Any]:
        """The capacity in plain numbers, for JSON.

        Returns:
            All fields; the byte budget is its ``terms``.
        """
        found = asdict(self)
        found["terms"] = {key: found[key] for key in ("weight_bytes", "token_bytes", "memory_bytes")}
        return found


def capacity(chip: Device | str, model: Model | str, *, grid: Any, cache: str = "shift",
             regions: int | None = None, storage: str = "F16") -> Capacity:
    """The longest context that the wafer holds.

    Args:
        chip: a mesh device, or its name.
        model: from `perfmodel.model`, or its name.
        grid: cores a side of one region: a number, or a square pair or mesh.
        cache: "shift" (rows balanced) or "concat" (all new tokens on one row).
        regions: regions of the wafer; default: as many as its cores allow.
        storage: how weights are stored, e.g. "F16" or "Q4_0", a key of `perfmodel.storage.TYPES`.

    Returns:
        The longest context and its byte budget.

    Raises:
        UnknownName: no such cache or storage.
        DoesNotFit: the weights alone exceed a core's memory; says what grid, or how many regions, would do.

    >>> capacity("wse2", "llama3-8b", grid=360, cache="concat").tokens
    379
    >>> capacity("wse2", "llama3-8b", grid=360, storage="Q4_0").tokens
    207846
    """
    choice("cache", cache, CACHES)
    chip, model = mesh(chip), as_model(model)
    grid = size("grid", side("grid", grid))
    check_grid(chip, grid, grid)
    if regions is not None:
        regions = size("regions", regions)
        if regions * grid**2 > chip.cores:
            raise DoesNotFit(f"{regions} regions of {grid}^2 have {regions * grid**2} cores; {chip.name} has "
                             f"{chip.cores}, enough for {chip.cores // grid**2}")
    served = int(layers_served(chip, model, grid)) if regions is None else cdiv(model.layers, regions)
    fixed = served * int(weight_bytes(model, grid, storage)) + work_bytes(model, grid)
    if fixed >= chip.memory_per_core:
        raise DoesNotFit(_refusal(chip, model, grid, served, fixed, storage))
    token = served * ELEMENT_BYTES * 2 * cdiv(model.kv_dim, grid)
    per_row = (chip.memory_per_core - fixed) / token
    tokens = int(grid * per_row) if cache == "shift" else int(per_row)
    regions = max(chip.cores // grid**2, 1) if regions is None else regions
    return Capacity(tokens, per_row, regions, served, fixed, token, chip.memory_per_core, storage)


def weight_bytes(model: Model, grid: Any, storage: str = "F16") -> Any:
    """Bytes of the weight tiles of one layer on one core: of F16 2 (3 d q + 2 d kv + 3 d f + 2 d), each side padded.

    Args:
        model: dimensions of the transformer.
        grid: cores a side; a number or an array.
        storage: how they are stored, but for the norms (fp16).

    Returns:
        Bytes per core.

    >>> from perfmodel.model import model
    >>> int(weight_bytes(model("llama3-8b"), 360))  # d = q = 12, kv = 3, f = 40
    3936
    """
    q_dim = model.heads * model.head_dim
    d, f, q, kv = (cdiv(n, grid) for n in (model.dim, model.ffn, q_dim, model.kv_dim))
    of = partial(tile_bytes, storage)
    return (of(model.dim, d, q) + 2 * of(model.dim, d, kv) + 2 * of(q_dim, q, d) + 2 * of(model.dim, d, f)
            + of(model.ffn, f, d) + ELEMENT_BYTES * 2 * d)


def work_bytes(model: Model, grid: Any) -> Any:
    """Bytes of a core's activations and code."""
    return ELEMENT_BYTES * (15 * cdiv(model.dim, grid) + 3 * cdiv(model.ffn, grid)) + CODE


def layers_served(chip: Device, model: Model, grid: Any) -> Any:
    """Layers that a core serves if all are shared out over the wafer."""
    return cdiv(float(model.layers) * np.asarray(grid, float) ** 2, max(chip.cores, 1))


def resident_bytes(chip: Device, model: Model, tokens: Any, grid: Any, storage: str = "F16") -> Any:
    """Bytes per core of the whole model, shared out over the wafer, and of the caches of a context.

    A core holds ceil(tokens / grid) rows of keys and values. Arrays broadcast; in float64, since the product may exceed
    an int64.

    Args:
        chip: a mesh device.
        model: dimensions of the transformer.
        tokens: length of the context.
        grid: cores a side.
        storage: how weights are stored.

    Returns:
        Bytes per core.

    >>> from perfmodel.device import device
    >>> from perfmodel.model import model
    >>> int(resident_bytes(device("wse2"), model("llama3-8b"), 4096, 360))  # 5 layers of 3936 bytes, 12 rows of 12
    27131
    """
    served = np.maximum(layers_served(chip, model, grid), 1)
    token = 2 * ELEMENT_BYTES * cdiv(model.kv_dim, grid)
    rows = cdiv(np.asarray(tokens, float), grid)
    return served * (weight_bytes(model, grid, storage) + token * rows) + work_bytes(model, grid)


def residency(chip: Device, model: Model, tokens: Any, grid: Any) -> tuple[str, ...]:
    """A note if the whole model does not fit, since then, as published, a part of its layers stands for all.

    Args:
        chip: a mesh device.
        model: dimensions of the transformer.
        tokens: length of the context; a number or an array.
        grid: cores a side; a number or an array.

    Returns:
        One note, or none.

    Raises:
        DoesNotFit: the model fits on some grid of the wafer, but on none with so long a context.
    """
    if np.max(resident_bytes(chip, model, tokens, grid)) <= chip.memory_per_core:
        return ()
    sides = np.arange(1, min(chip.rows, chip.cols, math.isqrt(chip.cores)) + 1)
    longest = int(np.max(tokens))
    if (resident_bytes(chip, model, longest, sides) <= chip.memory_per_core).any():
        return (f"all of {model.name} and its cache fit {chip.name} on other grids, not on this: one layer is timed "
                f"and multiplied",)
    contexts = _contexts(chip, model, sides)
    best = int(np.argmax(contexts))
    if contexts[best] > 0:
        raise DoesNotFit(f"no grid of {chip.name} holds {model.name} with {longest} tokens in {chip.memory_per_core} "
                         f"bytes per core; the longest context is {contexts[best]} tokens, on {sides[best]}^2 cores")
    return (f"{model.name} exceeds {chip.name}: one layer is timed and multiplied, as published for models too large",)


def _contexts(chip: Device, model: Model, sides: Any) -> Any:
    """The longest context of every grid, in whole rows; below 1 where the weights alone are too much."""
    each = (chip.memory_per_core - work_bytes(model, sides)) // layers_served(chip, model, sides)
    free = each - weight_bytes(model, sides)
    return (sides * (free // (2 * ELEMENT_BYTES * cdiv(model.kv_dim, sides)))).astype(np.int64)


def _refusal(chip: Device, model: Model, grid: int, served: int, fixed: int, storage: str) -> str:
    """What does not fit, and what would."""
    fitting = (chip.memory_per_core - 1 - work_bytes(model, grid)) // int(weight_bytes(model, grid, storage))
    message = (f"{served} layers of {model.name} in {storage} on {grid}^2 cores need {fixed} bytes per core; "
               f"{chip.name} has {chip.memory_per_core}")
    if fitting > 0:
        message += f"; {cdiv(model.layers, fitting)} regions (of more than one wafer) would do"
    sides = np.arange(grid + 1, min(chip.rows, chip.cols, math.isqrt(chip.cores)) + 1)
    better = sides[resident_bytes(chip, model, 1, sides, storage) < chip.memory_per_core]
    return message + (f"; or a grid of {better[0]}^2" if len(better) else "; no larger grid on one wafer does")
