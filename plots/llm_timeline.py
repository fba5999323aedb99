"""The collectives of one block on the critical path, prefill and decode: hops and stages at a wafer's measured cost."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import perfmodel
from meshkernels import Mesh
from meshkernels.llm import Layout, Plan, decode_plan, prefill_plan
from meshkernels.llm.operations import Line
from plots.llm_placement import SMOLLM2
from plots.style import COLOURS

GRID, TOKENS = 96, 384  # cores a side; tokens of the prompt, and in the cache


def _kind(line: Line, plan: Plan) -> str:
    if line.collectives:
        return f"all-reduce along {line.collectives[0][1]}"
    algorithm = next(op for op in plan.layer if op.name == line.name).schedules[0].algorithm
    return {"meshgemm": "MeshGEMM", "gemm_t": "dist-GEMM-T"}.get(algorithm, algorithm)


def draw() -> Figure:
    """One bar per operation that communicates, as long as its critical path."""
    chip, layout = perfmodel.device("wse3"), Layout(SMOLLM2, Mesh(GRID))
    hue = {"all-reduce along y": COLOURS["blue"], "all-reduce along x": COLOURS["orange"],
           "MeshGEMM": COLOURS["green"], "dist-GEMM-T": COLOURS["purple"], "KV shift": COLOURS["black"]}
    figure, axes = plt.subplots(2, 1, figsize=(12, 6), layout="constrained")
    for axis, plan in zip(axes, (prefill_plan(layout, TOKENS), decode_plan(layout, TOKENS))):
        begin, names = 0.0, []
        for line in plan.ledger():
            cycles = chip.alpha * line.work.hops + chip.beta * line.work.stages
            if not cycles:
                continue
            names.append(line.name)
            axis.barh(len(names), cycles, left=begin, color=hue[_kind(line, plan)], height=0.7)
            words = " + ".join(f"{op} {n}" for op, _, n in line.collectives)
            axis.text(begin + cycles, len(names), f"  {line.work.hops} hops, {line.work.stages} stages"
                      + (f"  ({words} words)" if words else ""), va="center", fontsize=8)
            begin += cycles
        axis.set_yticks(range(1, len(names) + 1), labels=names)
        axis.invert_yaxis()
        axis.grid(axis="y")
        axis.set_xlim(0, begin * 1.22)
        text = f"prompt of {TOKENS}" if plan.phase == "prefill" else f"token ({TOKENS} in the cache)"
        axis.set_title(f"{plan.phase}: {begin:,.0f} cycles of distance and routing per block and {text}")
    axes[1].set_xlabel(f"cycles on the critical path at α = {chip.alpha:g} per hop, β = {chip.beta:g} per stage "
                       f"({chip.name}); {GRID} x {GRID} cores, SmolLM2-135M")
    figure.legend(handles=[Patch(color=c, label=k) for k, c in hue.items()], loc="outside upper right", ncols=5)
    return figure
