"""When partial sums are added up: as soon as they are there, while the last one is in registers.

A schedule's reduction is a list of additions, ``partial[dst[s]] += partial[src[s]]``. Chains are computed in the order
of their rows. Where the list is a forest, as along a line of cores or in a tree, all additions whose operands are
complete are done when a chain ends; a + b has the bits of b + a. So few sums wait in memory: for a K-tree about those
of one group, for a line one, or, if it leads to the first row, all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshkernels.kept import remember


class Additions(NamedTuple):
    """What is computed, entry after entry.

    Attributes:
        parts: ``(entries,)`` int64 whose chain is computed; -1: none, the sum at the entry's home is added to.
        counts: ``(entries,)`` int64 additions to it.
        places: int64, of each entry its home, where its sum goes, and the places of the sums that are added.
        wanted: ``(rows,)`` int64 the places of the sums that are wanted.
        size: how many places there are.
    """

    parts: np.ndarray
    counts: np.ndarray
    places: np.ndarray
    wanted: np.ndarray
    size: int


def additions(dst: np.ndarray, src: np.ndarray, rows: np.ndarray) -> Additions:
    """When partial sums are added up.

    Args:
        dst: ``(additions,)`` int64: ``partial[dst[s]] += partial[src[s]]``, in this order.
        src: ``(additions,)`` int64.
        rows: int64, which partial sums are wanted afterwards.

    Returns:
        Entries for all that is wanted.
    """
    return _additions(dst.tobytes(), src.tobytes(), rows.tobytes())


@remember
def _additions(*lists: bytes) -> Additions:
    dst, src, rows = (np.frombuffer(each, np.int64).tolist() for each in lists)
    children = _forest(dst, src, rows)
    if children is None:  # chains first, then one addition after the other
        home = {part: place for place, part in enumerate(sorted({*dst, *src, *rows}))}
        entries = [(part, [place]) for part, place in home.items()]
        entries += [(-1, [home[into], home[other]]) for into, other in zip(dst, src)]
    else:
        entries, home = _as_they_come(children, set(rows))
    return Additions(
        np.array([part for part, _ in entries], np.int64),
        np.array([len(places) - 1 for _, places in entries], np.int64),
        np.array([place for _, places in entries for place in places], np.int64),
        np.array([home[row] for row in rows], np.int64),
        1 + max((max(places) for _, places in entries), default=-1))


def _forest(dst: list[int], src: list[int], rows: list[int]) -> dict[int, list[int]] | None:
    """What is added to each part, if each sum is complete when it is added, and is not used again."""
    children, gone = dict[int, list[int]](), set[int]()
    for into, other in zip(dst, src):
        if gone & {into, other} or into == other:
            return None
        children.setdefault(into, []).append(other)
        gone.add(other)
    return None if gone & set(rows) else children


def _as_they_come(children: dict[int, list[int]], roots: set[int],
                  ) -> tuple[list[tuple[int, list[int]]], dict[int, int]]:  # fmt: skip
    """Entries of the trees with these roots, and where each part's sum is at the end."""
    parent = {child: part for part, added in children.items() for child in added}
    needed, waiting = set[int](), list(roots)
    while waiting:
        needed.add(part := waiting.pop())
        waiting += children.get(part, ())
    left = {part: children.get(part, [])[::-1] for part in needed}  # what is still to be added, the next one last
    home, complete = dict[int, int](), set[int]()
    entries, free, size = [], list[int](), 0
    for first in sorted(needed):
        part, used = first, list[int]()
        while True:
            while left[part] and left[part][-1] in complete:
                used.append(home[left[part].pop()])
            above = parent.get(part)
            if left[part] or above not in home or left[above][-1] != part:
                break
            used.append(home[above])  # its own chain and what was added to it before
            left[above].pop()
            part = above
        free += used
        if not free:
            free, size = [size], size + 1
        home[part] = free.pop()
        if not left[part]:
            complete.add(part)
        entries.append((first, [home[part], *used]))
    return entries, home
