"""meshkernels: run and count the distributed matrix kernels of wafer-scale chips on an ordinary machine.

>>> import numpy as np, meshkernels as mk
>>> A, B = np.ones((6, 5), np.float32), np.ones((5, 4), np.float32)
>>> C, ledger = mk.gemm(A, B, mk.Mesh(3, 2), algorithm="meshgemm", ledger=True)
>>> bool((C == A @ B).all()), ledger.hops_per_step
(True, 2)
"""

from meshkernels.algorithms import algorithms, register
from meshkernels.errors import DeviceLimitError, FabricError, MeshError, ScheduleError
from meshkernels.fabric import Faults, simulate
from meshkernels.mesh import Mesh, Tiling
from meshkernels.placed import place
from meshkernels.readers.compliance import Compliance, compliance
from meshkernels.readers.ledger import Ledger, count
from meshkernels.rings import Ring
from meshkernels.schedules import Schedule, verify
from meshkernels.verbs import allreduce, alltoall, gemm, gemm_t, gemv, run, schedule, transpose

__all__ = [
    "Compliance", "DeviceLimitError", "FabricError", "Faults", "Ledger", "Mesh", "MeshError", "Ring", "Schedule",
    "ScheduleError", "Tiling", "algorithms", "allreduce", "alltoall", "compliance", "count", "gemm", "gemm_t",
    "gemv", "place", "register", "run", "schedule", "simulate", "transpose", "verify",
]


def __getattr__(name: str):
    """`meshkernels.llm`, imported when first asked for: it needs a tokenizer and a GGUF reader."""
    if name == "llm":
        import importlib

        return importlib.import_module("meshkernels.llm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
