"""The local arithmetic of attention and norms, every sum in the order in which the mesh adds.

A sum over a dimension that is cut over P cores is P chains of fused multiply-adds, one per core, combined by
the additions ``partial[dst[i]] += partial[src[i]]`` of the reduction's schedule. With ``half`` every result is
rounded to float16 (kept in float32 arrays), as a core with 16-bit registers does.

Threads share work items: ``h``, one query head with the keys and values of ``h // group``, or ``item`` of ``items``, a
run of tokens (`elementwise.own`).
"""

from __future__ import annotations

import numpy as np

from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.elementwise import exponentials, own
from meshkernels.kernels.intrinsics import chains_of, fma
from meshkernels.kernels.reduce import combine, merge, rounded

#: Tokens that the partial scores of one head are computed for at a time: they stay in the first-level cache.
_RUN = 512


@compiled
def square_sums(item, items, X, tile, half, out):
    """Partial sums of squares ``(parts, L)`` of ``X (L, E)``, E cut into runs of ``tile`` (the last may be empty)."""
    L, E = X.shape
    for i in own(item, items, L):
        for part in range(len(out)):
            total = X.dtype.type(0)
            for e in range(part * tile, min(part * tile + tile, E)):
                total = rounded(fma(X[i, e], X[i, e], total), half)
            out[part, i] = total


@compiled
def ring_sums(partials, blocks, row_start, col_start, row_tile, half):
    """Sums ``(rows, cols)`` of ``partials (blocks, rows)``, each begun where a product on that ring begins.

    A core adds up what it sees of a tile as the tile passes by: the sum of row i on column j of cores begins with block
    ``blocks[row_start[i // row_tile] + col_start[j]]`` and goes on around the ring.

    Args:
        partials: one for each block of the contraction and each row.
        blocks: ``(L,)`` ids of the blocks as they follow each other on the ring.
        row_start: ``(I,)`` positions on the ring of each block row.
        col_start: ``(cols,)`` positions on the ring of each column of cores.
        row_tile: rows of a block row.
        half: round every sum to float16.

    Returns:
        The sums.
    """
    L, cols = len(blocks), len(col_start)
    out, twice = np.empty((partials.shape[1], cols), partials.dtype), np.empty(2 * L, partials.dtype)
    for i in range(len(out)):
        for t in range(2 * L):  # twice around the ring: no place needs a division
            twice[t] = partials[blocks[t % L], i]
        for j in range(cols):
            total, place = partials.dtype.type(0), (row_start[i // row_tile] + col_start[j]) % L
            for t in range(place, place + L):
                total = rounded(total + twice[t], half)
            out[i, j] = total
    return out


@compiled
def _chains(x, first, depth, matrix, place, stride, n, half, out, home):
    """See `chains_of`."""
    if half:
        chains_of(True, x, first, depth, matrix, place, stride, n, out, home)
    else:
        chains_of(False, x, first, depth, matrix, place, stride, n, out, home)


@compiled
def scores(h, q, keys, bounds, width, dst, src, root, scale, half, out):
    """``out[h, t] = scale * sum_d q[h, d] keys[h // group, d, t]``, d cut into runs of ``width`` along x.

    Args:
        h: the head.
        q: ``(heads, head)``.
        keys: ``(kv_heads, head, room)``, the transposed cache.
        bounds: ``(rows + 1,)`` row y of cores has the t from ``bounds[y]`` to ``bounds[y + 1]``.
        width: features of a head on one core.
        dst: places added to, in order.
        src: places added from.
        root: the place of the sum.
        scale: of the sums.
        half: round every sum to float16.
        out: ``(heads, >= bounds[-1])``.
    """
    heads, head = q.shape
    group, room, end = heads // keys.shape[0], keys.shape[2], bounds[-1]
    partials = np.empty((head // width, _RUN), q.dtype)
    for t in range(bounds[0], end, _RUN):
        n = min(_RUN, end - t)
        for d in range(0, head, width):
            place = (h // group * head + d) * room + t
            _chains(q, h * head + d, width, keys, place, room, n, half, partials, d // width * _RUN)
        combine(partials, 0, n, dst, src, False, half)
        for i in range(n):
            out[h, t + i] = partials[root, i] * scale


@compiled
def present(bounds, dst, src, root, to, of, found):
    """The additions between rows of cores that have entries, of which a short text leaves most without.

    A row of cores without entries adds +0.0, which changes no sum but -0.0: it is enough to add one of them at last.
    The sum of such a row is the first that is added to it, and stays at that one's place.

    Args:
        bounds: ``(rows + 1,)`` row y of cores has the t from ``bounds[y]`` to ``bounds[y + 1]``.
        dst: places added to, in order.
        src: places added from.
        root: the place of the sum.
        to: as long as ``dst``: the places that are left of it come first.
        of: the same of ``src``.
        found: ``(3,)`` int64: how many additions are left, the place of their sum, whether no row is without entries.
    """
    here, place, n = bounds[1:] > bounds[:-1], np.arange(len(bounds) - 1), 0
    found[2] = here.all()
    for i in range(len(dst)):
        if here[src[i]] and here[dst[i]]:
            to[n], of[n] = place[dst[i]], place[src[i]]
            n += 1
        elif here[src[i]]:
            place[dst[i]], here[dst[i]] = place[src[i]], True
    found[0], found[1] = n, place[root]


@compiled
def softmax(h, S, bounds, to, of, found, stored, half):
    """Softmax of row h of ``S (heads, >= tokens)``, t cut at ``bounds`` along y, in place.

    A maximum is the same in any order; the sums of rows of cores, none negative, are added in that of `present`.

    Args:
        h: the row.
        S: scores.
        bounds: ``(rows + 1,)`` row y of cores has the t from ``bounds[y]`` to ``bounds[y + 1]``.
        to: of `present`.
        of: of `present`.
        found: of `present`.
        stored: round exponentials to float16.
        half: round every sum to float16.
    """
    row, largest = S[h, bounds[0] : bounds[-1]], S.dtype.type(-np.inf)
    for t in range(len(row)):
        largest = max(largest, row[t])
    for t in range(len(row)):
        row[t] -= largest
    exponentials(row, stored)
    sums, (n, total, _) = np.empty((len(bounds) - 1, 1), S.dtype), found
    for y in range(len(sums)):
        if bounds[y + 1] > bounds[y]:
            sums[y, 0] = _sum(S, h, bounds[y], bounds[y + 1], half)
    combine(sums, 0, 1, to[:n], of[:n], False, half)
    inverse = rounded(S.dtype.type(1) / sums[total, 0], half)
    for t in range(len(row)):
        row[t] *= inverse


@compiled
def own_exponentials(h, S, bounds, stored, largest):
    """``exp`` of row h of ``S (heads, >= tokens)``, in place, where every row of cores subtracts its own maximum.

    Args:
        h: the row.
        S: scores.
        bounds: ``(rows + 1,)`` row y of cores has the t from ``bounds[y]`` to ``bounds[y + 1]``.
        stored: round exponentials to float16.
        largest: ``(heads, rows)`` for the maxima: -inf where a row of cores has no entry, or only such.
    """
    for y in range(largest.shape[1]):
        row, found = S[h, bounds[y] : bounds[y + 1]], S.dtype.type(-np.inf)
        for t in range(len(row)):
            found = max(found, row[t])
        largest[h, y] = found
        if found > -np.inf:
            for t in range(len(row)):
                row[t] -= found
    exponentials(S[h, bounds[0] : bounds[-1]], stored)


@compiled
def _sum(P, h, begin, end, half):
    """The sum of ``P[h, begin:end]``, from the first to the last."""
    total = P.dtype.type(0)
    for t in range(begin, end):
        total = rounded(total + P[h, t], half)
    return total


@compiled
def _weighted(P, h, begin, end, values, half, out, home):
    """``sum_t P[h, t] values[h // group, t]`` over t from begin to end, to place ``home`` of ``out``."""
    kv_heads, room, head = values.shape
    place = (h // (len(P) // kv_heads) * room + begin) * head
    _chains(P, h * P.shape[1] + begin, end - begin, values, place, head, head, half, out, home)


@compiled
def _states(P, h, largest, values, bounds, half, states):
    """The softmax states of head h ``(rows, 1, 2 + head)``: maximum, sum and weighted values of each row of cores."""
    for y in range(len(states)):
        states[y, 0, 0], states[y, 0, 1] = largest[h, y], _sum(P, h, bounds[y], bounds[y + 1], half)
        _weighted(P, h, bounds[y], bounds[y + 1], values, half, states, y * states.shape[2] + 2)


@compiled
def _divided(state, half, out):
    """The weighted values of a softmax state ``(1, 2 + head)``, divided by its sum: ``(head,)``."""
    inverse = rounded(state.dtype.type(1) / state[0, 1], half)
    for j in range(len(out)):
        out[j] = state[0, 2 + j] * inverse


@compiled
def attend(h, P, largest, values, bounds, dst, src, root, half, out):
    """``out[h] = softmax(S[h]) values[h // group]``, t cut at ``bounds`` along y: every row of cores has a state.

    Args:
        h: the head.
        P: ``(heads, >= tokens)`` exponentials of S less the maximum of its row of cores.
        largest: ``(heads, rows)`` those maxima.
        values: ``(kv_heads, room, head)``.
        bounds: ``(rows + 1,)`` row y of cores has the t from ``bounds[y]`` to ``bounds[y + 1]``.
        dst: places added to, in order.
        src: places added from.
        root: the place of the sum.
        half: round every sum to float16.
        out: ``(heads, head)``.
    """
    states = np.empty((len(bounds) - 1, 1, 2 + out.shape[1]), P.dtype)
    _states(P, h, largest, values, bounds, half, states)
    merge(states, dst, src, half)
    _divided(states[root], half, out[h])


@compiled
def row_states(h, P, largest, values, bounds, half, out):
    """Of `attend` the states ``(heads, rows, 1, 2 + head)`` of some rows of cores; see `merge_rows`, `divide`."""
    _states(P, h, largest, values, bounds, half, out[h])


@compiled
def merge_rows(h, states, dst, src, half):
    """Merge the states ``(heads, rows, 1, 2 + head)`` of rows of cores, in place."""
    merge(states[h], dst, src, half)


@compiled
def divide(h, states, half, out):
    """Whole states ``(heads, 1, 2 + head)`` -> ``(heads, head)``."""
    _divided(states[h], half, out[h])


@compiled
def _sums(P, h, values, bounds, half, partials):
    """The weighted values ``(rows, head)`` of head h on each row of cores that has entries."""
    for y in range(len(partials)):
        if bounds[y + 1] > bounds[y]:
            _weighted(P, h, bounds[y], bounds[y + 1], values, half, partials, y * partials.shape[1])


@compiled
def mix(h, P, values, bounds, to, of, found, half, out):
    """``out[h] = sum_t P[h, t] values[h // group, t]``, t cut at ``bounds`` along y.

    Args:
        h: the head.
        P: ``(heads, >= tokens)``; rounded to float16 already if ``half``.
        values: ``(kv_heads, room, head)``.
        bounds: ``(rows + 1,)`` row y of cores has the t from ``bounds[y]`` to ``bounds[y + 1]``.
        to: of `present`.
        of: of `present`.
        found: of `present`.
        half: round every sum to float16.
        out: ``(heads, head)``.
    """
    partials, (n, total, every) = np.empty((len(bounds) - 1, out.shape[1]), P.dtype), found
    partials[total] = 0  # of a text without entries
    _sums(P, h, values, bounds, half, partials)
    combine(partials, 0, out.shape[1], to[:n], of[:n], False, half)
    for j in range(out.shape[1]):
        out[h, j] = partials[total, j] + P.dtype.type(-0.0 if every else 0.0)


@compiled
def mix_rows(h, P, values, bounds, half, out):
    """Of `mix` the weighted values ``(heads, rows, head)`` of some rows of cores; see `add_rows`."""
    out[h] = 0
    _sums(P, h, values, bounds, half, out[h])


@compiled
def add_rows(h, partials, dst, src, half):
    """Add up values ``(heads, rows, head)`` of rows of cores that have entries (see `present`), in place."""
    combine(partials[h], 0, partials.shape[2], dst, src, False, half)


# -------------------------------------------------------------------------------------------------------- of a prompt
@compiled
def _masked(row, scale, half, whole):
    """Scale the scores that a row of a prompt sees, and subtract their maximum, or the next whole number above it."""
    largest = row.dtype.type(-np.inf)
    for j in range(len(row)):
        row[j] = rounded(row[j] * scale, half)
        largest = max(largest, row[j])
    largest = np.ceil(largest) if whole else largest
    for j in range(len(row)):
        row[j] = rounded(row[j] - largest, half)


@compiled
def mask_scores(item, items, S, scale, half):
    """Scale row after row of ``S (heads, L, L)``, hide the future (``-inf``), subtract whole maxima; in place.

    Tiles of a row that subtract whole numbers of their own differ by powers of two, and what is added up with such
    factors has the same bits whenever they are applied.
    """
    for h in range(len(S)):
        for i in own(item, items, S.shape[1]):
            _masked(S[h, i, : i + 1], scale, half, True)
            S[h, i, i + 1 :] = -np.inf


@compiled
def causal_softmax(item, items, S, scale, tile, dst, src, root, stored, half):
    """Causal softmax of the rows of ``S (heads, L, L)``, in place: columns are cut into runs of ``tile`` along x.

    Args:
        item: which tokens' rows.
        items: into how many work items the tokens are shared out.
        S: products of queries and keys.
        scale: of the scores.
        tile: columns on a core.
        dst: places added to, in order.
        src: places added from.
        root: the place of the sum.
        stored: round exponentials to float16.
        half: round every sum to float16.
    """
    heads, L, _ = S.shape
    sums = np.empty((len(dst) + 1, 1), S.dtype)  # a tree of n additions has n + 1 leaves
    for h in range(heads):
        for i in own(item, items, L):
            row = S[h, i, : i + 1]
            _masked(row, scale, half, False)
            exponentials(row, stored)
            sums[:] = 0
            for w in range(tile):
                for c in range(-(-(i + 1) // tile)):
                    j = c * tile + w
                    if j <= i:
                        sums[c, 0] = rounded(sums[c, 0] + row[j], half)
            combine(sums, 0, 1, dst, src, False, half)
            inverse = rounded(S.dtype.type(1) / sums[root, 0], half)
            for j in range(i + 1):
                row[j] = rounded(row[j] * inverse, half)
            S[h, i, i + 1 :] = 0
