"""What a generation made the mesh do, and what the performance model expects of a wafer: one dictionary."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from math import ceil, isqrt, sqrt
from textwrap import fill
from typing import Any

import perfmodel
from meshkernels.errors import DeviceLimitError, MeshError
from meshkernels.kept import physical_memory
from meshkernels.llm.block import decode_plan, prefill_plan
from meshkernels.llm.layout import Layout
from meshkernels.llm.model import Llama
from meshkernels.llm.operations import Line, Plan, Scheduled
from meshkernels.llm.redistribute import Transfer, redistribution
from meshkernels.mesh import MOST_CORES, Mesh, require_walkable
from meshkernels.readers.compliance import as_device
from perfmodel import tables

#: The wafers that predictions are made for, the larger one last.
WAFERS = ("wse2", "wse3")


def mesh_summary(model: Llama, prompt: int, context: int) -> dict[str, Any]:
    """Counts of the prompt, of the last token, and of the redistribution between them, as float16 on the wafer.

    Args:
        model: the model on its meshes.
        prompt: tokens of the prompt.
        context: tokens of the whole text: the token that is counted attends to so many.

    Returns:
        What ``generate --json`` prints as ``mesh``.
    """
    itemsize = 2
    accumulator = 2 if model.precision.half or model.precision.dtype == "float32" else 4
    first = prefill_plan(model.prefill_layout, prompt, plan=model.plan)
    token = decode_plan(model.layout, context, model.plan)
    moved = sum(redistribution(first, token).values(), Transfer())
    phases = {"prefill": _phase(first, itemsize, accumulator), "token": _phase(token, itemsize, accumulator)}
    predicted = {name: predict(model, prompt, context, name) for name in WAFERS}
    fullest = max(phase["peak_bytes_per_core"] for phase in phases.values())
    for name, found in predicted.items():
        limit, rated = as_device(name).memory_per_core, found["prefill_tokens_per_s"] or found["tokens_per_s"]
        if rated and fullest > limit:
            found["notes"].insert(0, "rates are of layers in regions of their own, each of these grids: all of them on "
                                     f"one grid take {fullest:,} bytes per core; {name} has {limit:,}")
    return {
        "rows": model.layout.mesh.rows, "cols": model.layout.mesh.cols, "bytes_per_element": itemsize,
        "plan": model.plan, "all_reduces_per_block": token.all_reduces,
        "prefill": phases["prefill"], "hand_over": asdict(moved), "token": phases["token"], "predicted": predicted,
    }


def predict(model: Llama, prompt: int, context: int, device: str) -> dict[str, Any]:
    """Tokens per second of both phases on a wafer, by the performance model; notes say how far to trust them.

    A phase that the model cannot predict (it knows square grids that a wafer has) has None and a note why.

    Args:
        model: the model on its meshes.
        prompt: tokens of the prompt.
        context: tokens of the whole text.
        device: name of the wafer.

    Returns:
        ``prefill_tokens_per_s``, ``tokens_per_s`` (None: no prediction), ``does_not_fit``, those of the two that the
        device is too small for, and ``notes``.
    """
    c = model.config
    dims = perfmodel.Model("model", c.dim, c.ffn, c.blocks, c.heads, c.kv_heads, c.head_dim, c.vocab)
    found: dict[str, Any] = {"prefill_tokens_per_s": None, "tokens_per_s": None, "does_not_fit": [], "notes": []}
    for key, mesh, run in (
        ("prefill_tokens_per_s", model.prefill_layout.mesh, partial(perfmodel.prefill, tokens=prompt, plan=model.plan)),
        ("tokens_per_s", model.layout.mesh, partial(perfmodel.decode, context=context, plan=model.plan)),
    ):
        if mesh.rows != mesh.cols:
            found["notes"].append(f"no prediction for {mesh.rows} x {mesh.cols}: square grids only")
            continue
        try:
            prediction = run(perfmodel.device(device), dims, grid=mesh.rows)
        except perfmodel.ModelError as refusal:
            found["notes"].append(str(refusal))
            found["does_not_fit"] += [key] if isinstance(refusal, perfmodel.DoesNotFit) else []
            continue
        found[key] = float(prediction.tokens_per_s)
        found["notes"] += prediction.notes
    found["notes"] = list(dict.fromkeys(found["notes"]))
    return found


def _phase(plan: Plan, itemsize: int, accumulator: int) -> dict[str, Any]:
    work = plan.total(itemsize, accumulator)
    return {"tokens": plan.tokens, "rows": plan.layout.mesh.rows, "cols": plan.layout.mesh.cols,
            "steps": work.steps, "critical_hops": work.hops, "stages": work.stages, "words": work.words,
            "macs": work.macs, "all_reduces": work.all_reduces,
            "peak_bytes_per_core": plan.peak_bytes(itemsize, accumulator),
            "block": [_line(line) for line in plan.ledger(None, itemsize, accumulator)]}


def _line(line: Line) -> dict[str, Any]:
    """One operation of a block, with each of its collectives."""
    w = line.work
    return {"operation": line.name, "steps": w.steps, "hops": w.hops, "stages": w.stages, "words": w.words,
            "collectives": [{"op": op, "axis": axis, "words": words} for op, axis, words in line.collectives]}


def fit_fabric(device: str, *meshes: Mesh) -> None:
    """Refuse grids that a device has no cores for.

    Raises:
        DeviceLimitError: it names the grid and the device's fabric.
    """
    found = as_device(device)
    for mesh in meshes:
        if mesh.rows > found.rows or mesh.cols > found.cols:
            raise DeviceLimitError(f"generate: a grid of {mesh.rows} x {mesh.cols} cores does not fit {found.name}, "
                                   f"which has {found.rows} x {found.cols}")


def fit_host(stored: int, *layouts: Layout) -> None:
    """Refuse weights, or grids whose schedules or padded operands, this machine cannot hold.

    Args:
        stored: bytes of the weights on the cores.
        *layouts: of both phases.

    Raises:
        MeshError: it names the grid, what it needs and what there is.
    """
    have = physical_memory()
    for layout in dict.fromkeys(layouts):
        c, mesh = layout.config, layout.mesh
        padded = 4 * c.dim * max(mesh.cols * sum(layout.qkv), layout.out, 2 * layout.ffn)  # packed for a product
        if stored + padded > have / 2:
            raise MeshError(f"a grid of {mesh.rows} x {mesh.cols} cores takes {stored / 1e9:.2g} GB for the weights "
                            f"and pads one of them to {padded / 1e9:.2g} GB of float32; half of this machine's memory "
                            f"is {have / 2e9:.2g} GB: choose fewer cores, or sides that share a factor")
        for op in prefill_plan(layout, 1).layer:
            for used in op.schedules:
                if isinstance(used, Scheduled) and used.multiplies:
                    require_walkable(used.mesh)


def fit_to(device: str, layout: Layout, prefill_layout: Layout, prompt: int, plan: str = "paper",
           itemsize: int = 2) -> int:
    """Bytes per core left for decode's keys and values on a device.

    Args:
        device: its name.
        layout: of decode.
        prefill_layout: of prefill.
        prompt: tokens of the prompt.
        plan: "paper" or "fused".
        itemsize: bytes of a stored element.

    Returns:
        The bytes.

    Raises:
        DeviceLimitError: the weights and buffers of a phase, or the prompt's own keys and values, do not fit.
    """
    limit = as_device(device).memory_per_core
    first = prefill_plan(prefill_layout, prompt, plan=plan)
    keys = first.resident(itemsize)["cache"]
    if keys > (left := cache_budget(first, limit, itemsize)):
        raise DeviceLimitError(f"prefill of {prompt} tokens: their keys and values take {keys} bytes on core (0, 0), "
                               f"{left} of {limit} bytes are left")
    return cache_budget(decode_plan(layout, 1, plan), limit, itemsize)


def cache_budget(plan: Plan, limit: int, itemsize: int = 2) -> int:
    """Bytes per core left for keys and values under a memory limit, besides a phase's weights and buffers.

    Args:
        plan: of the phase.
        limit: bytes of a core's memory.
        itemsize: bytes of a stored element.

    Returns:
        The bytes.

    Raises:
        DeviceLimitError: those alone exceed the limit.
    """
    kept = _kept(plan, itemsize)
    if kept >= limit:
        mesh = plan.layout.mesh
        raise DeviceLimitError(
            f"{plan.phase} of {plan.tokens} tokens: core (0, 0) of {mesh.rows} x {mesh.cols} would hold {kept} bytes "
            f"of weights and buffers, the limit is {limit} bytes{_advice(plan, kept / limit, limit, itemsize)}")
    return limit - kept


def _kept(plan: Plan, itemsize: int) -> int:
    """Bytes per core of everything but the cache."""
    return plan.peak_bytes(itemsize, itemsize) - plan.resident(itemsize)["cache"]


def _advice(plan: Plan, excess: float, limit: int, itemsize: int) -> str:
    """The smallest square grid that would do, if one near the obvious size does."""
    build = partial(prefill_plan if plan.phase == "prefill" else decode_plan, plan=plan.name)
    start = ceil(sqrt(plan.layout.mesh.cores * excess))
    for side in range(start, min(start + start // 4 + 1, isqrt(MOST_CORES)) + 1):
        larger = build(Layout(plan.layout.config, Mesh(side)), plan.tokens)
        weights = larger.resident(itemsize)["weights"]  # at hand at once; counting the buffers takes seconds
        if weights < limit and _kept(larger, itemsize) < limit:
            return f"; {side} x {side} cores would do"
    return ""


def block_table(phase: dict[str, Any]) -> str:
    """The ledger of one block as text: every operation, what it costs, each collective with axis and length."""
    rows: list[tuple[str, ...]] = [("operation", "steps", "hops", "stages", "words", "collectives (elements per core)")]
    for line in phase["block"]:
        collectives = ", ".join(f"{c['op']} {c['axis']}: {c['words']:,}" for c in line["collectives"])
        numbers = (f"{line[key]:,}" if line[key] else "" for key in ("steps", "hops", "stages", "words"))
        rows.append((line["operation"], *numbers, collectives))
    return tables.text(rows[1:], rows[0])


def text_table(summary: dict[str, Any]) -> str:
    """The mesh's part of the summary as text."""
    rows: list[tuple[str, ...]] = [("", "cores", "steps", "hops", "stages", "words moved", "all-reduces", "bytes/core")]
    for phase in ("prefill", "token"):
        p = summary[phase]
        name = f"prefill of {p['tokens']}" if phase == "prefill" else f"token after {p['tokens'] - 1}"
        rows.append((name, f"{p['rows']}x{p['cols']}", *(f"{p[key]:,}" for key in (
            "steps", "critical_hops", "stages", "words", "all_reduces", "peak_bytes_per_core"))))
        if phase == "prefill":
            move = summary["hand_over"]
            rows.append(("redistribution", "", "", f"{move['hops']:,}", "", f"{move['words']:,}", "", ""))
    return tables.text(rows[1:], rows[0])


def prediction_lines(summary: dict[str, Any]) -> str:
    """The performance model's part of the summary as text."""
    lines, notes = [], dict[str, list[str]]()
    for device, found in summary["predicted"].items():
        speeds = []
        for name, key in (("prefill", "prefill_tokens_per_s"), ("decode", "tokens_per_s")):
            why_not = "does not fit" if key in found["does_not_fit"] else "has no prediction"
            speeds.append(f"{name} " + (why_not if found[key] is None else f"{found[key]:,.0f} tokens/s"))
        lines.append(f"predicted on {device}: {', '.join(speeds)}")
        for note in found["notes"]:
            notes.setdefault(note, []).append(device)
    lines += [fill(f"note ({', '.join(devices)}): {note}", 108, initial_indent="  ", subsequent_indent="    ")
              for note, devices in notes.items()]
    return "\n".join(lines)
