"""``python -m perfmodel``: predict, report, fit, calibrate, devices, models."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import perfmodel
from perfmodel import calibrate, console, explore, llm, operators, pingpong, render, systems, tune
from perfmodel.capacity import CACHES, capacity
from perfmodel.chips import Gpu
from perfmodel.counts import GEMMS
from perfmodel.counts_reduce import REDUCES
from perfmodel.device import device, devices
from perfmodel.errors import ModelError
from perfmodel.fitting import fit
from perfmodel.forms import PASSES, PLANS
from perfmodel.measurements import measurements, names
from perfmodel.model import model, models
from perfmodel.pipeline import pipeline
from perfmodel.storage import TYPES
from perfmodel.tables import tree


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = console.Parser(prog="python -m perfmodel", description="Predict matrix kernels on mesh devices.")
    top.add_argument("--version", action="version", version=f"perfmodel {perfmodel.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _predict(commands.add_parser("predict", help="predicted time of an operator or of LLM inference"))
    show = commands.add_parser("report", help="predicted against published, row by row, and the errors of each table")
    show.add_argument("--part", choices=render.PARTS, help="one part only (default: all)")
    show.add_argument("--json", action="store_true", help="one JSON object")
    adjust = commands.add_parser("fit", help="fit the constants to a sweep (CSV) or this machine's benchmarks (JSON)")
    adjust.add_argument("file", help=f"a .csv or .json file, or one of: {', '.join(names())}")
    adjust.add_argument("--device", help="device of a CSV sweep")
    adjust.add_argument("--fix", type=console.assignment, action="append", default=[], metavar="NAME=VALUE",
                        help="hold a constant at a value")
    adjust.add_argument("--save", type=Path, metavar="FILE.toml", help="write the device with these constants")
    adjust.add_argument("--device-out", type=Path, help="of benchmarks: write the fitted machine as a device file")
    adjust.add_argument("--json", action="store_true", help="one JSON object")
    ping = commands.add_parser("ping-pong", help="measure the ranks of MPI: mpiexec -n 2 python -m perfmodel ping-pong")
    ping.add_argument("--save", type=Path, metavar="FILE.toml", help="write the cluster as a device")
    ping.add_argument("--json", action="store_true", help="one JSON object")
    commands.add_parser("calibrate", help="fit every kernel to the packaged measurements again, write the constants")
    for name, what in (("devices", "the known devices and where their numbers come from"),
                       ("models", "the known models")):
        commands.add_parser(name, help=what).add_argument("--json", action="store_true", help="one JSON object")
    return top


def _predict(command: argparse.ArgumentParser) -> None:
    """The sub-commands of ``predict``."""
    kinds = command.add_subparsers(dest="what", required=True)

    def add(name: str, what: str, **options: Any) -> None:
        kind = kinds.add_parser(name, help=what)
        kind.add_argument("--device", default="wse2", help=f"one of {', '.join(devices())}, or a TOML file")
        kind.add_argument("--set", type=console.assignment, action="append", default=[], metavar="NAME=VALUE",
                          dest="changes", help="change a quantity of the device; its calibration is kept")
        kind.add_argument("--json", action="store_true", help="one JSON object")
        for option, settings in options.items():
            kind.add_argument(f"--{option.replace('_', '-')}", **settings)

    def whole(what: str, **settings: Any) -> dict[str, Any]:
        return {"type": int, "required": True, "help": what, **settings}

    def grid(what: str = "cores a side, or rows x columns: 720, 720x360", **settings: Any) -> dict[str, Any]:
        return {"type": console.grid, "metavar": "N", "help": what, **settings}

    square = "cores a side: 360, or 360x360"
    groups = {"type": int, "help": "groups of the two-phase tree (default: as published)"}
    llm_options = {
        "model": {"required": True, "help": f"one of {', '.join(models())}, or a JSON file of dimensions"},
        "system": {"default": "waferllm", "help": f"one of {', '.join(systems.SYSTEMS)}"},
    }
    add("gemm", "C = A B", algorithm={"help": f"one of {', '.join(GEMMS)}, matmul; default: as measured on the device"},
        grid=grid("cores a side, or rows x columns; default: the whole device"),
        shape=whole("sizes of the product", nargs=3, metavar=("M", "K", "N")),
        dtype={"choices": ("bf16", "fp16"), "help": "16 bits each; the time is the same"},
        fidelity={"choices": tuple(PASSES), "help": "of a matrix engine (default: HiFi2)"},
        storage={"choices": ("L1", "DRAM"), "help": "where operands of a matrix engine lie (default: L1)"})
    add("gemv", "y = x W", reduce={"default": "ktree", "help": f"one of {', '.join(REDUCES)}"}, groups=groups,
        grid=grid(required=True), shape=whole("rows and columns of W", nargs=2, metavar=("M", "N")))
    add("shift", "tiles handed on along rows", grid=grid(required=True),
        steps=whole("hops that each tile is handed on by"),
        tile=whole("fp16 elements on a core", nargs=2, metavar=("H", "W")))
    plan = {"choices": PLANS, "default": "paper", "help": "as published, or with fewer all-reduces (default: paper)"}
    add("prefill", "a prompt", **llm_options, grid=grid(square), tokens=whole("length of the prompt"), plan=plan)
    add("decode", "one token", **llm_options, grid=grid(square), groups=groups, context=whole("tokens in the cache"),
        plan=plan)
    add("generate", "a whole request", **llm_options, prefill_grid=grid(square), decode_grid=grid(square),
        prompt=whole("tokens of the prompt"), new=whole("tokens that follow"))
    storage = {"default": "F16", "help": f"how weights are stored, one of {', '.join(TYPES)} (default: F16)"}
    add("capacity", "longest context", model=llm_options["model"], grid=grid(square, required=True),
        cache={"default": "shift", "help": f"one of {', '.join(CACHES)}"},
        regions={"type": int, "help": "regions of the wafer that share the layers (default: as many as fit)"},
        storage=storage)
    add("pipeline", "a model on regions of a wafer, one sequence or several", model=llm_options["model"],
        grid=grid(f"{square}, of a region", required=True), tokens=whole("in each cache, or of the prompt"),
        phase={"choices": ("decode", "prefill"), "default": "decode", "help": "which one (default: decode)"},
        batch={"type": int, "default": 1, "help": "sequences (default: 1)"}, plan=plan, storage=storage,
        regions={"type": int, "help": "regions that share the layers (default: as many as lie on the fabric)"})
    add("need", "what a throughput of decode asks of the device, and what binds", model=llm_options["model"],
        target={"type": float, "required": True, "help": "tokens per second"},
        grid=grid(f"{square}; default: the best"),
        context={"type": int, "default": 4096, "help": "tokens in the cache (default: 4096)"})
    add("best-grid", "the autotuner", model=llm_options["model"],
        phase={"choices": tune.PHASES, "required": True, "help": "whose grid"},
        tokens=whole("length of the prompt, or tokens in the cache"), plan=plan)


def predict(options: argparse.Namespace) -> dict[str, Any]:
    """The prediction that the options ask for, as plain numbers."""
    chip: Any = device(options.device)
    if options.changes:
        system = systems.check(getattr(options, "system", "waferllm"))
        if systems.gpus(system) and not isinstance(chip, Gpu):
            raise ModelError(f"--set changes {chip.name}, of which {system} has none: give its GPU, --device a100")
        chip = chip.replace(**dict(options.changes))
    if options.what == "gemm":
        return operators.gemm(chip, *options.shape, grid=options.grid, algorithm=options.algorithm,
                              fidelity=options.fidelity, storage=options.storage).as_dict()
    if options.what == "shift":
        return operators.shift(chip, tuple(options.tile), steps=options.steps, grid=options.grid).as_dict()
    if options.what == "gemv":
        return operators.gemv(chip, *options.shape, grid=options.grid, reduce=options.reduce,
                              groups=options.groups).as_dict()
    size = model(options.model)
    if options.what == "capacity":
        return capacity(chip, size, grid=options.grid, cache=options.cache, regions=options.regions,
                        storage=options.storage).as_dict()
    if options.what == "pipeline":
        return pipeline(chip, size, phase=options.phase, tokens=options.tokens, grid=options.grid, batch=options.batch,
                        regions=options.regions, storage=options.storage, plan=options.plan).as_dict()
    if options.what == "need":
        found = explore.need(chip, size, tokens_per_s=options.target, context=options.context, grid=options.grid)
        return {"what": str(found), **dataclasses.asdict(found)}
    if options.what == "best-grid":
        choice = tune.best_grid(chip, size, phase=options.phase, tokens=options.tokens, plan=options.plan)
        return {"grid": choice.value, "cycles": choice.cycles, "seconds": choice.cycles / chip.clock_hz,
                "notes": list(choice.notes)}
    if not systems.gpus(systems.check(options.system)):
        needed = ("grid",) if options.what != "generate" else (
            ("prefill_grid", "decode_grid") if options.system == "waferllm" else ("prefill_grid",))
        if missing := [name for name in needed if getattr(options, name) is None]:
            raise ModelError(f"{options.system} needs --{missing[0].replace('_', '-')}, the cores a side")
    if options.what == "prefill":
        return llm.prefill(chip, size, tokens=options.tokens, grid=options.grid, system=options.system,
                           plan=options.plan).as_dict()
    if options.what == "decode":
        return llm.decode(chip, size, context=options.context, grid=options.grid, groups=options.groups,
                          system=options.system, plan=options.plan).as_dict()
    return llm.generate(chip, size, prompt=options.prompt, new=options.new, prefill_grid=options.prefill_grid,
                        decode_grid=options.decode_grid, system=options.system).as_dict()


def fitted(options: argparse.Namespace) -> dict[str, Any]:
    """A fit of a file: constants, uncertainties, correlations, errors in and out of sample."""
    data = measurements(options.file, options.device)
    result = fit(data, fix=dict(options.fix))
    found: dict[str, Any] = {
        "measurements": data.name, "kind": data.kind, "device": data.chip.name, "rows": len(data),
        "params": result.params, "stderr": result.stderr, "fixed": result.fixed,
        "correlation": result.correlation.round(3).tolist(),
        "mean_error": float(np.abs(result.residuals).mean()), "worst_error": float(np.abs(result.residuals).max()),
        "warnings": list(result.warnings),
    }
    for by, labels in data.labels.items():
        if 1 < len(np.unique(labels)) < len(data):
            try:
                cv = result.cross_validate(by)
            except ModelError as error:
                found["warnings"].append(f"leave one {by} out: {error}")
            else:
                found[f"leave_one_{by}_out"] = {"mean_error": cv.mean, "worst_error": cv.worst}
    if options.save is not None:
        found["written"] = str(result.save(options.save))
    if options.device_out is not None:
        if data.kind != "host":
            raise ModelError(f"--device-out is for benchmarks of this machine; {data.name} is a {data.kind} sweep")
        render.write_host(options.device_out, result)
        found["written"] = str(options.device_out)
    return found


def main(argv: list[str] | None = None) -> int:
    """Run one command; what it returns and prints on bad input, see `perfmodel.console`."""
    def command() -> int:
        if text := _run(parser().parse_args(argv)):  # of several processes one prints
            print(text)
        return 0

    return console.run("perfmodel", command)


def _run(options: argparse.Namespace) -> str:
    """The output of a command."""
    if options.command == "predict":
        found = predict(options)
        return json.dumps(found) if options.json else tree(found)
    if options.command == "report":
        return json.dumps(render.report_json()) if options.json else render.report(options.part)
    if options.command == "fit":
        found = fitted(options)
        return json.dumps(found) if options.json else tree(found)
    if options.command == "ping-pong":
        return pingpong.run(options.save, options.json)
    if options.command == "calibrate":
        calibrate.write()
        return render.report("parameters")
    listed = render.devices_json() if options.command == "devices" else render.models_json()
    return json.dumps(listed) if options.json else tree(listed)


if __name__ == "__main__":
    sys.exit(main())
