"""Products on ranks of MPI and on devices of JAX against what people write there, on the same ranks and devices.

Each measures in processes of its own: what mpiexec starts, or a Python whose CPU is as many devices.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MPIEXEC = next((str(path) for path in [Path(sys.executable).parent / "mpiexec"] if path.exists()), shutil.which("mpiexec"))


def lines(command: list[str], **more: str) -> list[dict]:
    """The JSON objects that a process prints, one a line."""
    environment = os.environ | {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def report(benchmark, info: dict) -> None:
    """The figures are in the extra info; there is nothing left to time."""
    benchmark.extra_info.update(info)
    benchmark.pedantic(lambda: None)


def best_peer(found: list[dict], method: str) -> dict:
    """The row against the fastest of the peers."""
    rows = [row for row in found if row["what"].endswith(method)]
    return min(rows, key=lambda row: row["peer_ms"])


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None or MPIEXEC is None, reason="meshkernels[mpi]")
@pytest.mark.parametrize("method", ["fused", "lockstep"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.benchmark(group="MeshGEMM on ranks of MPI, float32, one thread a rank")
def test_ranks(benchmark, ranks, method):
    found = lines([MPIEXEC, "-n", str(ranks), sys.executable, "-m", "bench.on_ranks", "2048", "11"])
    report(benchmark, best_peer(found, method))


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="meshkernels[jax]")
@pytest.mark.parametrize("algorithm", ["meshgemm", "summa"])
@pytest.mark.benchmark(group="Products on 4 emulated devices of JAX, float32")
def test_devices(benchmark, algorithm):
    (found,) = lines([sys.executable, "-m", "bench.on_jax", "2048", algorithm, "11"], JAX_PLATFORMS="cpu",
                     XLA_FLAGS="--xla_force_host_platform_device_count=4")  # fmt: skip
    report(benchmark, found)
