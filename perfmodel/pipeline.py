"""A model shared out over regions of a wafer: which layers lie where, and the time of one sequence or of several.

A chip with 48 KB a core holds no whole model on the grid that decodes it fastest. Its layers lie on regions of P x P
cores each, in a snake over the fabric, and a token passes through them in turn: its activations are handed over from
region to region, its id back to the first. One sequence keeps one region busy at a time; N of them overlap.

Regions are rectangles of the fabric; `perfmodel.capacity` divides by area, as the published table does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from perfmodel import counts_llm, llm
from perfmodel.capacity import weight_bytes, work_bytes
from perfmodel.checks import choice, size
from perfmodel.counts import ELEMENT_BYTES, cdiv
from perfmodel.device import Device
from perfmodel.errors import DoesNotFit
from perfmodel.model import Model, as_model
from perfmodel.operators import mesh
from perfmodel.prediction import LEVEL, check_grid, side
from perfmodel.storage import tile_bytes
from perfmodel.terms import words_cycles


@dataclass(frozen=True)
class Pipeline:
    """A model on regions of a wafer, and how fast it is.

    Attributes:
        layers: how many each region holds, in the order in which a token passes through them.
        origins: (row, column) of each region's first core.
        bytes_per_core: weights, cache, activations and code on a core of the last region, which is the fullest: none
            has more layers, and it has the head; the first has the embedding, a table of the same size.
        memory_per_core: what a core has.
        batch: sequences that are in flight.
        hops: of a token's hand-overs between regions, the way back of its id included.
        cycles: of one token through all regions; of "prefill" of the prompt.
        interval: cycles between which a measurement of ``cycles`` lies with a probability of 90 %; hand-overs as given.
        slowest: cycles that the region with most layers is busy with it.
        seconds: in which every sequence gets one token, or its prompt.
        tokens_per_s: of all sequences together.
        notes: what the reader must know.
    """

    layers: tuple[int, ...]
    origins: tuple[tuple[int, int], ...]
    bytes_per_core: int
    memory_per_core: int
    batch: int
    hops: int
    cycles: float
    interval: tuple[float, float]
    slowest: float
    seconds: float
    tokens_per_s: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The pipeline in plain numbers, for JSON.

        Returns:
            All fields.
        """
        low, high = self.interval
        return asdict(self) | {key: list(getattr(self, key)) for key in ("layers", "origins", "notes")} | {
            "interval": {"level": LEVEL, "low": low, "high": high}}


def pipeline(chip: Device | str, model: Model | str, *, phase: str = "decode", tokens: int, grid: Any, batch: int = 1,
             regions: int | None = None, storage: str = "F16", plan: str = "paper") -> Pipeline:
    """Share a model out over a wafer and predict how fast it is.

    Layers take the time that `perfmodel.decode` or `perfmodel.prefill` gives them, hand-overs alpha a hop, beta and the
    words that pass a link. N sequences take turns: all get a token in the time of one, or of N in the slowest region.

    Args:
        chip: a mesh device, or its name.
        model: from `perfmodel.model`, or its name.
        phase: "decode" or "prefill".
        tokens: in the cache of each sequence, or in its prompt.
        grid: cores a side of a region: a number, or a square pair or mesh.
        batch: sequences.
        regions: how many; default: as many as lie on the fabric, at most one a layer.
        storage: how weights are stored, a key of `perfmodel.storage.TYPES`.
        plan: "paper" or "fused".

    Returns:
        The regions, and the predicted time.

    Raises:
        DoesNotFit: too many regions, or too little memory; says what there is and what would do.
        ModelError: a size or name that is none.

    >>> p = pipeline("wse2", "llama3-8b", tokens=4096, grid=360, storage="Q4_0", batch=4)
    >>> p.layers, p.hops, p.bytes_per_core < 49152
    ((8, 8, 8, 8), 1440, True)
    """
    choice("phase", phase, ("decode", "prefill"))
    chip, model = mesh(chip), as_model(model)
    tokens, batch = size("tokens", tokens), size("batch", batch)
    grid = size("grid", side("grid", grid))
    check_grid(chip, grid, grid)
    there = fitting(chip, grid)
    regions = min(there, model.layers) if regions is None else size("regions", regions)
    if regions > min(there, model.layers):
        raise DoesNotFit(f"{regions} regions of {grid}^2 cores for {model.layers} layers: {chip.name} has room for "
                         f"{there}, and a region holds a layer at least")
    layers = share(model.layers, regions)
    held = int(_held(model, regions, grid, tokens, batch, storage))
    if held > chip.memory_per_core:
        raise DoesNotFit(_refusal(chip, model, grid, layers, held, tokens, batch, storage))
    if phase == "decode":
        time = llm.decode(chip, model, context=tokens, grid=grid, plan=plan)
    else:
        time = llm.prefill(chip, model, tokens=tokens, grid=grid, plan=plan)
    places = [place(chip, grid, number) for number in range(regions)]
    crossing = cdiv(model.dim, grid) * (1 if phase == "decode" else grid * cdiv(tokens, grid))  # elements on a link
    hops = [counts_llm.hand_over(model, phase, tokens, grid, grid, *_way(a, b, grid))[1] for a, b in pairwise(places)]
    one = max(hops, default=0) * chip.alpha + chip.beta + float(words_cycles(chip, crossing))
    between = len(hops) * one
    if hops and phase == "decode":
        hops.append(counts_llm.way_back(grid, grid, *_way(places[-1], places[0], grid))[1])
        between += hops[-1] * chip.alpha + chip.beta
    cycles, low, high = (float(part) + between for part in (time.cycles, *time.interval))
    slowest = float(time.cycles) * max(layers) / model.layers + one * (regions > 1)
    seconds = max(cycles, batch * slowest) / chip.clock_hz
    notes = (*time.notes, *(("hand-overs between regions are charged alpha a hop, beta and a link's words: no wafer's "
                             "were measured",) if regions > 1 else ()))
    each = 1 if phase == "decode" else tokens
    return Pipeline(layers, tuple(places), held, chip.memory_per_core, batch,
                    sum(hops), cycles, (low, high), slowest, seconds, batch * each / seconds, notes)


def fitting(chip: Device, rows: int, cols: int | None = None) -> int:
    """How many regions of rows x cols cores lie side by side on the fabric."""
    return (chip.rows // rows) * (chip.cols // (cols or rows))


def place(chip: Device, side: int, number: int) -> tuple[int, int]:
    """(row, column) of the first core of a region: they form a snake, so that each touches the next."""
    across = chip.cols // side
    down, along = divmod(number, across)
    return down * side, (across - 1 - along if down % 2 else along) * side


def _way(a: tuple[int, int], b: tuple[int, int], side: int) -> tuple[int, int]:
    """Regions down and along from one first core to another."""
    return (b[0] - a[0]) // side, (b[1] - a[1]) // side


def share(layers: int, regions: int) -> tuple[int, ...]:
    """How many consecutive layers each region holds: region r those from r layers // regions on.

    Args:
        layers: of the model.
        regions: that share them.

    Returns:
        The number of each.

    >>> share(32, 5)
    (6, 6, 7, 6, 7)
    """
    first = [number * layers // regions for number in range(regions + 1)]
    return tuple(b - a for a, b in pairwise(first))


def _held(model: Model, regions: Any, grid: Any, tokens: int, batch: int, storage: str) -> Any:
    """Bytes on a core of the last of so many regions; each sequence's keys and values lie in whole rows."""
    entries = batch * cdiv(tokens, grid)
    cache = ELEMENT_BYTES * 2 * cdiv(model.kv_dim, grid) * entries
    table = tile_bytes(storage, model.dim, cdiv(model.dim, grid), cdiv(model.vocab, grid))
    tables = table * (1 + (np.asarray(regions) == 1))  # a single region is the first, too
    return cdiv(model.layers, regions) * (weight_bytes(model, grid, storage) + cache) + work_bytes(model, grid) + tables


def _refusal(chip: Device, model: Model, grid: int, layers: tuple[int, ...], held: int, tokens: int, batch: int,
             storage: str) -> str:
    """What does not fit, and what would."""
    sides = np.arange(1, min(chip.rows, chip.cols) + 1)
    there = np.minimum((chip.rows // sides) * (chip.cols // sides), model.layers)
    fits = sides[_held(model, there, sides, tokens, batch, storage) <= chip.memory_per_core]
    needed = (f"{batch} x {tokens} tokens by {model.name} in {storage} on {len(layers)} regions of {grid}^2 cores: "
              f"{max(layers)} of {model.layers} layers and the head need {held} bytes per core; {chip.name} has "
              f"{chip.memory_per_core}")
    if not len(fits):
        return f"{needed}; regions of no other size do"
    best = int(fits[np.abs(fits - grid).argmin()])
    return f"{needed}; {min(fitting(chip, best), model.layers)} regions of {best}^2 would do"
