"""Energy at nominal power, as the published ratios have it."""

from __future__ import annotations

from typing import Any

import numpy as np

from perfmodel.device import Described
from perfmodel.errors import ModelError
from perfmodel.prediction import sizes


def energy(chip: Described, seconds: Any, *, count: int = 1) -> Any:
    """Joules of ``count`` devices busy for ``seconds``: nominal power times time.

    >>> from perfmodel.device import device
    >>> float(energy(device("a100"), 2.0, count=8))
    6400.0
    """
    sizes(count=count)
    if not np.all(np.isfinite(seconds) & (np.asarray(seconds) > 0)):
        raise ModelError(f"seconds = {seconds} must be a positive time")
    return chip.power_w * count * seconds


def energy_ratio(peer: Described, peer_seconds: Any, chip: Described, seconds: Any, *, count: int = 1) -> Any:
    """Energy of ``count`` peers over that of one chip, for the same work.

    The paper's wafer draws 15 kW and its GPU 400 W: 37.5 GPUs a wafer.

    >>> from perfmodel.device import device
    >>> round(float(energy_ratio(device("a100"), 0.336e-3, device("wse2"), 0.0012e-3)), 2)
    7.47
    """
    return energy(peer, peer_seconds, count=count) / energy(chip, seconds)
