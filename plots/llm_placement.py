"""Where each weight and activation of a LLaMA block lives: prefill above, decode below (a 12 x 12 mesh).

Every square is the mesh. A hue stands for a dimension and deepens with the part of it that a core holds: blue for
tokens, orange for the residual stream, green for heads and hidden features. No change along an axis means that the
tensor is replicated along it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from meshkernels import Mesh
from meshkernels.files.checkpoint import Config
from meshkernels.llm import Layout, Placement, Plan, decode_plan, prefill_plan
from plots.style import COLOURS

SMOLLM2 = Config(blocks=30, dim=576, ffn=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152, context=8192)

#: Tensors in the order of the data flow, and what leads from each to the next.
FLOW = ("X", "Wq", "Q", "K cache", "S", "V cache", "O", "Wo", "Y", "Wup", "F", "Wdown", "R")


#: The hue of each dimension.
HUES = {"L": "blue", "S": "blue", "E": "orange", "V": "blue"} | dict.fromkeys("HGDCF", "green")


def shade(placement: Placement) -> np.ndarray:
    """``(rows, cols, 3)`` colour of every core, from the parts of the dimensions that it holds."""
    colour = np.ones((*placement.mesh.shape, 3))
    for cuts in (placement.y, placement.x):
        for hue in sorted({HUES[dim] for dim, _ in cuts if dim is not None}):
            part, parts = np.zeros(placement.mesh.shape), 1
            for dim, count in cuts:
                if dim is not None and HUES[dim] == hue:
                    part, parts = part * count + placement.part(dim), parts * count
            depth = 0.1 + 0.7 * part / max(parts - 1, 1)
            colour += depth[..., None] * (np.array(to_rgb(COLOURS[hue])) - 1)
    return np.clip(colour, 0, 1)


def _label(placement: Placement) -> str:
    """The notation, one line for what is cut and one for what is replicated."""
    words = placement.notation.split()
    cut = [w.replace("_", "$_{") + ("}$" if "_" in w else "") for w in words if not w.startswith("^")]
    copied = [w[1:] for w in words if w.startswith("^")]
    return " ".join(cut) + (f"\ncopied along {', '.join(copied)}" if copied else "")


def _sums(plan: Plan, name: str) -> str:
    """The collectives that lead to a tensor."""
    for op in plan.layer:
        collectives = [found for used in op.schedules for found in used.collectives]
        products = [used.algorithm for used in op.schedules if used.multiplies and not used.collectives]
        if name in op.writes and (collectives or products):
            marks = [f"{'Σ' if kind == 'add' else 'max'} along {axis}" for kind, axis, _ in collectives]
            marks += [{"meshgemm": "MeshGEMM", "gemm_t": "dist-GEMM-T"}[verb] for verb in products]
            return ", ".join(dict.fromkeys(marks))
    return ""


def draw() -> Figure:
    """One row of squares per phase."""
    layout = Layout(SMOLLM2, Mesh(12))
    plans = [("prefill of 96 tokens", prefill_plan(layout, 96)), ("decode, 96 in the cache", decode_plan(layout, 96))]
    figure, axes = plt.subplots(2, len(FLOW), figsize=(19, 4.6), layout="constrained")
    for (title, plan), row in zip(plans, axes):
        for axis, name in zip(row, FLOW):
            placement = plan.placements[name]
            axis.imshow(shade(placement), interpolation="nearest")
            axis.set_xticks(np.arange(-0.5, 12), labels=[])
            axis.set_yticks(np.arange(-0.5, 12), labels=[])
            axis.tick_params(length=0)
            axis.grid(True, color="white", linewidth=0.6, alpha=1)
            axis.spines[:].set_visible(True)
            colour, font = ("black", "bold") if placement.kind == "weights" else ("grey", "normal")
            axis.spines[:].set_color(COLOURS[colour])
            axis.set_title(name, fontsize=10, fontweight=font, loc="center")
            axis.set_xlabel(_label(placement), fontsize=8)
            if sums := _sums(plan, name):
                axis.text(0.5, 1.22, sums, transform=axis.transAxes, ha="center", fontsize=7.5,
                          color=COLOURS["vermilion"])
        row[0].set_ylabel(title, fontsize=10)
    figure.suptitle("Tokens in blue, residual stream in orange, heads and hidden features in green. Decode alternates "
                    "the axis that is summed: W_O and W_down lie the other way round, and nothing is transposed",
                    fontsize=11)
    return figure
