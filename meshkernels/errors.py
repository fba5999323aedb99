"""Every refusal of the library names the offending value and the limit it broke."""

from __future__ import annotations

import reprlib
from typing import Any


class MeshError(ValueError):
    """An argument that no mesh could accept: an impossible grid, shape, group count or option."""


class MeshTypeError(TypeError):
    """An argument of a type or dtype that is not accepted; the message names those that are."""


class RankError(MeshError):
    """Another rank refused its arguments or failed, or the ranks were asked for different things."""


class ScheduleError(RuntimeError):
    """A schedule that is no schedule, or does not compute what it says; the message names step, core and buffer."""


class DeviceLimitError(MeshError):
    """A schedule that the named device cannot run: too many cores, bytes per core or colours."""


class FabricError(MeshError):
    """A schedule that cannot be simulated: missing constants, faults that cannot be mended, a trace too large."""


class MissingExtra(ImportError):
    """A package of an optional extra that is not installed; the message says how to install it."""

    def __init__(self, extra: str, missing: ImportError):
        self.install = f"pip install 'meshkernels[{extra}]'"
        super().__init__(f"{missing}: it belongs to an extra; {self.install}")


class WeightsError(Exception):
    """A model file that cannot be had, cannot be read, or holds another model than it says."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def shown(value: Any) -> str:
    r"""A value that nobody has checked, for a message: cut short, and nothing in it that a terminal would obey.

    Args:
        value: anything.

    Returns:
        Its ``repr``, of at most some 200 characters.

    Examples:
        >>> shown("two\nlines"), shown(list(range(1000)))
        ("'two\\nlines'", '[0, 1, 2, 3, 4, 5, ...]')
    """
    try:
        return _SHORT.repr(value)
    except Exception:  # an integer of more digits than Python prints
        return f"a value of type {type(value).__name__}"
