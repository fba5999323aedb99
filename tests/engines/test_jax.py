"""Schedules on JAX. The tests themselves are on_jax.py: JAX starts threads and keeps memory, so it has a process of its
own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import meshkernels as mk
from tests.engines.launch import HERE, LIMIT, needs_jax


@needs_jax
def test_on_eight_emulated_devices():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_ENABLE_X64": "1",
                                "JAX_PLATFORMS": "cpu", "TESTS_ON_JAX": "1"}  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "on_jax.py")],
                          capture_output=True, text=True, timeout=2 * LIMIT, env=environment, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr


@needs_jax
def test_the_demo_on_eight_devices():
    done = subprocess.run([sys.executable, "-m", "meshkernels", "demo", "--jax", "8"], capture_output=True, text=True,
                          timeout=LIMIT, check=True)  # fmt: skip
    lines = done.stdout.splitlines()
    assert "on 8 cpu devices of JAX" in lines[0] and any("meshgemm" in line for line in lines)


def test_without_jax_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(TypeError, match=r"pip install 'meshkernels\[jax\]'"):
        mk.to_jax(mk.schedule("meshgemm", mk.Mesh(2), 4, 4, 4))


def test_neither_is_imported_with_the_library():
    script = "import sys, meshkernels; print([name for name in ('jax', 'mpi4py') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
