"""MeshGEMV: y = x W as a local product on every core and an all-reduce of the partial results.

The vector x is cut along the reduced axis and replicated along the other; so is y, with the axes exchanged. A
chain of products that alternates the axis therefore never transposes anything: with ``axis=0`` core (y, x)
holds W(y, x), with ``axis=1`` it holds W(x, y), the transposed *placement* of the untransposed tile.

References:
    He et al., WaferLLM, OSDI 2025, sections 4 and 6.
"""

from __future__ import annotations

import numpy as np

from meshkernels.algorithms import find
from meshkernels.mesh import Mesh, Tiling, ceil_div
from meshkernels.schedule import Multiply, Reduction, Schedule, SplitSum, Step, Tiles, place


def gemv(mesh: Mesh, K: int, N: int, *, axis: int = 0, reduce: str = "ktree", **options) -> Schedule:
    """y[N] = x[K] W[K, N], reduced along ``axis`` by the algorithm called ``reduce``.

    Args:
        mesh: the cores.
        K, N: shape of W.
        axis: 0 to reduce along y (down the columns), 1 along x.
        reduce: name of a ``"reduce"`` algorithm; ``options`` are its own.
    """
    size, lines = mesh.length(axis), mesh.lines(axis)
    reduction: Reduction = find("reduce", reduce)(mesh, axis, ceil_div(N, lines), **options)
    x, W, y = Tiling((1, K), (1, size)), Tiling((K, N), (size, lines)), Tiling((1, N), (1, lines))
    here, line = np.indices(mesh.shape)[:: 1 if axis == 0 else -1, ..., None]  # place on the line; which line
    return Schedule(
        reduce, mesh, {"x": x, "W": W}, y,
        {"x": Tiles("x", 1, place(mesh, x, 0 * here, here)),
         "W": Tiles("W", 1, place(mesh, W, here, line)),
         "y": reduction.values},
        (Step("multiply", Multiply("x", "W", "y", accumulate=False)), *reduction.steps),
        collect=_on_root(mesh, axis, reduction), output="y", order=SplitSum(axis),
    )  # fmt: skip


def allreduce(mesh: Mesh, width: int, *, axis: int = 0, reduce: str = "ktree", **options) -> Schedule:
    """Combine ``width`` elements per core along every line of ``axis``; nothing is multiplied."""
    reduction: Reduction = find("reduce", reduce)(mesh, axis, width, **options)
    return Schedule(
        reduce, mesh, {}, None, {"y": reduction.values}, reduction.steps,
        collect=_on_root(mesh, axis, reduction), output="y", order=SplitSum(axis),
    )  # fmt: skip


def _on_root(mesh: Mesh, axis: int, reduction: Reduction) -> np.ndarray:
    """`Schedule.collect` of a vector: ``(lines, pieces)``, the pieces of every line on its root."""
    core = np.arange(mesh.cores).reshape(mesh.shape).take([reduction.root or 0], axis=axis).reshape(-1, 1)
    return core + mesh.cores * np.arange(reduction.values.pieces)
