"""The local arithmetic of attention and norms, every sum in the order in which the mesh adds.

A sum over a dimension that is cut over P cores is P chains of fused multiply-adds, one per core, combined by
the additions ``partial[dst[i]] += partial[src[i]]`` of the reduction's schedule. With ``half`` every result is
rounded to float16 (kept in float32 arrays), as a core with 16-bit registers does.
"""

from __future__ import annotations

import numpy as np

from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import fma, round_half
from meshkernels.kernels.reduce import combine

#: Tokens that the partial scores of one head are computed for at a time: they stay in the first-level cache.
_RUN = 512


@compiled
def square_sums(X, tile, parts, half):
    """Partial sums of squares ``(parts, L)`` of ``X (L, E)``, E cut into runs of ``tile`` (the last may be empty)."""
    L, E = X.shape
    out = np.zeros((parts, L), X.dtype)
    for i in range(L):
        for part in range(parts):
            total = X.dtype.type(0)
            for e in range(part * tile, min(part * tile + tile, E)):
                total = fma(X[i, e], X[i, e], total)
                if half:
                    total = round_half(total)
            out[part, i] = total
    return out


@compiled
def scores(q, keys, tokens, width, dst, src, root, scale, half, out):
    """``out[h, t] = scale * sum_d q[h, d] keys[h // group, d, t]``, d cut into runs of ``width`` along x.

    Args:
        q: ``(heads, head)``. keys: ``(kv_heads, head, >= tokens)``, the transposed cache.
        out: ``(heads, >= tokens)``.
    """
    heads, head = q.shape
    group = heads // keys.shape[0]
    partials = np.empty((head // width, _RUN), q.dtype)
    for h in range(heads):
        for t0 in range(0, tokens, _RUN):
            n = min(_RUN, tokens - t0)
            for c in range(head // width):
                acc = partials[c, :n]
                acc[:] = 0
                for d in range(c * width, c * width + width):
                    a, k = q[h, d], keys[h // group, d, t0 : t0 + n]
                    for t in range(n):
                        acc[t] = fma(a, k[t], acc[t])
                    if half:
                        for t in range(n):
                            acc[t] = round_half(acc[t])
            combine(partials, 0, n, dst, src, False, half)
            for t in range(n):
                out[h, t0 + t] = partials[root, t] * scale


@compiled
def row_max(S, ends):
    """``(rows, heads)`` largest scores of ``S (heads, >= tokens)``, cut at ``ends`` (rows,); -inf of an empty row."""
    out = np.full((len(ends), len(S)), -np.inf, S.dtype)
    for h in range(len(S)):
        begin = 0
        for y in range(len(ends)):
            for t in range(begin, ends[y]):
                out[y, h] = max(out[y, h], S[h, t])
            begin = ends[y]
    return out


@compiled
def row_sums(P, ends, half):
    """``(rows, heads)`` sums of ``P (heads, >= tokens)``, cut at ``ends`` (rows,) along y."""
    out = np.zeros((len(ends), len(P)), P.dtype)
    for h in range(len(P)):
        begin = 0
        for y in range(len(ends)):
            total = P.dtype.type(0)
            for t in range(begin, ends[y]):
                total += P[h, t]
                if half:
                    total = round_half(total)
            out[y, h] = total
            begin = ends[y]
    return out


@compiled
def row_mix(P, values, ends, half):
    """``(rows, heads, head)`` sums ``sum_t P[h, t] values[h // group, t]``, t cut at ``ends`` (rows,).

    Args:
        P: ``(heads, >= tokens)``. values: ``(kv_heads, >= tokens, head)``.
    """
    heads, head = len(P), values.shape[2]
    group = heads // len(values)
    out = np.zeros((len(ends), heads, head), P.dtype)
    for h in range(heads):
        begin = 0
        for y in range(len(ends)):
            acc = out[y, h]
            for t in range(begin, ends[y]):
                a, v = P[h, t], values[h // group, t]
                for d in range(head):
                    acc[d] = fma(a, v[d], acc[d])
                if half:
                    for d in range(head):
                        acc[d] = round_half(acc[d])
            begin = ends[y]
    return out


@compiled
def mask_scores(S, scale, half):
    """Scale ``S (heads, L, L)``, hide the future (``-inf``) and subtract each row's maximum, in place."""
    heads, L, _ = S.shape
    for h in range(heads):
        for i in range(L):
            row = S[h, i]
            largest = S.dtype.type(-np.inf)
            for j in range(i + 1):
                row[j] *= scale
                if half:
                    row[j] = round_half(row[j])
                largest = max(largest, row[j])
            for j in range(i + 1):
                row[j] -= largest
                if half:
                    row[j] = round_half(row[j])
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
                        sums[c, 0] += row[j]
                        if half:
                            sums[c, 0] = round_half(sums[c, 0])
            combine(sums, 0, 1, dst, src, False, half)
            inverse = P.dtype.type(1) / sums[root, 0]
            if half:
                inverse = round_half(inverse)
            for j in range(i + 1):
                row[j] *= inverse
                if half:
                    row[j] = round_half(row[j])
