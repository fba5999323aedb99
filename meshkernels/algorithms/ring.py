"""Ring all-reduce: reduce-scatter, then all-gather, of P chunks around the interleaved ring.

Invariant: before round s of the reduce-scatter the core at ring position i holds the sum over s + 1 cores of
chunk i - s, which it sends on; after P-1 rounds chunk i + 1 is complete there. The all-gather hands the complete
chunks round once more. It moves the least data, but every round is a routing stage: O(P) of them.

References:
    Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009.
"""

from __future__ import annotations

import numpy as np

from meshkernels.algorithms import register
from meshkernels.algorithms.reduction import Reduction
from meshkernels.errors import MeshError
from meshkernels.mesh import Mesh, ceil_div
from meshkernels.rings import Ring
from meshkernels.schedules import Index, Move, Repeat, Shift, Step, Values


@register("reduce", "ring")
def ring(mesh: Mesh, axis: int, width: int, *, op: str = "add", broadcast: bool = True) -> Reduction:
    """All-reduce of ``width`` elements per core, in ``P`` chunks of ``ceil(width / P)``.

    Returns:
        The reduction: P - 1 rounds of reduce-scatter, P - 1 of all-gather.

    Raises:
        MeshError: ``broadcast=False``: no single core ever holds the whole result; ``op="logsumexp"``: a softmax
            state cannot be cut into chunks.
    """
    if op == "logsumexp":
        raise MeshError("op = 'logsumexp': a ring all-reduce cuts vectors into chunks, and a softmax state is whole; "
                        "use 'ktree'")
    if not broadcast:
        raise MeshError("broadcast = False: a ring all-reduce has no root to leave the result on; use 'ktree'")
    size = mesh.length(axis)
    cycle = Ring.interleaved(size)
    neighbours = Shift(axis, cycle)

    def chunk(ahead: int) -> Index:
        """Core i sends the chunk of its ring position plus ``ahead``, less one in each round."""
        return Index((np.arange(size) + ahead) % size, **{"yx"[axis]: cycle.position}, step=-1)

    scatter = Step("reduce-scatter", moves=Move("y", neighbours, chunk(0), combine=op))
    gather = Step("all-gather", moves=Move("y", neighbours, chunk(1)))
    rounds = (Repeat(size - 1, scatter), Repeat(size - 1, gather)) if size > 1 else ()
    return Reduction(Values((1, ceil_div(width, size)), size, copies=2), rounds, None)
