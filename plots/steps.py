"""What every core multiplies in each step: the same blocks of K meet in every algorithm, in another order."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import meshkernels as mk
from meshkernels import schedules as S
from meshkernels.arguments import MeshLike, as_mesh

MOST = 8


def draw(algorithm: Sequence[str] = ("cannon", "meshgemm"), grid: MeshLike = 5) -> Figure:
    """A strip for each algorithm: its operands below each other, its steps side by side."""
    mesh = as_mesh(grid)
    schedules = [mk.schedule(name, mesh, mesh.rows, mesh.lcm, mesh.cols) for name in algorithm]
    products = [sum(any(isinstance(op, S.Multiply) for op in step.compute) for step in s.steps) for s in schedules]
    columns = min(max(products), MOST)
    figure = plt.figure(figsize=(1.5 * columns + 0.6, 3.3 * len(schedules) + 0.4), constrained_layout=True)
    for part, schedule, count in zip(figure.subfigures(len(schedules), 1, squeeze=False)[:, 0], schedules, products):
        axes = part.subplots(2, columns, squeeze=False)
        mk.draw.steps(schedule, axes[:, : min(count, columns)], most=columns)
        for unused in axes[:, count:].ravel():
            unused.remove()
        part.suptitle(f"{schedule.name}: A above, B below; equal colours are equal blocks of K", fontsize=11)
    return figure
