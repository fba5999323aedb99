"""Every refusal of the library names the offending value and the limit it broke."""

from __future__ import annotations


class MeshError(ValueError):
    """An argument that no mesh could accept: an impossible grid, shape, group count or option."""


class MeshTypeError(TypeError):
    """An argument of a type or dtype that is not accepted; the message names those that are."""


class ScheduleError(RuntimeError):
    """A schedule that breaks its own invariant: a core was told to use a tile that it does not hold."""


class DeviceLimitError(MeshError):
    """A schedule that the named device cannot run: too many cores, bytes per core or colours."""


class WeightsError(Exception):
    """A model file that cannot be had, cannot be read, or holds another model than it says."""
