"""What the verbs share: a schedule built and proved once, arguments that must fit it, and its execution."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from meshkernels.algorithms import find
from meshkernels.algorithms import gemv as vector
from meshkernels.arguments import MeshLike, accumulator, as_count, as_groups, as_mesh, common_dtype, operand, output
from meshkernels.engines.distribution import current
from meshkernels.errors import MeshError, MeshTypeError, shown
from meshkernels.kept import remember
from meshkernels.mesh import Mesh
from meshkernels.placed import Placed
from meshkernels.readers import fused, lockstep
from meshkernels.readers.compliance import as_device, require, require_fabric
from meshkernels.readers.ledger import count
from meshkernels.schedules import Schedule, verify

Observer = Callable[[Any], object]


def scheduled(family: str, algorithm: str | Schedule, mesh: MeshLike, *shape: int, **options: Any) -> Schedule:
    """The schedule of an algorithm that must belong to ``family``, remembered for the next call; or the one given."""
    if isinstance(algorithm, Schedule):
        if family not in ("gemm", "gemm_t"):
            raise MeshTypeError(f"reduce takes the name of a reduction, not the schedule {algorithm.name!r}: see `run`")
        _expect(algorithm, family, as_mesh(mesh), shape, options)
        return algorithm
    build = find(family, algorithm)
    for name, value in options.items():
        if not isinstance(value, Hashable):
            raise MeshTypeError(f"{name} = {value!r}: an option is a number, a name or a tuple")
    return _build(build, family, algorithm, as_mesh(mesh), shape, tuple(sorted(options.items())))


def _expect(given: Schedule, family: str, mesh: Mesh, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    """Refuse a schedule that is not for this product."""
    verify(given)  # a wrong one is refused before its parts are looked at
    kind = {"gemm": "product", "gemm_t": "product_t"}[family]
    if options:
        raise MeshError(f"a schedule takes no options, only the name of an algorithm does: {', '.join(options)}")
    if given.task.kind != kind or given.mesh != mesh:
        raise MeshError(f"the schedule {given.name!r} computes a {given.task.kind} on {given.mesh}; "
                        f"wanted is a {kind} on {mesh}")  # fmt: skip
    first = given.operands[given.task.operands[0]]
    sizes = (*first.shape, given.result.shape[1])
    if sizes != shape:
        raise MeshError(f"the schedule {given.name!r} is for M, K, N = {sizes}; the operands make {shape}")


def fresh(build: Callable[..., Schedule], family: str, algorithm: str, mesh: Mesh, shape: tuple[int, ...],
          options: tuple[tuple[str, Any], ...]) -> Schedule:  # fmt: skip
    """A schedule of an algorithm of a family, built now and not verified; sizes and options are checked."""
    sides = {"reduce": "K, N", "transpose": "M, N", "alltoall": "n"}.get(family, "M, K, N")
    shape = tuple(as_count("a size", n) for n in shape)
    if len(shape) != len(sides.split(", ")) or any(n < 0 for n in shape):
        raise MeshError(f"{algorithm} takes the sizes {sides}, none negative; got {shape}")
    keywords = {name for name, p in signature(build).parameters.items() if p.kind is p.KEYWORD_ONLY}
    taken = keywords | ({"axis"} if family == "reduce" else set())
    if unknown := {name for name, _ in options} - taken:
        raise MeshError(f"{algorithm!r} takes no option {', '.join(sorted(unknown))}")
    if family == "reduce":
        return vector.gemv(mesh, *shape, reduce=algorithm, **dict(options))
    return build(mesh, *shape, **dict(options))


@remember
def _build(*arguments: Any) -> Schedule:
    """A schedule that is built and verified once; what the proof found is kept with it."""
    built = fresh(*arguments)
    verify(built)
    return built


@remember
def allreduce_schedule(build: Callable[..., Any], mesh: Mesh, width: int,
                       options: tuple[tuple[str, Any], ...]) -> Schedule:  # fmt: skip
    """An all-reduce of ``width`` values a core, verified, remembered for the next call by what builds it."""
    built = vector.allreduce(mesh, width, **dict(options))
    verify(built)
    return built


def reduce_options(reduce: str, axis: int, broadcast: bool, levels: Any, groups: Any, device: Any) -> dict[str, Any]:
    """Keyword arguments for a reduction; the costs of ``device`` go to one that can use them."""
    groups = as_groups(groups)
    if levels is None and isinstance(groups, tuple):
        levels = len(groups) + 1
    options = {"axis": axis, "broadcast": broadcast, "levels": levels, "groups": groups}
    if device is not None and "alpha" in signature(find("reduce", reduce)).parameters:
        chip = as_device(device)
        options |= {"alpha": chip.alpha, "beta": chip.beta}
    return {name: value for name, value in options.items() if value is not None}


def weights(name: str, value: ArrayLike | Placed, mesh: MeshLike) -> np.ndarray | Placed:
    """A right operand: a matrix, or one that is placed on this mesh."""
    if not isinstance(value, Placed):
        return operand(name, value, 2)
    if value.mesh != as_mesh(mesh):
        raise MeshError(f"{name} is placed on {value.mesh}, the product runs on {as_mesh(mesh)}")
    return value


def execute(schedule: Schedule, operands: Mapping[str, np.ndarray | Placed], row: int | slice,
            accumulate: DTypeLike | None, out: np.ndarray | None, ledger: bool, device: Any, method: str,
            observe: Observer | None) -> Any:  # fmt: skip
    """Check, run and hand back; ``row`` picks the result out of its matrix (a vector is row 0)."""
    verify(schedule)  # verified once, whatever is done with it
    stored = common_dtype([given.dtype for given in operands.values()])
    sums = accumulator(stored, accumulate)
    if method not in ("fused", "lockstep"):
        raise MeshError(f"method = {method!r}; known: 'fused', 'lockstep'")
    if observe is not None and method != "lockstep":
        raise MeshError("observe needs method='lockstep': the fused executor has no steps to look at")
    if observe is not None and not callable(observe):
        raise MeshTypeError(f"observe is called with each step's snapshot; {shown(observe)} cannot be called")
    whole = schedule.result.shape
    shape = whole if isinstance(row, slice) else whole[1:]
    arrays = {name: given.array if isinstance(given, Placed) else given for name, given in operands.items()}
    if out is not None:
        output(out, shape, stored, arrays)
    if device is not None:
        require_fabric(schedule.mesh, device)  # before anything is counted
    counted = count(schedule, stored, sums) if ledger or device is not None else None
    if counted is not None and device is not None:
        require(counted, device)
    if (call := current.get()) is not None:
        from meshkernels.engines import verbs

        result = verbs.execute(call, schedule, operands, row, sums, stored, out, method, observe)
        return (result, counted) if ledger else result
    if method == "lockstep":
        same = {name: array.astype(stored, copy=False) for name, array in arrays.items()}
        computed = lockstep.run(schedule, same, sums, observe)
    else:  # what is placed keeps its arrangement where it has the common dtype already
        fit = {name: given if given.dtype == stored else arrays[name].astype(stored)
               for name, given in operands.items()}  # fmt: skip
        computed = fused.run(schedule, fit, sums)
    result = computed[row].astype(stored, copy=False)
    if out is not None:
        out[...] = result
        result = out
    return (result, counted) if ledger else result
