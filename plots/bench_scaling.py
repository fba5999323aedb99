"""Host time of one simulated product: flat in the number of cores (left), as steep in n as a plain product (right).

Reads bench/results/scaling.json, which ``python -m bench --scaling`` measures; drawing measures nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from plots.style import COLOURS

DATA = Path(__file__).parents[1] / "bench" / "results" / "scaling.json"
LOOKS: dict[str, dict[str, Any]] = {
    "meshkernels": {"color": COLOURS["blue"], "marker": "o", "linewidth": 2.5},
    "np.matmul": {"color": COLOURS["black"], "linestyle": "--", "linewidth": 1.5},
    "batched np.matmul": {"color": COLOURS["orange"], "marker": "s"},
    "np.roll Cannon": {"color": COLOURS["vermilion"], "marker": "^"},
}


def draw() -> Figure:
    """Both sweeps, logarithmic, with labels at the ends of the curves."""
    data = json.loads(DATA.read_text())
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for axis, points, key in ((axes[0], data["cores"], "side"), (axes[1], data["sizes"], "n")):
        for name, look in LOOKS.items():
            seen = [(point[key], point["seconds"][name]) for point in points if name in point["seconds"]]
            axis.plot(*zip(*seen), label=name, **look)
        ticks = [point[key] for point in points]
        axis.set(xscale="log", yscale="log", ylabel="host time in s")
        axis.set_xticks(ticks, [f"{tick}²" if key == "side" else str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0].set(xlabel="cores", title=f"MeshGEMM of n = {data['cores'][0]['n']}, float32")
    axes[1].set(xlabel="n", title=f"MeshGEMM on {data['sizes'][0]['side']}² cores, float32")
    axes[0].set_ylim(bottom=0.1)
    axes[1].legend(loc="upper left")
    about = data["machine"]
    machine = f"{about['cpu']}, threads: {data['threads']}, {about['blas']}, NumPy {about['numpy']}"
    figure.supxlabel(machine, fontsize=8, color=COLOURS["grey"])
    return figure
