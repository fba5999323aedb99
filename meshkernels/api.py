"""The public verbs: NumPy arrays in, NumPy arrays out, computed the way a mesh of cores would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

import perfmodel
from meshkernels import dispatch
from meshkernels.algorithms import family_of, find
from meshkernels.arguments import (
    MeshLike,
    as_axis,
    as_groups,
    as_mesh,
    operand,
)
from meshkernels.dispatch import Observer
from meshkernels.engines.distribution import on_ranks
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.mesh import Mesh
from meshkernels.placed import Placed
from meshkernels.schedules import Schedule, verify
from meshkernels.schedules.check import OPS


@on_ranks(2)
def gemm(A: ArrayLike, B: ArrayLike | Placed, mesh: MeshLike, *, algorithm: str | Schedule = "meshgemm",
         accumulate: DTypeLike | None = None, out: np.ndarray | None = None, ledger: bool = False,
         device: perfmodel.Device | str | None = None, method: str = "fused",
         observe: Observer | None = None, **options: Any) -> Any:  # fmt: skip
    """``A @ B`` on a mesh of cores.

    Args:
        A: ``(M, K)``, float16, bfloat16, float32 or float64, any strides; never modified.
        B: ``(K, N)``, or what `place` made of it.
        mesh: the cores: a `Mesh`, a number for a square one, or ``(rows, cols)``.
        algorithm: ``"meshgemm"``, ``"cannon"``, ``"summa"``, ``"allgather"`` or any other registered one; or a
            schedule for these shapes on this mesh.
        accumulate: dtype of sums: float32 by default (float64 for float64). ``"float16"``, for float16 operands,
            rounds after every multiply-add, as the wafer does: the sum of an accumulator and a product (which is
            exact) is rounded to float32 and then to float16.
        out: where to put the result, ``(M, N)``.
        ledger: also return the `Ledger` of what the mesh did.
        device: refuse what this device cannot hold or route.
        method: ``"fused"``, or ``"lockstep"`` to step through the mesh; the same bits.
        observe: called with a `Snapshot` in each step; needs ``method="lockstep"``.
        **options: the algorithm's own, e.g. ``layers=2`` of ``"cannon25d"``.

    Returns:
        C: ``(M, N)`` of the operands' common dtype; with ``ledger=True`` the pair ``(C, ledger)``.

    Raises:
        MeshTypeError: a dtype that is not accepted (a ``TypeError``).
        MeshError: shapes that do not match, an unknown algorithm or method, an ``out`` of the wrong shape or
            dtype or one that overlaps an operand.
        DeviceLimitError: the schedule does not fit ``device``.

    Examples:
        >>> A, B = np.ones((5, 7), np.float32), np.ones((7, 3), np.float32)
        >>> C, counted = gemm(A, B, Mesh(4, 2), ledger=True)
        >>> C.shape, float(C[0, 0]), counted.hops_per_step
        ((5, 3), 7.0, 2)
    """
    A, B = operand("A", A, 2), dispatch.weights("B", B, mesh)
    if A.shape[1] != B.shape[0]:
        raise MeshError(f"A {A.shape} and B {B.shape} do not match: {A.shape[1]} columns against {B.shape[0]} rows")
    wanted = dispatch.scheduled("gemm", algorithm, mesh, *A.shape, B.shape[1], **options)
    operands = dict(zip(wanted.task.operands, (A, B)))  # a schedule of one's own may call them otherwise
    return dispatch.execute(wanted, operands, slice(None), accumulate, out, ledger, device, method, observe)


@on_ranks(2)
def gemm_t(A: ArrayLike, B: ArrayLike, mesh: MeshLike, *, algorithm: str | Schedule = "meshgemm_t",
           accumulate: DTypeLike | None = None, out: np.ndarray | None = None, ledger: bool = False,
           device: perfmodel.Device | str | None = None, method: str = "fused", observe: Observer | None = None,
           **options: Any) -> Any:  # fmt: skip
    """``A @ B.T`` on a mesh, without ever transposing B: the product Q K^T of attention.

    Args:
        A: ``(M, K)``.
        B: ``(N, K)``, laid out over the mesh as it is.
        mesh: the cores.
        algorithm: ``"meshgemm_t"``, ``"gemm_t"`` (the published dist-GEMM-T) or any other registered one; or a
            schedule for these shapes.
        accumulate: dtype of sums, as for `gemm`.
        out: where to put the result.
        ledger: also return the `Ledger` of what the mesh did.
        device: refuse what this device cannot hold or route.
        method: ``"fused"`` or ``"lockstep"``: the same bits.
        observe: called with a `Snapshot` in each step of ``method="lockstep"``.
        **options: the algorithm's own.

    Returns:
        C: ``(M, N)``, laid out over the mesh like A; with ``ledger=True`` the pair ``(C, ledger)``.

    Raises:
        MeshTypeError: a dtype that is not accepted.
        MeshError: shapes that do not match, an unknown algorithm, or as for `gemm`.
        DeviceLimitError: the schedule does not fit ``device``.
    """
    if isinstance(B, Placed):
        raise MeshTypeError("B is placed: gemm_t takes a matrix; its B is an activation, not a weight")
    A, B = operand("A", A, 2), operand("B", B, 2)
    if A.shape[1] != B.shape[1]:
        raise MeshError(f"A {A.shape} and B {B.shape} do not match: {A.shape[1]} columns against {B.shape[1]}")
    wanted = dispatch.scheduled("gemm_t", algorithm, mesh, *A.shape, B.shape[0], **options)
    operands = dict(zip(wanted.task.operands, (A, B)))
    return dispatch.execute(wanted, operands, slice(None), accumulate, out, ledger, device, method, observe)


@on_ranks(2, whole=True)
def gemv(x: ArrayLike, W: ArrayLike | Placed, mesh: MeshLike, *, reduce: str = "ktree", axis: int = 0,
         levels: int | None = None, groups: int | Sequence[int] | None = None, broadcast: bool = True,
         accumulate: DTypeLike | None = None, out: np.ndarray | None = None, ledger: bool = False,
         device: perfmodel.Device | str | None = None, method: str = "fused",
         observe: Observer | None = None) -> Any:  # fmt: skip
    """``x @ W`` on a mesh: a local product on every core, then an all-reduce along ``axis``.

    Args:
        x: ``(K,)``, cut along ``axis`` and replicated along the other.
        W: ``(K, N)``, or what `place` made of it; core (y, x) holds tile (y, x), or tile (x, y) with ``axis=1``.
        mesh: the cores.
        reduce: ``"ktree"``, ``"chain"``, ``"pipeline"``, ``"ring"`` or any other registered reduction.
        axis: the axis to reduce along: 0 = y, 1 = x.
        levels: K of the K-tree; 2 by default.
        groups: how many groups the K-tree's first level has, or a count for each level but the last; None: the
            best for the hop and stage costs of ``device``, or of the WSE-3.
        broadcast: leave the result on every core of a line; False: on its root only.
        accumulate: dtype of sums, as for `gemm`.
        out: where to put the result.
        ledger: also return the `Ledger` of what the mesh did.
        device: refuse what this device cannot hold or route.
        method: ``"fused"`` or ``"lockstep"``: the same bits.
        observe: called with a `Snapshot` in each step of ``method="lockstep"``.

    Returns:
        y: ``(N,)``; with ``ledger=True`` the pair ``(y, ledger)``.

    Raises:
        MeshTypeError: a dtype that is not accepted.
        MeshError: shapes that do not match; an unknown reduction; an axis, levels or groups out of range; or as for
            `gemm`.
        DeviceLimitError: the schedule does not fit ``device``.

    Examples:
        >>> x, W = np.arange(3.0), np.eye(3)
        >>> gemv(x, W, Mesh(2), groups=1)
        array([0., 1., 2.])
    """
    x, W = operand("x", x, 1), dispatch.weights("W", W, mesh)
    if len(x) != W.shape[0]:
        raise MeshError(f"x ({len(x)},) and W {W.shape} do not match: {len(x)} elements against {W.shape[0]} rows")
    options = dispatch.reduce_options(reduce, as_axis(axis), broadcast, levels, groups, device)
    wanted = dispatch.scheduled("reduce", reduce, mesh, *W.shape, **options)
    return dispatch.execute(wanted, {"x": x[None], "W": W}, 0, accumulate, out, ledger, device, method, observe)


@on_ranks(1, whole=True)
def allreduce(values: ArrayLike, mesh: MeshLike, *, axis: int = 0, op: str = "add", reduce: str = "ktree",
              levels: int | None = None, groups: int | Sequence[int] | None = None, broadcast: bool = True,
              accumulate: DTypeLike | None = None, ledger: bool = False,
              device: perfmodel.Device | str | None = None) -> Any:  # fmt: skip
    """Combine a vector per core along every line of an axis: ``values.sum(axis)`` or ``.max(axis)`` on the mesh.

    Args:
        values: ``(rows, cols, n)``, the vector of each core, or ``(rows, cols, vectors, n)``.
        mesh: the cores.
        axis: the axis to combine along: 0 = y, 1 = x.
        op: ``"add"``, ``"max"`` or ``"logsumexp"``: each vector is a softmax state ``(m, s_1, s_2, ...)`` that stands
            for the sums ``exp(m) s_j``; combined, m is the largest of all, and the s_j add up in units of its exp.
        reduce: ``"ktree"``, ``"chain"``, ``"pipeline"``, ``"ring"`` or any other registered reduction.
        levels: K of the K-tree, as for `gemv`.
        groups: groups of the K-tree's levels, as for `gemv`.
        broadcast: leave the result on every core of a line; False: on its root only.
        accumulate: dtype of sums, as for `gemm`.
        ledger: also return the `Ledger` of what the mesh did.
        device: refuse what this device cannot hold or route.

    Returns:
        ``(cols, n)`` for ``axis=0``, ``(rows, n)`` for ``axis=1``: the result of each line (of several vectors
        ``(cols, vectors, n)``); with ``ledger=True`` the pair ``(result, ledger)``.

    Raises:
        MeshTypeError: a dtype that is not accepted.
        MeshError: ``values`` of another shape than the mesh's; an unknown ``op`` or reduction; an axis, levels or
            groups out of range.
        DeviceLimitError: the schedule does not fit ``device``.

    Examples:
        >>> allreduce(np.arange(6.0).reshape(2, 3, 1), Mesh(2, 3), axis=1, op="max").tolist()
        [[2.0], [5.0]]
        >>> states = np.array([[[-1.0, 2.0]], [[-np.inf, 0.0]], [[3.0, 1.0]]])  # 2 exp(-1), nothing, exp(3)
        >>> bool(np.isclose(allreduce(states, Mesh(3, 1), op="logsumexp")[0, 1], 1 + 2 * np.exp(-4)))
        True
    """
    values, mesh = operand("values", values, 4 if np.ndim(values) == 4 else 3), as_mesh(mesh)
    if values.shape[:2] != mesh.shape:
        raise MeshError(f"values {values.shape}: the first two sides must be those of the mesh, {mesh.shape}")
    if op not in OPS:
        raise MeshError(f"op = {op!r}; known: {', '.join(map(repr, OPS))}")
    (rows, cols), (*height, n) = mesh.shape, values.shape[2:]
    if op == "logsumexp" and n == 0:
        raise MeshError("logsumexp combines vectors (m, s_1, ...) of at least 1 element, not of 0")
    options = dispatch.reduce_options(reduce, as_axis(axis), broadcast, levels, groups, device)
    build = find("reduce", reduce)  # part of what is remembered: the name may be registered again
    options |= {"reduce": reduce, "op": op, "height": height[0] if height else 1}
    wanted = dispatch.allreduce_schedule(build, mesh, n, tuple(sorted(options.items())))
    matrix = values.reshape(rows, cols, options["height"], n).swapaxes(1, 2).reshape(wanted.operands["x"].shape)
    found = run(wanted, {"x": matrix}, accumulate=accumulate, ledger=ledger, device=device)
    result, *more = found if ledger else (found,)
    if options["axis"] == 0 and height:
        result = result.reshape(*height, cols, n).swapaxes(0, 1)
    lines = result.reshape(mesh.lines(options["axis"]), *height, n)
    return (lines, *more) if ledger else lines


@on_ranks(1)
def transpose(A: ArrayLike, mesh: MeshLike, *, ledger: bool = False, device: perfmodel.Device | str | None = None,
              method: str = "fused", observe: Observer | None = None) -> Any:  # fmt: skip
    """``A.T`` on a mesh: core (y, x) sends its tile, turned, to the core that holds its place in the transpose.

    Args:
        A: ``(M, N)``, cut over the mesh; the result is cut the same way.
        mesh: the cores.
        ledger: also return the `Ledger` of what the mesh did.
        device: refuse what this device cannot hold or route.
        method: ``"fused"`` or ``"lockstep"``: the same bits.
        observe: called with a `Snapshot` in each step of ``method="lockstep"``.

    Returns:
        ``(N, M)``; with ``ledger=True`` the pair ``(A.T, ledger)``.

    Raises:
        MeshTypeError: a dtype that is not accepted.
        MeshError: an unknown method.
        DeviceLimitError: the schedule does not fit ``device``.

    Examples:
        >>> transpose(np.arange(6.0).reshape(2, 3), Mesh(2)).tolist()
        [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    A = operand("A", A, 2)
    wanted = dispatch.scheduled("transpose", "transpose", mesh, *A.shape)
    return dispatch.execute(wanted, {"A": A}, slice(None), None, None, ledger, device, method, observe)


@on_ranks(1, whole=True)
def alltoall(values: ArrayLike, mesh: MeshLike, *, axis: int = 1, ledger: bool = False,
             device: perfmodel.Device | str | None = None, method: str = "fused",
             observe: Observer | None = None) -> Any:  # fmt: skip
    """Every core of a line sends a message of its own to every other: the dispatch of a mixture of experts.

    Args:
        values: ``(rows, cols, P, n)`` with P the cores on a line of ``axis``: what core (y, x) has for each of them.
        mesh: the cores.
        axis: the axis of the lines: 0 = y, 1 = x.
        ledger: also return the `Ledger` of what the mesh did.
        device: refuse what this device cannot hold or route.
        method: ``"fused"`` or ``"lockstep"``: the same bits.
        observe: called with a `Snapshot` in each step of ``method="lockstep"``.

    Returns:
        ``(rows, cols, P, n)``: what core (y, x) has got from each core of its line; with ``ledger=True`` the pair
        ``(received, ledger)``.

    Raises:
        MeshTypeError: a dtype that is not accepted.
        MeshError: ``values`` of another shape than the mesh's, an axis out of range, an unknown method.
        DeviceLimitError: the schedule does not fit ``device``.

    Examples:
        >>> sent = np.array([[[[11.0], [12.0]], [[21.0], [22.0]]]])      # core 0 has 11, 12; core 1 has 21, 22
        >>> alltoall(sent, Mesh(1, 2))[0, :, :, 0].tolist()
        [[11.0, 21.0], [12.0, 22.0]]
    """
    values, axis, mesh = operand("values", values, 4), as_axis(axis), as_mesh(mesh)
    P = mesh.length(axis)
    if values.shape[:3] != (*mesh.shape, P):
        raise MeshError(f"values {values.shape}: the first three sides must be {(*mesh.shape, P)}")
    lines, n = mesh.lines(axis), values.shape[3]
    wanted = dispatch.scheduled("alltoall", "alltoall", mesh, n, axis=axis)
    by_line = values if axis == 1 else values.swapaxes(0, 1)  # (lines, from, to, n)
    matrix = by_line.reshape(lines * P, P * n)
    found = dispatch.execute(wanted, {"A": matrix}, slice(None), None, None, ledger, device, method, observe)
    result, *more = found if ledger else (found,)
    got = result.reshape(lines, P, P, n)  # (lines, to, from, n)
    got = got if axis == 1 else np.ascontiguousarray(got.swapaxes(0, 1))
    return (got, *more) if ledger else got


@on_ranks(None)
def run(schedule: Schedule, operands: Mapping[str, ArrayLike], *, accumulate: DTypeLike | None = None,
        out: np.ndarray | None = None, ledger: bool = False, device: perfmodel.Device | str | None = None,
        method: str = "fused", observe: Observer | None = None, mesh: Mesh | None = None) -> Any:  # fmt: skip
    """Run any schedule that one has in hand; it is verified first.

    Args:
        schedule: what to do.
        operands: each operand as a matrix of the shape that ``schedule.operands`` states, by name.
        accumulate: dtype of sums, as for `gemm`.
        out: where to put the result.
        ledger: also return the `Ledger` of what the mesh did.
        device: refuse what this device cannot hold or route.
        method: ``"fused"`` or ``"lockstep"``: the same bits.
        observe: called with a `Snapshot` in each step of ``method="lockstep"``.
        mesh: the schedule's mesh, with the communicator whose ranks run it; None: this process does.

    Returns:
        The result, a matrix of ``schedule.result.shape``, on a mesh with ranks a `DistMatrix`; with ``ledger=True`` the
        pair ``(result, ledger)``.

    Raises:
        ScheduleError: the schedule does not do what it says: see `verify`.
        MeshTypeError: a dtype that is not accepted.
        MeshError: operands of other names or shapes than the schedule's; or as for `gemm`.
        DeviceLimitError: the schedule does not fit ``device``.

    Examples:
        >>> s = schedule("summa", Mesh(2), 4, 4, 4)
        >>> bool((run(s, {"A": np.eye(4), "B": np.ones((4, 4))}) == 1).all())
        True
    """
    if not isinstance(schedule, Schedule):
        raise MeshTypeError(f"run takes a Schedule, not {type(schedule).__name__}")
    verify(schedule)  # refuses a schedule that is wrong, before its parts are looked at
    if mesh is not None and as_mesh(mesh) != schedule.mesh:
        raise MeshError(f"the schedule {schedule.name!r} is for {schedule.mesh}, not for {mesh}")
    if not isinstance(operands, Mapping) or set(operands) != set(schedule.operands):
        given = ", ".join(map(str, operands)) if isinstance(operands, Mapping) else type(operands).__name__
        raise MeshError(f"{schedule.name} takes the operands {', '.join(schedule.operands)}; given: {given}")
    arrays: dict[str, np.ndarray | Placed] = {}
    for name, tiling in schedule.operands.items():
        value = operands[name]
        if isinstance(value, Placed) and (schedule.task.kind, name) != ("product", schedule.task.operands[-1]):
            raise MeshTypeError(f"{name} is placed: {schedule.name} takes a matrix; only the right operand of a "
                                "product can be a weight that was placed")
        arrays[name] = dispatch.weights(name, value, schedule.mesh)
        if tuple(arrays[name].shape) != tiling.shape:
            raise MeshError(f"{name} is {arrays[name].shape}; {schedule.name} takes {tiling.shape}")
    return dispatch.execute(schedule, arrays, slice(None), accumulate, out, ledger, device, method, observe)


def schedule(algorithm: str, mesh: MeshLike, *shape: int, **options: Any) -> Schedule:
    """The schedule itself: look at its ``steps``, `count` it, draw it.

    Args:
        algorithm: a matrix product's name, or that of a reduction: then the GEMV that uses it.
        mesh: the cores.
        *shape: ``M, K, N`` of a matrix product; ``K, N`` of the matrix of a GEMV.
        **options: for a GEMV ``axis``, ``broadcast`` and the reduction's own (``levels``, ``groups``).

    Returns:
        The schedule, not verified yet.

    Raises:
        MeshError: an unknown name, the wrong number of sizes, an option that the algorithm does not take.

    Examples:
        >>> s = schedule("meshgemm", Mesh(4), 8, 8, 8)
        >>> len(s.steps), s.steps[0].label
        (6, 'align')
    """
    family = family_of(algorithm)
    if "axis" in options:
        options["axis"] = as_axis(options["axis"])
    if "groups" in options:
        options["groups"] = as_groups(options["groups"])
    if options.get("op", "add") != "add":
        raise MeshError(f"op = {options['op']!r}: the partial sums of a product are added; for others see allreduce")
    build = find(family, algorithm)
    return dispatch.fresh(build, family, algorithm, as_mesh(mesh), shape, tuple(options.items()))
