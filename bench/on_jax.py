"""A schedule on emulated devices and `jnp.matmul` under automatic sharding on the same ones, in turn.

``python -m bench.on_jax N ALGORITHM ROUNDS``, with as many devices as XLA_FLAGS makes.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import meshkernels as mk


def main(n: int, algorithm: str, rounds: int) -> None:
    count = len(jax.devices())
    rows = max(r for r in range(1, count + 1) if count % r == 0 and r * r <= count)
    grid = mk.Mesh(rows, count // rows)
    devices = jax.make_mesh(grid.shape, ("y", "x"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = jax.NamedSharding(devices, jax.sharding.PartitionSpec("y", "x"))
    rng = np.random.default_rng(n)
    A, B = (jax.device_put(rng.standard_normal((n, n), np.float32), sharding) for _ in range(2))
    ours = mk.to_jax(mk.schedule(algorithm, grid, n, n, n), devices)
    peer = jax.jit(jnp.matmul, out_shardings=sharding)
    times: tuple[list[float], list[float]] = ([], [])
    for each in range(rounds + 1):
        for call, measured in zip((ours, peer), times):
            begin = time.perf_counter()
            call(A, B).block_until_ready()
            if each:
                measured.append(time.perf_counter() - begin)
    mine, theirs = times
    low, ratio, high = statistics.quantiles([p / o for o, p in zip(mine, theirs)], n=4)
    print(json.dumps({
        "what": f"{algorithm}, {n}^3 on {grid.rows}x{grid.cols} devices", "threads": count,
        "ours_ms": 1e3 * statistics.median(mine), "peer_ms": 1e3 * statistics.median(theirs), "ratio": ratio,
        "ratio_low": low, "ratio_high": high, "rounds": rounds, "target": None,
        "peer": "jnp.matmul, automatic sharding",
    }))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
