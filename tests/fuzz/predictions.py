"""Predictions in the small: finite, above their lower bound, and never less for more work."""

from __future__ import annotations

import math

import numpy as np

import perfmodel as pm
from tests.fuzz import judge

QUICK = 120


def case(number: int, random: np.random.Generator):
    if number == 0:
        return _growing("wse2", "qwen2-72b", 318, 954)
    chips = ("wse2", "wse3")
    chip, size = chips[random.integers(2)], pm.models()[random.integers(len(pm.models()))]
    if number % 2:
        side = int(random.integers(1, pm.device(chip).cols))
        return _product(chip, side, [int(2 ** random.uniform(0, 15)) for _ in range(3)])
    return _growing(chip, size, int(random.integers(50, 740)), int(2 ** random.uniform(0, 13)))


def _growing(chip: str, size: str, grid: int, tokens: int):
    """One token, or one entry of the cache, more."""

    def check() -> str:
        device, model = pm.device(chip), pm.model(size)
        for of, name in ((pm.prefill, "tokens"), (pm.decode, "context")):
            try:
                cycles = [of(device, model, **{name: n}, grid=grid).cycles for n in (tokens, tokens + 1)]
            except pm.ModelError:
                return "refused"
            judge.require(math.isfinite(cycles[1]) and 0 < cycles[0] <= cycles[1], f"{name}: {cycles}")
        return "accepted"

    return f"prefill and decode of {size} on {chip}, grid {grid}, {tokens} tokens", check


def _product(chip: str, side: int, shape: list[int]):
    def check() -> str:
        try:
            found = pm.gemm(pm.device(chip), *shape, grid=side)
            vector = pm.gemv(pm.device(chip), *shape[:2], grid=side)
        except pm.ModelError:
            return "refused"
        for prediction in (found, vector):
            judge.require(math.isfinite(prediction.cycles) and prediction.cycles > 0, f"{prediction}")
            judge.require(prediction.lower_bound <= prediction.cycles * (1 + 1e-9), f"{prediction}")
        return "accepted"

    return f"gemm and gemv {shape} on {chip}, grid {side}", check
