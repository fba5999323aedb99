"""Checks of arguments: each refusal names the argument, the offending value and what would do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from meshkernels.errors import MeshError, MeshTypeError, shown
from meshkernels.mesh import Mesh
from perfmodel import console

ACCEPTED = ("float16", "bfloat16", "float32", "float64")

#: What the verbs take as a mesh: one, the cores a side of a square one, or ``(rows, cols)``.
MeshLike = Mesh | int | tuple[int, int]


def as_mesh(mesh: MeshLike) -> Mesh:
    """The mesh that is meant."""
    if isinstance(mesh, Mesh):
        return mesh if mesh.distribution is None else Mesh(mesh.rows, mesh.cols)  # a schedule never holds ranks
    if isinstance(mesh, (int, np.integer)) and not isinstance(mesh, bool):
        return Mesh(int(mesh))
    if isinstance(mesh, (tuple, list)) and len(mesh) == 2:
        return Mesh(*mesh)
    raise MeshTypeError(f"mesh must be a Mesh, the cores a side or a pair (rows, cols), not {shown(mesh)}")


class NoGrid(MeshError, argparse.ArgumentTypeError):
    """What `grid` raises: a refusal of ours, and to argparse a bad option whose message it prints."""


def grid(text: str) -> Mesh:
    """``24`` or ``24x16``, rows x columns, as a mesh: an option of the command line."""
    try:
        return Mesh(*console.grid(text))
    except MeshError as error:
        raise NoGrid(f"{shown(text)} is no grid: {error}") from None
    except argparse.ArgumentTypeError as error:
        raise NoGrid(str(error)) from None


def as_axis(axis: int) -> int:
    """0 or 1."""
    if isinstance(axis, bool) or axis not in (0, 1) or not isinstance(axis, (int, np.integer)):
        raise MeshError(f"axis = {axis!r}: a mesh has axis 0 (y) and axis 1 (x)")
    return int(axis)


def as_count(name: str, value: Any) -> int:
    """``value`` as an integer."""
    try:
        return index(value)
    except TypeError:
        raise MeshTypeError(f"{name} must be an integer, not {value!r}") from None


def as_cost(name: str, value: Any) -> float:
    """``value`` as a finite, non-negative number of cycles."""
    try:
        cost = float(value)
    except (TypeError, ValueError):
        raise MeshTypeError(f"{name} must be a number of cycles, not {shown(value)}") from None
    if not 0 <= cost < float("inf"):
        raise MeshError(f"{name} = {cost}: cycles are finite and not negative")
    return cost


def as_groups(groups: Any) -> int | tuple[int, ...] | None:
    """A group count, or one for each level but the last; None stays None."""
    if groups is None:
        return None
    if isinstance(groups, (Sequence, np.ndarray)) and not isinstance(groups, str) and np.ndim(groups) == 1:
        return tuple(as_count("groups", count) for count in groups)
    return as_count("groups", groups)


def operand(name: str, value: ArrayLike, ndim: int) -> np.ndarray:
    """An array of ``ndim`` dimensions and an accepted dtype, in this machine's byte order."""
    if getattr(value, "layout", None) is not None:  # a DistMatrix has a dtype that is accepted
        return value  # type: ignore[return-value]
    if isinstance(value, np.ma.MaskedArray):
        raise MeshTypeError(f"{name} is a masked array: a mesh has no masks; fill it first")
    array = np.asarray(value)
    if not _accepted(array.dtype):
        raise MeshTypeError(f"{name} has dtype {array.dtype}; accepted: {', '.join(ACCEPTED)}")
    if array.ndim != ndim:
        raise MeshError(f"{name} has {array.ndim} dimensions, {array.shape}; it must have {ndim}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


@cache
def _accepted(dtype: np.dtype) -> bool:
    return dtype.name in ACCEPTED  # NumPy composes the name anew each time


def accumulator(stored: np.dtype, accumulate: DTypeLike | None) -> np.dtype:
    """The dtype of sums: what was asked for, where it makes sense for what is stored."""
    wide = np.dtype(np.float64 if stored == np.float64 else np.float32)
    try:
        asked = wide if accumulate is None else np.dtype(accumulate)
    except (TypeError, ValueError):
        asked = None
    if asked is None or (asked != wide and not (asked == np.float16 and stored == np.float16)):
        possible = f"{wide}" + (" or float16" if stored == np.float16 else "")
        raise MeshError(f"accumulate = {shown(accumulate)}: {stored} operands are summed in {possible}")
    return np.dtype(asked)


def common_dtype(dtypes: Sequence[np.dtype]) -> np.dtype:
    """What NumPy would promote the operands to."""
    try:
        return np.result_type(*dtypes)
    except TypeError:
        raise MeshTypeError(f"no common dtype of {' and '.join(map(str, dtypes))}: convert one of them") from None


def output(out: Any, shape: tuple[int, ...], dtype: np.dtype, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """``out`` if the result can be put there."""
    if not isinstance(out, np.ndarray):
        raise MeshTypeError(f"out must be an array, not {type(out).__name__}")
    if out.shape != shape or out.dtype.newbyteorder("=") != dtype:
        raise MeshError(f"out is {out.dtype} {out.shape}; the result is {dtype} {shape}")
    if not out.flags.writeable:
        raise MeshError("out is read-only")
    for name, array in inputs.items():
        if np.shares_memory(out, array):
            raise MeshError(f"out overlaps {name}")
    return out
