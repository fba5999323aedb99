"""What a generation made the mesh do, and what the performance model expects of a wafer: one dictionary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from math import ceil, sqrt
from textwrap import fill
from typing import Any

import perfmodel
from meshkernels.errors import DeviceLimitError, MeshError
from meshkernels.kept import physical_memory
from meshkernels.llm.block import decode_plan, prefill_plan
from meshkernels.llm.cache import balanced
from meshkernels.llm.footprint import Storages
from meshkernels.llm.layout import Layout
from meshkernels.llm.model import Llama
from meshkernels.llm.operations import Plan, Scheduled
from meshkernels.llm.redistribute import Transfer, redistribution
from meshkernels.llm.regions import Regions, span
from meshkernels.mesh import Mesh, ceil_div, require_walkable
from meshkernels.readers.compliance import as_device
from perfmodel import tables

#: The wafers that predictions are made for, the larger one last.
WAFERS = ("wse2", "wse3")


def mesh_summary(model: Llama, prompt: int, context: int, texts: int = 1) -> dict[str, Any]:
    """Counts of the prompt, of the last token, and of the redistribution between them.

    Activations and cache are float16, as on the wafer; weights take the bytes of their storage types.

    Args:
        model: the model on its meshes.
        prompt: tokens of the prompt.
        context: tokens of the whole text: the token that is counted attends to so many.
        texts: how many there are at once, of at most so many tokens. Each is counted alone, but all have caches.

    Returns:
        What ``generate --json`` prints as ``mesh``.
    """
    itemsize = 2
    accumulator = 2 if model.precision.half or model.precision.dtype == "float32" else 4
    first = prefill_plan(model.prefill_layout, prompt, plan=model.plan)
    token = decode_plan(model.layout, context, model.plan)
    moved = sum(redistribution(first, token).values(), Transfer())
    phases = {name: _phase(plan, itemsize, accumulator, model, texts)
              for name, plan in (("prefill", first), ("token", token))}
    needs = {name: phase["peak_bytes_per_core"] for name, phase in phases.items()}
    return {
        "rows": model.layout.mesh.rows, "cols": model.layout.mesh.cols, "bytes_per_element": itemsize,
        "storages": sorted(set(model.storages.values())), "texts": texts,
        "plan": model.plan, "all_reduces_per_block": token.all_reduces,
        "prefill": phases["prefill"],
        "hand_over": asdict(moved),
        "token": phases["token"],
        "predicted": {name: predict(model, prompt, context, name, needs, texts)
                      for name in ((model.wafer,) if model.wafer else WAFERS)},
    }


#: Phases of a prediction: its key, the phase in a summary, and what people call it.
_PHASES = (("prefill_tokens_per_s", "prefill", "prefill"), ("tokens_per_s", "token", "decode"))


def predict(model: Llama, prompt: int, context: int, device: str, needs: dict[str, int],
            texts: int = 1) -> dict[str, Any]:
    """Tokens per second of both phases on a wafer, by the performance model; notes say how far to trust them.

    A phase that does not fit, or that the model cannot predict (it knows square grids that a wafer has), has None; for
    the latter a note says why.

    Args:
        model: the model on its meshes.
        prompt: tokens of the prompt.
        context: tokens of the whole text.
        device: name of the wafer.
        needs: bytes per core of "prefill" and of a "token".
        texts: at once: regions of a wafer work on different ones; one grid takes them in turn.

    Returns:
        ``prefill_tokens_per_s``, ``tokens_per_s``, ``needs_bytes_per_core``, ``memory_per_core`` and ``notes``.
    """
    chip, c = perfmodel.device(device), model.config
    dims = perfmodel.Model("model", c.dim, c.ffn, c.blocks, c.heads, c.kv_heads, c.head_dim, c.vocab)
    meshes = model.prefill_layout.mesh, model.layout.mesh
    runs: tuple[Callable[..., Any], ...] = (partial(perfmodel.prefill, tokens=prompt, plan=model.plan),
                                            partial(perfmodel.decode, context=context, plan=model.plan))
    if model.wafer:
        runs = tuple(partial(perfmodel.pipeline, phase=phase, tokens=tokens, batch=texts, plan=model.plan,
                             storage=_widest(model), regions=model.regions)
                     for phase, tokens in (("prefill", prompt), ("decode", context)))
    rates, notes = dict[str, float | None](), list[str]()
    for (key, phase, _), mesh, run in zip(_PHASES, meshes, runs):
        rates[key], fits = None, needs[phase] <= chip.memory_per_core
        if fits and mesh.rows != mesh.cols:
            notes.append(f"no prediction for {mesh.rows} x {mesh.cols}: square grids only")
        elif fits:
            try:
                prediction = run(chip, dims, grid=mesh.rows)
            except perfmodel.ModelError as refusal:
                notes.append(str(refusal))
            else:
                rates[key] = float(prediction.tokens_per_s)
                notes += prediction.notes
    return rates | {"needs_bytes_per_core": needs, "memory_per_core": chip.memory_per_core,
                    "notes": list(dict.fromkeys(notes))}


def _widest(model: Llama) -> str:
    """The type in which most bytes of a block's matrices are stored: the performance model knows one."""
    kinds = Counter(model.storages[f"blk.{block}.{name}.weight"] for block in range(model.config.blocks)
                    for name in ("ffn_up", "ffn_gate", "ffn_down"))
    return kinds.most_common(1)[0][0]


def _phase(plan: Plan, itemsize: int, accumulator: int, model: Llama, texts: int) -> dict[str, Any]:
    work, found = plan.total(itemsize, accumulator), dict[str, Any]()
    if model.wafer is None:
        peak = plan.peak_bytes(itemsize, accumulator, model.storages) + (texts - 1) * plan.resident(itemsize)["cache"]
    else:
        regions = Regions(model.wafer, plan, model.storages, texts, model.regions)
        work, peak, found = work + regions.work, regions.fullest.held_bytes, {"wafer": regions.as_dict()}
    return {"tokens": plan.tokens, "rows": plan.layout.mesh.rows, "cols": plan.layout.mesh.cols,
            "steps": work.steps, "critical_hops": work.hops, "stages": work.stages, "words": work.words,
            "macs": work.macs, "all_reduces": work.all_reduces,
            "peak_bytes_per_core": peak, **found,
            "block": [{"operation": line.name, "steps": line.work.steps, "hops": line.work.hops,
                       "stages": line.work.stages, "words": line.work.words,
                       "collectives": [dict(zip(("op", "axis", "words"), each)) for each in line.collectives]}
                      for line in plan.ledger(None, itemsize, accumulator)]}


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
                    try:
                        require_walkable(used.mesh)
                    except MeshError as refusal:
                        raise MeshError(f"a grid of {mesh.rows} x {mesh.cols} cores, {op.name}: {refusal}") from None


def fit_to(device: str, layout: Layout, prefill_layout: Layout, prompt: int, new: int, plan: str, storages: Storages,
           texts: int, cache: str) -> int:  # fmt: skip
    """Bytes per core left for decode's keys and values on a device, if a text has room there.

    Args:
        device: its name.
        layout: of decode.
        prefill_layout: of prefill.
        prompt: tokens of the prompt.
        new: tokens that are to follow; the last is not decoded.
        plan: "paper" or "fused".
        storages: of the model's tensors.
        texts: at once, each with a prompt of so many tokens.
        cache: "shift" or "concat".

    Returns:
        The bytes.

    Raises:
        DeviceLimitError: the weights and buffers of a phase, the prompts' own keys and values, or those of the whole
            texts do not fit.
    """
    first, token = (Regions(device, each, storages, texts, 1) for each in (
        prefill_plan(prefill_layout, prompt, plan=plan), decode_plan(layout, 1, plan)))
    keys, limit, what = first.cache_bytes(0), first.memory, "" if texts == 1 else f"{texts} x "
    if keys > (left := _left(first)):
        raise DeviceLimitError(f"prefill of {what}{prompt} tokens: their keys and values take {keys} bytes on core "
                               f"(0, 0), {left} of {limit} bytes are left")
    left, rows, entry = _left(token), layout.mesh.rows, texts * token.regions[0].entry_bytes
    entries, room = fullest_row(rows, prompt, new, cache), rows * (left // entry)
    if entries * entry > left:
        if cache == "concat":
            room = prompt + left // entry - int(balanced(prompt, rows)[-1])
        raise DeviceLimitError(f"decode up to {what}{prompt + new - 1} tokens ({cache}): a core would hold {entries} "
                               f"entries of the KV cache = {entries * entry} bytes, {left} of {limit} bytes are left: "
                               f"room for {room} tokens")
    return left


def fullest_row(rows: int, prompt: int, new: int, cache: str) -> int:
    """Entries on the row of cores that has most when a text is complete.

    Args:
        rows: of cores.
        prompt: tokens of the prompt, which are spread evenly.
        new: tokens that follow; the last is not decoded.
        cache: "shift", or "concat": to the last row.

    Returns:
        The entries.
    """
    return ceil_div(prompt + new - 1, rows) if cache == "shift" else int(balanced(prompt, rows)[-1]) + new - 1


def _left(one: Regions) -> int:
    """Bytes per core that weights and buffers of a phase leave, where one region has all blocks."""
    kept, plan, mesh, chip = one.regions[0].kept_bytes, one.plan, one.plan.layout.mesh, as_device(one.device)
    if kept < one.memory:
        return one.memory - kept
    start, advice = ceil(sqrt(mesh.cores * kept / one.memory)), ""
    for side in range(start, min(2 * start, chip.rows, chip.cols) + 1):
        larger = one.of_side(side)
        if larger.resident_bytes(0) < one.memory and larger.regions[0].kept_bytes < one.memory:  # buffers take seconds
            advice = f"; {side} x {side} cores would do"
            break
    raise DeviceLimitError(f"{plan.phase} of {plan.tokens} tokens: core (0, 0) of {mesh.rows} x {mesh.cols} would hold "
                           f"{kept} bytes of weights and buffers, the limit is {one.memory} bytes{advice}")


def block_table(phase: dict[str, Any]) -> str:
    """The ledger of one block as text: every operation, what it costs, each collective with axis and length."""
    rows = [(line["operation"],
             *(f"{line[key]:,}" if line[key] else "" for key in ("steps", "hops", "stages", "words")),
             ", ".join(f"{c['op']} {c['axis']}: {c['words']:,}" for c in line["collectives"]))
            for line in phase["block"]]
    return tables.text(rows, ("operation", "steps", "hops", "stages", "words", "collectives (elements per core)"))


def text_table(summary: dict[str, Any]) -> str:
    """The mesh's part of the summary as text."""
    first, token, move = summary["prefill"], summary["token"], summary["hand_over"]
    counts = ("steps", "critical_hops", "stages", "words", "all_reduces", "peak_bytes_per_core")
    rows = [(name, f"{phase['rows']}x{phase['cols']}", *(f"{phase[key]:,}" for key in counts)) for name, phase in (
        (f"prefill of {first['tokens']}", first), (f"token after {token['tokens'] - 1}", token))]
    rows.insert(1, ("redistribution", "", "", f"{move['hops']:,}", "", f"{move['words']:,}", "", ""))
    return tables.text(rows, ("", "cores", "steps", "hops", "stages", "words moved", "all-reduces", "bytes/core"))


def region_table(summary: dict[str, Any]) -> str:
    """Which region of the wafer holds which blocks: one table where both phases have the same grid, else two."""
    names = {"prefill": "prefill", "token": "decode"}
    alike = all(summary["prefill"][key] == summary["token"][key] for key in ("rows", "cols"))
    lines = []
    for phase, name in names.items():
        p, over = summary[phase], summary[phase]["wafer"]["hand_overs"]
        lines.append(f"{name} on {p['wafer']['device']}: {len(p['wafer']['regions'])} regions of {p['rows']} x "
                     f"{p['cols']} cores; {len(over)} hand-overs, {sum(o['hops'] for o in over):,} hops and "
                     f"{sum(o['words'] for o in over):,} words, are part of the counts above")
    for phases in [list(names)] if alike else [[phase] for phase in names]:
        held = [summary[phase]["wafer"]["regions"] for phase in phases]
        rows = [(str(number), f"{one['y']}, {one['x']}", span(one["first_block"], one["blocks"]),
                 *(f"{each['bytes_per_core']:,}" for each in (one, *others)))
                for number, (one, *others) in enumerate(zip(*held))]
        heads = (f"{names[phase]} bytes/core" for phase in phases)
        lines.append(tables.text(rows, ("region", "first core", "blocks", *heads)))
    return "\n".join(lines)


def prediction_lines(summary: dict[str, Any]) -> str:
    """The performance model's part of the summary as text."""
    lines, notes = [], dict[str, list[str]]()
    for device, found in summary["predicted"].items():
        said = []
        for key, phase, name in _PHASES:
            needs, has = found["needs_bytes_per_core"][phase], found["memory_per_core"]
            if needs > has:
                said.append(f"{name} does not fit ({needs:,} bytes a core, there are {has:,})")
            else:
                said.append(f"{name} has no prediction" if found[key] is None else f"{name} {found[key]:,.0f} tokens/s")
        lines.append(f"predicted on {device}: {', '.join(said)}")
        for note in found["notes"]:
            notes.setdefault(note, []).append(device)
    if any(needs > found["memory_per_core"] for found in summary["predicted"].values()
           for needs in found["needs_bytes_per_core"].values()):
        lines.append("  --wafer NAME shares the blocks out over regions, so that a core holds a part of them")
    lines += [fill(f"note ({', '.join(devices)}): {note}", 108, initial_indent="  ", subsequent_indent="    ")
              for note, devices in notes.items()]
    return "\n".join(lines)
