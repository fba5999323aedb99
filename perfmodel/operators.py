"""Predicted time of one operator on a mesh: GEMM, matmul with multicast, GEMV, all-reduce, shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from perfmodel import bounds, counts, counts_reduce, forms, forms_gemm, parameters
from perfmodel.checks import choice, sizes, together
from perfmodel.counts import cdiv
from perfmodel.counts_reduce import REDUCES
from perfmodel.device import Device, as_device
from perfmodel.errors import DoesNotFit, ModelError, shown
from perfmodel.parameters import Kernel
from perfmodel.prediction import Prediction, Use, check_grid, check_memory, lift, range_notes, sides
from perfmodel.terms import Terms, words_cycles


def mesh(chip: Any) -> Device:
    """The device (or that of a name or file), if its cores sit on a mesh."""
    chip = as_device(chip)
    if not isinstance(chip, Device):
        raise ModelError(f"{shown(getattr(chip, 'name', chip))} is no mesh of cores; GPUs are predicted in LLM "
                         f"inference, as a system: system='a100x8'")
    return chip


#: what a call takes instead of the calibration: a fit, or constants by name
Constants = Any


def gemm(chip: Device | str, M: Any, K: Any, N: Any, *, grid: Any = None, algorithm: str | None = None,
         constants: Constants = None, fidelity: str | None = None, storage: str | None = None,
         barrier: bool = True) -> Prediction:
    """Predict C[M,N] = A[M,K] B[K,N] in 16 bits.

    Args:
        chip: a mesh device, or its name.
        M: rows of A and of C; a number, or an array for a sweep.
        K: columns of A, rows of B; a number, or an array.
        N: columns of B and of C; a number, or an array.
        grid: side of a square of cores (a number or an array), (rows, cols), or a mesh; "matmul" by default takes the
            whole device.
        algorithm: one of `perfmodel.counts.GEMMS`, or "matmul" with multicast on a mesh of matrix engines; default: the
            one that was measured on the device, MeshGEMM if none was.
        constants: a `perfmodel.Fit`, or constants by name, instead of the calibration.
        fidelity: of "matmul" only: passes of the matrix engine: LoFi, HiFi2, HiFi3, HiFi4; default HiFi2.
        storage: of "matmul" only: where the operands lie: L1 or DRAM; default L1.
        barrier: every step lasts as long as its longest message, as the paper reports of Cannon and SUMMA; False: cores
            wait for their own data only, as schedules say and `meshkernels.simulate` plays them.

    Returns:
        Time, terms, bounds and notes.

    Raises:
        DoesNotFit: the grid exceeds the device, or the tiles exceed a core's memory.
        ModelError: a size, name or constant that is none.

    >>> gemm("wse3", 5760, 5760, 5760, grid=720).bound
    'compute'
    """
    chip = mesh(chip)
    if algorithm is None:
        algorithm = "matmul" if (chip.base, "matmul") in parameters.kernels() else "meshgemm"
    choice("algorithm", algorithm, [*counts.GEMMS, "matmul"])
    if algorithm == "matmul":
        return matmul(chip, M, K, N, grid=grid, fidelity=fidelity or "HiFi2", storage=storage or "L1",
                      constants=constants)
    for name, given in (("fidelity", fidelity), ("storage", storage)):
        if given is not None:
            raise ModelError(f"{name} = {shown(given)} belongs to matmul with multicast, not to {algorithm}, which "
                             f"{chip.name} runs; give algorithm='matmul'")
    M, K, N = sizes(M=M, K=K, N=N)
    rows, cols = sides(grid)
    together(M=M, K=K, N=N, rows=rows, cols=cols)
    check_grid(chip, rows, cols)
    _check_tiles(chip, lambda r, c: counts.gemm_bytes(algorithm, M, K, N, r, c), grid,
                 f"{algorithm} of {_shape(M, K, N)} on {_shape(rows, cols)} cores")
    kernel = parameters.on(chip, "gemm", constants)
    tile = tuple(cdiv(v, p) for v, p in ((M, rows), (K, cols), (N, cols)))
    notes = range_notes(kernel, grid=(rows, cols), tile=tile) + _square_notes(kernel, rows, cols)
    broadcast = algorithm.partition("_")[0] in ("summa", "allgather") and not algorithm.endswith("_relay")
    if broadcast and (routes := int(np.max(rows) + np.max(cols))) > chip.colours:
        notes += (f"{algorithm} needs {routes} routing paths per core; {chip.name} has {chip.colours}: there only "
                  f"{algorithm}_relay runs",)
    if algorithm != "meshgemm" and kernel.fitted_range:
        notes += (f"{algorithm} was not measured on {chip.name}: its steps have MeshGEMM's constants",)
    return built(chip, kernel, lambda c: forms_gemm.gemm(c, chip, algorithm, M, K, N, rows, cols, barrier=barrier),
                 bounds.gemm(chip, M, K, N, rows, cols), notes,
                 f"{algorithm} {_shape(M, K, N)} on {rows} x {cols} cores of {chip.name}")


def matmul(chip: Device | str, M: Any, K: Any, N: Any, *, grid: Any = None, fidelity: str = "HiFi2",
           storage: str = "L1", constants: Constants = None) -> Prediction:
    """Predict C[M,N] = A[M,K] B[K,N] on a mesh of matrix engines whose cores multicast blocks of A and B.

    Args:
        chip: a mesh device, or its name.
        M: rows of A and of C; a number, or an array for a sweep.
        K: columns of A, rows of B; a number, or an array.
        N: columns of B and of C; a number, or an array.
        grid: side of a square of cores, (rows, cols), or a mesh; default: the whole device.
        fidelity: passes of the matrix engine over the operands' bits: LoFi, HiFi2, HiFi3, HiFi4.
        storage: where operands and result lie: "L1" or "DRAM".
        constants: a `perfmodel.Fit`, or constants by name, instead of the calibration.

    Returns:
        Time, terms, bounds and notes.

    Raises:
        DoesNotFit: the grid exceeds the device, or what lies in L1 exceeds it.
        ModelError: a size, name or constant that is none; a device without DRAM.

    >>> matmul("n150", 2048, 2048, 2048, fidelity="HiFi4").bound
    'compute'
    """
    chip = mesh(chip)
    choice("fidelity", fidelity, forms.PASSES)
    choice("storage", storage, ("L1", "DRAM"))
    M, K, N = sizes(M=M, K=K, N=N)
    rows, cols = sides((chip.rows, chip.cols) if grid is None else grid)
    together(M=M, K=K, N=N, rows=rows, cols=cols)
    check_grid(chip, rows, cols)
    if storage == "DRAM" and not chip.dram_bandwidth:
        raise ModelError(f"{chip.name} has no DRAM (dram_bandwidth = 0); storage must be 'L1'")
    if storage == "L1":
        _check_tiles(chip, lambda r, c: counts.matmul_bytes(M, K, N, r, c), grid if grid is not None else (rows, cols),
                     f"matmul of {_shape(M, K, N)} in L1 on {_shape(rows, cols)} cores")
    kernel = parameters.on(chip, "matmul", constants)
    notes = range_notes(kernel, M=M, K=K, N=N)
    dram = storage == "DRAM"
    limits = {"compute": counts.matmul_tiles(M, K, N, rows, cols)[0] * forms.tile_cycles(chip, fidelity),
              "distance": np.maximum(rows, cols) // 2 * chip.alpha,
              "memory": dram * forms.dram_cycles(chip, M, K, N)}
    return built(chip, kernel, lambda c: forms.matmul(c, chip, M, K, N, rows, cols, fidelity, dram), limits, notes,
                 f"matmul {_shape(M, K, N)} at {fidelity} in {storage} on {rows} x {cols} cores of {chip.name}")


def shift(chip: Device | str, tile: tuple[Any, Any], *, steps: Any, grid: Any,
          constants: Constants = None) -> Prediction:
    """Predict the shift of every core's tile by some hops along its row, store and forward.

    Args:
        chip: a mesh device, or its name.
        tile: (rows, cols) of fp16 elements on each core.
        steps: hops that each tile is handed on by.
        grid: side of the block of cores.
        constants: a `perfmodel.Fit`, or constants by name, instead of the calibration.

    Returns:
        Time, terms, bounds and notes.

    Raises:
        DoesNotFit: the grid exceeds the device, or two tiles exceed a core's memory.
        ModelError: a size or constant that is none.

    >>> 9000 < shift("wse3", (8, 8), steps=64, grid=240).cycles < 10000
    np.True_
    """
    chip = mesh(chip)
    if not isinstance(tile, tuple | list) or len(tile) != 2:
        raise ModelError(f"tile = {shown(tile)} must be (rows, cols)")
    height, width, steps = sizes(tile_rows=tile[0], tile_cols=tile[1], steps=steps)
    rows, cols = sides(grid)
    together(tile_rows=height, tile_cols=width, steps=steps, rows=rows, cols=cols)
    check_grid(chip, rows, cols)
    held = 2.0 * counts.ELEMENT_BYTES * float(np.max(np.asarray(height, float) * width))
    if held > chip.memory_per_core:
        raise DoesNotFit(f"shift of tiles of {_shape(height, width)} holds two of them, {held:.0f} bytes per core; "
                         f"{chip.name} has {chip.memory_per_core}, for tiles of at most "
                         f"{chip.memory_per_core // (2 * counts.ELEMENT_BYTES)} elements")
    kernel = parameters.on(chip, "shift", constants)
    notes = kernel.notes
    if np.any(steps > cols):
        notes += (f"{int(np.max(steps))} steps on {int(np.min(cols))} cores leave the block: each beyond it is "
                  f"charged a vector set-up less, as the sweep shows; why is not known",)
    limits = {"compute": 0.0, "link": np.minimum(steps, cols) * words_cycles(chip, height * width),
              "distance": 1.0 * steps * chip.alpha}
    return built(chip, kernel, lambda c: forms.shift(c, chip, height, width, steps, cols), limits, notes,
                 f"shift of {_shape(height, width)} tiles by {_shape(steps)} steps on {_shape(rows, cols)} cores of "
                 f"{chip.name}")


def _check_tiles(chip: Device, bytes_on: Callable[[Any, Any], Any], grid: Any, what: str) -> None:
    """`check_memory` of buffers on ``grid``, given as bytes on (rows, cols)."""
    check_memory(chip, lambda g: bytes_on(*sides(g)), grid, what)


def gemv(chip: Device | str, M: Any, N: Any, *, grid: Any, reduce: str = "ktree", groups: Any = None,
         constants: Constants = None) -> Prediction:
    """Predict y[N] = x[M] W[M,N] in fp16, y on every core of its column.

    Args:
        chip: a mesh device, or its name.
        M: elements of x, rows of W; a number, or an array for a sweep.
        N: elements of y, columns of W; a number, or an array.
        grid: side of a square of cores, (rows, cols), or a mesh.
        reduce: ktree, chain, pipeline or ring.
        groups: groups of the two-phase tree; default: those of fewest cycles for alpha and beta of the device.
        constants: a `perfmodel.Fit`, or constants by name, instead of the calibration.

    Returns:
        Time, terms, bounds and notes.

    Raises:
        DoesNotFit: the grid exceeds the device, or the tiles exceed a core's memory.
        ModelError: a size, name, number of groups or constant that is none.
    """
    chip = mesh(chip)
    M, N = sizes(M=M, N=N)
    rows, cols = sides(grid)
    together(M=M, N=N, rows=rows, cols=cols)
    check_grid(chip, rows, cols)
    groups = check_groups(chip, reduce, rows, groups)
    _check_tiles(chip, lambda r, c: gemv_bytes(M, N, r, c), grid,
                 f"gemv of {_shape(M, N)} on {_shape(rows, cols)} cores")
    kernel = parameters.on(chip, "gemv", constants)
    notes = _line_notes(kernel, reduce, groups, grid=(rows, cols), tile=(cdiv(M, rows), cdiv(N, cols)))
    notes += _square_notes(kernel, rows, cols)
    return built(chip, kernel, lambda c: forms.gemv(c, chip, reduce, M, N, rows, cols, groups),
                 bounds.gemv(chip, M, N, rows, cols), notes,
                 f"gemv {_shape(M, N)} with {reduce} on {rows} x {cols} cores of {chip.name}")


def gemv_bytes(M: Any, N: Any, rows: Any, cols: Any) -> Any:
    """Bytes of the tiles of x and W on a core, of its partial sums and of those it receives; in float64.

    Args:
        M: elements of x, rows of W; a number or an array.
        N: elements of y, columns of W; a number or an array.
        rows: rows of cores.
        cols: columns of cores.

    Returns:
        Bytes per core.

    >>> int(gemv_bytes(8, 8, 4, 4))
    20
    """
    M, N = np.asarray(M, float), np.asarray(N, float)
    m, n = cdiv(M, rows), cdiv(N, cols)
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


def allreduce(chip: Device | str, words: Any, *, cores: Any, algorithm: str = "ktree", groups: Any = None,
              constants: Constants = None) -> Prediction:
    """Predict the sum of one vector of fp16 elements per core along a line, left on every core.

    Args:
        chip: a mesh device, or its name.
        words: elements of the vector; a number, or an array for a sweep.
        cores: cores of the line.
        algorithm: ktree, chain, pipeline or ring.
        groups: groups of the two-phase tree; default: those of fewest cycles for alpha and beta of the device.
        constants: a `perfmodel.Fit` of a GEMV sweep, or constants by name, instead of the calibration.

    Returns:
        Time, terms, bounds and notes.

    Raises:
        DoesNotFit: the line is longer than the device.
        ModelError: a size, name, number of groups or constant that is none.
    """
    chip = mesh(chip)
    words, cores = sizes(words=words, cores=cores)
    check_line(chip, cores)
    groups = check_groups(chip, algorithm, cores, groups)
    kernel = parameters.on(chip, "gemv", constants)
    limits = {"compute": 0.0 * words, **bounds.allreduce(chip, words, cores)}

    def form(c: Any) -> Terms:
        return forms.gemv({**c, "row": 0.0, "beat": 0.0}, chip, algorithm, cores, words, cores, 1, groups)

    return built(chip, kernel, form, limits, _line_notes(kernel, algorithm, groups, grid=cores, words=words),
                 f"{algorithm} all-reduce of {words} elements over {cores} cores of {chip.name}")


def check_line(chip: Device, cores: Any) -> None:
    """A line of cores must fit the longer side of the mesh."""
    longest = max(chip.rows, chip.cols)
    if np.max(cores) > longest:
        raise DoesNotFit(f"a line of {np.max(cores)} cores is longer than the {longest} of {chip.name}")


def check_groups(chip: Device, reduce: str, rows: Any, groups: Any) -> Any:
    """Checked number of groups of the two-phase tree.

    The default is the one of fewest cycles on the packaged device: a changed device keeps the launch of its base.

    Returns:
        Groups, in the shape of ``rows``; 1 for what is no tree.

    Raises:
        ModelError: groups of another reduction, or more than the cores of a line.
    """
    choice("reduce", reduce, REDUCES)
    if reduce != "ktree":
        if groups is not None:
            raise ModelError(f"groups = {shown(groups)} belong to ktree, not to {reduce}")
        return 1
    if groups is None:
        reference = as_device(chip.base) if chip.base else chip
        best = np.zeros(np.max(rows) + 1, np.int64)
        best[rows] = -1
        for line in np.flatnonzero(best):
            best[line] = counts_reduce.default_groups(int(line), reference.alpha, reference.beta)
        return best[rows]
    (checked,) = sizes(groups=groups)
    together(cores=rows, groups=checked)
    if np.any(checked > rows):
        raise ModelError(f"groups = {np.max(checked)} must lie between 1 and {np.min(rows)}, the cores of a line")
    return checked


def _shape(*values: Any) -> str:
    """Sizes for a message; a sweep shows its largest."""
    return " x ".join(str(np.max(value)) for value in values)


def built(chip: Device, kernel: Kernel | None, form: Callable[[Any], Terms], limits: Any, notes: tuple[str, ...],
          label: str) -> Prediction:
    """Evaluate the form, broadcast its terms, add them up, turn cycles into seconds."""
    terms, cycles = lift(form({} if kernel is None else kernel.values), limits)
    shape = np.broadcast_shapes(*(np.shape(value) for value in terms.values()))
    terms = {kind: np.broadcast_to(np.asarray(value, float), shape)[()] for kind, value in terms.items()}
    uses = () if kernel is None else (Use(kernel, lambda c: lift(form(c), limits)[1]),)
    return Prediction(cycles, cycles / chip.clock_hz, terms, limits, notes, label=label, uses=uses, chip=chip)
