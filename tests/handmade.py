"""Schedules unlike the built-in ones, written out by hand: for what no algorithm of the library does."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

import meshkernels as mk
from meshkernels import schedules as S
from meshkernels.algorithms import known


def bent_allreduce(mesh: mk.Mesh, width: int = 2, row_first: bool = True) -> S.Schedule:
    """Block (i, j) lies on core (i, i + j); one row after the other sends its own to core (0, j), round a bend."""
    rows, cols = mesh.shape
    x = mk.Tiling((rows, cols * width), mesh.shape)
    across = S.Index(range(cols), y=-np.arange(rows), x=range(cols))
    buffers = {"x": S.Tiles("x", home=S.Place(S.line(0, range(rows)), across)), "y": S.Values((1, width), copies=2)}
    steps = [S.Step("load", S.Copy("x", "y", piece=None))]
    for row in range(1, rows):
        sends = S.line(0, [0 if y == row else -1 for y in range(rows)])
        steps.append(S.Step("send", moves=S.Move("y", S.Permute(sends, across, row_first), combine="add")))
    root = S.line(0, [0] + [-1] * (rows - 1))
    return S.Schedule("bent", S.Task("allreduce", ("x",)), mesh, {"x": x}, mk.Tiling((1, cols * width), (1, cols)),
                      buffers, tuple(steps), S.Collect("y", S.Place(root, across), whole=True))  # fmt: skip


def any_order(mesh: mk.Mesh, M: int, K: int, N: int, seed: int = 0) -> S.Schedule:
    """A product on a square mesh in which every row of cores meets the blocks of K in an order of its own."""
    P, rng = mesh.rows, np.random.default_rng(seed)
    order = np.array([rng.permutation(P) for _ in range(P)])  # [row, step]
    here = S.Place(S.line(0, range(P)), S.line(1, range(P)))
    A, B, C = (mk.Tiling(shape, mesh.shape) for shape in ((M, K), (K, N), (M, N)))
    buffers = {"A": S.Tiles("A", home=here), "B": S.Tiles("B", home=here), "C": S.Values(C.tile),
               "a": S.Tiles("A"), "b": S.Tiles("B")}  # fmt: skip
    owner = S.Index(order.ravel(), y=P * np.arange(P), step=1)
    fetch = S.Step(
        "fetch", moves=[S.Move("A", S.Multicast(1, owner), into="a"), S.Move("B", S.Multicast(0, owner), into="b")]
    )
    return S.Schedule(
        "any order",
        S.Task("product", ("A", "B")),
        mesh,
        {"A": A, "B": B},
        C,
        buffers,
        (S.Repeat(P, (fetch, S.Step("multiply", S.Multiply("a", "b", "C")))),),
        S.Collect("C", here),
    )


def fitting(family: str, mesh: mk.Mesh) -> list[str]:
    """Names of the algorithms of a family that take a mesh of these proportions."""
    names = []
    for name in known(family):
        with suppress(mk.MeshError):
            mk.schedule(name, mesh, 1, 1, 1)
            names.append(name)
    return names
