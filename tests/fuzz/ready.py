"""What all children need, done once before they are forked and without a thread: imports, kernels, a model file."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np

import meshkernels as mk
from meshkernels.llm import load
from tests.fuzz.gguf_writer import tiny_file


@cache
def folder() -> Path:
    """For the files of cases; removed at the end."""
    path, owner = Path(tempfile.mkdtemp(prefix="fuzz-")), os.getpid()

    @atexit.register
    def remove() -> None:
        if os.getpid() == owner:  # and not a child that was forked
            shutil.rmtree(path, ignore_errors=True)

    return path


@cache
def model() -> Path:
    """The unchanged model file."""
    path = folder() / "tiny.gguf"
    path.write_bytes(tiny_file().encoded()[0])
    return path


#: Storage of operands.
DTYPES = ("float32", "float64", "float16", "bfloat16")


def dtype(name: str) -> np.dtype:
    """NumPy's, or that of ``ml_dtypes``."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def compile_everything() -> None:
    """Kernels are loaded once, not by each child. Small products start no threads."""
    import jinja2.sandbox
    import matplotlib

    import perfmodel.render  # noqa: F401
    import perfmodel.tune  # noqa: F401

    matplotlib.use("Agg")
    jinja2.sandbox.ImmutableSandboxedEnvironment().from_string("{{ a }}").render(a=1)
    for mesh in (2, mk.Mesh(2, 3)):
        llama = load(model(), mesh, threads=1)
        llama.warm_up()
        llama.decode(int(llama.prefill([1, 2, 3]).argmax()))
    mesh = mk.Mesh(2)
    for name in DTYPES:
        A = np.ones((3, 3), dtype(name))
        for method in ("fused", "lockstep"):
            mk.gemm(A, A, mesh, method=method)
            mk.gemm_t(A, A, mesh, method=method)
            mk.gemv(A[0], A, mesh, method=method)
