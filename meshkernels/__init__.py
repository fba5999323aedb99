"""meshkernels: run and count the distributed matrix kernels of wafer-scale chips on an ordinary machine.

>>> import numpy as np, meshkernels as mk
>>> A, B = np.ones((6, 5), np.float32), np.ones((5, 4), np.float32)
>>> C, ledger = mk.gemm(A, B, mk.Mesh(3, 2), algorithm="meshgemm", ledger=True)
>>> bool((C == A @ B).all()), ledger.hops_per_step
(True, 2)
"""

from typing import Any

from meshkernels.algorithms import algorithms, register
from meshkernels.api import allreduce, alltoall, gemm, gemm_t, gemv, run, schedule, transpose
from meshkernels.engines.jax import to_jax
from meshkernels.engines.matrix import DistMatrix, gather, scatter
from meshkernels.errors import DeviceLimitError, FabricError, MeshError, RankError, ScheduleError
from meshkernels.fabric import Faults, simulate
from meshkernels.mesh import Mesh, Tiling
from meshkernels.placed import place
from meshkernels.readers.compliance import Compliance, compliance
from meshkernels.readers.ledger import Ledger, count
from meshkernels.rings import Ring
from meshkernels.schedules import Schedule, verify

__all__ = [
    "Compliance", "DeviceLimitError", "DistMatrix", "FabricError", "Faults", "Ledger", "Mesh", "MeshError",
    "RankError", "Ring", "Schedule", "ScheduleError", "Tiling", "algorithms", "allreduce", "alltoall", "compliance",
    "count", "gather", "gemm", "gemm_t", "gemv", "place", "register", "run", "scatter", "schedule", "simulate",
    "to_jax", "transpose", "verify",
]


def __getattr__(name: str) -> Any:
    """The version, `meshkernels.llm` and `meshkernels.draw`, looked up when asked for: they need more than the rest."""
    if name == "__version__":
        from importlib.metadata import version

        return version("meshkernels")
    if name in ("llm", "draw"):
        import importlib

        return importlib.import_module(f"meshkernels.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
