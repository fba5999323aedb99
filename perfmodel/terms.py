"""Cycles by kind of cost, and what every form counts with: words of the fabric, 64-bit words of a core's memory.

A form takes the constants ``c`` (name -> cycles) and returns exposed cycles by kind:

* ``compute``: the local product; * ``transfer``: words on links; * ``alpha``: hops; * ``beta``: software stages;
* ``overhead``: start-ups of steps and launches.

What hides behind something longer is not in the sum. All arguments broadcast as NumPy arrays, so a million
points are one call. The same functions predict and are fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfmodel.counts import ELEMENT_BYTES, cdiv
from perfmodel.device import Device

Constants = Mapping[str, float]
Terms = dict[str, Any]

#: fp16 elements that one 64-bit memory access holds
BEAT = 4


def add(*parts: Terms) -> Terms:
    """Sum of terms, kind by kind."""
    kinds = ("compute", "transfer", "alpha", "beta", "overhead")
    return {kind: sum(part[kind] for part in parts) for kind in kinds}


def total(terms: Terms) -> Any:
    """Cycles: the exposed parts added up."""
    return sum(terms.values())


def words_cycles(device: Device, elements: Any) -> Any:
    """Cycles that fp16 elements occupy a link for, packed into whole fabric words."""
    words = cdiv(elements, device.word_bytes // ELEMENT_BYTES)
    return words if device.link_words_per_cycle == 1 else words / device.link_words_per_cycle
