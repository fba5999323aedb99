"""The critical path, found backwards from the core that ends last, by what the engine noted of every core and step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meshkernels.fabric.engine import INCLUDED, Engine
from meshkernels.schedules import Permute


@dataclass(eq=False)
class Leg:
    """One part of the path: what ``core`` does in ``step``, or a message that reaches it, in ``buffer`` (-1: none)."""

    step: int
    core: int
    event: str
    buffer: int = -1
    terms: dict[str, float] = field(default_factory=dict)
    asynchronous: bool = False


def trace_back(engine: Engine, ends: np.ndarray) -> list[Leg]:
    """The path from the start to the last of ``(cores,)`` ends, the first leg first."""
    legs: list[Leg] = []
    i, core, at_end = len(engine.causes) - 1, int(ends.argmax()), True
    seen: set[tuple[int, int]] = set()  # of a step, whose ends depend on each other: several reductions at once may
    while i >= 0:
        causes, part = engine.causes[i], _Part(engine, i, core)
        if at_end:
            m = int(causes[1, core]) if len(causes) > 1 else 0
            source = part.source(m - 1) if 0 < m < 127 and (i, core) not in seen else core
            seen.add((i, core))
            if source != core:
                legs.append(part.message(m - 1, source, end=True))
                core, at_end = source, part.reduces(m - 1)
                if not at_end:
                    legs.append(_Part(engine, i, core).departure())
                continue
            legs.append(part.work())
        why = int(causes[0, core])
        found = _arrival(engine, i, core, why - 1) if why else None
        if found is None:
            i, at_end = i - 1, True
            continue
        i, m, source = found
        legs.append(_Part(engine, i, core).message(m, source, end=False))
        core, at_end = source, part.engine.plan(engine.steps[i][0]).reduces[m]
        if not at_end:
            legs.append(_Part(engine, i, core).departure())
    if engine.clearing:
        legs.append(Leg(-1, core, "clear sums", -1, {"startups": engine.clearing}))
    legs.reverse()
    first = next((leg for leg in legs if leg.asynchronous), None)
    if first:
        first.terms["startups"] += engine.machine.launch
    return legs


def _arrival(engine: Engine, i: int, core: int, buffer: int) -> tuple[int, int, int] | None:
    """The last move before step ``i`` that brought ``core`` something into a buffer: step, move, sender."""
    for j in range(i - 1, -1, -1):
        part = _Part(engine, j, core)
        for m in np.flatnonzero(part.plan.targets == buffer)[::-1]:
            source = part.source(int(m))
            if source != core:
                return j, int(m), source
    return None


class _Part:
    """What one core does in one step."""

    def __init__(self, engine: Engine, i: int, core: int) -> None:
        self.engine, self.i, self.core = engine, i, core
        self.step, self.t, self.s = engine.steps[i]
        self.plan, self.machine = engine.plan(self.step), engine.machine
        self.y, self.x = divmod(core, engine.mesh.cols)

    def _row(self, m: int, core: int | None = None) -> tuple[Any, int, int]:
        """The table of a move, the pattern of the core's line, and the core's place on it."""
        y, x = divmod(self.core if core is None else core, self.engine.mesh.cols)
        table = self.plan.tables[m]
        line, place = (x, y) if table.route.axis == 0 else (y, x)
        return table, int(table.at(self.t, self.s)[line]), place

    def reduces(self, m: int) -> bool:
        """Whether a move is a `Reduce`."""
        return bool(self.plan.reduces[m])

    def source(self, m: int) -> int:
        """Who sends to the core by a move; the core itself where nobody does."""
        route = self.step.moves[m].route
        if isinstance(route, Permute):
            source, to_y, to_x = route.targets(self.engine.mesh, self.t, self.s)
            found = source[(to_y == self.y) & (to_x == self.x)]
            return int(found[0]) if len(found) else self.core
        table, p, place = self._row(m)
        named = int(table.named[p, place])
        if named < 0:
            return self.core
        return named * self.engine.mesh.cols + self.x if route.axis == 0 else self.y * self.engine.mesh.cols + named

    def _moves(self) -> tuple[int, int]:
        sends = receives = 0
        for m, table in enumerate(self.plan.tables):
            if table is None:
                route: Any = self.step.moves[m].route
                source, to_y, to_x = route.targets(self.engine.mesh, self.t, self.s)
                sends += int((source == self.core).any())
                receives += int(((to_y == self.y) & (to_x == self.x)).any())
            elif not self.plan.reduces[m]:
                table, p, place = self._row(m)
                sends += int(table.sends[p, place])
                receives += int(table.receives[p, place])
        return sends, receives

    def _start(self) -> tuple[float, bool]:
        """Start-ups before anything leaves, and whether the core does everything at once."""
        sends, receives = self._moves()
        computes, machine = bool(self.step.compute), self.machine
        if self.plan.overlap and computes + (sends > 0) + (receives > 0) > 1:
            return machine.startup + machine.setup * max(0, sends + receives - INCLUDED), True
        return machine.arithmetic * computes, False

    def work(self) -> Leg:
        """The step of the core from begin to end, by itself."""
        startups, asynchronous = self._start()
        sends, receives = self._moves()
        terms = {"startups": startups, "compute": self.plan.work if self.step.compute else 0.0}
        if not asynchronous:
            terms["startups"] += self.machine.setup * sends
            terms["links"] = sum(float(w) for w, m in zip(self.plan.wire, range(len(self.plan.wire)))
                                 if self._sends(m))  # fmt: skip
        if not self.step.compute and not sends and not receives:
            terms = {}
            for m in np.flatnonzero(self.plan.reduces):
                table, p, place = self._row(int(m))
                if table.sends[p, place] and not table.receives[p, place]:  # a stream begins
                    terms = {"startups": self.machine.setup, "hops": self.machine.ramp}
        return Leg(self.i, self.core, self.step.label, -1, terms, asynchronous)

    def _sends(self, m: int) -> bool:
        if self.plan.tables[m] is None or self.plan.reduces[m]:
            return False
        table, p, place = self._row(m)
        return bool(table.sends[p, place])

    def departure(self) -> Leg:
        """The core from the begin of the step until a message leaves it."""
        startups, asynchronous = self._start()
        terms = {"startups": startups - self.machine.lead if asynchronous else startups + self.machine.setup}
        if self.step.compute and (not asynchronous or set(self.plan.sources) & set(self.plan.writes)):
            terms["compute"] = self.plan.work
        return Leg(self.i, self.core, f"{self.step.label}: sends", -2, terms, asynchronous)

    def message(self, m: int, source: int, end: bool) -> Leg:
        """A message from ``source`` to the core; ``end``: until it is taken in by a core that waits for it."""
        machine = self.machine
        sy, sx = divmod(source, self.engine.mesh.cols)
        ways = self.engine._ways
        hops = abs(ways[0][self.y] - ways[0][sy]) + abs(ways[1][self.x] - ways[1][sx])
        terms = {"hops": float(hops)}
        move = self.step.moves[m]
        if self.plan.reduces[m]:
            table, p, place = self._row(m)
            if table.sends[p, place]:
                terms["stages"] = machine.stage
            else:  # the root
                terms |= {"startups": machine.arithmetic, "links": float(self.plan.wire[m])}
                terms["hops"] += machine.ramp
        else:
            terms["hops"] += 2 * machine.ramp
            terms["links"] = float(self.plan.wire[m])
            if sy != self.y and sx != self.x:
                terms["startups"] = machine.turn
            if end:
                kind = "stages" if move.combine else "startups"
                terms[kind] = terms.get(kind, 0.0) + float(self.plan.costs[m, 0])
        return Leg(self.i, self.core, f"{self.step.label}: {move.buffer} from {divmod(source, self.engine.mesh.cols)}",
                   -1 if end else int(self.plan.targets[m]), terms)  # fmt: skip
