"""Orders of summation, derived from the movement: what the fused executor lives from.

A schedule never states in which order the terms of one element of the result are added. Where walking it shows that the
order is the same chain for every element, begun at another place, or one product per core that the moves add up, or a
two-sided chain of cores, that is put in one of the forms below. Anything else has no compact order, and is stepped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perfmodel.values import ByValue

if TYPE_CHECKING:
    from meshkernels.schedules.walk import Walk


@dataclass(frozen=True, eq=False)
class RingOrder(ByValue):
    """Each element is one chain of multiply-adds through all K-blocks in ring order.

    Elements of block row i and block column j begin at position ``row_start[i] + col_start[j]`` (mod L):
    the t-th block is ``blocks[(row_start[i] + col_start[j] + t) % L]``. Positions may lie between blocks (-1).

    Attributes:
        blocks: ``(L,)`` block ids (in the operand's own order) as they follow each other on the ring; -1: none.
        block: length of a K-block, in elements; the last ones may be short or empty.
        row_start: ``(I,)`` positions on the ring, in ``[0, L)``.
        col_start: ``(J,)`` positions on the ring, in ``[0, L)``.
        row_tile: rows of a block of C.
        col_tile: columns of a block of C.
    """

    blocks: np.ndarray
    block: int
    row_start: np.ndarray
    col_start: np.ndarray
    row_tile: int
    col_tile: int


@dataclass(frozen=True)
class SplitSum:
    """Each core of a line of ``axis`` multiplies one block of the contraction; moves add up the partial sums.

    Attributes:
        axis: 0: lines are columns of cores, 1: rows.
    """

    axis: int


@dataclass(frozen=True, eq=False)
class ChainSum(ByValue):
    """Each element is a two-sided chain of partial sums p over the cores 0 .. P-1 of a row.

    ``(((p_0 + p_1) + ...) + p_r) + (((p_{P-1} + p_{P-2}) + ...) + p_{r+1})`` with ``r`` the root of the
    element's block column.

    Attributes:
        block: elements of the contraction on one core.
        roots: ``(J,)`` root of each block column of the result.
        col_tile: columns in such a block.
    """

    block: int
    roots: np.ndarray
    col_tile: int


Order = RingOrder | SplitSum | ChainSum


def cycle(successor: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks from ``first`` on, each followed by its successor, until one comes again or has none.

    Returns:
        ``(blocks, place)``: the blocks in order ``(n,)``, and the place of each block among them ``(L,)``, or -1.
    """
    blocks, place, after = list[int](), np.full(len(successor), -1), successor.tolist()
    block = first
    while block >= 0 and place[block] < 0:
        place[block] = len(blocks)
        blocks.append(block)
        block = after[block]
    return np.array(blocks), place


def derive(walk: Walk) -> Order | None:
    """The compact order of a schedule that has been walked to its end, or None."""
    if walk.task.kind not in ("product", "product_t"):
        return None
    return _split(walk) or _chain(walk) or _ring(walk)


def _ring(walk: Walk) -> RingOrder | None:
    schedule, collect = walk.schedule, walk.schedule.collect
    state, successor = walk.state(collect.buffer), walk.sums.successor
    if successor is None or collect.whole or (schedule.slots(collect.buffer) > 1 and (state["part"] != 0).any()):
        return None
    shape = (*walk.mesh.shape, schedule.slots(collect.buffer))
    down, across = (np.broadcast_to(part, shape) for part in collect.place.at(walk.mesh, shape[2]))
    taken = (down >= 0) & (across >= 0)
    first = np.full(schedule.result.grid, -1)
    first[down[taken], across[taken]] = np.broadcast_to(state["first"], shape)[taken]
    if first.min() < 0:
        return None
    blocks, place = cycle(successor, int(first[0, 0]))
    if len(blocks) < walk.sums.terms:
        return None
    start = place[first]
    if successor[blocks[-1]] < 0 and start.any():
        return None  # nobody went on from the last block: there is no ring, so all must begin where it begins
    q = max(1, start.shape[1] // len(blocks))
    places = _places(start, len(blocks), q, False) or _places(start, len(blocks), q, True)
    if places is None:
        return None
    block = schedule.operands[walk.task.operands[0]].tile[1]
    between = np.full((len(blocks), q), -1)
    between[:, 0] = blocks
    return RingOrder(between.ravel(), block, *places, *schedule.result.tile)


def _places(start: np.ndarray, n: int, q: int, flip: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions ``(rows), (cols)`` with ``ceil((row + col) / q) = start`` modulo n, if there are any.

    Row i is behind row 0 by d or d + 1 blocks, by the latter where the remainders of row and column reach q together:
    those columns are nested, and more of them the larger the remainder of the row. Remainders are all equally frequent.

    Args:
        start: ``(rows, cols)`` blocks of the ring, less than n.
        n: blocks of the ring.
        q: positions from one block to the next.
        flip: of two blocks each is behind the other: take the other one.

    Returns:
        Both, in ``[0, n q)``.
    """
    behind = (start - start[0]) % n
    both = (behind == 0).any(axis=1) & (behind == n - 1).any(axis=1)
    low = np.where(both, n - 1, behind.min(axis=1))
    more = (behind != low[:, None]) & (n > 1)
    if n == 2 and both.any():
        one = more[both][0]
        other = both & ((more & ~one).any(axis=1) & (one & ~more).any(axis=1) ^ flip)
        low, more = np.where(other, 0, low), more ^ other[:, None]
    rows = low * q + more.sum(axis=1) * q // start.shape[1]
    cols = (start[0] - 1) * q + more.sum(axis=0) * q // start.shape[0] + 1
    right = (-(-(rows[:, None] + cols) // q) - start) % n == 0
    return (rows % (n * q), cols % (n * q)) if right.all() else None


def _split(walk: Walk) -> SplitSum | None:
    if walk.sums.multiplied != 1 or walk.task.kind != "product" or walk.schedule.result.shape[0] != 1:
        return None
    assert walk.sums.product is not None
    _, k, j = (part[:, :, 0] for part in walk.sums.product)
    for axis in (0, 1):
        here, line = (np.arange(n).reshape((-1, 1) if a == 0 else (1, -1))
                      for a, n in ((axis, walk.mesh.length(axis)), (1 - axis, walk.mesh.lines(axis))))
        fits = walk.sums.terms == here.size and walk.schedule.result.grid[1] == line.size
        if fits and (k == here).all() and (j == line).all():
            return SplitSum(axis)
    return None


def _chain(walk: Walk) -> ChainSum | None:
    if walk.sums.product is None or not walk.sums.two_sided or (walk.sums.roots < 0).any():
        return None
    k = walk.sums.product[1][:, :, 0]
    if walk.sums.terms != walk.mesh.cols or not (k == np.arange(walk.mesh.cols)).all() or not walk.sums.same[1]:
        return None
    A = walk.schedule.operands[walk.task.operands[0]]
    return ChainSum(A.tile[1], walk.sums.roots, walk.schedule.result.tile[1])
