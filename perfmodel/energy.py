"""Energy at nominal power, as the published ratios have it."""

from __future__ import annotations

from typing import Any

import numpy as np

from perfmodel.checks import size
from perfmodel.device import Described, as_device
from perfmodel.errors import ModelError, shown

#: seconds beyond which a time is a mistake: less than a cycle, longer than the age of the universe
SHORTEST, LONGEST = 1e-15, 1e18


def energy(chip: Described | str, seconds: Any, *, count: int = 1) -> Any:
    """Joules of ``count`` devices busy for ``seconds``: nominal power times time.

    Args:
        chip: a device, or its name.
        seconds: a time, or an array.
        count: devices.

    Returns:
        Joules.

    Raises:
        ModelError: no device, no positive time.

    >>> float(energy("a100", 2.0, count=8))
    6400.0
    """
    chip = as_device(chip)
    if not isinstance(chip, Described):
        raise ModelError(f"{shown(chip)} is no device; load one by perfmodel.device")
    size("count", count)
    times = np.asarray(seconds)
    if times.dtype.kind not in "iuf" or not np.all((times > SHORTEST) & (times < LONGEST)):
        raise ModelError(f"seconds = {shown(seconds)} must be a positive time, between {SHORTEST} and {LONGEST}")
    return chip.power_w * count * seconds


def energy_ratio(peer: Described | str, peer_seconds: Any, chip: Described | str, seconds: Any, *,
                 count: int = 1) -> Any:
    """Energy of ``count`` peers over that of one chip, for the same work.

    The paper's wafer draws 15 kW and its GPU 400 W: 37.5 GPUs a wafer.

    Args:
        peer: the other device, or its name.
        peer_seconds: its time, in seconds.
        chip: the chip, or its name.
        seconds: the chip's time, in seconds.
        count: peers.

    Returns:
        The ratio.

    Raises:
        ModelError: no device, no positive time.

    >>> round(float(energy_ratio("a100", 0.336e-3, "wse2", 0.0012e-3)), 2)
    7.47
    """
    return energy(peer, peer_seconds, count=count) / energy(chip, seconds)
