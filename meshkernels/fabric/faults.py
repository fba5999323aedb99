"""Dead cores and dead links: a schedule's mesh is laid on the living cores of a larger fabric, and routes go around.

As on real wafers every row of the mesh skips the dead cores of its row of the fabric; what does not fit there goes to
the nearest living core that is left, and rows with the most dead cores are left out where there are rows to spare. A
link between neighbours of the mesh is then the shortest way between their cores that no dead core and no dead link is
on; of ways equally short the one with fewer turns.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from meshkernels.errors import FabricError
from meshkernels.fabric.constants import Machine
from meshkernels.fabric.links import Links
from meshkernels.fabric.messages import FIRST, STOP
from meshkernels.fabric.ways import find_ways
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
        try:
            pairs = [tuple(link) for link in links]
        except TypeError:
            pairs = [()]
        if any(len(pair) != 2 for pair in pairs):
            raise FabricError(f"links = {links!r}: a list of pairs of cores ((row, column), (row, column)) is expected")
        object.__setattr__(self, "cores", as_cores("cores", cores))
        object.__setattr__(self, "links", tuple(as_cores("a link", pair) for pair in pairs))
        object.__setattr__(self, "fabric", None if fabric is None else as_cores("fabric", [fabric])[0])


def as_cores(name: str, cores: Any) -> tuple[Core, ...]:
    """Pairs of whole numbers ``(row, column)``, whatever sequence they come in.

    Args:
        name: of the argument, for the refusal.
        cores: the pairs.

    Returns:
        The pairs.

    Raises:
        FabricError: no pairs of whole numbers.
    """
    try:
        return tuple((operator.index(y), operator.index(x)) for y, x in cores)
    except (TypeError, ValueError):
        raise FabricError(f"{name} = {cores!r}: pairs (row, column) of whole numbers are expected") from None


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
    dead = np.zeros((4, rows, cols), bool)
    for a, b in faults.links:
        if abs(a[0] - b[0]) + abs(a[1] - b[1]) != 1:
            raise FabricError(f"the fault map names a link from {a} to {b}, which are no neighbours")
        for (y, x), (to_y, to_x) in ((a, b), (b, a)):
            dead[STEPS.index((to_y - y, to_x - x)), y, x] = True
    place = np.zeros(mesh.shape, np.int64)
    for core, (y, x) in _place(mesh, alive).items():
        place[core] = y * cols + x
    here, there, links = [], [], Links.of(mesh, machine)
    row, column = (part.ravel() for part in np.indices(mesh.shape))
    for dy, dx in STEPS:
        at_y, at_x = row + dy, column + dx
        inside = (at_y >= 0) & (at_y < mesh.rows) & (at_x >= 0) & (at_x < mesh.cols)
        here.append(np.flatnonzero(inside))
        there.append((at_y * mesh.cols + at_x)[inside])
    number = np.concatenate([d * mesh.cores + cores for d, cores in enumerate(here)])
    source, target = np.concatenate(here), np.concatenate(there)
    starts, directions, cores = find_ways(alive, dead, place.ravel()[source], place.ravel()[target])
    if (none := starts[1:] == starts[:-1]).any():
        at = int(np.flatnonzero(none)[0])
        (y, x), (to_y, to_x) = divmod(int(source[at]), mesh.cols), divmod(int(target[at]), mesh.cols)
        raise FabricError(f"core ({y}, {x}) cannot reach core ({to_y}, {to_x}): on the fabric "
                          f"{divmod(int(place[y, x]), cols)} is cut off from {divmod(int(place[to_y, to_x]), cols)}")
    turns = np.diff(directions, prepend=-1) != 0
    turns[starts[:-1]] = False
    latency = machine.hop + machine.turn * turns
    latency[starts[1:] - 1] += links.latency[number] - machine.hop  # a die boundary
    links.state[FIRST, number], links.state[STOP, number] = starts[:-1], starts[1:]
    links.path = np.column_stack([directions * np.int64(rows * cols) + cores, latency])
    links.fabric = np.zeros((2, 4 * rows * cols))
    return links


def _place(mesh: Mesh, alive: np.ndarray) -> dict[Core, Core]:
    """Where on the fabric each core of the mesh is."""
    living = alive.sum(axis=1)
    short = np.maximum(mesh.cols - living, 0)
    kept = np.sort(np.argsort(short, kind="stable")[: mesh.rows])  # the rows with the fewest cores missing
    found: dict[Core, Core] = {}
    left: list[Core] = []
    free = set(zip(*(part.tolist() for part in np.nonzero(alive))))
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
