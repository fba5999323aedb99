"""The redistribution between the phases: what has to move where when decode follows prefill.

W_O, W_down and the table are cut the other way round in decode, the norms' weights lie along the other axis,
and the keys and values go from even blocks of the prompt to the cache's rows. Other grids move everything.
Every core that needs an element and does not hold it takes it from the nearest core that does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meshkernels.llm.cache import balanced
from meshkernels.llm.layout import Placement
from meshkernels.llm.operations import Plan


@dataclass(frozen=True)
class Transfer:
    """What a redistribution moves: elements that change core, the longest way, and words times links."""

    words: int = 0
    hops: int = 0
    word_hops: int = 0

    def __add__(self, other: Transfer) -> Transfer:
        return Transfer(self.words + other.words, max(self.hops, other.hops), self.word_hops + other.word_hops)

    def times(self, repeats: int) -> Transfer:
        """The same for every block."""
        return Transfer(self.words * repeats, self.hops, self.word_hops * repeats)


#: For some dimension: the part of it that holds each of its elements, where that is not ``i // tile``.
Parts = dict[str, np.ndarray]


def _coordinates(placement: Placement, parts: Parts,
                 size: dict[str, int]) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Per dimension what element i adds to its core's (y, x): ``(n, 2)``; and per axis the copies' offsets, sorted."""
    adds = {dim: np.zeros((size[dim], 2), np.int64) for dim in placement.dims}
    copies = [np.zeros(1, np.int64), np.zeros(1, np.int64)]
    for axis, cuts in enumerate((placement.y, placement.x)):
        stride = 1
        for dim, count in reversed(cuts or ((None, placement.mesh.length(axis)),)):
            if dim is None:
                copies[axis] = np.add.outer(copies[axis], stride * np.arange(count)).ravel()
            else:
                held = parts.get(dim, np.arange(size[dim]) // placement.tile[dim])
                adds[dim][:, axis] = stride * held
            stride *= count
    return adds, [np.sort(offsets) for offsets in copies]


def _nearest(places: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """How far each place is from the nearest of the sorted sources."""
    after = np.searchsorted(sources, places).clip(1, len(sources) - 1) if len(sources) > 1 else np.zeros_like(places)
    return np.minimum(np.abs(places - sources[after]), np.abs(places - sources[after - 1]))


def transfer(before: Placement, after: Placement, parts_before: Parts | None = None,
             parts_after: Parts | None = None, offset: tuple[int, int] = (0, 0)) -> Transfer:
    """Count the move of one tensor from a placement to another, element by element (in groups that move alike).

    Args:
        before: where it is.
        after: where it goes.
        parts_before: of dimensions that are not cut evenly.
        parts_after: the same.
        offset: rows and columns of cores from the first core of the one mesh to that of the other.

    Returns:
        The counts.
    """
    parts_before, parts_after = parts_before or {}, parts_after or {}
    size = {dim: len(parts_before.get(dim, parts_after.get(dim, range(min(length, after.dims[dim])))))
            for dim, length in before.dims.items()}
    old, sources = _coordinates(before, parts_before, size)
    new, targets = _coordinates(after, parts_after, size)
    digits = (max(*before.mesh.shape, *after.mesh.shape),) * 4  # a way (y, x) -> (y, x) as one number
    numbers, weight = np.zeros(1, np.int64), np.ones(1, np.int64)
    for dim in before.dims:
        pairs = np.ravel_multi_index(tuple(np.hstack([old[dim], new[dim]]).T), digits)
        alike, times = np.unique(pairs, return_counts=True)
        numbers, back = np.unique(np.add.outer(numbers, alike), return_inverse=True)
        weight = np.bincount(back.ravel(), np.outer(weight, times).ravel()).astype(np.int64)
    ways = np.stack(np.unravel_index(numbers, digits), axis=1)
    # copies lie on a grid, so the nearest one is nearest along either axis by itself: (copies, ways)
    dy, dx = (_nearest(ways[:, 2 + axis] - ways[:, axis] + (targets[axis] + offset[axis])[:, None],
                      sources[axis]) for axis in (0, 1))
    stay = (dy == 0).sum(axis=0) * (dx == 0).sum(axis=0)
    hops = int((dy.max(axis=0) + dx.max(axis=0)).max(initial=0))
    word_hops = weight @ (len(dx) * dy.sum(axis=0) + len(dy) * dx.sum(axis=0))
    return Transfer(int(weight @ (len(dy) * len(dx) - stay)), hops, int(word_hops))


def redistribution(prefill: Plan, decode: Plan) -> dict[str, Transfer]:
    """Everything that moves between prefill and decode, by tensor; weights and caches of all blocks together.

    Args:
        prefill: the plan of the prompt.
        decode: the plan of a token.

    Returns:
        What moves of every tensor that stays on the mesh, by its name.
    """
    rows = np.repeat(np.arange(decode.layout.mesh.rows), balanced(prefill.tokens, decode.layout.mesh.rows))
    moved = {}
    for name, times in decode.stored.items():
        placement = decode.placements[name]
        new = {"S": rows} if placement.kind == "cache" else _features(decode, placement)
        old = _features(prefill, prefill.placements[name])
        moved[name] = transfer(prefill.placements[name], placement, old, new).times(times)
    return moved


def _features(plan: Plan, placement: Placement) -> Parts:
    """The part that holds each feature of the attention's output: they lie in the layout's order, with padding."""
    if "C" not in placement.dims:
        return {}
    order, real = plan.layout.out_order.ravel(), plan.layout.config.q_dim
    place = np.empty(real, np.int64)
    place[order[order < real]] = np.flatnonzero(order < real)
    return {"C": place // placement.tile["C"]}
