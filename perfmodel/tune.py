"""The offline autotuner: the best grid or number of groups, from the model instead of from hours of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfmodel import llm, operators
from perfmodel.checks import choice, size, sizes
from perfmodel.device import Device
from perfmodel.errors import DoesNotFit, ModelError, shown
from perfmodel.model import Model, as_model
from perfmodel.operators import mesh
from perfmodel.prediction import Prediction
from perfmodel.values import ByValue

PHASES = ["prefill", "decode"]


@dataclass(frozen=True, eq=False)
class Choice(ByValue):
    """The best setting, its time, everything it was chosen from, and the notes of the prediction that chose.

    Attributes:
        value: the best setting: cores a side, or groups.
        cycles: its time, in cycles.
        candidates: ``(n,)`` settings that it was chosen from.
        all_cycles: ``(n,)`` cycles of each candidate.
        notes: of the prediction that chose.
    """

    value: int
    cycles: float
    candidates: np.ndarray = field(repr=False)
    all_cycles: np.ndarray = field(repr=False)
    notes: tuple[str, ...]


def _choose(candidates: np.ndarray, predict: Callable[[Any], Prediction]) -> Choice:
    """The candidate of the fewest cycles, the smallest of several, with the notes on its own prediction."""
    cycles = np.broadcast_to(predict(candidates).cycles, candidates.shape)
    at = int(np.argmin(cycles))
    value = int(candidates[at])
    return Choice(value, float(cycles[at]), candidates, cycles, predict(value).notes)


def best_grid(chip: Device | str, model: Model | str, *, phase: str, tokens: int,
              grids: Iterable[int] | None = None, plan: str = "paper") -> Choice:
    """The fastest square grid for a phase of inference.

    Args:
        chip: a mesh device, or its name.
        model: from `perfmodel.model`, or its name.
        phase: "prefill" (of ``tokens``) or "decode" (with ``tokens`` in the cache).
        tokens: length of the prompt, or tokens in the cache.
        grids: sides to choose from; default: every multiple of 12 (so that groups divide it) on the device.
        plan: "paper" or "fused".

    Returns:
        The fastest side, and everything it was chosen from.

    Raises:
        DoesNotFit: no candidate holds a layer.
        ModelError: a candidate larger than the device; a size or name that is none.

    >>> import perfmodel as pm
    >>> best_grid(pm.device("wse2"), pm.model("llama3-8b"), phase="decode", tokens=4096).value < 420
    True
    """
    choice("phase", phase, PHASES)
    chip, model = mesh(chip), as_model(model)
    tokens, sides = size("tokens", tokens), _sides(chip, grids, 12)
    fits = llm.working_bytes(model, phase, tokens, sides) <= chip.memory_per_core
    if not fits.any():
        raise DoesNotFit(f"no grid up to {sides[-1]}^2 holds a layer of {model.name} in {chip.memory_per_core} bytes")
    return _choose(sides[fits], lambda grid: _phase(chip, model, phase, tokens, grid, plan))


def _sides(chip: Device, grids: Iterable[int] | None, step: int) -> np.ndarray:
    """The sides to choose from, ascending; by default every multiple of ``step`` on the device."""
    largest = min(chip.rows, chip.cols)
    if grids is None:
        grids = range(min(step, largest), largest + 1, step)
    sides = np.unique(sizes(grids=list(grids) if isinstance(grids, Iterable) else grids)[0])
    if sides[-1] > largest:
        raise ModelError(f"grids = {shown(sides.tolist())} must lie between 1 and {largest}, the side of {chip.name}")
    return sides


def _phase(chip: Device, model: Model, phase: str, tokens: int, grid: Any, plan: str) -> Prediction:
    if phase == "prefill":
        return llm.prefill(chip, model, tokens=tokens, grid=grid, plan=plan)
    return llm.decode(chip, model, context=tokens, grid=grid, plan=plan)


def best_groups(chip: Device | str, cores: int, *, words: int = 1) -> Choice:
    """The fastest number of groups of the two-phase tree on a line of cores.

    Args:
        chip: a mesh device, or its name.
        cores: cores of the line.
        words: elements of the vector that is summed.

    Returns:
        The fastest number of groups, and everything it was chosen from.

    Raises:
        DoesNotFit: the line is longer than the device.

    >>> import perfmodel as pm
    >>> 20 <= best_groups(pm.device("wse3"), 720).value <= 60
    True
    """
    chip, cores, words = mesh(chip), size("cores", cores), size("words", words)
    operators.check_line(chip, cores)
    return _choose(np.arange(1, cores + 1), lambda groups: operators.allreduce(chip, words, cores=cores, groups=groups))


def best_gemv(chip: Device | str, M: int, N: int, *, grids: Iterable[int] | None = None) -> Choice:
    """The fastest square grid for a GEMV among those on which its tiles fit.

    Args:
        chip: a mesh device, or its name.
        M: elements of x, rows of the matrix.
        N: elements of y, columns of the matrix.
        grids: sides to choose from; default: every multiple of 30 on the device.

    Returns:
        The fastest side, and everything it was chosen from.

    Raises:
        DoesNotFit: no candidate holds the matrix.
        ModelError: a candidate larger than the device; a size that is none.

    >>> import perfmodel as pm
    >>> best_gemv("wse2", 32768, 32768, grids=[600, 720]).value
    720
    """
    chip, M, N = mesh(chip), size("M", M), size("N", N)
    sides = _sides(chip, grids, 30)
    sides = sides[operators.gemv_bytes(M, N, sides, sides) <= chip.memory_per_core]
    if sides.size == 0:
        raise DoesNotFit(f"no square grid of {chip.name} holds a {M} x {N} matrix")
    return _choose(sides, lambda grid: operators.gemv(chip, M, N, grid=grid))
