"""perfmodel: counts, measured constants and predictions for matrix kernels on mesh-connected many-core chips."""

from typing import Any

from perfmodel import draw
from perfmodel.capacity import Capacity, capacity
from perfmodel.cluster import on_ranks
from perfmodel.device import Cluster, Device, Gpu, Host, Quantity, device, devices
from perfmodel.energy import energy, energy_ratio
from perfmodel.errors import DataError, DoesNotFit, ModelError, UnknownName
from perfmodel.explore import Elasticity, Need, Sweep, need, sensitivity, sweep
from perfmodel.fitting import Fit, fit
from perfmodel.llm import decode, generate, prefill
from perfmodel.measurements import Measurements, measurements
from perfmodel.model import Model, model, models
from perfmodel.operators import allreduce, gemm, gemv, matmul, shift
from perfmodel.pipeline import Pipeline, pipeline
from perfmodel.prediction import Prediction
from perfmodel.reductions import reduce
from perfmodel.timing import time
from perfmodel.tune import Choice, best_gemv, best_grid, best_groups

__all__ = [
    "Capacity", "Choice", "Cluster", "DataError", "Device", "DoesNotFit", "Elasticity", "Fit", "Gpu", "Host",
    "Measurements", "Model", "ModelError", "Need", "Pipeline", "Prediction", "Quantity", "Sweep",
    "UnknownName", "allreduce", "best_gemv", "best_grid", "best_groups", "capacity", "decode", "device",
    "devices", "draw", "energy", "energy_ratio", "fit", "gemm", "gemv", "generate", "matmul", "measurements",
    "model", "models", "need", "on_ranks", "pipeline", "prefill", "reduce", "sensitivity", "shift", "sweep",
    "time",
]


def __getattr__(name: str) -> Any:
    """The version, looked up when asked for: it is that of the distribution that holds both packages."""
    if name == "__version__":
        from importlib.metadata import version

        return version("meshkernels")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
