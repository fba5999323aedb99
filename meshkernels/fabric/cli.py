"""``python -m meshkernels simulate | trace | animate | replay``: how long an algorithm takes on a chip, seen closely.

``--shape`` are ``M K N`` of a matrix product, ``M N`` of the matrix of a GEMV or of a transpose, ``n`` of an
all-to-all; ``--tile`` gives every core a tile of that size instead. ``simulate shift`` is the published KV-cache shift.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import meshkernels as mk
from meshkernels.algorithms import family_of
from meshkernels.arguments import grid
from meshkernels.fabric import published, simulate
from meshkernels.fabric.run import Run
from perfmodel import files
from perfmodel.tables import tree


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Declare the subcommands."""
    kinds = (("simulate", "how long an algorithm takes on a chip, message by message", run_simulate),
             ("trace", "a file for Chrome's or Perfetto's viewer: what every core does", run_trace),
             ("animate", "an animated GIF of a small mesh: tiles moving along links", run_animate),
             ("replay", "a page that plays what the cores of a small mesh do", run_replay))  # fmt: skip
    for name, what, run in kinds:
        parser = commands.add_parser(name, help=what, description=__doc__)
        if name == "replay":
            parser.add_argument("algorithms", nargs="+", metavar="ALGORITHM", help="shown side by side")
        else:
            parser.add_argument("algorithm", help="as in mk.algorithms()" + ", or shift" * (name == "simulate"))
        parser.add_argument("--grid", nargs="+", required=True, metavar="N",
                            help="cores a side, or rows and columns: 24, 24x16 or 24 16")
        parser.add_argument("--shape", type=int, nargs="+", metavar="N", help="sizes of the operands")
        parser.add_argument("--tile", type=int, nargs="+", metavar="N", help="size of the tile of a core, or its sides")
        parser.add_argument("--groups", type=int, help="groups of the tree of a GEMV")
        parser.add_argument("--device", default="wse3", help="chip (default: wse3)")
        parser.add_argument("--dtype", choices=("float16", "float32", "float64"),
                            help="of the stored elements (default: the chip's)")  # fmt: skip
        if name == "simulate":
            parser.add_argument("--steps", type=int, help="of a shift: how many cores each tile travels")
            parser.add_argument("--strict", action="store_true", help="refuse more colours than the chip has")
            parser.add_argument("--json", action="store_true", help="print the figures as JSON")
        elif name == "animate":
            parser.add_argument("--frames", type=int, default=120, help="pictures, 12 a second (default: 120)")
            parser.add_argument("--out", metavar="FILE", help="(default: ALGORITHM.gif)")
        elif name == "replay":
            parser.add_argument("--out", default="replay.html", metavar="FILE", help="(default: replay.html)")
        else:
            parser.add_argument("--cores", nargs="+", metavar="ROW,COLUMN", help="cores to write (default: all)")
            parser.add_argument("--out", default="trace.json", metavar="FILE", help="(default: trace.json)")
        parser.set_defaults(run=run)


def schedule_of(options: argparse.Namespace, algorithm: str) -> mk.Schedule:
    """The schedule of an algorithm that the options describe.

    Args:
        options: grid, shape or tile, and groups.
        algorithm: a registered name.

    Returns:
        The schedule.

    Raises:
        MeshError: options that do not fit the algorithm.
    """
    mesh = grid("x".join(options.grid))
    family = family_of(algorithm)
    if (options.shape is None) == (options.tile is None):
        raise mk.MeshError("give --shape or --tile, one of them")
    shape = options.shape
    if shape is None:
        m, k, n = {1: options.tile * 3, 3: options.tile}.get(len(options.tile), (0, 0, 0))
        if not n:
            raise mk.MeshError(f"--tile takes one or three numbers, not {len(options.tile)}")
        shape = {"gemm": [m * mesh.rows, k * mesh.lcm, n * mesh.cols], "gemm_t": [m * mesh.rows, k * mesh.cols,
                 n * mesh.lcm], "reduce": [k * mesh.rows, n * mesh.cols], "transpose": [m * mesh.rows, n * mesh.cols],
                 "alltoall": [n]}[family]  # fmt: skip
    more = {} if options.groups is None else {"groups": options.groups}
    return mk.schedule(algorithm, mesh, *shape, **more)


def run_simulate(options: argparse.Namespace) -> int:
    """Run ``simulate``; returns the exit code."""
    begin = time.perf_counter()
    columns = None
    if options.algorithm == "shift":
        side, cols = grid("x".join(options.grid)).shape
        if options.steps is None or options.tile is None or len(options.tile) > 2 or side != cols:
            raise mk.MeshError("shift takes --grid P --steps L --tile H W")
        height, width = options.tile * 2 if len(options.tile) == 1 else options.tile
        schedule = published.shift(side, options.steps, height, width)
        columns = published.block(side, options.steps)
    else:
        schedule = schedule_of(options, options.algorithm)
    run = simulate(schedule, options.device, dtype=options.dtype, limits=options.strict)
    took = time.perf_counter() - begin
    found = run.summary()
    if columns is not None:  # as it was measured: over the block, until the word has come back
        found["cycles"] = float(run.ends[:, columns].mean())
        found["seconds"] = found["cycles"] / run.machine.device.clock_hz
    found |= {"wall_s": took, "messages_per_s": run.messages / took}
    if columns is None:
        _warn(run)
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    mesh = schedule.mesh
    print(f"{schedule.name} on {mesh.rows} x {mesh.cols} cores of {run.machine.device.title}")
    share = found["link_utilisation"]
    print(tree({
        "cycles": f"{found['cycles']:,.1f}  ({found['seconds'] * 1e6:,.2f} us)",
        **{name: f"{cycles:,.1f}" for name, cycles in run.terms.items()},
        "messages": f"{run.messages:,}  ({found['messages_per_s']:,.0f} a second)",
        "links busy": f"{share['mean']:.1%} in the mean over those used, {share['max']:.1%} at most",
    }))
    return 0


def _warn(run: Run) -> None:
    colours, has = mk.count(run.schedule).colours, run.machine.device.colours
    if colours > has:
        print(f"meshkernels: {run.schedule.name} needs {colours} colours, {run.machine.device.name} has {has}: "
              "simulated as if it had them (--strict refuses)", file=sys.stderr)  # fmt: skip


def run_trace(options: argparse.Namespace) -> int:
    """Run ``trace``; returns the exit code."""
    cores = None
    if options.cores:
        try:
            cores = [tuple(int(part) for part in core.split(",")) for core in options.cores]
        except ValueError:
            cores = [()]
        if any(len(core) != 2 for core in cores):
            raise mk.MeshError(f"--cores takes ROW,COLUMN pairs, not {' '.join(options.cores)}")
    run = simulate(schedule_of(options, options.algorithm), options.device, dtype=options.dtype, limits=False)
    _warn(run)
    path = Path(options.out)
    try:
        run.trace(path, cores)
    except OSError as error:
        raise files.cannot("write", path, error) from None
    print(f"{path}: {run.makespan:,.0f} cycles of {run.schedule.name}; open it in ui.perfetto.dev or chrome://tracing")
    return 0


def run_animate(options: argparse.Namespace) -> int:
    """Run ``animate``; returns the exit code."""
    if options.frames < 1:
        raise mk.MeshError(f"--frames {options.frames}: at least 1")
    (run,) = _small(options, [options.algorithm])
    path = Path(options.out or f"{options.algorithm}.gif")
    try:
        run.animate(path, options.frames)
    except OSError as error:
        raise files.cannot("write", path, error) from None
    print(f"{path}: {options.frames} pictures of {run.makespan:,.0f} cycles")
    return 0


def _small(options: argparse.Namespace, algorithms: list[str]) -> list[Run]:
    """Runs to be looked at: of tiles of 4, if nothing else is said."""
    if options.shape is None and options.tile is None:
        options.tile = [4]
    runs = [simulate(schedule_of(options, name), options.device, dtype=options.dtype, limits=False)
            for name in algorithms]  # fmt: skip
    for run in runs:
        _warn(run)
    return runs


def run_replay(options: argparse.Namespace) -> int:
    """Run ``replay``; returns the exit code."""
    runs, path = _small(options, options.algorithms), Path(options.out)
    try:
        runs[0].replay(path, runs[1:])
    except OSError as error:
        raise files.cannot("write", path, error) from None
    print(f"{path}: " + ", ".join(f"{run.schedule.name} {run.makespan:,.0f} cycles" for run in runs))
    return 0
