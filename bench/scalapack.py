"""ScaLAPACK's product on the ranks of this process's MPI, through ctypes; MPI must be the one that ScaLAPACK uses.

Debian: ``apt install libscalapack-mpich-dev mpich libopenblas-dev``. mpi4py finds that MPICH where it is called
``libmpi.so.12`` in a folder of LD_LIBRARY_PATH and MPI4PY_LIBMPI names it: see `system_mpi`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
from pathlib import Path

import numpy as np

#: Rows and columns of a block of the block-cyclic distribution.
BLOCK = 128


def library() -> str | None:
    """The name of ScaLAPACK for MPICH, if it is installed."""
    return ctypes.util.find_library("scalapack-mpich")


def system_mpi(folder: Path) -> tuple[str, dict[str, str]] | None:
    """How to start ranks on the system's MPICH.

    Args:
        folder: an empty one, for the name that mpi4py looks for.

    Returns:
        The launcher and variables of the environment; None where something is missing.
    """
    launcher, found = shutil.which("mpiexec.mpich"), ctypes.util.find_library("mpich")
    folders = [*Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib")]
    file = next((place for each in folders if (place := each / (found or "")).is_file()), None)
    if library() is None or launcher is None or file is None:
        return None
    (folder / "libmpi.so.12").symlink_to(file)
    before = os.environ.get("LD_LIBRARY_PATH", "")
    return launcher, {"MPI4PY_LIBMPI": str(file), "LD_LIBRARY_PATH": f"{folder}:{before}".rstrip(":")}


class Psgemm:
    """C = A @ B, float32, n x n, distributed block-cyclically over a grid of ranks in row-major order.

    Args:
        A: ``(n, n)`` whole; this rank keeps its blocks.
        B: the same.
        dims: ranks down and across.
        rank: of this process.
    """

    def __init__(self, A: np.ndarray, B: np.ndarray, dims: tuple[int, int], rank: int):
        self._call = ctypes.CDLL(library(), mode=ctypes.RTLD_GLOBAL)
        n, context = len(A), ctypes.c_int()
        self._call.Cblacs_get(-1, 0, ctypes.byref(context))
        self._call.Cblacs_gridinit(ctypes.byref(context), b"R", *map(ctypes.c_int, dims))
        block = min(BLOCK, -(-n // max(dims)))
        self.rows, self.cols = (np.flatnonzero(np.arange(n) // block % parts == place)
                                for parts, place in zip(dims, divmod(rank, dims[1])))  # fmt: skip
        self.A, self.B = (np.asfortranarray(X[np.ix_(self.rows, self.cols)]) for X in (A, B))
        self.C = np.zeros_like(self.A, order="F")
        self._description = (ctypes.c_int * 9)(1, context, n, n, block, block, 0, 0, max(1, len(self.rows)))
        self._n, self._one, self._zero = ctypes.c_int(n), ctypes.c_float(1), ctypes.c_float(0)

    def __call__(self) -> np.ndarray:
        first, n, like = ctypes.byref(ctypes.c_int(1)), ctypes.byref(self._n), ctypes.byref(self._description)
        a, b, c = (ctypes.c_void_p(X.ctypes.data) for X in (self.A, self.B, self.C))
        self._call.psgemm_(b"N", b"N", n, n, n, ctypes.byref(self._one), a, first, first, like, b, first, first, like,
                           ctypes.byref(self._zero), c, first, first, like, ctypes.c_size_t(1), ctypes.c_size_t(1))
        return self.C
