"""How long a context fits: a byte budget per core.

The wafer is cut into as many regions of grid^2 cores as its cores allow; each holds an equal share of the layers.
A core stores its padded tiles of those layers' weights; what is left holds keys and values. A token's K and V of one
layer are spread along a row of cores, so a core spends 2 ceil(kv_dim / grid) elements on it, and each row holds
``per_row`` tokens. Concatenation fills one row only; the balanced shift fills all of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from perfmodel.counts import ELEMENT_BYTES, cdiv, check_sizes
from perfmodel.device import Device
from perfmodel.errors import DoesNotFit, unknown
from perfmodel.model import Model
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


def capacity(chip: Device, model: Model, *, grid: int, cache: str = "shift", regions: int | None = None) -> Capacity:
    """The longest context that the wafer holds.

    Args:
        grid: cores a side of one region.
        cache: "shift" (rows balanced) or "concat" (all new tokens on one row).
        regions: regions of the wafer; default: as many as its cores allow.

    Raises:
        DoesNotFit: the weights alone exceed a core's memory; says what grid, or how many regions, would do.

    >>> import perfmodel as pm
    >>> capacity(pm.device("wse2"), pm.model("llama3-8b"), grid=360, cache="concat").tokens
    382
    """
    if cache not in CACHES:
        raise unknown("cache", cache, CACHES)
    check_sizes(grid=grid, **({} if regions is None else {"regions": regions}))
    check_grid(mesh(chip), grid, grid)
    regions = chip.cores // grid**2 if regions is None else regions
    resident = cdiv(model.layers, regions)
    weights = resident * layer_bytes(model, grid)
    if weights >= chip.memory_per_core:
        raise DoesNotFit(_refusal(chip, model, grid, regions, weights))
    token = resident * ELEMENT_BYTES * 2 * cdiv(model.kv_dim, grid)
    per_row = (chip.memory_per_core - weights) / token
    tokens = int(grid * per_row) if cache == "shift" else int(per_row)
    return Capacity(tokens, per_row, regions, resident, weights, token, chip.memory_per_core)


def layer_bytes(model: Model, grid: int) -> int:
    """Bytes of the weight tiles of one layer on one core: 2 (2 d q + 2 d kv + 3 d f), each side padded.

    >>> from perfmodel.model import model
    >>> layer_bytes(model("llama3-8b"), 360)
    3600
    """
    d, f = cdiv(model.dim, grid), cdiv(model.ffn, grid)
    q, kv = cdiv(model.heads * model.head_dim, grid), cdiv(model.kv_dim, grid)
    return ELEMENT_BYTES * (2 * d * q + 2 * d * kv + 3 * d * f)


def _refusal(chip: Device, model: Model, grid: int, regions: int, weights: int) -> str:
    """What does not fit, and what would."""
    per_layer = layer_bytes(model, grid)
    fitting = (chip.memory_per_core - 1) // per_layer
    message = (f"{cdiv(model.layers, regions)} layers of {model.name} on {grid}^2 cores need {weights} bytes per core; "
               f"{chip.name} has {chip.memory_per_core}, with {regions} regions of that size")
    if fitting:
        message += f"; {cdiv(model.layers, fitting)} regions (of more than one wafer) would do"
    sides = (g for g in range(grid + 1, min(chip.rows, chip.cols) + 1)
             if cdiv(model.layers, chip.cores // g**2) * layer_bytes(model, g) < chip.memory_per_core)
    better = next(sides, None)
    return message + (f"; or a grid of {better}^2" if better else "; no larger grid on one wafer does")
