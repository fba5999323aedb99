"""What hides behind what: MeshGEMM with its product repeated or left out, on the fabric and the vendor's simulator."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import meshkernels as mk
from meshkernels import schedules as S
from meshkernels.fabric import machine, play
from plots.style import COLOURS

#: junesookang/WaferLLM, MeshGEMM/WSE-3-col-major, WSE-3 simulator.
DATA = Path(__file__).parent / "wse3_meshgemm_overlap_simulator.csv"


def draw() -> Figure:
    """Cycles of each row here and there; a column-major variant of the published kernel: its structure, no bound."""
    with DATA.open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    costs = machine("wse3")
    figure, ax = plt.subplots(figsize=(7.5, 4.8), constrained_layout=True)
    kinds = (("communication only", "vermilion", lambda r: r["compute_repeats_L"] == 0),
             ("product only", "green", lambda r: r["comm_repeats_C"] == 0 and r["compute_repeats_L"] > 0),
             ("both", "blue", lambda r: r["comm_repeats_C"] > 0 and r["compute_repeats_L"] > 0))  # fmt: skip
    for label, colour, chosen in kinds:
        some = [row for row in rows if chosen(row)]
        found = []
        for r in some:
            schedule = mk.schedule("meshgemm", mk.Mesh(int(r["P"])), int(r["M"]), int(r["K"]), int(r["N"]))
            changed = _changed(schedule.program, int(r["compute_repeats_L"]), bool(r["comm_repeats_C"]))
            found.append(play(replace(schedule, program=changed), costs).cycles)
        ax.loglog([row["cycles"] for row in some], found, "o", ms=4, color=COLOURS[colour], label=label)
    span = np.array([min(row["cycles"] for row in rows), max(row["cycles"] for row in rows)])
    ax.loglog(span, span, color=COLOURS["black"], lw=1)
    ax.set(xlabel="cycles on the vendor's simulator, column-major variant", ylabel="cycles on the fabric",
           title=f"Overlap of product and communication: {len(rows)} rows of another kernel")  # fmt: skip
    ax.legend()
    return figure


def _changed(program: Any, repeats: int, moves: bool) -> tuple:
    """The steps with each product so many times over, and with or without what moves."""
    return tuple(replace(node, body=_changed(node.body, repeats, moves)) if isinstance(node, S.Repeat) else
                 replace(node, compute=node.compute * repeats, moves=node.moves if moves else ())
                 for node in program)  # fmt: skip
