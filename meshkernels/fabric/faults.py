"""Dead cores and dead links: a schedule's mesh is laid on the living cores of a larger fabric, and routes go around.

As on real wafers every row of the mesh skips the dead cores of its row of the fabric; what does not fit there goes to
the nearest living core that is left, and rows with the most dead cores are left out where there are rows to spare. A
link between neighbours of the mesh is then the shortest way between their cores that no dead core and no dead link is
on; of ways equally short the one with fewer turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np

from meshkernels.errors import FabricError
from meshkernels.fabric.constants import Machine
from meshkernels.fabric.links import Links
from meshkernels.fabric.messages import FIRST, STOP
from meshkernels.mesh import Mesh

#: Steps eastwards, westwards, southwards, northwards.
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))

#: Rows and columns to spare, as a share, where a fault map does not say how large the fabric is; one at least.
SPARE = 0.015

Core = tuple[int, int]


@dataclass(frozen=True)
class Faults:
    """What does not work on a fabric.

    Attributes:
        cores: dead cores ``(row, column)``; their routers are dead, too.
        links: dead links, pairs of neighbouring cores, dead in both directions.
        fabric: rows and columns that there are; None: those of the schedule's mesh and `SPARE` of each to spare.
    """

    cores: tuple[Core, ...] = ()
    links: tuple[tuple[Core, Core], ...] = ()
    fabric: tuple[int, int] | None = None

    def __init__(self, cores: Iterable[Core] = (), links: Iterable[tuple[Core, Core]] = (),
                 fabric: tuple[int, int] | None = None) -> None:  # fmt: skip
        object.__setattr__(self, "cores", tuple((int(y), int(x)) for y, x in cores))
        object.__setattr__(self, "links", tuple(((int(a[0]), int(a[1])), (int(b[0]), int(b[1]))) for a, b in links))
        object.__setattr__(self, "fabric", None if fabric is None else (int(fabric[0]), int(fabric[1])))


def around(mesh: Mesh, faults: Faults, machine: Machine) -> Links:
    """The links of a mesh on a fabric with faults.

    Args:
        mesh: the mesh of the schedule.
        faults: cores and links of the fabric that do not work.
        machine: costs of the chip.

    Returns:
        Links whose paths lead around the faults.

    Raises:
        FabricError: a fault outside the fabric, a core that has no living one to stand on, or one that is cut off.
    """
    rows, cols = faults.fabric or tuple(side + max(1, ceil(SPARE * side)) for side in mesh.shape)
    if rows < mesh.rows or cols < mesh.cols:
        raise FabricError(f"a mesh of {mesh.rows} x {mesh.cols} cores does not fit a fabric of {rows} x {cols}")
    alive = np.ones((rows, cols), bool)
    for y, x in (*faults.cores, *(core for link in faults.links for core in link)):
        if not (0 <= y < rows and 0 <= x < cols):
            raise FabricError(f"core ({y}, {x}) of the fault map is not on a fabric of {rows} x {cols} cores")
    for y, x in faults.cores:
        alive[y, x] = False
    dead = set()
    for a, b in faults.links:
        if abs(a[0] - b[0]) + abs(a[1] - b[1]) != 1:
            raise FabricError(f"the fault map names a link from {a} to {b}, which are no neighbours")
        dead |= {(a, b), (b, a)}
    place = _place(mesh, alive)
    links = Links.of(mesh, machine)
    straight = links.latency.reshape(4, *mesh.shape)
    starts, path, latency = [0], list[int](), list[float]()
    for d, (dy, dx) in enumerate(STEPS):
        for y in range(mesh.rows):
            for x in range(mesh.cols):
                if 0 <= y + dy < mesh.rows and 0 <= x + dx < mesh.cols:
                    here, there = place[y, x], place[y + dy, x + dx]
                    beside = (here[0] + dy, here[1] + dx) == there and (here, there) not in dead
                    way = [d] if beside else _way(here, there, alive, dead)
                    if not way:
                        raise FabricError(f"core ({y}, {x}) cannot reach core ({y + dy}, {x + dx}): on the fabric "
                                          f"{here} is cut off from {there}")  # fmt: skip
                    last, at = way[0], here
                    for step in way:
                        path.append((step * rows + at[0]) * cols + at[1])
                        latency.append(machine.hop + (machine.turn if step != last else 0.0))
                        last, at = step, (at[0] + STEPS[step][0], at[1] + STEPS[step][1])
                    latency[-1] += straight[d, y, x] - machine.hop  # a die boundary
                starts.append(len(path))
    links.state[FIRST], links.state[STOP] = starts[:-1], starts[1:]
    links.path, links.fabric = np.column_stack([path, latency]), np.zeros((2, 4 * rows * cols))
    return links


def _place(mesh: Mesh, alive: np.ndarray) -> dict[Core, Core]:
    """Where on the fabric each core of the mesh is."""
    living = alive.sum(axis=1)
    short = np.maximum(mesh.cols - living, 0)
    kept = np.sort(np.argsort(short, kind="stable")[: mesh.rows])  # the rows with the fewest cores missing
    found: dict[Core, Core] = {}
    left: list[Core] = []
    free = {(int(y), int(x)) for y, x in np.argwhere(alive)}
    for y, row in enumerate(kept.tolist()):
        there = np.flatnonzero(alive[row])[: mesh.cols].tolist()
        for x, column in enumerate(there):
            found[y, x] = (row, column)
            free.discard((row, column))
        left += [(y, x) for x in range(len(there), mesh.cols)]
    for y, x in left:
        if not free:
            raise FabricError(f"core ({y}, {x}) of the mesh has no living core of the fabric to stand on: "
                              f"{int(alive.sum())} are alive, {mesh.cores} needed")  # fmt: skip
        ideal = (int(kept[y]), alive.shape[1] - 1)
        nearest = min(free, key=lambda core: (abs(core[0] - ideal[0]) + abs(core[1] - ideal[1]), core))
        found[y, x] = nearest
        free.discard(nearest)
    return found


def _way(source: Core, target: Core, alive: np.ndarray, dead: set) -> list[int]:
    """Directions of a shortest way, turning as seldom as possible; empty: there is none."""
    best: dict[tuple[Core, int], int] = {(source, -1): 0}  # turns, of the cores that are as many hops away
    came: dict[tuple[Core, int], tuple[Core, int]] = {}
    seen = {source}
    while best:
        ends = [(turns, d) for (at, d), turns in best.items() if at == target]
        if ends:
            way, state = list[int](), (target, min(ends)[1])
            while state[1] >= 0:
                way.append(state[1])
                state = came[state]
            return way[::-1]
        onward: dict[tuple[Core, int], int] = {}
        for (at, facing), turns in best.items():
            for d, (dy, dx) in enumerate(STEPS):
                to = (at[0] + dy, at[1] + dx)
                inside = 0 <= to[0] < alive.shape[0] and 0 <= to[1] < alive.shape[1]
                if not inside or to in seen or not alive[to] or (at, to) in dead:
                    continue
                cost = turns + (facing >= 0 and d != facing)
                if cost < onward.get((to, d), cost + 1):
                    onward[to, d], came[to, d] = cost, (at, facing)
        seen |= {to for to, _ in onward}
        best = onward
    return []
