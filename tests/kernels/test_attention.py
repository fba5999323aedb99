"""Attention's sums over rows of cores, held against every addition of the tree, one after the other."""

import numpy as np
import pytest

from meshkernels.kernels.attention import add_rows, mix, mix_rows, present


def tree(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Additions of a binary tree that ends at place 0: (to, from)."""
    pairs, step = [], 1
    while step < size:
        pairs += [(y, y + step) for y in range(0, size - step, 2 * step)]
        step *= 2
    return tuple(np.array(pairs, np.int64).T)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("counts", [(2, 1, 3), (0, 2, 0, 0, 1, 0, 0), (0, 0, 0, 1), (1, 0, 0), (0, 3, 2, 0, 1, 0, 4)])
def test_rows_of_cores_without_entries_change_no_bit(counts, half):
    random, heads, head = np.random.default_rng(len(counts)), 3, 8
    ends = np.cumsum(counts)
    P = np.abs(random.standard_normal((heads, ends[-1]), np.float32))
    values = random.standard_normal((1, ends[-1] + 2, head), np.float32)
    P[0], values[0, :, 0] = 1e-30, -1e-30  # products that are rounded to -0.0
    if half:
        P, values = (x.astype(np.float16).astype(np.float32) for x in (P, values))
    dst, src = tree(len(counts))
    kept = np.float16 if half else np.float32
    sums = np.zeros((len(counts), heads, head), np.float32)  # a row without entries has zeros, which are added like any
    for y, (begin, end) in enumerate(zip([0, *ends], ends)):
        for t in range(begin, end):
            exact = P[:, t, None].astype(np.float64) * values[0, t].astype(np.float64) + sums[y]
            sums[y] = exact.astype(np.float32).astype(kept)
    for to, of in zip(dst, src):
        sums[to] = (sums[to] + sums[of]).astype(kept)
    out = np.empty((heads, head), np.float32)
    bounds = np.array([0, *ends])
    to, of, found = np.empty_like(dst), np.empty_like(src), np.empty(3, np.int64)
    present(bounds, dst, src, 0, to, of, found)
    n, root, every = found
    assert every == all(counts) and n == max(0, np.count_nonzero(counts) - 1)
    for h in range(heads):
        mix(h, P, values, bounds, to, of, found, half, out)
    assert out.tobytes() == sums[0].tobytes()
    parts = [np.empty((heads, n, head), np.float32) for n in (1, len(counts) - 1)]  # rows of cores on two ranks
    for part, own in zip(parts, (bounds[:2], bounds[1:])):
        for h in range(heads):
            mix_rows(h, P, values, own, half, part)
    partials = np.concatenate(parts, axis=1)
    for h in range(heads):
        add_rows(h, partials, to[:n], of[:n], half)
    assert (partials[:, root] + np.float32(-0.0 if every else 0.0)).tobytes() == sums[0].tobytes()
