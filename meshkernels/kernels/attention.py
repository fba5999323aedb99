"""The local arithmetic of attention and norms, every sum in the order in which the mesh adds.

A sum over a dimension that is cut over P cores is P chains of fused multiply-adds, one per core, combined by
the additions ``partial[dst[i]] += partial[src[i]]`` of the reduction's schedule. With ``half`` every result is
rounded to float16 (kept in float32 arrays), as a core with 16-bit registers does.
"""

from __future__ import annotations

import numpy as np

from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import chains_of, fma
from meshkernels.kernels.reduce import combine, merge, rounded

#: Tokens that the partial scores of one head are computed for at a time: they stay in the first-level cache.
_RUN = 512


@compiled
def square_sums(X, tile, half, out):
    """Partial sums of squares ``(parts, L)`` of ``X (L, E)``, E cut into runs of ``tile`` (the last may be empty)."""
    L, E = X.shape
    for i in range(L):
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
def scores(q, keys, bounds, width, dst, src, root, scale, half, out):
    """``out[h, t] = scale * sum_d q[h, d] keys[h // group, d, t]``, d cut into runs of ``width`` along x.

    Args:
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
    for h in range(heads):
        for t in range(bounds[0], end, _RUN):
            n = min(_RUN, end - t)
            for d in range(0, head, width):
                place = (h // group * head + d) * room + t
                _chains(q, h * head + d, width, keys, place, room, n, half, partials, d // width * _RUN)
            combine(partials, 0, n, dst, src, False, half)
            for i in range(n):
                out[h, t + i] = partials[root, i] * scale


@compiled
def subtract_max(S, bounds, dst, src, root):
    """Subtract each row's maximum from ``S (heads, >= tokens)``, t cut at ``bounds (rows + 1,)`` along y, in place."""
    largest = np.empty((len(bounds) - 1, 1), S.dtype)
    for h in range(len(S)):
        for y in range(len(largest)):
            best = S.dtype.type(-np.inf)
            for t in range(bounds[y], bounds[y + 1]):
                best = max(best, S[h, t])
            largest[y, 0] = best
        combine(largest, 0, 1, dst, src, True, False)
        for t in range(bounds[0], bounds[-1]):
            S[h, t] -= largest[root, 0]


@compiled
def subtract_own_max(S, bounds, largest):
    """Every row of cores subtracts its own maximum of each row of ``S (heads, >= tokens)``, t cut at ``bounds``.

    The maxima go to ``largest (heads, rows)``: -inf where a row of cores has no entry, or only such.
    """
    largest[:] = -np.inf
    for h in range(len(S)):
        for y in range(largest.shape[1]):
            for t in range(bounds[y], bounds[y + 1]):
                largest[h, y] = max(largest[h, y], S[h, t])
            if largest[h, y] > -np.inf:
                for t in range(bounds[y], bounds[y + 1]):
                    S[h, t] -= largest[h, y]


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
def attend(P, largest, values, bounds, dst, src, root, half, out):
    """``out[h] = softmax(S[h]) values[h // group]``, t cut at ``bounds`` along y: every row of cores has a state.

    Args:
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
    for h in range(len(out)):
        _states(P, h, largest, values, bounds, half, states)
        merge(states, dst, src, half)
        _divided(states[root], half, out[h])


@compiled
def row_states(P, largest, values, bounds, half, out):
    """Of `attend` the states ``(heads, rows, 1, 2 + head)`` of some rows of cores; see `merge_rows`, `divide`."""
    for h in range(len(out)):
        _states(P, h, largest, values, bounds, half, out[h])


@compiled
def merge_rows(states, dst, src, half):
    """Merge the states ``(heads, rows, 1, 2 + head)`` of rows of cores, in place."""
    for h in range(len(states)):
        merge(states[h], dst, src, half)


@compiled
def divide(states, half, out):
    """Whole states ``(heads, 1, 2 + head)`` -> ``(heads, head)``."""
    for h in range(len(out)):
        _divided(states[h], half, out[h])


@compiled
def normalise(P, bounds, dst, src, root, half):
    """Divide each row of ``P (heads, >= tokens)`` by its sum, t cut at ``bounds (rows + 1,)`` along y, in place."""
    sums = np.empty((len(bounds) - 1, 1), P.dtype)
    for h in range(len(P)):
        for y in range(len(sums)):
            sums[y, 0] = _sum(P, h, bounds[y], bounds[y + 1], half)
        combine(sums, 0, 1, dst, src, False, half)
        inverse = rounded(P.dtype.type(1) / sums[root, 0], half)
        for t in range(bounds[0], bounds[-1]):
            P[h, t] *= inverse


@compiled
def present(bounds, dst, src, root):
    """The additions between rows of cores that have entries.

    A row of cores without entries adds +0.0, which changes no sum but -0.0: it is enough to add one of them at last.
    The sum of such a row is the first that is added to it, and stays at that one's place.

    Returns:
        Places that are added to, and from; the place of the sum; and what to add to it: -0.0 where no row is empty.
    """
    here, place = bounds[1:] > bounds[:-1], np.arange(len(bounds) - 1)
    zero = np.float32(-0.0) if here.all() else np.float32(0.0)
    to, of, n = np.empty_like(dst), np.empty_like(src), 0
    for i in range(len(dst)):
        if here[src[i]] and here[dst[i]]:
            to[n], of[n] = place[dst[i]], place[src[i]]
            n += 1
        elif here[src[i]]:
            place[dst[i]], here[dst[i]] = place[src[i]], True
    return to[:n], of[:n], place[root], zero


@compiled
def _sums(P, h, values, bounds, half, partials):
    """The weighted values ``(rows, head)`` of head h on each row of cores that has entries."""
    for y in range(len(partials)):
        if bounds[y + 1] > bounds[y]:
            _weighted(P, h, bounds[y], bounds[y + 1], values, half, partials, y * partials.shape[1])


@compiled
def mix(P, values, bounds, dst, src, root, half, out):
    """``out[h] = sum_t P[h, t] values[h // group, t]``, t cut at ``bounds`` along y.

    Args:
        P: ``(heads, >= tokens)``; rounded to float16 already if ``half``.
        values: ``(kv_heads, room, head)``.
        bounds: ``(rows + 1,)`` row y of cores has the t from ``bounds[y]`` to ``bounds[y + 1]``.
        dst: places added to, in order.
        src: places added from.
        root: the place of the sum.
        half: round every sum to float16.
        out: ``(heads, head)``.
    """
    partials, (to, of, root, zero) = np.zeros((len(bounds) - 1, out.shape[1]), P.dtype), present(bounds, dst, src, root)
    for h in range(len(out)):
        _sums(P, h, values, bounds, half, partials)
        combine(partials, 0, out.shape[1], to, of, False, half)
        for j in range(out.shape[1]):
            out[h, j] = partials[root, j] + zero


@compiled
def mix_rows(P, values, bounds, half, out):
    """Of `mix` the weighted values ``(heads, rows, head)`` of some rows of cores; see `add_rows`."""
    out[:] = 0
    for h in range(len(out)):
        _sums(P, h, values, bounds, half, out[h])


@compiled
def add_rows(partials, dst, src, half):
    """Add up values ``(heads, rows, head)`` of rows of cores that have entries (see `present`), in place."""
    for h in range(len(partials)):
        combine(partials[h], 0, partials.shape[2], dst, src, False, half)


@compiled
def mask_scores(S, scale, half, whole=False):
    """Scale ``S (heads, L, L)``, hide the future (``-inf``) and subtract each row's maximum, in place.

    With ``whole``, the next whole number: tiles of a row that subtract numbers of their own differ by powers of two,
    and what is added up with such factors has the same bits whenever they are applied.
    """
    heads, L, _ = S.shape
    for h in range(heads):
        for i in range(L):
            row = S[h, i]
            largest = S.dtype.type(-np.inf)
            for j in range(i + 1):
                row[j] = rounded(row[j] * scale, half)
                largest = max(largest, row[j])
            largest = np.ceil(largest) if whole else largest
            for j in range(i + 1):
                row[j] = rounded(row[j] - largest, half)
            row[i + 1 :] = -np.inf


@compiled
def normalise_rows(P, tile, dst, src, root, half):
    """Divide each row of ``P (heads, L, L)`` by its sum over columns, cut into runs of ``tile`` along x, in place."""
    heads, L, _ = P.shape
    sums = np.empty((len(dst) + 1, 1), P.dtype)  # a tree of n additions has n + 1 leaves
    for h in range(heads):
        for i in range(L):
            row = P[h, i]
            sums[:] = 0
            for w in range(tile):
                for c in range(-(-(i + 1) // tile)):
                    j = c * tile + w
                    if j <= i:
                        sums[c, 0] = rounded(sums[c, 0] + row[j], half)
            combine(sums, 0, 1, dst, src, False, half)
            inverse = rounded(P.dtype.type(1) / sums[root, 0], half)
            for j in range(i + 1):
                row[j] = rounded(row[j] * inverse, half)
