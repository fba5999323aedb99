"""Results are values: compared and hashed by what they hold, arrays included, and picklable."""

from __future__ import annotations

import copyreg
from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np


def _view(found: dict[str, Any]) -> MappingProxyType[str, Any]:
    return MappingProxyType(found)


# Python does not pickle read-only views of dictionaries, which devices and kernels hold.
copyreg.pickle(MappingProxyType, lambda view: (_view, (dict(view),)))


def key(value: Any) -> Hashable:
    """What is equal and hashes alike where values are equal: arrays by dtype, shape and elements.

    Args:
        value: arrays, mappings and sequences of them, or anything hashable.

    Returns:
        The key.

    >>> key({"a": np.zeros(2)}) == key({"a": -np.zeros(2)}), key(np.zeros(2)) == key(np.zeros((1, 2)))
    (True, False)
    """
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return value.shape, tuple(map(key, value.ravel().tolist()))
        same = value + 0.0 if value.dtype.kind == "f" else value  # -0.0 is 0.0
        return value.shape, value.dtype.str, same.tobytes()
    if isinstance(value, Mapping):
        return frozenset((name, key(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(key, value))
    return value


class ByValue:
    """Mix-in of a dataclass that holds arrays: equal if its fields are, and hashable; for ``eq=False``."""

    def _key(self) -> Hashable:
        return tuple(key(getattr(self, field.name)) for field in fields(self) if field.compare)  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ByValue) and type(other) is type(self) \
            else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self._key())

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
