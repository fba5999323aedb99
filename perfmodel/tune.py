"""The offline autotuner: the best grid or number of groups, from the model instead of from hours of runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel import llm, operators
from perfmodel.device import Device
from perfmodel.errors import DoesNotFit, ModelError, unknown
from perfmodel.model import Model
from perfmodel.prediction import Prediction

PHASES = ["prefill", "decode"]


@dataclass(frozen=True)
class Choice:
    """The best setting, its time, and everything it was chosen from."""

    value: int
    cycles: float
    candidates: np.ndarray
    all_cycles: np.ndarray


def _choose(candidates: np.ndarray, cycles: Any) -> Choice:
    """The candidate of the fewest cycles; the smallest of several."""
    cycles = np.broadcast_to(cycles, candidates.shape)
    at = int(np.argmin(cycles))
    return Choice(int(candidates[at]), float(cycles[at]), candidates, cycles)


def best_grid(chip: Device, model: Model, *, phase: str, tokens: int, grids: Iterable[int] | None = None) -> Choice:
    """The fastest square grid for a phase of inference.

    Args:
        phase: "prefill" (of ``tokens``) or "decode" (with ``tokens`` in the cache).
        grids: sides to choose from; default: every multiple of 12 (so that groups divide it) on the device.

    Raises:
        DoesNotFit: no candidate holds a layer.

    >>> import perfmodel as pm
    >>> best_grid(pm.device("wse2"), pm.model("llama3-8b"), phase="decode", tokens=4096).value < 420
    True
    """
    if phase not in PHASES:
        raise unknown("phase", phase, PHASES)
    largest = min(chip.rows, chip.cols)
    sides = np.array(sorted(set(range(12, largest + 1, 12) if grids is None else grids)), dtype=np.int64)
    if sides.size == 0 or sides[0] < 1 or sides[-1] > largest:
        raise ModelError(f"grids = {sides.tolist()} must lie between 1 and {largest}, the side of {chip.name}")
    fits = llm.layer_bytes(model, tokens if phase == "prefill" else 0, sides) <= chip.memory_per_core
    if not fits.any():
        raise DoesNotFit(f"no grid up to {sides[-1]}^2 holds a layer of {model.name} in {chip.memory_per_core} bytes")
    sides = sides[fits]
    return _choose(sides, _phase(chip, model, phase, tokens, sides).cycles)


def _phase(chip: Device, model: Model, phase: str, tokens: int, grid: Any) -> Prediction:
    if phase == "prefill":
        return llm.prefill(chip, model, tokens=tokens, grid=grid)
    return llm.decode(chip, model, context=tokens, grid=grid)


def best_groups(chip: Device, cores: int, *, words: int = 1) -> Choice:
    """The fastest number of groups of the two-phase tree on a line of cores.

    >>> import perfmodel as pm
    >>> 20 <= best_groups(pm.device("wse3"), 720).value <= 60
    True
    """
    groups = np.arange(1, cores + 1)
    return _choose(groups, operators.allreduce(chip, words, cores=cores, groups=groups).cycles)


def best_gemv(chip: Device, M: int, N: int) -> Choice:
    """The fastest square grid for a GEMV, among multiples of 30 on which its tiles fit."""
    sides = np.arange(30, min(chip.rows, chip.cols) + 1, 30)
    m, n = -(-M // sides), -(-N // sides)
    sides = sides[2 * (m + m * n + 2 * n) <= chip.memory_per_core]
    if sides.size == 0:
        raise DoesNotFit(f"no square grid of {chip.name} holds a {M} x {N} matrix")
    return _choose(sides, operators.gemv(chip, M, N, grid=sides).cycles)
