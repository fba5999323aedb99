"""Ways on a fabric with faults, compiled: the shortest, and of equally short ones the one with the fewest turns."""

from __future__ import annotations

import numpy as np

from meshkernels.kernels.compiled import compiled


@compiled
def find_ways(alive, dead, sources, targets):
    """Of each pair of cores the way from one to the other.

    Args:
        alive: ``(rows, cols)`` which cores work.
        dead: ``(4, rows, cols)`` which links that leave a core eastwards, westwards, southwards, northwards do not.
        sources: ``(n,)`` numbers of cores.
        targets: ``(n,)`` numbers of cores.

    Returns:
        ``(starts, directions, cores)``: way ``i`` is ``directions[starts[i] : starts[i + 1]]``, and the core that each
        of its links leaves; empty where there is none.
    """
    rows, cols = alive.shape
    down, right = np.array([0, 0, 1, -1]), np.array([1, -1, 0, 0])
    starts, used = np.zeros(len(sources) + 1, np.int64), 0
    directions, cores = np.empty(2 * len(sources) + 64, np.int8), np.empty(2 * len(sources) + 64, np.int32)
    seen = np.full(rows * cols, -1)  # the query that has been to a core
    turns, came = np.empty((rows * cols, 4), np.int64), np.empty((rows * cols, 4), np.int8)
    edge, further = np.empty(rows * cols, np.int64), np.empty(rows * cols, np.int64)
    never = rows * cols * 4
    for q in range(len(sources)):
        source, target = sources[q], targets[q]
        seen[source], edge[0], count = q, source, 1
        turns[source] = 0
        while count > 0 and seen[target] != q:
            more = 0
            for i in range(count):
                at = edge[i]
                y, x = at // cols, at % cols
                for d in range(4):
                    to_y, to_x = y + down[d], x + right[d]
                    if not (0 <= to_y < rows and 0 <= to_x < cols) or dead[d, y, x] or not alive[to_y, to_x]:
                        continue
                    to = to_y * cols + to_x
                    if seen[to] == q:
                        continue
                    if seen[to] != -2 - q:  # in this layer for the first time
                        seen[to], further[more] = -2 - q, to
                        turns[to] = never
                        more += 1
                    for facing in range(4):
                        cost = turns[at, facing] + (at != source and d != facing)
                        if cost < turns[to, d]:
                            turns[to, d], came[to, d] = cost, facing
            for i in range(more):
                seen[further[i]] = q
            edge, further, count = further, edge, more
        if seen[target] == q and source != target:
            d, at, first = int(np.argmin(turns[target])), target, used
            while at != source:
                if used == len(directions):
                    directions, cores = np.append(directions, directions), np.append(cores, cores)
                before = at - down[d] * cols - right[d]
                directions[used], cores[used] = d, before
                used += 1
                d, at = came[at, d], before
            directions[first:used], cores[first:used] = directions[first:used][::-1], cores[first:used][::-1]
        starts[q + 1] = used
    return starts, directions[:used], cores[:used]
