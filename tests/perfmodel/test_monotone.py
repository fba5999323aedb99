"""More work never takes less time, and no time lies below its lower bound: over models, devices, grids and systems."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import perfmodel as pm
from perfmodel import counts
from perfmodel.device import RULES

CHIPS = ("wse2", "wse3", "dojo", "blackhole", "wormhole")


def rises(prediction, points) -> None:
    cycles = np.broadcast_to(np.asarray(prediction.cycles, float), points.shape)
    assert np.isfinite(cycles).all()
    assert (np.diff(cycles) >= -1e-9 * cycles[:-1]).all(), points[np.argmin(np.diff(cycles))]
    assert (cycles >= (1 - 1e-9) * prediction.lower_bound).all()


def longest(predict) -> int:
    """The largest size that is not refused, by bisection."""
    low, high = 0, 1 << 22
    while low + 1 < high:
        middle = (low + high) // 2
        try:
            predict(middle)
            low = middle
        except pm.DoesNotFit:
            high = middle
    return low


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("system", ["waferllm", "t10", "ladder"])
def test_inference_rises_with_tokens(name, system):
    chip = pm.device(name)
    side, rng = min(chip.rows, chip.cols), np.random.default_rng(5)
    for model in map(pm.model, pm.models()):
        for grid in {side, int(rng.integers(1, side + 1)), int(rng.integers(1, side + 1)), min(318, side)}:
            for predict in (lambda t, m=model, g=grid: pm.prefill(chip, m, tokens=t, grid=g, system=system),
                            lambda t, m=model, g=grid: pm.decode(chip, m, context=t, grid=g, system=system)):
                if most := longest(predict):
                    tokens = np.unique(np.concatenate([np.arange(1, min(most, 3000) + 1),
                                                       np.linspace(1, most, 1000).astype(int)]))
                    rises(predict(tokens), tokens)


def test_a_longer_prompt_takes_no_less_and_a_published_one_what_it_took():
    """954 tokens on 318 cores are tiles of 3, whose columns lie across 64-bit words; 955 are tiles of 4."""
    chip, model = pm.device("wse2"), pm.model("qwen2-72b")
    odd, even = (pm.prefill(chip, model, tokens=t, grid=318).cycles for t in (954, 955))
    assert odd == even
    measured = pm.measurements("wse3_meshgemm")
    at = [np.flatnonzero((measured.columns["P"] == 656) & (measured.labels["tile"] == tile))[0]
          for tile in ("3x1x8", "8x1x8")]
    assert measured.measured[at[0]] > measured.measured[at[1]]  # the hardware has the step
    found = pm.gemm(pm.device("wse3"), 3 * 656, 656, 8 * 656, grid=656).cycles  # and the prediction of that row too
    assert abs(found / measured.measured[at[0]] - 1) < 0.03


@pytest.mark.parametrize("seed", range(60))
def test_products_rise_with_every_side_on_any_device(seed):
    """Devices of random rates, rectangles, all algorithms; what a data sheet contradicts is raised to its bound."""
    rng = np.random.default_rng(seed)
    chip = pm.device(str(rng.choice(CHIPS)))
    if seed % 2:
        fields = ("memory_per_core", "clock_hz", "alpha", "beta", "ramp", "link_words_per_cycle", "macs_per_cycle")
        drawn = {f: float(np.exp(rng.uniform(np.log(max(RULES[f][1], 1e-3)), np.log(RULES[f][2])))) for f in fields}
        drawn["memory_per_core"] = int(drawn["memory_per_core"])
        chip = dataclasses.replace(pm.device("wse2"), name="drawn", **drawn)
    grid = int(rng.integers(1, chip.rows + 1)), int(rng.integers(1, chip.cols + 1))
    if rng.random() < 0.5:
        grid = (min(grid),) * 2
    base, axis = np.exp(rng.uniform(0, 9, 3)).astype(int).tolist(), int(rng.integers(3))
    algorithm = str(rng.choice(counts.GEMMS))

    def gemm(v):
        return pm.gemm(chip, *(v if i == axis else base[i] for i in range(3)), grid=grid, algorithm=algorithm)

    def gemv(v):
        return pm.gemv(chip, v, base[1], grid=grid, groups=1)

    for predict in (gemm, gemv):
        if most := longest(predict):
            sizes = np.unique(np.concatenate([np.arange(1, min(most, 300) + 1), np.linspace(1, most, 200).astype(int)]))
            if predict is gemm and axis == 0:  # tiles of 4 i + 3 rows are slower than tiles of 4 i + 4
                sizes = sizes[-(-sizes // grid[0]) % 4 != 3]
            rises(predict(sizes), sizes)
