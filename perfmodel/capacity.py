"""How long a context fits: a byte budget per core.

The wafer is cut into as many regions of grid^2 cores as its cores allow; each holds an equal share of the layers.
A core stores its padded tiles of those layers' weights; what is left holds keys and values. A token's K and V of one
layer are spread along a row of cores, so a core spends 2 ceil(kv_dim / grid) elements on it, and each row holds
``per_row`` tokens. Concatenation fills one row only; the balanced shift fills all of them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perfmodel.checks import choice, size
from perfmodel.counts import ELEMENT_BYTES, cdiv
from perfmodel.device import Device
from perfmodel.errors import DoesNotFit
from perfmodel.model import Model, as_model
from perfmodel.operators import mesh
from perfmodel.prediction import check_grid

CACHES = ["shift", "concat"]


@dataclass(frozen=True)
class Capacity:
    """Longest context, and the budget behind it (bytes are per core).

    Attributes:
        tokens: longest context.
        per_row: tokens that one row of cores can hold, before rounding.
        regions, layers_per_region: how the wafer is shared out.
        weight_bytes, token_bytes: weights of the resident layers; keys and values of one token.
        memory_bytes: what a core has.
    """

    tokens: int
    per_row: float
    regions: int
    layers_per_region: int
    weight_bytes: int
    token_bytes: int
    memory_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; the byte budget is its terms."""
        found = asdict(self)
        found["terms"] = {key: found[key] for key in ("weight_bytes", "token_bytes", "memory_bytes")}
        return found


def capacity(chip: Device | str, model: Model | str, *, grid: int, cache: str = "shift",
             regions: int | None = None) -> Capacity:
    """The longest context that the wafer holds.

    Args:
        chip: a mesh device, or its name.
        model: from `perfmodel.model`, or its name.
        grid: cores a side of one region.
        cache: "shift" (rows balanced) or "concat" (all new tokens on one row).
        regions: regions of the wafer; default: as many as its cores allow.

    Returns:
        The longest context and its byte budget.

    Raises:
        DoesNotFit: the weights alone exceed a core's memory; says what grid, or how many regions, would do.

    >>> import perfmodel as pm
    >>> capacity(pm.device("wse2"), pm.model("llama3-8b"), grid=360, cache="concat").tokens
    382
    """
    choice("cache", cache, CACHES)
    chip, model = mesh(chip), as_model(model)
    grid = size("grid", grid)
    check_grid(chip, grid, grid)
    regions = int(_regions(chip, grid)) if regions is None else size("regions", regions)
    if regions * grid**2 > chip.cores:
        raise DoesNotFit(f"{regions} regions of {grid}^2 have {regions * grid**2} cores; {chip.name} has {chip.cores}, "
                         f"enough for {chip.cores // grid**2}")
    resident = cdiv(model.layers, regions)
    weights = resident * weight_bytes(model, grid)
    if weights >= chip.memory_per_core:
        raise DoesNotFit(_refusal(chip, model, grid, regions, weights))
    token = resident * ELEMENT_BYTES * 2 * cdiv(model.kv_dim, grid)
    per_row = (chip.memory_per_core - weights) / token
    tokens = int(grid * per_row) if cache == "shift" else int(per_row)
    return Capacity(tokens, per_row, regions, resident, weights, token, chip.memory_per_core)


def weight_bytes(model: Model, grid: Any) -> Any:
    """Bytes of the weight tiles of one layer on one core: 2 (2 d q + 2 d kv + 3 d f), each side padded.

    >>> from perfmodel.model import model
    >>> weight_bytes(model("llama3-8b"), 360)
    3600
    """
    d, f, q, kv = (-(-n // grid) for n in (model.dim, model.ffn, model.heads * model.head_dim, model.kv_dim))
    return ELEMENT_BYTES * (2 * d * q + 2 * d * kv + 3 * d * f)


def _regions(chip: Device, grid: Any) -> Any:
    """Regions of grid^2 that the cores of a chip make, at least the one asked for."""
    return np.maximum(chip.cores // np.asarray(grid) ** 2, 1)


def resident_bytes(chip: Device, model: Model, tokens: Any, grid: Any) -> Any:
    """Bytes per core of all layers, shared out over the regions of grid^2 that the wafer has, and of their caches.

    A core holds ceil(tokens / grid) rows of keys and values. Arrays broadcast; in float64, since the product may exceed
    an int64.

    >>> from perfmodel.device import device
    >>> from perfmodel.model import model
    >>> int(resident_bytes(device("wse2"), model("llama3-8b"), 4096, 360))  # 6 layers of 3600 bytes, 12 rows of 12
    22464
    """
    layers = -(-float(model.layers) // _regions(chip, grid))
    tokens = np.asarray(tokens, float)
    token = 2 * ELEMENT_BYTES * -(-model.kv_dim // grid)
    return layers * (weight_bytes(model, grid) + token * -(-tokens // grid))


def residency(chip: Device, model: Model, tokens: Any, grid: Any) -> tuple[str, ...]:
    """A note if the whole model does not fit, since then, as published, a part of its layers stands for all.

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
    layers = -(-model.layers // _regions(chip, sides))
    free = chip.memory_per_core // layers - weight_bytes(model, sides)
    return sides * (free // (2 * ELEMENT_BYTES * -(-model.kv_dim // sides)))


def _refusal(chip: Device, model: Model, grid: int, regions: int, weights: int) -> str:
    """What does not fit, and what would."""
    per_layer = weight_bytes(model, grid)
    fitting = (chip.memory_per_core - 1) // per_layer
    message = (f"{cdiv(model.layers, regions)} layers of {model.name} on {grid}^2 cores need {weights} bytes per core; "
               f"{chip.name} has {chip.memory_per_core}, with {regions} regions of that size")
    if fitting:
        message += f"; {cdiv(model.layers, fitting)} regions (of more than one wafer) would do"
    sides = (g for g in range(grid + 1, min(chip.rows, chip.cols, math.isqrt(chip.cores)) + 1)
             if cdiv(model.layers, chip.cores // g**2) * weight_bytes(model, g) < chip.memory_per_core)
    better = next(sides, None)
    return message + (f"; or a grid of {better}^2" if better else "; no larger grid on one wafer does")
