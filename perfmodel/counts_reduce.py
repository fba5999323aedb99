"""Counts of reductions along one line of cores, and of the GEMV built on them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from perfmodel import checks
from perfmodel.counts import ELEMENT_BYTES, Counts, cdiv, check_sides, check_sizes
from perfmodel.counts_line import ring_flows, shift_hops, touching
from perfmodel.errors import ModelError

REDUCES = ["ktree", "chain", "pipeline", "ring"]


def path(algorithm: str, cores: Any, groups: Any) -> tuple[Any, Any, Any]:
    """(hops H, stages S, root R) of each all-reduce of a line of cores, for arrays; two levels of a tree at most.

    R is the core at which the sum is complete. `allreduce` has the same hops and stages.

    Args:
        algorithm: one of `REDUCES`.
        cores: cores of the line; a number or an array.
        groups: groups of the two levels of ``ktree``; not read for the others.

    Returns:
        (H, S, R), elementwise.

    >>> [int(v) for v in path("ktree", 720, 24)]
    [750, 27, 375]
    """
    cores = np.asarray(cores)
    if algorithm == "ktree":
        return _two_levels(cores, groups)
    if algorithm == "chain":
        return _two_levels(cores, 1)
    if algorithm == "pipeline":
        return 2 * (cores - 1), cores - 1, cores - 1
    return 2 * (cores - 1) * np.minimum(cores - 1, 2), cores - 1, cores - 1  # ring


def _two_levels(cores: Any, groups: Any) -> tuple[Any, Any, Any]:
    """(H, S, R) of the two-phase tree; groups differ by one member at most."""
    groups = np.asarray(groups)
    size, extra = cores // groups, cores % groups

    def member(i: Any) -> Any:
        """Root of group i: the middle of its size + (i < extra) members."""
        return i * size + np.minimum(i, extra) + (size + (i < extra)) // 2

    half = (size + (extra > 0)) // 2
    root = member(groups // 2)
    second = np.maximum(root - member(0 * groups), member(groups - 1) - root)
    return half + second + np.maximum(root, cores - 1 - root), half + groups // 2, root


def published_groups(cores: Any) -> Any:
    """Groups of the two-phase tree in the published launch files: the largest divisor of P up to sqrt(P).

    Where it is below half of sqrt(P), as of a prime, the published kernels do not run; there it is sqrt(P), rounded,
    and groups differ by one member.

    Args:
        cores: P, cores of the line; a number or an array.

    Returns:
        Groups, for each P.

    >>> published_groups([240, 360, 420, 660, 720, 719]).tolist()
    [15, 18, 20, 22, 24, 27]
    """
    cores = np.asarray(cores)
    divisor, root = _divisors(int(np.max(cores)))[cores], np.sqrt(cores)
    return np.where(2 * divisor >= root, divisor, np.rint(root).astype(np.int64))


@functools.lru_cache(maxsize=8)
def _divisors(largest: int) -> np.ndarray:
    """Of every P up to ``largest`` the largest divisor that is at most sqrt(P)."""
    found = np.ones(largest + 1, np.int64)
    for divisor in range(2, math.isqrt(largest) + 1):
        found[divisor * divisor :: divisor] = divisor
    return found


@functools.lru_cache(maxsize=1 << 14)
def default_groups(cores: int, alpha: float, beta: float) -> int:
    """Groups of the two-phase tree of fewest cycles alpha H + beta S; of several sqrt(P), else the fewest.

    Args:
        cores: P, cores of the line.
        alpha: cycles per hop.
        beta: cycles per stage.

    Returns:
        Groups, 1 to P.

    >>> default_groups(720, 2.0, 10.0), default_groups(719, 2.0, 10.0)
    (25, 25)
    """
    groups = np.arange(1, cores + 1)
    hops, stages, _ = _two_levels(cores, groups)
    cycles, balanced = alpha * hops + beta * stages, round(math.sqrt(cores))
    return balanced if cycles[balanced - 1] == cycles.min() else int(groups[np.argmin(cycles)])


def allreduce(algorithm: str, cores: int, words: int, *, groups: int | Sequence[int] | None = None,
              element_bytes: int = ELEMENT_BYTES) -> Counts:
    """Counts of summing one vector per core over a line, the sum ending up on all.

    Args:
        algorithm: ktree, chain (a tree of one level), pipeline (to the far end and back) or ring.
        cores: cores of the line.
        words: elements of the vector.
        groups: of ktree: number of groups of each level but the last, e.g. 8, or (64, 8).
        element_bytes: bytes of a stored element.

    Returns:
        The counts of one line.

    Raises:
        ModelError: ktree without groups; a size or algorithm that is none.

    >>> allreduce("ktree", 720, 1, groups=24).hops, allreduce("ktree", 720, 1, groups=24).stages
    (750, 27)
    """
    checks.choice("reduce", algorithm, REDUCES)
    (words,), (cores,) = check_sizes(words=words), check_sides(cores=cores)
    if algorithm == "ktree":
        if groups is None:
            raise ModelError("ktree needs the number of groups")
        levels = tuple(groups) if isinstance(groups, Sequence) else (groups,)
        return _tree(cores, words, tuple(checks.size("groups", count) for count in levels), element_bytes)
    if algorithm == "chain":
        return _tree(cores, words, (), element_bytes)
    if algorithm == "pipeline":
        return _pipeline(cores, words, element_bytes)
    return _ring(cores, words, element_bytes)


def split(members: Sequence[int], groups: int) -> list[list[int]]:
    """Balanced contiguous groups, the first ones larger by at most one.

    Args:
        members: cores in the order of the line.
        groups: how many groups.

    Returns:
        The members of each group.

    >>> split(range(5), 2)
    [[0, 1, 2], [3, 4]]
    """
    base, extra = divmod(len(members), groups)
    starts = [i * base + min(i, extra) for i in range(groups + 1)]
    return [list(members[a:b]) for a, b in itertools.pairwise(starts)]


def _tree(cores: int, words: int, levels: tuple[int, ...], element_bytes: int) -> Counts:
    """Group members stream to the member in the middle, level by level; the last root multicasts."""
    members: list[int] = list(range(cores))
    hops = stages = sent = crossed = 0
    spans: list[tuple[int, int]] = []
    for groups in (*levels, 1):
        if not 1 <= groups <= len(members):
            raise ModelError(f"groups = {groups} must lie between 1 and {len(members)}, the members of that level")
        parts = split(members, groups)
        roots = [part[len(part) // 2] for part in parts]
        hops += max(max(root - part[0], part[-1] - root) for part, root in zip(parts, roots))
        stages += max(len(part) // 2 for part in parts)
        sent += len(members) - groups
        crossed += sum(part[-1] - part[0] for part in parts)
        spans += [(a, b) for part in parts for a, b in itertools.pairwise(part)]
        members = roots
    root = members[0]
    if cores > 1:
        spans.append((0, cores - 1))
    return Counts(
        steps=len(levels) + 2, hops=hops + max(root, cores - 1 - root), stages=stages,
        words=(sent + (cores > 1)) * words, word_hops=(crossed + cores - 1) * words,
        colours=touching(cores, spans), bytes_per_core=2 * words * element_bytes,
    )


def _pipeline(cores: int, words: int, element_bytes: int) -> Counts:
    """Streamed core by core to the last one, which multicasts the sum back."""
    far = cores - 1
    spans = [(x, x + 1) for x in range(far)] + ([(0, far)] if far else [])
    return Counts(
        steps=2, hops=2 * far, stages=far, words=(far + (far > 0)) * words, word_hops=2 * far * words,
        colours=touching(cores, spans), bytes_per_core=2 * words * element_bytes,
    )


def _ring(cores: int, words: int, element_bytes: int) -> Counts:
    """Reduce-scatter and all-gather of ceil(words / cores) chunks round the interleaved ring."""
    turns, chunk = 2 * (cores - 1), cdiv(words, cores)
    return Counts(
        steps=turns, hops=turns * shift_hops(cores, "interleaved"), stages=cores - 1,
        words=turns * cores * chunk, word_hops=turns * 2 * (cores - 1) * chunk,
        colours=int(ring_flows(cores).max()), bytes_per_core=2 * cores * chunk * element_bytes,
    )


def gemv(M: int, N: int, rows: int, cols: int | None = None, *, reduce: str = "ktree",
         groups: int | Sequence[int] | None = None, element_bytes: int = ELEMENT_BYTES) -> Counts:
    """Counts of y[N] = x[M] W[M,N]: local products, then an all-reduce down every column of cores.

    Args:
        M: elements of x, rows of W.
        N: elements of y, columns of W.
        rows: rows of cores.
        cols: columns of cores; None: as many as rows.
        reduce: one of `REDUCES`.
        groups: of ktree: as in `allreduce`.
        element_bytes: bytes of a stored element.

    Returns:
        The counts of the products and of all columns' all-reduces.

    >>> gemv(80, 80, 80, groups=8).stages
    9
    """
    M, N = check_sizes(M=M, N=N)
    rows, cols = check_sides(rows=rows, cols=rows if cols is None else cols)
    mt, nt = cdiv(M, rows), cdiv(N, cols)
    line = allreduce(reduce, rows, nt, groups=groups, element_bytes=element_bytes)
    return Counts(
        steps=1 + line.steps, hops=line.hops, stages=line.stages,
        words=cols * line.words, word_hops=cols * line.word_hops, colours=line.colours,
        bytes_per_core=element_bytes * (mt + mt * nt) + line.bytes_per_core, macs_per_core=mt * nt,
    )
