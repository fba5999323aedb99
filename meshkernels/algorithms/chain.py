"""Chain and pipeline all-reduce: the baselines with O(P) routing stages.

* ``chain``: both halves of the line stream into its middle (a K-tree of one level): P/2 stages, P hops.
* ``pipeline``: the line streams from its first core to its last, which then broadcasts: P-1 stages, 2(P-1) hops;
  what vendors ship by default.
"""

from __future__ import annotations

from meshkernels.algorithms import register
from meshkernels.algorithms.ktree import tree
from meshkernels.algorithms.reduction import Reduction
from meshkernels.mesh import Mesh
from meshkernels.schedules import Move, Multicast, Reduce, Step, Values


@register("reduce", "chain")
def two_sided(mesh: Mesh, axis: int, width: int, *, op: str = "add", broadcast: bool = True) -> Reduction:
    """Stream both halves of the line into its middle core, then broadcast."""
    return tree(mesh, axis, width, (), op, broadcast)


@register("reduce", "pipeline")
def pipeline(mesh: Mesh, axis: int, width: int, *, op: str = "add", broadcast: bool = True) -> Reduction:
    """Stream from one end of the line to the other, then broadcast back."""
    last = mesh.length(axis) - 1
    steps = [Step("reduce", moves=Move("y", Reduce(axis, last), combine=op))]
    if broadcast:
        steps.append(Step("broadcast", moves=Move("y", Multicast(axis, last))))
    return Reduction(Values((1, width), copies=2), tuple(steps), last)
