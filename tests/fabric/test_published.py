"""The simulator against published cycles, with nothing fitted to them but single costs of the chip."""

import csv
from pathlib import Path

import numpy as np
import pytest

import meshkernels as mk
import perfmodel
from meshkernels.fabric import machine, play, published

DATA = Path(perfmodel.__file__).parent / "data"


def rows(path: Path):
    with path.open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def errors(found, given) -> np.ndarray:
    return abs(np.array(found) / np.array(given) - 1)


def test_two_phase_reduce():
    given = rows(DATA / "wse2_reduce_two_phase.csv")
    found = [play(published.two_phase_reduce(int(r["P"]), int(r["B_words"]), int(r["group_size"])), machine("wse2"),
                  np.float32).makespan for r in given]  # fmt: skip
    assert len(given) == 9 and errors(found, [r["cycles"] for r in given]).max() <= 0.02


def test_shift():
    given = [r for r in rows(DATA / "wse3_shift.csv") if r["L"] <= r["P"]]
    found = []
    for r in given:
        P, L = int(r["P"]), int(r["L"])
        run = play(published.shift(P, L, int(r["tile_rows"]), int(r["tile_cols"]), rows=1), machine("wse3"))
        found.append(run.ends[:, published.block(P, L)].mean())
    off = errors(found, [r["cycles"] for r in given])
    assert len(given) == 124 and off.mean() <= 0.05 and off.max() <= 0.13


def test_rows_of_a_shift_do_not_differ():
    whole, one = (play(published.shift(6, 3, 2, 2, rows=n), machine("wse3")) for n in (None, 1))
    assert (whole.ends == one.ends).all()


def test_gemv_sweep():
    """The columns of a GEMV do not meet: one of them stands for all."""
    given = rows(DATA / "wse3_meshgemv.csv")
    found = []
    for r in given:
        P = int(r["P"])
        schedule = mk.schedule("ktree", mk.Mesh(P, 1), int(r["M"]), int(r["N"]) // P, groups=int(r["groups"]))
        found.append(play(schedule, machine("wse3")).cycles)
    off = errors(found, [r["cycles"] for r in given])
    assert off.mean() <= 0.03 and off.max() <= 0.08


@pytest.mark.parametrize("grids, every", [((16, 80), 1), ((208, 272), 16)])
def test_gemm_sweep(grids, every):
    given = [r for r in rows(DATA / "wse3_meshgemm.csv") if r["P"] in grids][::every]
    found = [play(mk.schedule("meshgemm", mk.Mesh(int(r["P"])), *(int(r[n]) for n in "MKN")), machine("wse3")).cycles
             for r in given]  # fmt: skip
    off = errors(found, [r["cycles"] for r in given])
    assert off.mean() <= 0.03 and off.max() <= 0.08
