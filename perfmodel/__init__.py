"""perfmodel: counts, measured constants and predictions for matrix kernels on mesh-connected many-core chips."""

from perfmodel.device import Device, Gpu, Host, Quantity, device, devices
from perfmodel.errors import DataError, DoesNotFit, ModelError, UnknownName

__all__ = [
    "DataError", "Device", "DoesNotFit", "Gpu", "Host", "ModelError", "Quantity", "UnknownName",
    "device", "devices",
]
