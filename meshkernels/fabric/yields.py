"""Yield: how much slower a schedule is on fabrics with cores dead at random."""

from __future__ import annotations

import numpy as np

import perfmodel
from meshkernels.errors import FabricError
from meshkernels.fabric.constants import machine
from meshkernels.fabric.faults import Faults
from meshkernels.fabric.player import play
from meshkernels.schedules import Schedule


def scan(schedule: Schedule, device: perfmodel.Device | str, fabric: tuple[int, int], *, maps: int = 1000,
         dead: float = 0.01, seed: int = 0) -> np.ndarray:  # fmt: skip
    """Makespans on fabrics with faults over the makespan without.

    Args:
        schedule: what is played.
        device: a chip whose costs are known.
        fabric: rows and columns of the fabric that the schedule's mesh is laid on.
        maps: fault maps.
        dead: share of the fabric's cores that are dead, the same number in each map.
        seed: of the maps; the same seed gives the same.

    Returns:
        ``(maps,)`` slow-downs; NaN where a mesh cannot be laid on what is left.
    """
    costs, rng = machine(device), np.random.default_rng(seed)
    whole, cores = play(schedule, costs, progress=False, causes=False).makespan, fabric[0] * fabric[1]
    found = np.full(maps, np.nan)
    for i in range(maps):
        chosen = rng.choice(cores, round(dead * cores), replace=False)
        try:
            faults = Faults([divmod(int(c), fabric[1]) for c in chosen], fabric=fabric)
            found[i] = play(schedule, costs, faults=faults, progress=False, causes=False).makespan / whole
        except FabricError:
            continue
    return found
