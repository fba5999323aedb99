"""What 16 bits cost SmolLM2, block by block: storage, sums of products, and squares that exceed 65504."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from meshkernels import files
from meshkernels.arguments import MeshLike, as_mesh
from meshkernels.llm.numerics import half_errors
from plots.style import COLOURS

LOOK = {
    ("float32", "float32"): ("stored in float16, summed in float32", COLOURS["blue"], "o"),
    ("float16", "float32"): ("products summed in float16, norms in float32", COLOURS["orange"], "s"),
    ("float16", "float16"): ("all sums in float16, as the published kernels", COLOURS["vermilion"], "^"),
}


def draw(grid: MeshLike = 24, prompt: str = "The capital of France is") -> Figure:
    """Relative error of the residual stream, and error of the logits it would give."""
    source, mesh = files.load(), as_mesh(grid)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharex=True, layout="constrained")
    for error in half_errors(source, mesh, source.tokenizer.encode(prompt)):
        label, colour, marker = LOOK[error.accumulate, error.norms]
        blocks = range(1, len(error.stream) + 1)
        axes[0].plot(blocks, error.stream, marker=marker, markersize=4, color=colour, label=label)
        axes[1].plot(blocks, error.logits, marker=marker, markersize=4, color=colour)
    axes[0].set_title("residual stream, relative error")
    axes[1].set_title("largest error of a logit")
    for axis in axes:
        axis.set_yscale("log")
        axis.set_xlabel("after block")
    figure.legend(loc="outside lower center", ncols=3)
    figure.suptitle(f"{source.path.stem} on {mesh.rows} x {mesh.cols} cores against float32, last token of {prompt!r}")
    return figure
