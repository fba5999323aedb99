"""Run a script on ranks, or a test file in a process of its own, with a limit of time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: Seconds after which a script counts as hung.
LIMIT = 300


def mpiexec() -> str | None:
    """The launcher of the wheel beside this Python, or that of the system."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


needs_mpi = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None or mpiexec() is None,
                               reason="needs mpi4py and an mpiexec: pip install 'meshkernels[mpi]'")
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None,
                               reason="needs JAX: pip install 'meshkernels[jax]'")


def on_ranks(count: int, script: str, *arguments: str, limit: int = LIMIT) -> subprocess.CompletedProcess:
    """``python SCRIPT ARGUMENTS`` on ``count`` ranks, one thread each; a script of several lines is run as it is."""
    launcher = mpiexec()
    assert launcher is not None
    given = ["-c", script] if "\n" in script else [script]
    environment = os.environ | {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                                "PYTHONPATH": str(HERE.parents[1])}  # fmt: skip
    return subprocess.run([launcher, "-n", str(count), sys.executable, *given, *arguments], capture_output=True,
                          text=True, timeout=limit, env=environment, cwd=HERE.parents[1])  # fmt: skip
