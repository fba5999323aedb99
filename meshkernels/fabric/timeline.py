"""What happens when: the computations and messages of a run, for whoever draws them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from meshkernels.fabric.engine import Engine
from meshkernels.schedules import Permute

if TYPE_CHECKING:
    from meshkernels.fabric.run import Run

Core = tuple[int, int]


class Work(NamedTuple):
    """What a core computes in a step, from when to when, in cycles."""

    step: int
    core: Core
    label: str
    start: float
    end: float


class Message(NamedTuple):
    """A message: from when its sender is in the step until its receiver has ended it, in cycles."""

    step: int
    source: Core
    target: Core
    buffer: str
    start: float
    end: float


def record(run: Run, cores: Iterable[Core]) -> tuple[list[Work], list[Message]]:
    """Play a run once more, and note what some cores do and what goes between them, step by step."""
    cols = run.schedule.mesh.cols
    numbers = {y * cols + x: (y, x) for y, x in cores}
    ordered = sorted(numbers)
    work, messages = list[Work](), list[Message]()
    ended, computed = (np.zeros(run.schedule.mesh.cores) for _ in range(2))

    def watch(i: int, engine: Engine) -> None:
        step = engine.steps[i][0]
        for c in ordered:  # a computation is the last thing that a core does by itself
            if cycles := engine.computing[c] - computed[c]:
                work.append(Work(i, numbers[c], step.label, float(engine.end[c] - cycles), float(engine.end[c])))
        for source, target, buffer in _messages(engine, i):
            if source != target and source in numbers and target in numbers:
                start, end = float(ended[source]), float(max(engine.end[target], ended[source]))
                messages.append(Message(i, numbers[source], numbers[target], buffer, start, end))
        ended[:], computed[:] = engine.end, engine.computing

    run.fresh().run(watch)
    return work, messages


def _messages(engine: Engine, i: int) -> Iterator[tuple[int, int, str]]:
    """Sender, receiver and buffer of every message of a step; of a multicast to each receiver."""
    step, t, s = engine.steps[i]
    cols = engine.mesh.cols
    for table, move in zip(engine.plan(step).tables, step.moves):
        if isinstance(move.route, Permute):
            source, to_y, to_x = move.route.targets(engine.mesh, t, s)
            pairs = list(zip(source.tolist(), (to_y * cols + to_x).tolist()))
        else:
            by_line, by_place = (1, cols) if move.route.axis == 0 else (cols, 1)
            pairs = [(line * by_line + a * by_place, line * by_line + b * by_place)
                     for line, p in enumerate(table.at(t, s)) for a, b in table.ends(int(p))]  # fmt: skip
        yield from ((source, target, move.buffer) for source, target in pairs)
