"""MeshGEMV: y = x W as a local product on every core and an all-reduce of the partial results.

The vector x is cut along the reduced axis and replicated along the other; so is y, with the axes exchanged. A
chain of products that alternates the axis therefore never transposes anything: with ``axis=0`` core (y, x)
holds W(y, x), with ``axis=1`` it holds W(x, y), the transposed *placement* of the untransposed tile.

References:
    He et al., WaferLLM, OSDI 2025, sections 4 and 6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from meshkernels.algorithms import find
from meshkernels.algorithms.reduction import Reduction
from meshkernels.mesh import Mesh, Tiling, ceil_div
from meshkernels.schedules import Collect, Copy, Index, Multiply, Place, Schedule, Step, Task, Tiles, line


def gemv(mesh: Mesh, K: int, N: int, *, axis: int = 0, reduce: str = "ktree", **options: Any) -> Schedule:
    """y[N] = x[K] W[K, N], reduced along ``axis`` by the algorithm called ``reduce``.

    Args:
        mesh: the cores.
        K: rows of W, elements of x.
        N: columns of W, elements of y.
        axis: 0 to reduce along y (down the columns), 1 along x.
        reduce: name of a ``"reduce"`` algorithm.
        **options: the reduction's own.

    Returns:
        The schedule: a local product, then the reduction's steps.
    """
    size, lines = mesh.length(axis), mesh.lines(axis)
    reduction: Reduction = find("reduce", reduce)(mesh, axis, ceil_div(N, lines), **options)
    x, W, y = Tiling((1, K), (1, size)), Tiling((K, N), (size, lines)), Tiling((1, N), (1, lines))
    here, across = line(axis, range(size)), line(1 - axis, range(lines))
    buffers = {"x": Tiles("x", 1, Place(0, here)), "W": Tiles("W", 1, Place(here, across)), "y": reduction.values}
    multiply = Step("multiply", Multiply("x", "W", "y", piece=None, accumulate=False))
    return Schedule(reduce, Task("product", ("x", "W")), mesh, {"x": x, "W": W}, y, buffers,
                    (multiply, *reduction.program), _collect(mesh, axis, reduction, 0, across))  # fmt: skip


def allreduce(mesh: Mesh, width: int, *, axis: int = 0, reduce: str = "ktree", op: str = "add", height: int = 1,
              **options: Any) -> Schedule:  # fmt: skip
    """Combine ``height x width`` elements per core along every line of ``axis``, block (y, x) being core (y, x)'s."""
    reduction: Reduction = find("reduce", reduce)(mesh, axis, width, op=op, **options)
    x = Tiling((mesh.rows * height, mesh.cols * width), mesh.shape)
    result = Tiling((height, mesh.cols * width), (1, mesh.cols)) if axis == 0 else Tiling(
        (mesh.rows * height, width), (mesh.rows, 1))  # fmt: skip
    y_place, x_place = line(0, range(mesh.rows)), line(1, range(mesh.cols))
    values = replace(reduction.values, shape=(height, reduction.values.shape[1]))
    buffers = {"x": Tiles("x", 1, Place(y_place, x_place)), "y": values}
    down, across = (0, x_place) if axis == 0 else (y_place, 0)
    return Schedule(reduce, Task("allreduce", ("x",), op, axis), mesh, {"x": x}, result, buffers,
                    (Step("load", Copy("x", "y", piece=None)), *reduction.program),
                    _collect(mesh, axis, reduction, down, across))  # fmt: skip


def _collect(mesh: Mesh, axis: int, reduction: Reduction, down: int | Index, across: int | Index) -> Collect:
    """The result of every line, from its root."""
    root = np.full(mesh.length(axis), -1)
    root[reduction.root or 0] = 0
    if isinstance(down, int):  # on the root alone
        down = line(axis, root)
    else:
        across = line(axis, root)
    return Collect("y", Place(down, across), whole=True)
