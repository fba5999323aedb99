"""K-tree all-reduce: a reduction in K levels of groups, then one broadcast.

Invariant: after level l the roots of its groups hold the sums of all cores below them, and nobody else matters
any more. A group is a contiguous run of the roots of the level before; its root is the middle one, and both
halves stream into it. Hops stay about P, while the routing stages fall from P/2 (K = 1) to about
(K/2) P^(1/K). Groups need not divide the line: they differ by one member at most, and K = 2 with any number
of groups G from 1 to P works (G = 1 is the single chain).

References:
    He et al., WaferLLM, OSDI 2025, section 6; K = 2 is the two-phase reduce of Luczynski et al., HPDC 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

import perfmodel
from meshkernels.algorithms import register
from meshkernels.algorithms.reduction import Reduction
from meshkernels.arguments import as_cost, as_count, as_groups
from meshkernels.errors import MeshError
from meshkernels.mesh import Mesh
from meshkernels.schedules import Move, Multicast, Reduce, Step, Values, line
from perfmodel import counts_reduce

#: Most levels of a tree. A line of 8192 cores is halved 13 times; a further level has nothing to cut, and costs a step.
MOST_LEVELS = 64


def cut(members: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a run of cores into ``count`` groups that differ by one member at most.

    Returns:
        ``(first, middle, end)``, each ``(count,)``: places in ``members`` of every group's first member, of its
        root, and one past its last member.
    """
    size, longer = divmod(len(members), count)
    first = size * np.arange(count) + np.minimum(np.arange(count), longer)
    end = np.append(first[1:], len(members))
    return first, first + (end - first) // 2, end


def hops_and_stages(size: int, groups: Sequence[int]) -> tuple[int, int]:
    """``(H, S)`` of reduction and broadcast on a line of ``size`` cores: the objective for choosing groups."""
    members, hops, stages = np.arange(size), 0, 0
    for count in (*groups, 1):
        first, middle, end = cut(members, count)
        reach = np.maximum(members[middle] - members[first], members[end - 1] - members[middle])
        hops += int(reach.max())
        stages += int((middle - first).max())
        members = members[middle]
    return hops + max(int(members[0]), size - 1 - int(members[0])), stages


@lru_cache(maxsize=256)
def best_groups(size: int, levels: int, alpha: float, beta: float) -> tuple[int, ...]:
    """The groups that minimise ``alpha H + beta S`` on a line of ``size`` cores, by search.

    The search improves one level at a time over all its counts until none can be improved, from the balanced tree
    G_l = P^((K-l)/K) and from the best tree of one level less. Two levels have the groups that `perfmodel` assumes.

    Args:
        size: cores on the line.
        levels: K.
        alpha: cycles per hop.
        beta: cycles per routing stage.

    Returns:
        ``(G_1, .., G_{K-1})``, groups at each level but the last, which is one group.
    """

    def cost(groups: tuple[int, ...]) -> float:
        hops, stages = hops_and_stages(size, groups)
        return alpha * hops + beta * stages

    def improve(best: tuple[int, ...]) -> tuple[int, ...]:
        improved = True
        while improved:
            improved = False
            for level in range(len(best)):
                above, below = (size, *best)[level], (*best, 1)[level + 1]
                tried = [(*best[:level], count, *best[level + 1 :]) for count in range(below, above + 1)]
                candidate = min(tried, key=cost)
                if cost(candidate) < cost(best):
                    best, improved = candidate, True
        return best

    if levels == 1:
        return ()
    if levels == 2:
        return (counts_reduce.default_groups(size, alpha, beta),)
    if levels > size.bit_length():  # more levels than halvings: another one has nothing to cut
        useful = size.bit_length()
        return best_groups(size, useful, alpha, beta) + (1,) * (levels - useful)
    balanced = tuple(max(1, round(size ** ((levels - l) / levels))) for l in range(1, levels))
    return min(improve(balanced), improve((*best_groups(size, levels - 1, alpha, beta), 1)), key=cost)


def checked_groups(size: int, levels: int, groups: int | Sequence[int] | None,
                   alpha: float | None, beta: float | None) -> tuple[int, ...]:  # fmt: skip
    """``groups`` as a tuple of ``levels - 1`` counts, the best ones where it is None.

    Returns:
        Groups of each level but the last.

    Raises:
        MeshError: levels < 1, the wrong number of counts, or a count that does not fit what it cuts.
    """
    levels = as_count("levels", levels)
    if not 1 <= levels <= MOST_LEVELS:
        raise MeshError(f"levels = {levels}: a K-tree has at least 1 level, at most {MOST_LEVELS}")
    if groups is None:
        wse3 = perfmodel.device("wse3")
        alpha, beta = (wse3.alpha if alpha is None else alpha), (wse3.beta if beta is None else beta)
        return best_groups(size, levels, as_cost("alpha", alpha), as_cost("beta", beta))
    counts = groups if isinstance(groups := as_groups(groups), tuple) else (groups,)
    if len(counts) != levels - 1:
        raise MeshError(f"groups = {groups}: {levels} levels need {levels - 1} group counts, not {len(counts)}")
    for within, count in zip((size, *counts), counts):
        if not 1 <= count <= within:
            raise MeshError(f"groups = {count}: {within} cores (or groups) can be cut into 1 to {within} groups")
    return counts


def tree(mesh: Mesh, axis: int, width: int, groups: Sequence[int], op: str, broadcast: bool) -> Reduction:
    """Reduce in the levels that ``groups`` describes, then broadcast from the last root."""
    size = mesh.length(axis)
    members, steps = np.arange(size), []
    for count in (*groups, 1):
        first, middle, end = cut(members, count)
        root = np.full(size, -1)
        root[members] = np.repeat(members[middle], end - first)
        steps.append(Step("reduce", moves=Move("y", Reduce(axis, line(axis, root)), combine=op)))
        members = members[middle]
    last = int(members[0])
    if broadcast:
        steps.append(Step("broadcast", moves=Move("y", Multicast(axis, last))))
    return Reduction(Values((1, width), copies=2), tuple(steps), last)


@register("reduce", "ktree")
def ktree(mesh: Mesh, axis: int, width: int, *, op: str = "add", broadcast: bool = True, levels: int = 2,
          groups: int | Sequence[int] | None = None, alpha: float | None = None,
          beta: float | None = None) -> Reduction:  # fmt: skip
    """All-reduce of ``width`` elements per core in ``levels`` levels.

    Args:
        mesh: the cores.
        axis: 0 to reduce along y, 1 along x.
        width: elements per core.
        op: ``"add"``, ``"max"`` or ``"logsumexp"``.
        broadcast: leave the result on every core of a line; False: on its root only.
        levels: K; 1 is the single chain.
        groups: how many groups the first level cuts the line into (K = 2), or one count for each level but
            the last. None: the best for ``alpha`` and ``beta``.
        alpha: cycles per hop; None: those measured on WSE-3.
        beta: cycles per routing stage; None: those measured on WSE-3.

    Returns:
        The reduction: a step for each level, then the broadcast.
    """
    counts = checked_groups(mesh.length(axis), levels, groups, alpha, beta)
    return tree(mesh, axis, width, counts, op, broadcast)
