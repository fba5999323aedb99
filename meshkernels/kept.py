"""What is kept between calls, counted in bytes: a process that runs for weeks must not grow.

Buffers wait in `meshkernels.kernels.memory`, up to 1/32 of main memory; results of functions here, up to 1/128.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from operator import itemgetter
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


def physical_memory() -> int:
    """Bytes of main memory; 4 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def resident_memory() -> int | None:
    """Bytes of this process in main memory; None where the system does not say."""
    try:
        with open("/proc/self/statm") as pages:
            return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


#: All remembered results together: at most so many bytes, and so many results (to add up their bytes takes time).
REMEMBERED, RESULTS = physical_memory() // 128, 512
_results: dict[tuple[Any, ...], tuple[Any, int]] = {}  # with their bytes, the oldest first

#: Not looked into: these live on anyway.
_SHARED = (type, ModuleType, type(lru_cache(print)))


def size(*objects: Any) -> int:
    """Bytes of objects and of all that they hold on to: arrays, containers, closures; each once."""
    found, todo, total = set[int](), list(objects), 0
    while todo:
        one = todo.pop()
        if id(one) in found or isinstance(one, _SHARED):
            continue
        found.add(id(one))
        total += sys.getsizeof(one)
        if isinstance(one, np.ndarray):
            todo.append(one.base)
        elif isinstance(one, FunctionType):  # its globals are a module's
            todo += [one.__closure__, one.__defaults__]
        else:
            todo += gc.get_referents(one)
    return total


def remember(function: Function) -> Function:
    """Decorator: keep the results of a function of hashable positional arguments; the oldest make room for new ones.

    Threads that ask for the same at the same time may each work it out. Results must not be changed.

    Args:
        function: what to remember, of hashable positional arguments only.

    Returns:
        The function that looks its results up.
    """

    @wraps(function)
    def remembered(*arguments: Any) -> Any:
        key = (function, *arguments)
        known = _results.get(key)
        if known is not None:
            return known[0]
        result = function(*arguments)
        taken = size(key, result)
        if taken <= REMEMBERED:
            _results[key] = result, taken
            total = sum(map(itemgetter(1), list(_results.values())))
            for oldest in list(_results):
                if total <= REMEMBERED and len(_results) <= RESULTS:
                    break
                total -= _results.pop(oldest, (None, 0))[1]
        return result

    return remembered  # type: ignore[return-value]
