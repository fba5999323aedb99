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
from functools import cache
from pathlib import Path

import pytest

from bench import scalapack
from bench.measure import quick

large = pytest.mark.large

ROOT = Path(__file__).parents[1]
BESIDE = Path(sys.executable).parent / "mpiexec"  # of the mpich wheel
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec") or ""


def lines(command: list[str], **more: str) -> list[dict]:
    """The JSON objects that a process prints, one a line."""
    environment = os.environ | {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def report(benchmark, info: dict) -> None:
    """The figures are in the extra info; there is nothing left to time."""
    benchmark.extra_info.update(info)
    benchmark.pedantic(lambda: None)


def row(found: list[dict], method: str, peer: str) -> dict:
    """The row against a peer, or against the fastest of those whose name begins so."""
    rows = [row for row in found if row["what"].endswith(method) and row["peer"].startswith(peer)]
    return min(rows, key=lambda row: row["peer_ms"])


needs_mpi = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None or not MPIEXEC, reason="meshkernels[mpi]")


@needs_mpi
@pytest.mark.parametrize("method", ["fused", "lockstep"])
@pytest.mark.parametrize("peer", ["mpi4py", "one process"])
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=large), 2, pytest.param(4, marks=large)])
@pytest.mark.benchmark(group="MeshGEMM on ranks of MPI, float32, one thread a rank")
def test_ranks(benchmark, ranks, peer, method):
    report(benchmark, row(measured(ranks), method, peer))


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.benchmark(group="MeshGEMM on ranks of MPI, float32, one thread a rank")
def test_ranks_against_scalapack(benchmark, ranks, tmp_path):
    found = scalapack.system_mpi(tmp_path)
    if found is None:
        pytest.skip("apt install libscalapack-mpich-dev mpich libopenblas-dev")
    launcher, variables = found
    command = [launcher, "-n", str(ranks), sys.executable, "-m", "bench.on_ranks", "2048", "15", "scalapack"]
    report(benchmark, row(lines(command, **variables), "fused", "ScaLAPACK"))


@cache
def measured(ranks: int) -> list[dict]:
    return lines([MPIEXEC, "-n", str(ranks), sys.executable, "-m", "bench.on_ranks", "2048", "5" if quick() else "15"])


@large
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="meshkernels[jax]")
@pytest.mark.parametrize("algorithm", ["meshgemm", "summa"])
@pytest.mark.benchmark(group="Products on 4 emulated devices of JAX, float32")
def test_devices(benchmark, algorithm):
    (found,) = lines([sys.executable, "-m", "bench.on_jax", "2048", algorithm, "11"], JAX_PLATFORMS="cpu",
                     XLA_FLAGS="--xla_force_host_platform_device_count=4")  # fmt: skip
    report(benchmark, found)
