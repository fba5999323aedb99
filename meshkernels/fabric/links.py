"""The links of a mesh: what a simulation knows of each, as `meshkernels.fabric.messages` reads and writes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meshkernels.fabric.constants import Machine
from meshkernels.fabric.messages import BYTES, LATENCY, MESSAGES, STOP, TAKEN
from meshkernels.mesh import Mesh


@dataclass(eq=False)
class Links:
    """The links of a mesh, and where they run on a fabric with faults.

    Attributes:
        state: ``(8, 4 * cores)``, rows as in `meshkernels.fabric.messages`.
        fabric: ``(2, links of the fabric)`` from when and until when the last message occupies each.
        path: ``(n, 2)`` link of the fabric and cycles over it; link ``l`` is its rows ``state[FIRST, l]`` to
            ``state[STOP, l]``, or itself if there are none.
    """

    state: np.ndarray
    fabric: np.ndarray
    path: np.ndarray

    @classmethod
    def of(cls, mesh: Mesh, machine: Machine) -> Links:
        """Links of a mesh without faults."""
        latency = np.full((4, *mesh.shape), machine.hop)
        if machine.die:  # the program sits one row inside the fabric
            die = (np.arange(mesh.rows) + 1) // machine.die_rows
            crosses = np.flatnonzero(np.diff(die))
            latency[2, crosses] += machine.die
            latency[3, crosses + 1] += machine.die
        state = np.zeros((8, 4 * mesh.cores))
        state[LATENCY] = latency.ravel()
        return cls(state, np.zeros((2, 0)), np.zeros((0, 2)))

    def fresh(self) -> Links:
        """The same links, before anything has gone over them."""
        state = np.zeros_like(self.state)
        state[LATENCY : STOP + 1] = self.state[LATENCY : STOP + 1]
        return Links(state, np.zeros_like(self.fabric), self.path)

    @property
    def args(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As the kernels take them."""
        return self.state, self.fabric, self.path

    @property
    def latency(self) -> np.ndarray:
        """``(4 * cores,)`` cycles from router to router, without faults."""
        return self.state[LATENCY]

    @property
    def least(self) -> float:
        """The fewest cycles from one router to the next."""
        return float(min(self.path[:, 1].min(initial=np.inf), self.latency.min()))

    @property
    def bytes(self) -> np.ndarray:
        """``(4 * cores,)`` bytes that have gone over each link."""
        return self.state[BYTES].astype(np.int64)

    @property
    def messages(self) -> np.ndarray:
        """``(4 * cores,)`` messages that have gone over it."""
        return self.state[MESSAGES].astype(np.int64)

    @property
    def taken(self) -> np.ndarray:
        """``(4 * cores,)`` cycles that they have occupied it for."""
        return self.state[TAKEN].copy()
