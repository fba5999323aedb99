"""What a simulation found: times of every core, loads of every link, and where the critical path spent its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from meshkernels.errors import FabricError
from meshkernels.fabric.constants import Machine
from meshkernels.fabric.engine import Engine
from meshkernels.fabric.launches import settled_cycles
from meshkernels.fabric.path import Leg, trace_back
from meshkernels.schedules import Schedule
from perfmodel import tables
from perfmodel.values import ByValue

#: What the time of the critical path is divided into.
TERMS = ("compute", "links", "hops", "stages", "startups", "waiting")


class Event(NamedTuple):
    """One part of the critical path: a core, what it does or sends, from when to when, in cycles."""

    core: tuple[int, int]
    event: str
    start: float
    end: float


@dataclass(frozen=True, eq=False, repr=False)
class Run(ByValue):
    """One launch of a schedule on a machine, all cores starting together. Times are cycles.

    Attributes:
        schedule, machine: what was simulated, and the costs.
        itemsize, accumulator: bytes of a stored element and of an element of a sum.
        ends: ``(rows, cols)`` when each core has ended.
        computing, sending: ``(rows, cols)`` cycles that each core computes, and that its messages take to leave.
        link_bytes, link_messages: ``(4, rows, cols)`` what leaves each core eastwards, westwards, southwards and
            northwards, as in the ledger; link_busy: the cycles that it takes.
        messages: messages sent, a multicast counted once.
    """

    schedule: Schedule
    machine: Machine
    itemsize: int
    accumulator: int
    ends: np.ndarray
    computing: np.ndarray
    sending: np.ndarray
    link_bytes: np.ndarray
    link_messages: np.ndarray
    link_busy: np.ndarray
    messages: int
    _engine: Engine = field(compare=False)

    @classmethod
    def of(cls, engine: Engine, itemsize: int, accumulator: int) -> Run:
        """What an engine that has run found."""
        shape, links = engine.mesh.shape, engine.links
        ends, computing, sending = (part.reshape(shape).copy() for part in (
            engine.end, engine.computing, engine.sending))  # fmt: skip
        return cls(engine.schedule, engine.machine, itemsize, accumulator, ends, computing, sending,
                   links.bytes.reshape(4, *shape),
                   links.messages.reshape(4, *shape), links.taken.reshape(4, *shape), engine.messages,
                   engine)  # fmt: skip

    def __repr__(self) -> str:
        mesh = self.schedule.mesh
        return (f"Run({self.schedule.name} on {mesh.rows} x {mesh.cols} cores of {self.machine.device.name}: "
                f"{self.cycles:,.1f} cycles)")

    def _repr_html_(self) -> str:
        rows: list[tuple[str, float, str]] = [("cycles", self.cycles, ""), ("makespan", self.makespan, "")]
        if len(self._engine.causes) == len(self._engine.steps):
            rows += [(name, cycles, f"{cycles / (self.makespan or 1):.1%}") for name, cycles in self.terms.items()]
        return tables.html(repr(self), rows, ("", "cycles", "share of the makespan"))

    @property
    def makespan(self) -> float:
        """Cycles from the common start until the last core has ended."""
        return float(self.ends.max(initial=0.0))

    @cached_property
    def cycles(self) -> float:
        """What the published rows are: the mean over cores of own end less own start, of one launch among many.

        A core's own start is its own end of the launch before: nothing else holds it back but data. Launches are played
        until two are alike (`meshkernels.fabric.launches`); the makespan of a single one is longer by the way that the
        last message takes to the last core.
        """
        return settled_cycles(self._engine, self.ends.ravel())

    @property
    def seconds(self) -> float:
        """`cycles` at the device's clock."""
        return self.cycles / self.machine.device.clock_hz

    @property
    def utilisation(self) -> dict[str, np.ndarray]:
        """Shares of the makespan: ``computing``, ``sending``, ``waiting`` of each core; and of each link.

        A core computes and sends at once where its moves are asynchronous; ``waiting`` is the time that it does not
        compute. ``links`` are ``(4, rows, cols)``: eastwards, westwards, southwards, northwards.
        """
        whole = self.makespan or 1.0
        return {"computing": self.computing / whole, "sending": self.sending / whole,
                "waiting": 1 - self.computing / whole, "links": self.link_busy / whole}  # fmt: skip

    @cached_property
    def _legs(self) -> list[Leg]:
        if len(self._engine.causes) < len(self._engine.steps):
            raise FabricError(f"the critical path of {self.schedule.name} is unknown: what each core waited for was "
                              "not kept; play a smaller mesh, or with causes=True")
        return trace_back(self._engine, self.ends.ravel())

    @cached_property
    def terms(self) -> dict[str, float]:
        """Cycles of the critical path by kind; they add up to the makespan.

        ``compute``: local work; ``links``: words on links; ``hops``: routers and ramps; ``stages``: software that hands
        on or adds; ``startups``: of steps and vector instructions; ``waiting``: for links, and for buffers to be free.
        """
        found = dict.fromkeys(TERMS, 0.0)
        for leg in self._legs:
            for name, cycles in leg.terms.items():
                found[name] += cycles
        found["waiting"] = self.makespan - sum(found.values())
        return found

    @cached_property
    def critical_path(self) -> list[Event]:
        """The chain of work and messages that ends last, from the start on; the schedule is played once more."""
        legs, times = self._legs, np.zeros(len(self._legs))
        at: dict[int, list[int]] = {}
        for n, leg in enumerate(legs):
            at.setdefault(leg.step, []).append(n)
        times[at.get(-1, [])] = self._engine.clearing

        def watch(i: int, engine: Engine) -> None:
            for n in at.get(i, ()):
                leg = legs[n]
                times[n] = engine.end[leg.core] if leg.buffer < 0 else engine.ready[leg.buffer, leg.core]

        self._engine.fresh().run(watch)
        ends = np.maximum.accumulate(times)
        starts = np.concatenate([[0.0], ends[:-1]])
        cols = self.schedule.mesh.cols
        return [Event(divmod(leg.core, cols), leg.event, float(a), float(b))
                for leg, a, b in zip(legs, starts, ends) if b > a]  # fmt: skip

    def fresh(self) -> Engine:
        """An engine that will play the same once more."""
        return self._engine.fresh()

    def summary(self) -> dict[str, Any]:
        """The figures as plain numbers, for tables and JSON."""
        share = self.utilisation["links"]
        used = share[share > 0]
        return {
            "algorithm": self.schedule.name, "rows": self.schedule.mesh.rows, "cols": self.schedule.mesh.cols,
            "device": self.machine.device.name, "cycles": self.cycles, "makespan": self.makespan,
            "seconds": self.seconds, "terms": self.terms, "messages": self.messages,
            "bytes": int(self.link_bytes.sum()),
            "link_utilisation": {"mean": float(used.mean()) if used.size else 0.0, "max": float(share.max())},
        }  # fmt: skip

    def trace(self, path: Any, cores: Any = None) -> None:
        """Write trace events for Chrome's or Perfetto's viewer, see `meshkernels.fabric.trace`.

        Args:
            path: file to write.
            cores: ``(row, column)`` pairs to write; None: all.

        Raises:
            FabricError: too many events; it says how many there would be, and how to choose.
        """
        from meshkernels.fabric.trace import write

        write(self, path, cores)

    def animate(self, path: Any, frames: int = 120) -> None:
        """Write an animated GIF of a small mesh, see `meshkernels.fabric.animate`.

        Args:
            path: file to write.
            frames: pictures, at 12 a second.

        Raises:
            FabricError: a mesh too large to be looked at.
        """
        from meshkernels.fabric.animate import write

        write(self, path, frames)

    def replay(self, path: Any, beside: Sequence[Run] = ()) -> None:
        """Write one page that plays the run, complete in itself; see `meshkernels.fabric.replay`.

        Args:
            path: file to write.
            beside: other runs, to be shown beside it.

        Raises:
            FabricError: a mesh or a run too large to be looked at.
        """
        from meshkernels.fabric.replay import write

        write([self, *beside], path)
