"""Predicted time of LLM inference: prefill, decode, and a whole request.

One layer is predicted and multiplied by the number of layers, as the published method does; embedding, head,
sampling and the hand-over between layers are not in it. Sizes are padded to whole tiles; the kernels have one
head of full width and attend to the whole context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perfmodel import bounds, counts_reduce, forms, parameters, systems
from perfmodel.capacity import residency
from perfmodel.checks import choice, size, sizes, together
from perfmodel.counts import ELEMENT_BYTES, cdiv
from perfmodel.device import Device, Gpu, as_device
from perfmodel.errors import ModelError, shown
from perfmodel.model import Model, as_model
from perfmodel.operators import Constants, check_groups, mesh
from perfmodel.parameters import Kernel
from perfmodel.prediction import Prediction, Use, check_grid, check_memory, in_blocks, lift, range_notes, side
from perfmodel.terms import Terms


def prefill(chip: Device | Gpu | str, model: Model | str, *, tokens: Any, grid: Any = None, system: str = "waferllm",
            constants: Constants = None, plan: str = "paper") -> Prediction:
    """Predict the prefill of a prompt; a longer one never takes less time (see `forms.never_less`).

    Args:
        chip: a mesh device, or its name; of ``system="a100xN"`` its clock states the cycles, or it is a GPU of one's
            own to take for the A100.
        model: from `perfmodel.model`, or its name.
        tokens: length of the prompt.
        grid: cores a side (a number, an array, or a square pair or mesh); ignored by a100 systems.
        system: waferllm, t10, ladder, a100x1, a100x8 or a100x16.
        constants: a `perfmodel.Fit`, or constants of GEMM by name, instead of the calibration.
        plan: of waferllm: "paper", or "fused": scores without chains.

    Returns:
        Time, throughput, terms, bounds and notes.

    Raises:
        DoesNotFit: the grid exceeds the device, or one layer exceeds the cores' memory.
        ModelError: a size or name that is none.

    >>> p = prefill("wse2", "llama3-8b", tokens=4096, grid=480)
    >>> bool(abs(p.tokens_per_s / 20320.6 - 1) < 0.06)
    True
    """
    chip, model = _check(chip, model, system, plan)
    if system != "waferllm":
        return _of_system(chip, model, system, "prefill", tokens, grid, constants)
    tokens, grid = sizes(tokens=tokens, grid=side("grid", grid))
    held = _check_layers(chip, model, "prefill", tokens, grid)
    kernel = parameters.on(chip, "gemm", constants)

    def form(c: Mapping[str, float]) -> Terms:
        def layer(s: Any, p: Any) -> Terms:
            return forms.never_less(lambda rows: forms.prefill(c, chip, model.dim, model.ffn, rows, p, plan), s, p)

        return bounds.scale(model.layers, in_blocks(layer, tokens, grid))

    limits = _layers(model, lambda s, p: _prefill_bounds(chip, model, s, p), tokens, grid)
    return _whole(chip, kernel, form, limits, tokens, _notes(kernel, model, tokens, grid) + held + _unmeasured(plan),
                  f"prefill of {np.max(tokens)} tokens by {model.name} on {np.max(grid)}^2 cores of {chip.name}")


def decode(chip: Device | Gpu | str, model: Model | str, *, context: Any, grid: Any = None, groups: Any = None,
           system: str = "waferllm", constants: Constants = None, plan: str = "paper") -> Prediction:
    """Predict one token of decode with ``context`` tokens in the cache.

    ``terms`` are compute, communication and overhead; ``parts`` says what communication is made of, ``phases`` which
    phase of a layer takes how much of both.

    Args:
        chip: a mesh device, or its name; of ``system="a100xN"`` its clock states the cycles, or it is a GPU of one's
            own to take for the A100.
        model: from `perfmodel.model`, or its name.
        context: tokens in the cache.
        grid: cores a side (a number, an array, or a square pair or mesh); ignored by a100 systems.
        groups: groups of the two-phase tree; default: as in the published launch files.
        system: waferllm, t10, ladder, a100x1, a100x8 or a100x16.
        constants: a `perfmodel.Fit`, or constants of decode by name, instead of the calibration.
        plan: of waferllm: "paper", with ten all-reduces a layer, or "fused", with six.

    Returns:
        Time, throughput, terms, bounds and notes.

    Raises:
        DoesNotFit: the grid exceeds the device, or one layer exceeds the cores' memory.
        ModelError: a size or name that is none.

    >>> p = decode("wse2", "llama3-8b", context=4096, grid=420)
    >>> bool(abs(p.tokens_per_s / 2699.9 - 1) < 0.06), sorted(p.terms)
    (True, ['communication', 'compute', 'overhead'])
    """
    chip, model = _check(chip, model, system, plan)
    if system != "waferllm":
        if groups is not None:
            raise ModelError(f"groups = {shown(groups)} belong to the tree of waferllm, not to {system}")
        return _of_system(chip, model, system, "decode", context, grid, constants)
    context, grid = sizes(context=context, grid=side("grid", grid))
    held = _check_layers(chip, model, "decode", context, grid)
    groups = check_groups(chip, "ktree", grid, counts_reduce.published_groups(grid) if groups is None else groups)
    kernel = parameters.on(chip, "decode", constants)

    def form(c: Mapping[str, float]) -> Terms:
        return _layers(model, lambda s, p, k: forms.decode(c, chip, model.dim, model.ffn, s, p, k, plan),
                       context, grid, groups)

    def by_phase() -> dict[str, dict[str, Any]]:
        found = forms.decode_by_phase(kernel.values, chip, model.dim, model.ffn, context, grid, groups, plan)
        return {name: {"compute": model.layers * terms["compute"],
                       "communication": model.layers * sum(terms[kind] for kind in COMMUNICATION)}
                for name, terms in found.items()}

    notes = _notes(kernel, model, context, grid, groups) + held + _unmeasured(plan)
    if kernel.values["unprofiled"]:
        notes += (f"cycles include {kernel.values['unprofiled']:.0f} a layer that the instrumented kernel of "
                  f"{chip.name} spends outside its profiled phases (overhead)",)
    limits = _layers(model, lambda s, p: _decode_bounds(chip, model, s, p, plan), context, grid)
    whole = _whole(chip, kernel, form, limits, 1, notes,
                   f"decode at {np.max(context)} tokens by {model.name} on {np.max(grid)}^2 cores of {chip.name}")
    part = {kind: whole.terms[kind] for kind in COMMUNICATION}
    terms = {"compute": whole.terms["compute"], "communication": sum(part.values()),
             "overhead": whole.terms["overhead"]}
    return dataclasses.replace(whole, terms=terms, parts={"communication": part}, by_phase=by_phase)


#: terms that make up the communication of decode
COMMUNICATION = ("transfer", "alpha", "beta")


#: most new tokens of a request: each is predicted with the context it finds
MOST_NEW = 1 << 20


def generate(chip: Device | Gpu | str, model: Model | str, *, prompt: int, new: int, prefill_grid: Any = None,
             decode_grid: Any = None, system: str = "waferllm") -> Prediction:
    """Predict a whole request: the prefill of the prompt, then ``new`` tokens, each with the context it finds.

    T10 and Ladder decode on the grid of their prefill, since only WaferLLM re-places weights between the phases; what
    that takes is the term ``around``.
    ``tokens_per_s`` is new tokens over the whole time, as published.

    Args:
        chip: a mesh device, or its name; of ``system="a100xN"`` as in `prefill`.
        model: from `perfmodel.model`, or its name.
        prompt: tokens of the prompt.
        new: tokens to generate.
        prefill_grid: cores a side of the prefill; for T10 and Ladder, of both phases; none for a100 systems.
        decode_grid: cores a side of the decode; of waferllm only.
        system: waferllm, t10, ladder, a100x1, a100x8 or a100x16.

    Returns:
        Time, throughput, terms, bounds and notes of the whole request.

    Raises:
        DoesNotFit: a grid exceeds the device, or one layer exceeds the cores' memory.
        ModelError: a size or name that is none.
    """
    chip, model = _check(chip, model, system)
    prompt, new = size("prompt", prompt), size("new", new, MOST_NEW, "each of them is predicted with its own context")
    prefill_grid, decode_grid = (
        grid if grid is None else size(name, side(name, grid))
        for name, grid in (("prefill_grid", prefill_grid), ("decode_grid", decode_grid)))
    contexts = prompt + np.arange(new)
    notes: tuple[str, ...] = ()
    if system in ("t10", "ladder"):
        if prefill_grid is None:
            raise ModelError(f"{system} needs prefill_grid, the cores a side on which it runs both phases")
        if decode_grid not in (None, prefill_grid):
            notes = (f"{system} does not re-place weights: it decodes on {prefill_grid}^2 cores",)
        decode_grid = prefill_grid
    elif system == "waferllm":
        for name, grid in (("prefill_grid", prefill_grid), ("decode_grid", decode_grid)):
            if grid is None:
                raise ModelError(f"{system} needs {name}, the cores a side")
    first = prefill(chip, model, tokens=prompt, grid=prefill_grid, system=system)
    rest = decode(chip, model, context=contexts, grid=decode_grid, system=system)
    slower = 1.0
    if systems.gpus(system):
        slower = parameters.kernel("a100", "generate").values["served"]
        notes += (f"decode is served {slower:.2f} times slower than steadily, as in table 2",)
    around = {"replace": _replacement(chip, model, prompt)} if system == "waferllm" else {}
    terms = {kind: _sum(first.terms.get(kind, 0.0)) + slower * _sum(rest.terms.get(kind, 0.0), new)
             for kind in {**first.terms, **rest.terms}}
    terms |= {"around": sum(around.values())} if around else {}
    limits = {kind: _sum(first.bounds[kind]) + _sum(rest.bounds[kind], new) for kind in first.bounds}
    cycles = sum(terms.values())
    seconds = cycles / systems.clock(chip)
    uses = (*first.uses, *(Use(use.kernel, lambda c, use=use: slower * _sum(use.cycles(c), new))  # type: ignore[misc]
                           for use in rest.uses))
    return Prediction(cycles, seconds, terms, limits, tuple(dict.fromkeys(first.notes + rest.notes + notes)),
                      new / seconds, f"{new} tokens after a prompt of {prompt} by {model.name}, {system}", uses,
                      {"around": around} if around else {}, chip=chip)


def _replacement(chip: Device, model: Model, prompt: int) -> float:
    """Cycles in which all weights, and the cache of the prompt, move to their places for decode; nothing is fitted.

    They move first along x, then along y, handed from core to core; each time half of them cross the middle of the
    wafer, and a word passes a core's ramp twice, as in `forms.shift`.

    Returns:
        Cycles.
    """
    word = parameters.on(chip, "shift").values["word"]
    elements = model.layers * (model.layer_weights + 2.0 * model.kv_dim * prompt)
    words = ELEMENT_BYTES * elements / chip.word_bytes
    return words / 2 * 2 * word * (1 / chip.rows + 1 / chip.cols)


def _sum(value: Any, times: int = 1) -> float:
    """Sum of a column of ``times`` values; a scalar counts as often."""
    return float(np.sum(np.broadcast_to(value, times)))


def _check(chip: Any, model: Any, system: Any, plan: Any = "paper") -> tuple[Device, Model]:
    """Chip (of GPU systems maybe a GPU) and model, loaded if they are names; system and plan must be known."""
    systems.check(system)
    choice("plan", plan, forms.PLANS if system == "waferllm" else forms.PLANS[:1])
    found: Any = as_device(chip)
    of_gpus = isinstance(found, Gpu) and systems.gpus(system)
    return found if of_gpus else mesh(found), as_model(model)


def working_bytes(model: Model, phase: str, tokens: Any, grid: Any) -> Any:
    """fp16 weights of one layer on a core and what a phase adds, heads as wide as the kernels have them; in float64.

    With tiles d, f, s of width, hidden width and tokens: 4 d^2 + 3 d f weights; a prompt's activations
    4 s d + 2 s f + s^2; the cache of decode 2 s d.

    Args:
        model: dimensions of the transformer.
        phase: "prefill" or "decode".
        tokens: length of the prompt or of the context; a number or an array.
        grid: cores a side; a number or an array.

    Returns:
        Bytes per core.

    >>> import perfmodel as pm
    >>> int(working_bytes(pm.model("llama3-8b"), "decode", 4096, 420))  # d = 10, f = 35, s = 10
    3300
    """
    d, f, s = (cdiv(np.asarray(length, float), grid) for length in (model.dim, model.ffn, tokens))
    extra = 4 * s * d + 2 * s * f + s * s if phase == "prefill" else 2 * s * d
    return ELEMENT_BYTES * (4 * d * d + 3 * d * f + extra)


def _check_layers(chip: Device, model: Model, phase: str, tokens: Any, grid: Any) -> tuple[str, ...]:
    """One layer must fit the cores of the grid; a note if all of them do not fit the wafer."""
    together(tokens=tokens, grid=grid)
    check_grid(chip, grid, grid)
    tokens, grid = _longest(tokens, grid)
    check_memory(chip, lambda side: working_bytes(model, phase, tokens, side), grid,
                 f"{phase} of {np.max(tokens)} tokens by one layer of {model.name} on {np.min(grid)}^2 cores")
    return residency(chip, model, tokens, grid)


def _longest(tokens: Any, grid: Any) -> tuple[Any, Any]:
    """The most tokens on each of the grids: bytes grow with tokens, so that no other point needs to be looked at.

    Returns:
        (tokens, grid), one point for each side, sides ascending.

    >>> _longest(np.array([5, 7, 6]), np.array([2, 3, 2]))
    (array([6, 7]), array([2, 3]))
    """
    tokens, grid = np.broadcast_arrays(tokens, grid)
    most = np.zeros(np.max(grid) + 1, np.int64)
    np.maximum.at(most, grid.ravel(), tokens.ravel())
    sides = np.flatnonzero(most)
    return most[sides], sides


def _prefill_bounds(chip: Device, model: Model, tokens: Any, grid: Any) -> bounds.Bounds:
    """Bounds of the nine products of a layer, one after the other."""
    products = forms.prefill_products(model.dim, model.ffn, tokens)
    return bounds.add(*(bounds.scale(p.times, bounds.gemm(chip, p.M, p.K, p.N, grid, grid)) for p in products))


def _unmeasured(plan: str) -> tuple[str, ...]:
    """A note on a plan that no wafer has run."""
    if plan == "paper":
        return ()
    return ("no wafer ran the fused plan: its counts have the constants of the published one",)


def _decode_bounds(chip: Device, model: Model, context: Any, grid: Any, plan: str = "paper") -> bounds.Bounds:
    """Bounds of the products of one token of a layer, and of its all-reduces."""
    macs = 4.0 * model.dim**2 + 2 * context * model.dim + 3 * model.dim * model.ffn
    return bounds.add({"compute": macs / (grid * grid * chip.macs_per_cycle)},
                      bounds.scale(forms.allreduces(plan), bounds.allreduce(chip, 1, grid)))


def _layers(model: Model, layer: Callable[..., Any], *sizes: Any) -> dict[str, Any]:
    """All layers from one, kind by kind."""
    return in_blocks(lambda *block: bounds.scale(model.layers, layer(*block)), *sizes)


def _notes(constants: Kernel, model: Model, tokens: Any, grid: Any, groups: Any = None) -> tuple[str, ...]:
    """Which sizes leave the range fitted; the widest and narrowest tiles of a width lie on the outermost grids."""
    ends = np.array([np.min(grid), np.max(grid)])
    tile = (cdiv(tokens, grid), cdiv(model.dim, ends), cdiv(model.ffn, ends))
    tree = {} if groups is None else {"groups": groups}
    return range_notes(constants, grid=grid, tokens=tokens, dim=model.dim, ffn=model.ffn, tile=tile, **tree)


def _whole(chip: Device | Gpu, kernel: Kernel, form: Callable[[Any], Terms], limits: Any, tokens: Any,
           notes: tuple[str, ...], label: str) -> Prediction:
    """The prediction that the form's terms of all layers make."""
    terms, cycles = lift(form(kernel.values), limits)
    seconds = cycles / systems.clock(chip)
    uses = (Use(kernel, lambda c: lift(form(c), limits)[1]),)
    return Prediction(cycles, seconds, terms, limits, notes, tokens / seconds, label, uses, chip=chip)


def _of_system(chip: Any, model: Model, system: str, phase: str, tokens: Any, grid: Any,
               constants: Constants) -> Prediction:
    """A competitor's time; in cycles of `systems.clock`, so that terms can be compared."""
    if constants is not None:
        raise ModelError(f"constants are of the mesh kernels of waferllm, not of {system}")
    tokens = sizes(tokens=tokens)[0]
    label = f"{phase} at {np.max(tokens)} tokens by {model.name}, {system}"
    kernel = systems.kernel_of(system, phase, chip)
    notes = range_notes(kernel, tokens=tokens, dim=model.dim, ffn=model.ffn)
    gpus = systems.gpus(system)
    if gpus:
        notes += systems.held(system, chip, model)
    else:
        grid = sizes(grid=grid)[0]
        held = _check_layers(chip, model, phase, tokens, grid)
        notes = range_notes(kernel, grid=grid, tokens=tokens, dim=model.dim, ffn=model.ffn) + held

    def form(c: Mapping[str, float]) -> Terms:
        return systems.terms(system, phase, chip, model, tokens, grid, c)

    if gpus:  # the roofline itself: the same work at the full peak rate
        share = "compute_efficiency" if phase == "prefill" else "memory_efficiency"
        limits = {"compute": form(kernel.values)["compute"] * kernel.values[share]}
    else:
        layer = _prefill_bounds if phase == "prefill" else _decode_bounds
        limits = _layers(model, lambda s, p: layer(chip, model, s, p), tokens, grid)
    return _whole(chip, kernel, form, limits, tokens if phase == "prefill" else 1, notes, label)
