"""All-to-all along the lines of an axis: every core has a message for every other, as in the dispatch of experts.

Invariant: in round s every core of a line sends to the core s places further round the natural ring, for s = 1 .. P-1:
after round s it has what the s cores before it had for it. No core sends or receives twice in a round.

References:
    Bruck et al., Efficient algorithms for all-to-all communications in multiport message-passing systems, 1997 (the
    direct algorithm).
"""

from __future__ import annotations

import numpy as np

from meshkernels import schedules as S
from meshkernels.algorithms import register
from meshkernels.mesh import Mesh, Tiling


@register("alltoall", "alltoall")
def alltoall(mesh: Mesh, n: int, *, axis: int = 1) -> S.Schedule:
    """``n`` elements from every core to each of its line: block (l P + i, j) is from core i of line l to core j."""
    P, lines = mesh.length(axis), mesh.lines(axis)
    A = Tiling((lines * P, P * n), (lines * P, P))
    here, line_too = {"yx"[axis]: np.arange(P)}, {"yx"[1 - axis]: P * np.arange(lines)}
    home = S.Place(S.Index(range(lines * P), **here, **line_too), S.Index(range(P), step=1))
    buffers = {"A": S.Tiles("A", P, home), "got": S.Tiles("A", P), "R": S.Values(A.tile, P, dtype="stored")}
    own = S.Move("A", S.Multicast(axis, S.line(axis, range(P))), S.line(axis, range(P)), "got")
    exchange = S.Move("A", S.Shift(axis, (range(P),), S.Index(range(P), x=[1] * mesh.cols, step=1) if axis == 0 else
                                S.Index(range(P), y=[1] * mesh.rows, step=1)),
                    S.Index(range(P), **{k: v + 1 for k, v in here.items()}, step=1), "got",
                    S.Index(range(P), **{k: v - 1 for k, v in here.items()}, step=-1))  # fmt: skip
    program = (S.Step("keep", moves=own), S.Repeat(P - 1, S.Step("exchange", moves=exchange)),
               S.Step("read", [S.Copy("got", "R", j, j) for j in range(P)]))  # fmt: skip
    return S.Schedule("alltoall", S.Task("alltoall", ("A",)), mesh, {"A": A}, A, buffers, program, S.Collect("R", home))
