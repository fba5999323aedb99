"""Host time of schedules executed step by step, with what each call does: ``make host-scaling`` fits and draws it.

The benchmark fixture times the call; ``extra_info`` holds what the ledger counts of it (`bench.measure.counted`).
"""

from __future__ import annotations

import numpy as np
import pytest

import meshkernels as mk
from bench.measure import counted, pinned

SIDES = (4, 8, 16, 32, 64)
SIZES = (128, 256, 512, 1024)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", ["meshgemm", "summa", "cannon"])
@pytest.mark.benchmark(group="Host scaling, step by step", min_rounds=5, max_time=0.3, warmup=True, warmup_iterations=1)
def test_host_scaling(benchmark, algorithm, n, side):
    mesh, random = mk.Mesh(side), np.random.default_rng(n + side)
    A, B = (random.standard_normal((n, n), np.float32) for _ in "AB")
    benchmark.extra_info.update(
        what=f"{algorithm} {n}^3 on {side}x{side}, step by step", algorithm=algorithm, n=n, side=side,
        **counted(mk.schedule(algorithm, mesh, n, n, n)))
    with pinned(1):
        benchmark(mk.gemm, A, B, mesh, algorithm=algorithm, method="lockstep")
