"""Host time of schedules executed step by step, with what each call does: ``make host-scaling`` fits and draws it.

The benchmark fixture times the call. ``extra_info`` holds what the ledger counts of it: multiply-adds twice (flops),
bytes moved, local products of all cores, steps, hops; `python -m perfmodel fit FILE` finds this machine's cost of each.
"""

from __future__ import annotations

import numpy as np
import pytest

import meshkernels as mk
from bench.measure import pinned

SIDES = (4, 8, 16, 32, 64)
SIZES = (128, 256, 512, 1024)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", ["meshgemm", "summa", "cannon"])
@pytest.mark.benchmark(group="Host scaling, step by step", min_rounds=5, max_time=0.3, warmup=True, warmup_iterations=1)
def test_host_scaling(benchmark, algorithm, n, side):
    mesh, random = mk.Mesh(side), np.random.default_rng(n + side)
    A, B = (random.standard_normal((n, n), np.float32) for _ in "AB")
    ledger = mk.count(mk.schedule(algorithm, mesh, n, n, n), np.float32)
    benchmark.extra_info.update(
        what=f"{algorithm} {n}^3 on {side}x{side}, step by step", algorithm=algorithm, n=n, side=side,
        flops=2 * n**3, bytes=ledger.bytes, products=side**3, steps=ledger.steps, hops=ledger.critical_hops)
    with pinned(1):
        benchmark(mk.gemm, A, B, mesh, algorithm=algorithm, method="lockstep")
