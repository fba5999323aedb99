"""What the fused executor reads off a schedule: other moves than the usual ones round the sums of a GEMV."""

from dataclasses import replace

import numpy as np
import pytest

import meshkernels as mk
from meshkernels import schedules as S

CHAIN = mk.schedule("chain", mk.Mesh(4, 2), 8, 6)
X, W = np.arange(8.0)[None], np.arange(48.0).reshape(8, 6)
OWN = S.Step("own", moves=S.Move("y", S.Reduce(0, S.line(0, range(4))), combine="add"))
EARLY = S.Step("early", moves=S.Move("y", S.Multicast(0, 0)))
AWAY = S.Step("away", moves=S.Move("y", S.Multicast(0, S.line(0, [3, 3, 1, 0]))))
BACK = S.Step("back", moves=S.Move("y", S.Multicast(0, S.line(0, [3, 3, 3, -1]))))
load, into_root, out = CHAIN.program
PROGRAMS = {
    "each core is its own root at last": (load, into_root, out, OWN),
    "each core is its own root in between": (load, into_root, out, OWN, out, OWN),
    "zeros move before the product": (EARLY, load, into_root, out),
    "partial sums change places": (load, OWN, into_root, out),
    "the result goes round": (load, into_root, out, AWAY, BACK),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_moves_round_the_sums_of_a_gemv(program):
    schedule = replace(CHAIN, program=program)
    for method in ("fused", "lockstep"):
        assert np.array_equal(mk.run(schedule, {"x": X, "W": W}, method=method), X @ W), method


def test_a_product_in_one_of_several_pieces():
    multiply = replace(load.compute[0], piece=1)
    y = S.Values((1, 3), 2, copies=2)
    moves = [S.Step(step.label, moves=replace(step.moves[0], slot=1)) for step in (into_root, out)]
    # slot 1 of core 2 of each column holds its block
    root = S.Place(S.Index([0 if n == 5 else -1 for n in range(8)], y=[0, 2, 4, 6], step=1), S.line(1, range(2)))
    schedule = replace(CHAIN, buffers=CHAIN.buffers | {"y": y}, collect=S.Collect("y", root),
                       program=(replace(load, compute=(multiply,)), *moves))  # fmt: skip
    for method in ("fused", "lockstep"):
        assert np.array_equal(mk.run(schedule, {"x": X, "W": W}, method=method), X @ W), method
