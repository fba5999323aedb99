"""Host time of a simulated product against the number of cores and against n, beside what it is compared with."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np

import meshkernels as mk
from bench import peers
from bench.measure import pinned, seconds

N, SIDES = 2880, (16, 32, 48, 96, 144, 240, 360, 720)
SIDE, SIZES = 64, (256, 512, 1024, 2048, 4096, 8192)
THREADS, PATIENCE = 1, 40.0  # a peer that took longer than this is not asked for the next, longer point


def curves(n: int, side: int, tired: set[str]) -> dict[str, float]:
    """Median seconds of each contender, measured in turn; ``tired`` collects those that took too long."""
    A, B = (np.random.default_rng(seed).standard_normal((n, n), np.float32) for seed in (0, 1))
    mesh = mk.Mesh(side)
    contenders: dict[str, Callable[[], object]] = {
        "meshkernels": lambda: mk.gemm(A, B, mesh), "np.matmul": lambda: A @ B,
        "batched np.matmul": lambda: peers.batched_cannon(A, B, side),
        "np.roll Cannon": lambda: peers.roll_cannon(A, B, side),
    }  # fmt: skip
    found: dict[str, list[float]] = {}
    with pinned(THREADS):
        for _ in range(5):
            for name, call in contenders.items():
                if name not in tired and sum(found.get(name, [])) < PATIENCE / 2:
                    found.setdefault(name, []).append(seconds(call))
    tired |= {name for name, times in found.items() if min(times) > PATIENCE / 4}
    return {name: statistics.median(times) for name, times in found.items()}


def measure_all() -> dict[str, object]:
    """Both sweeps: ``cores`` (n fixed) and ``sizes`` (grid fixed)."""
    mk.gemm(np.ones((64, 64), np.float32), np.ones((64, 64), np.float32), mk.Mesh(4))  # compile
    cores, sizes = [], []
    tired: set[str] = set()
    for side in SIDES:
        cores.append({"side": side, "n": N, "seconds": curves(N, side, tired)})
        print(cores[-1], flush=True)
    tired = set()
    for n in SIZES:
        sizes.append({"side": SIDE, "n": n, "seconds": curves(n, SIDE, tired)})
        print(sizes[-1], flush=True)
    return {"threads": THREADS, "cores": cores, "sizes": sizes}
