"""Turns of the mesh under which one iteration of a repeat does what the iteration before it did.

On a rectangle a compute-shift does something else in every iteration: now these rows shift, now those. But seen from
the cores m places further on the ring of every column and n places further on that of every row, the next iteration
is this one. Every `Index` of the body then has the same value there one iteration later:

    y[row turned by m] + x[column turned by n] + step = y[row] + x[column]   (mod the length of its table),

and shifts along the very rings that are turned do not notice. So what holds of one iteration holds of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meshkernels.mesh import Mesh
from meshkernels.schedules.check import indices
from meshkernels.schedules.index import Index
from meshkernels.schedules.routes import Permute, Shift
from meshkernels.schedules.steps import Step


@dataclass(frozen=True, eq=False)
class Turn:
    """A turn of all columns of cores along one ring, and of all rows along another.

    Attributes:
        rings: the order of the ring of each axis, ``(rows,)`` and ``(cols,)``; None: that axis is not turned.
        by: places along each.
    """

    rings: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    by: tuple[int, int] = (0, 0)

    def of(self, array: np.ndarray) -> np.ndarray:
        """``array (rows or 1, cols or 1, ...)`` as it is on the core that each core is turned to."""
        for axis, (ring, by) in enumerate(zip(self.rings, self.by)):
            if ring is not None and by % len(ring) and array.shape[axis] > 1:
                turned = np.empty_like(ring)
                turned[ring] = np.roll(ring, -by)
                array = array.take(turned, axis)
        return array

    def place(self, axis: int, places: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Where the cores at these ``places`` of a line of ``axis`` are turned to by so many turns."""
        ring, by = self.rings[axis], self.by[axis]
        if ring is None or by % len(ring) == 0:
            return places
        position = np.empty_like(ring)
        position[ring] = np.arange(len(ring))
        return ring[(position[places] + by * times) % len(ring)]

    def power(self, times: int) -> Turn:
        """The same turn so many times over; negative: backwards."""
        return Turn(self.rings, (self.by[0] * times, self.by[1] * times))


def find(body: Sequence[Step], mesh: Mesh) -> Turn | None:
    """A turn under which the body's next iteration is this one, or None."""
    rings: list[np.ndarray | None] = [None, None]
    moves = [move for step in body for move in step.moves]
    for route in (move.route for move in moves):
        if not isinstance(route, Shift):
            continue
        axis, ring = route.axis, np.array(route.cycles[0] if len(route.cycles) == 1 else ())
        known = rings[axis]
        if len(ring) != mesh.length(axis) or (known is not None and not np.array_equal(known, ring)):
            return None
        rings[axis] = ring
    for route in (move.route for move in moves):  # these name cores: along a line that is not turned
        turned = [ring is not None for ring in rings]
        if not isinstance(route, Shift) and (any(turned) if isinstance(route, Permute) else turned[route.axis]):
            return None
    tables = list(indices(body))
    ways = [_ways(tables, axis, ring) for axis, ring in enumerate(rings)]
    wanted = np.array([-index.step % len(index.table) for index in tables], np.int64)
    length = np.array([len(index.table) for index in tables])
    other = {tuple(adds.tolist()): by for by, adds in reversed(ways[1])}
    for by, adds in ways[0]:
        across = other.get(tuple(((wanted - adds) % length).tolist()))
        if across is not None:
            return Turn((rings[0], rings[1]), (by, across))
    return None


def _ways(tables: list[Index], axis: int, ring: np.ndarray | None) -> list[tuple[int, np.ndarray]]:
    """Turns of one axis that add one number to each table's position on all its cores: ``(by, (tables,) numbers)``."""
    ways = []
    for by in range(1 if ring is None else len(ring)):
        adds = []
        for index in tables:
            own = np.array((index.y if axis == 0 else index.x) or (0,), np.int64)
            if ring is not None and len(own) > 1:
                own = own[ring]
                more = (np.roll(own, -by) - own) % len(index.table)
                if (more != more[0]).any():
                    break
                adds.append(int(more[0]))
            else:
                adds.append(0)
        else:
            ways.append((by, np.array(adds)))
    return ways
