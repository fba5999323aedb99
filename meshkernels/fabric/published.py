"""Published kernels that are no algorithm of this library, as schedules: what the simulator is validated on.

They compute nothing that `verify` proves; the simulator plays them as it plays any other.
"""

from __future__ import annotations

import numpy as np

from meshkernels import schedules as S
from meshkernels.errors import MeshError
from meshkernels.mesh import Mesh, Tiling


def shift(grid: int, steps: int, height: int, width: int, *, rows: int | None = None) -> S.Schedule:
    """The KV-cache shift: a block of cores hands its tiles east, core by core (FxPiGaAo/WaferLLM, Shift/WSE-3).

    In each step even columns send and then receive, odd ones receive and then send: two steps of a schedule. A local
    copy comes first, another one last where ``steps`` is even, and then a word goes back to where the tile came from:
    the cycles are the mean over the `block` of the ends of its cores. The columns around it do the same, as far west as
    what they do is felt: what a core does in a step depends on its two western neighbours in the step before.

    Args:
        grid: columns of the block; it ends ``steps`` columns further east.
        steps: cores that each tile travels.
        height: rows of a tile.
        width: columns of a tile.
        rows: rows of the block; None: ``grid``.

    Returns:
        The schedule.

    Raises:
        MeshError: a size below 1.
    """
    if min(grid, steps, height, width) < 1:
        raise MeshError(f"shift of {height} x {width} tiles of {grid} columns by {steps}: each must be at least 1")
    mesh = Mesh(grid if rows is None else rows, grid + 3 * steps)
    tiles = Tiling((mesh.rows * height, mesh.cols * width), mesh.shape)
    flags = Tiling((mesh.rows, mesh.cols), mesh.shape)
    place = S.Place(S.line(0, range(mesh.rows)), S.line(1, range(mesh.cols)))
    buffers = {"cache": S.Tiles("A", 1, place), "tile": S.Tiles("A"), "flag": S.Tiles("F", 1, place),
               "seen": S.Tiles("F"), "out": S.Values(tiles.tile)}  # fmt: skip

    def hand(parity: int) -> S.Step:
        """Columns of one parity hand what they have to their eastern neighbour."""
        sender = np.arange(mesh.cols) - 1
        source = np.where((sender >= 0) & (sender % 2 == parity), sender, -1)
        return S.Step("hand east", moves=[S.Move("tile", S.Multicast(1, S.line(1, source)), 0, "tile", 0)])

    here = S.line(1, range(mesh.cols))
    copy = S.Step("copy", moves=[S.Move("cache", S.Multicast(1, here), 0, "tile", 0)])
    again = S.Step("copy", moves=[S.Move("tile", S.Multicast(1, here), 0, "tile", 0)])
    x = np.arange(mesh.cols)
    source = np.where((x >= block(grid, steps).start) & (x < block(grid, steps).stop), x + steps, -1)
    back = S.Step("synchronise", moves=[S.Move("flag", S.Multicast(1, S.line(1, source)), 0, "seen", 0)])
    program = (copy, S.Repeat(steps, (hand(0), hand(1))), *[again] * (steps % 2 == 0), back)
    return S.Schedule("shift", S.Task("shift", ("A", "F")), mesh, {"A": tiles, "F": flags}, tiles, buffers, program,
                    S.Collect("out", place))  # fmt: skip


def block(grid: int, steps: int) -> slice:
    """The columns of the block that `shift` shifts."""
    return slice(2 * steps, 2 * steps + grid)


def two_phase_reduce(cores: int, words: int, group: int) -> S.Schedule:
    """The sum of ``words`` elements per core of a line at its first core, in chains of ``group``, then of roots.

    Args:
        cores: cores of the line.
        words: elements on each core.
        group: cores of a group; divides ``cores``.

    Returns:
        The schedule.

    Raises:
        MeshError: the groups do not divide the line.
    """
    if not 1 <= group <= cores or cores % group:
        raise MeshError(f"groups of {group} do not divide a line of {cores} cores")
    mesh, place = Mesh(1, cores), np.arange(cores)
    phases = [place // group * group, np.where(place % group == 0, 0, -1)]
    steps = [S.Step("reduce", moves=[S.Move("y", S.Reduce(1, S.line(1, root)), combine="add")])
             for root in phases[: 1 if group == cores else 2]]  # fmt: skip
    x, y = Tiling((1, words * cores), (1, cores)), Tiling((1, words), (1, 1))
    first = S.Index([0] + [-1] * (cores - 1), x=place)
    return S.Schedule("two_phase_reduce", S.Task("allreduce", ("x",), axis=1), mesh, {"x": x}, y,
                    {"y": S.Values((1, words), copies=2)}, tuple(steps), S.Collect("y", S.Place(0, first)))  # fmt: skip


def hand_up(cores: int, words: int) -> S.Schedule:
    """Every core of a column but the first hands a message to its upper neighbour, all at once.

    Args:
        cores: of the column; columns do not meet.
        words: elements of a message; 0: nothing moves.

    Returns:
        The schedule.
    """
    mesh, n = Mesh(cores, 1), max(words, 1)
    tiles, place = Tiling((cores, n), mesh.shape), S.Place(S.line(0, range(cores)), S.line(1, [0]))
    source = np.append(np.arange(1, cores), -1)
    step = S.Step("hand up", moves=[S.Move("cache", S.Multicast(0, S.line(0, source)), 0, "new", 0)])
    buffers = {"cache": S.Tiles("A", 1, place), "new": S.Tiles("A"), "out": S.Values(tiles.tile)}
    return S.Schedule("hand up", S.Task("shift", ("A",)), mesh, {"A": tiles}, tiles, buffers,
                    (step,) if words else (), S.Collect("out", place))  # fmt: skip
