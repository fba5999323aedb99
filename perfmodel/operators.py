"""Predicted time of one operator on a mesh: GEMM, GEMV, all-reduce, reduce, broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from perfmodel import bounds, counts, forms, parameters
from perfmodel.checks import choice, size, sizes, together
from perfmodel.counts_reduce import REDUCES
from perfmodel.device import Device
from perfmodel.errors import DoesNotFit, ModelError, shown
from perfmodel.parameters import Kernel
from perfmodel.prediction import Prediction, check_grid, check_memory, lift, range_notes, sides


def mesh(chip: Device) -> Device:
    """The device, if its cores sit on a mesh."""
    if not isinstance(chip, Device):
        raise ModelError(f"{shown(getattr(chip, 'name', chip))} is no mesh of cores; ask for a system such as a100x8")
    return chip


def gemm(chip: Device, M: Any, K: Any, N: Any, *, grid: Any, algorithm: str = "meshgemm") -> Prediction:
    """Predict C[M,N] = A[M,K] B[K,N] in fp16.

    Args:
        chip: a mesh device.
        M, K, N: sizes; numbers, or arrays for a sweep.
        grid: side of a square of cores (a number or an array), or (rows, cols).
        algorithm: one of `perfmodel.counts.GEMMS`.

    Raises:
        DoesNotFit: the grid exceeds the device, or the tiles exceed a core's memory.

    >>> from perfmodel.device import device
    >>> gemm(device("wse3"), 5760, 5760, 5760, grid=720).bound
    'compute'
    """
    choice("algorithm", algorithm, counts.GEMMS)
    M, K, N = sizes(M=M, K=K, N=N)
    rows, cols = sides(grid)
    together(M=M, K=K, N=N, rows=rows, cols=cols)
    check_grid(mesh(chip), rows, cols)
    _check_tiles(chip, lambda r, c: gemm_bytes(algorithm, M, K, N, r, c), grid,
                 f"{algorithm} of {_shape(M, K, N)} on {_shape(rows, cols)} cores")
    constants = parameters.on(chip, "gemm")

    terms = forms.gemm(constants.values, chip, algorithm, M, K, N, rows, cols)
    tile = tuple(-(-v // p) for v, p in ((M, rows), (K, cols), (N, cols)))
    notes = range_notes(constants, grid=(rows, cols), tile=tile) + _square_notes(constants, rows, cols)
    broadcast = algorithm.partition("_")[0] in ("summa", "allgather") and not algorithm.endswith("_relay")
    if broadcast and (routes := int(np.max(rows) + np.max(cols))) > chip.colours:
        notes += (f"{algorithm} needs {routes} routing paths per core; {chip.name} has {chip.colours}: there only "
                  f"{algorithm}_relay runs",)
    if algorithm != "meshgemm" and constants.fitted_range:
        notes += (f"{algorithm} was not measured on {chip.name}: its steps have MeshGEMM's constants",)
    return _make(chip, terms, bounds.gemm(chip, M, K, N, rows, cols), notes,
                 f"{algorithm} {_shape(M, K, N)} on {rows} x {cols} cores of {chip.name}")


def _check_tiles(chip: Device, bytes_on: Callable[[Any, Any], Any], grid: Any, what: str) -> None:
    """`check_memory` of buffers on ``grid``, given as bytes on (rows, cols)."""
    check_memory(chip, lambda g: bytes_on(*sides(g)), grid, what)


def gemm_bytes(algorithm: str, M: Any, K: Any, N: Any, rows: Any, cols: Any) -> Any:
    """Bytes of buffers per core, as `counts.gemm` has them, for arrays of square grids; in float64, which has no limit.

    >>> int(gemm_bytes("meshgemm", 8, 8, 8, 4, 4)) == counts.gemm("meshgemm", 8, 8, 8, 4).bytes_per_core
    True
    """
    M, K, N = (np.asarray(size, float) for size in (M, K, N))
    steps = np.lcm(rows, cols)
    m, k, n = -(-M // rows), -(-K // steps), -(-N // cols)
    a, b, c = m * k * (steps // cols), k * n * (steps // rows), m * n
    if algorithm.startswith("summa"):
        elements = a + b + 2 * (m * k + k * n) + c
    elif algorithm.startswith("allgather"):
        elements = a + b + m * k * steps + k * n * steps + c
    elif algorithm == "gemm_t":
        p, q, block = steps // rows, steps // cols, -(-N // steps)
        e = -(-K // cols)
        elements = m * e + 2 * p * block * e + (2 * p + q) * m * block
    else:
        elements = 2 * a + 2 * b + c
    return counts.ELEMENT_BYTES * elements


def gemv(chip: Device, M: Any, N: Any, *, grid: Any, reduce: str = "ktree", groups: Any = None) -> Prediction:
    """Predict y[N] = x[M] W[M,N] in fp16, y on every core of its column.

    Args:
        grid: side of a square of cores, or (rows, cols).
        reduce: ktree, chain, pipeline or ring.
        groups: groups of the two-phase tree; default: the largest divisor of the rows up to their square root.
    """
    M, N = sizes(M=M, N=N)
    rows, cols = sides(grid)
    together(M=M, N=N, rows=rows, cols=cols)
    check_grid(mesh(chip), rows, cols)
    groups = check_groups(reduce, rows, groups)
    _check_tiles(chip, lambda r, c: gemv_bytes(M, N, r, c), grid,
                 f"gemv of {_shape(M, N)} on {_shape(rows, cols)} cores")
    constants = parameters.on(chip, "gemv")
    terms = forms.gemv(constants.values, chip, reduce, M, N, rows, cols, groups)
    notes = _line_notes(constants, reduce, groups, grid=(rows, cols), tile=(-(-M // rows), -(-N // cols)))
    notes += _square_notes(constants, rows, cols)
    return _make(chip, terms, bounds.gemv(chip, M, N, rows, cols), notes,
                 f"gemv {_shape(M, N)} with {reduce} on {rows} x {cols} cores of {chip.name}")


def gemv_bytes(M: Any, N: Any, rows: Any, cols: Any) -> Any:
    """Bytes of the tiles of x and W on a core, of its partial sums and of those it receives; in float64.

    >>> int(gemv_bytes(8, 8, 4, 4))
    20
    """
    M, N = np.asarray(M, float), np.asarray(N, float)
    m, n = -(-M // rows), -(-N // cols)
    return counts.ELEMENT_BYTES * (m + m * n + 2 * n)


def _square_notes(constants: Kernel, rows: Any, cols: Any) -> tuple[str, ...]:
    """A note on rectangular grids: no sweep has them."""
    if not constants.fitted_range or np.all(rows == cols):
        return ()
    return (f"only square grids were measured on {constants.device}",)


def _line_notes(constants: Kernel, reduce: str, groups: Any, **sizes: Any) -> tuple[str, ...]:
    """Notes on a reduction along a line: only the two-phase tree was measured, with few groups."""
    if reduce == "ktree":
        return range_notes(constants, **sizes, groups=groups)
    notes = range_notes(constants, **sizes)
    if constants.fitted_range:
        notes += (f"{reduce} was not measured on {constants.device}: its hops and stages have the K-tree's constants",)
    return notes


def allreduce(chip: Device, words: Any, *, cores: Any, algorithm: str = "ktree", groups: Any = None) -> Prediction:
    """Predict the sum of one vector of fp16 elements per core along a line, left on every core."""
    words, cores = sizes(words=words, cores=cores)
    check_line(chip, cores)
    groups = check_groups(algorithm, cores, groups)
    constants = parameters.on(chip, "gemv")
    terms = forms.gemv({**constants.values, "row": 0.0, "beat": 0.0}, chip, algorithm, cores, words, cores, 1, groups)
    limits = {"compute": 0.0 * words, **bounds.allreduce(chip, words, cores)}
    return _make(chip, terms, limits, _line_notes(constants, algorithm, groups, grid=cores, words=words),
                 f"{algorithm} all-reduce of {words} elements over {cores} cores of {chip.name}")


def check_line(chip: Device, cores: Any) -> None:
    """A line of cores must fit the longer side of the mesh."""
    longest = max(mesh(chip).rows, chip.cols)
    if np.max(cores) > longest:
        raise DoesNotFit(f"a line of {np.max(cores)} cores is longer than the {longest} of {chip.name}")


def check_groups(reduce: str, rows: Any, groups: Any) -> Any:
    """Checked number of groups of the two-phase tree."""
    choice("reduce", reduce, REDUCES)
    if reduce != "ktree":
        if groups is not None:
            raise ModelError(f"groups = {shown(groups)} belong to ktree, not to {reduce}")
        return 1
    if groups is None:
        return forms.default_groups(rows)[()]
    (checked,) = sizes(groups=groups)
    together(cores=rows, groups=checked)
    if np.any(checked > rows):
        raise ModelError(f"groups = {np.max(checked)} must lie between 1 and {np.min(rows)}, the cores of a line")
    return checked


REDUCTIONS = ["star", "chain", "tree", "two_phase", "broadcast", "ring"]


def reduce(chip: Device, words: int, *, cores: int, algorithm: str = "two_phase",
           group_size: int | None = None) -> Prediction:
    """Predict a reduction of 32-bit words along a line with nothing fitted: the forms of HPDC 2024.

    star B(P-1) + 2T + 1; chain B + (2T+2)(P-1); two-phase with groups of S: [B + (2T+2)(S-1)] +
    [B + (2T+1+S)(P/S-1)]; broadcast B + P + 2T; ring all-reduce 2(P-1)B/P + 4P-6 + 2(P-1)(2T+1); a binary tree from
    the general max(C, E/N + L) + (2T+1)D. T is the ramp between router and core.

    References:
        Luczynski et al., Near-Optimal Wafer-Scale Reduce, HPDC 2024.

    >>> from perfmodel.device import device
    >>> float(reduce(device("wse2"), 4096, cores=512, group_size=32).cycles)
    8933.0
    """
    words, cores = size("words", words), size("cores", cores)
    choice("reduction", algorithm, REDUCTIONS)
    check_line(chip, cores)
    if algorithm == "two_phase":
        members = math.isqrt(cores) if group_size is None else size("group_size", group_size)
        if cores % members:
            raise ModelError(f"group_size = {members} must divide the {cores} cores")
        terms = _two_phase(words, cores, members, chip.ramp)
    else:
        terms = _reduction(algorithm, words, cores, chip.ramp)
    limits = {"compute": 0.0, "link": float(words * (cores > 1)), "distance": float(cores - 1)}
    return _make(chip, terms, limits, (), f"{algorithm} reduction of {words} words over {cores} cores of {chip.name}")


def _two_phase(words: int, cores: int, size: int, ramp: float) -> dict[str, float]:
    """Chains inside groups, then a chain of the groups' heads, which lie ``size`` hops apart."""
    groups = cores // size
    if size in (1, cores):  # a plain chain
        return _reduction("chain", words, cores, ramp)
    return {"transfer": 2.0 * words, "alpha": float(size - 1 + size * (groups - 1)),
            "beta": (2 * ramp + 1) * (size - 1 + groups - 1)}


def _reduction(algorithm: str, words: int, cores: int, ramp: float) -> dict[str, float]:
    """Transfer, distance and stages of the other forms."""
    far, depth = cores - 1, math.ceil(math.log2(cores)) if cores > 1 else 0
    stage = 2 * ramp + 1
    if algorithm == "star":
        return {"transfer": float(words * far), "alpha": 0.0, "beta": stage}
    if algorithm == "chain":
        return {"transfer": float(words), "alpha": float(far), "beta": stage * far}
    if algorithm == "broadcast":
        return {"transfer": float(words), "alpha": float(cores), "beta": 2 * ramp}
    if algorithm == "ring":
        return {"transfer": 2 * far * words / cores, "alpha": max(4.0 * cores - 6, 0.0), "beta": 2 * far * stage}
    received, hops = words * depth, words * cores / 2 * depth
    travelled = hops / max(far, 1) + far
    return {"transfer": float(received), "alpha": max(travelled - received, 0.0), "beta": stage * depth}


def _shape(*values: Any) -> str:
    """Sizes for a message; a sweep shows its largest."""
    return " x ".join(str(np.max(value)) for value in values)


def _make(chip: Device, terms: Any, limits: Any, notes: tuple[str, ...], label: str) -> Prediction:
    """Broadcast the terms, add them up, turn cycles into seconds."""
    terms, cycles = lift(terms, limits)
    shape = np.broadcast_shapes(*(np.shape(value) for value in terms.values()))
    terms = {kind: np.broadcast_to(np.asarray(value, float), shape)[()] for kind, value in terms.items()}
    return Prediction(cycles, cycles / chip.clock_hz, terms, limits, notes, label=label)
