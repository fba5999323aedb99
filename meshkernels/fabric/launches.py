"""Launches that follow one another: what the cycles of a published row are, a mean over many of them.

A core begins a launch when it has ended the one before; nothing else holds it back but data. After some launches each
group of cores that exchange messages takes equally long for each, as long as its slowest chain of work and messages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from meshkernels.fabric.engine import Engine
from meshkernels.fabric.routes import Table

#: Two launches are alike if they differ by less than this share of their cycles; no more launches than that.
ALIKE, MOST = 1e-3, 10
#: Pairs of cores that are kept before they are reduced to groups.
PAIRS = 1 << 21


def settled_cycles(engine: Engine, first: np.ndarray) -> float:
    """Cycles of a launch among many, the mean over cores of own end less own start.

    Args:
        engine: has played one launch; plays on.
        first: ``(cores,)`` when each core has ended that.

    Returns:
        The cycles at which launches have settled: of each group of cores by how much later its last core ends.
    """
    groups = groups_of(engine)
    order = np.argsort(groups, kind="stable")
    begins = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(np.append(begins, len(order)))

    def last(ends: np.ndarray) -> np.ndarray:
        return np.maximum.reduceat(ends[order], begins)

    ends = last(first)
    cycles = float(ends @ sizes) / len(order)
    for _ in range(MOST - 1):
        engine.follow()
        before, ends = ends, last(engine.end)
        previous, cycles = cycles, float((ends - before) @ sizes) / len(order)
        if abs(cycles - previous) <= ALIKE * cycles:
            break
    return cycles


def groups_of(engine: Engine) -> np.ndarray:
    """``(cores,)`` the number of each core's group: cores exchange messages, directly or through others."""
    mesh = engine.mesh
    found, pairs = np.arange(mesh.cores), [(source, end) for source, end in engine.bends]
    for table, used in engine.used.values():
        same, which = np.unique(used, axis=0, return_inverse=True)
        for number, patterns in enumerate(same):
            along = _along(table, np.flatnonzero(patterns))  # (places,) groups of a line
            leader = np.unique(along, return_index=True)[1][along]
            lines, places = np.flatnonzero(which.ravel() == number)[:, None], np.arange(len(along))
            by_line, by_place = (1, mesh.cols) if table.route.axis == 0 else (mesh.cols, 1)
            pairs.append(((lines * by_line + places * by_place).ravel(), (lines * by_line + leader * by_place).ravel()))
            if sum(len(a) for a, _ in pairs) > PAIRS:
                found, pairs = _joined(found, pairs), []
    return _joined(found, pairs)


def _along(table: Table, patterns: np.ndarray) -> np.ndarray:
    """``(places,)`` groups of the places of a line that does what the patterns say."""
    ends = np.array([pair for p in patterns for pair in table.ends(int(p))], int).reshape(-1, 2)
    return _joined(np.arange(table.named.shape[1]), [(ends[:, 0], ends[:, 1])])


def _joined(groups: np.ndarray, pairs: list[tuple[Any, Any]]) -> np.ndarray:
    """Groups, joined where a pair has one of each."""
    count = int(groups.max(initial=-1)) + 1
    a, b = (groups[np.concatenate([np.zeros(0, int), *(pair[side] for pair in pairs)])] for side in (0, 1))
    return connected_components(coo_array((np.ones(len(a), bool), (a, b)), (count, count)), directed=False)[1][groups]
