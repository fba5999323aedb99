"""The re-placement between the phases: what has to move where when prefill hands over to decode.

W_O, W_down and the table are cut the other way round in decode, the norms' weights lie along the other axis,
and the keys and values go from even blocks of the prompt to the cache's rows. Other grids move everything.
Every core that needs an element and does not hold it takes it from the nearest core that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from meshkernels.llm.cache import balanced
from meshkernels.llm.placement import Placement
from meshkernels.llm.plan import Plan


@dataclass(frozen=True)
class Transfer:
    """What a re-placement moves: elements that change core, the longest way, and words times links."""

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


def _coordinates(placement: Placement, parts: Parts, size: dict[str, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Per dimension what element i adds to its core's (y, x): ``(n, 2)``; and the offsets of all copies ``(m, 2)``."""
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
    return adds, np.array(list(product(*copies)))


def transfer(before: Placement, after: Placement, parts_before: Parts | None = None,
             parts_after: Parts | None = None) -> Transfer:
    """Count the move of one tensor from a placement to another, element by element (in groups that move alike)."""
    parts_before, parts_after = parts_before or {}, parts_after or {}
    size = {dim: len(parts_before.get(dim, parts_after.get(dim, range(min(length, after.dims[dim])))))
            for dim, length in before.dims.items()}
    old, sources = _coordinates(before, parts_before, size)
    new, targets = _coordinates(after, parts_after, size)
    ways, weight = np.zeros((1, 4), np.int64), np.ones(1, np.int64)
    for dim in before.dims:
        pairs, number = np.unique(np.hstack([old[dim], new[dim]]), axis=0, return_counts=True)
        ways = (ways[:, None] + pairs).reshape(-1, 4)
        weight = np.outer(weight, number).ravel()
        ways, back = np.unique(ways, axis=0, return_inverse=True)
        weight = np.bincount(back.ravel(), weight).astype(np.int64)
    moved = Transfer()
    for target in targets:
        there = ways[:, 2:] + target
        distance = np.min([np.abs(ways[:, :2] + source - there).sum(axis=1) for source in sources], axis=0)
        travels = distance > 0
        moved = moved + Transfer(int(weight[travels].sum()), int(distance.max(initial=0)), int(weight @ distance))
    return moved


def handover(prefill: Plan, decode: Plan) -> dict[str, Transfer]:
    """Everything that moves between prefill and decode, by tensor; weights and caches of all blocks together."""
    blocks = decode.layout.config.blocks
    repeats = {"table": 1, "w_out": 1}
    names = [name for name in decode.placements if name[0] in "Ww" or name in ("table", "K cache", "V cache")]
    rows = np.repeat(np.arange(decode.layout.mesh.rows), balanced(prefill.tokens, decode.layout.mesh.rows))
    moved = {}
    for name in names:
        old, new = _features(prefill, name), _features(decode, name)
        if name.endswith("cache"):
            new = {"S": rows}
        one = transfer(prefill.placements[name], decode.placements[name], old, new)
        moved[name] = one.times(repeats.get(name, blocks))
    return moved


def _features(plan: Plan, name: str) -> Parts:
    """The part that holds each feature of the attention's output: they lie in the layout's order, with padding."""
    if "C" not in plan.placements[name].dims:
        return {}
    order, real = plan.layout.out_order.ravel(), plan.layout.config.q_dim
    place = np.empty(real, np.int64)
    place[order[order < real]] = np.flatnonzero(order < real)
    return {"C": place // plan.placements[name].tile["C"]}
