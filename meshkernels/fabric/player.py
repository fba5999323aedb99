"""One launch of a schedule on a machine, whatever the limits of the device are."""

from __future__ import annotations

import sys

import numpy as np
from tqdm import tqdm

from meshkernels.fabric.constants import Machine
from meshkernels.fabric.engine import Engine
from meshkernels.fabric.faults import Faults, around
from meshkernels.fabric.run import Run
from meshkernels.schedules import Schedule

#: Core-steps whose causes are kept for the critical path: a byte each.
MOST_CAUSES = 1 << 31


def play(schedule: Schedule, costs: Machine, dtype: np.typing.DTypeLike | None = None,
         accumulate: np.typing.DTypeLike | None = None, faults: Faults | None = None,
         progress: bool | None = None, causes: bool = True) -> Run:  # fmt: skip
    """As `simulate`, without a look at the limits of the device.

    Args:
        schedule: any schedule whose steps stay on its mesh.
        costs: of the chip.
        dtype: of the stored elements; None: the device's storage type.
        accumulate: dtype of sums; None: the same.
        faults: dead cores and links.
        progress: show a bar on stderr; None: if it is a terminal.
        causes: keep what the critical path needs, a byte of each core and step.

    Returns:
        The run; without causes its `terms` and `critical_path` cannot be had.
    """
    dtype = np.dtype(costs.storage if dtype is None else dtype)
    itemsize, accumulator = dtype.itemsize, np.dtype(dtype if accumulate is None else accumulate).itemsize
    links = None if faults is None else around(schedule.mesh, faults, costs)
    engine = Engine(schedule, costs, itemsize, accumulator, links)
    engine.keep_causes = causes and schedule.mesh.cores * len(schedule.steps) <= MOST_CAUSES
    show = sys.stderr.isatty() if progress is None else progress
    with tqdm(total=len(schedule.steps), desc=f"simulate {schedule.name}", unit="step", delay=1, leave=False,
              disable=not show) as bar:  # fmt: skip
        engine.run(progress=bar.update if show else None)
    return Run.of(engine, itemsize, accumulator)
