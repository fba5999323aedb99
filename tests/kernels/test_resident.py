"""Stored matrices against what the ``gguf`` package decodes: the same numbers, and the bits of products with them."""

from __future__ import annotations

import numpy as np
import pytest
from storages import SUPPORTED, encoded

from meshkernels.errors import MeshError
from meshkernels.kernels import gemv, host, pack, ring
from meshkernels.kernels.resident import Coded, stored
from meshkernels.kernels.storage import STORAGES
from meshkernels.schedules import RingOrder

#: Types that have every kind of plane, scale and factor: these at widths that others have too.
VARIED = ("Q5_1", "Q6_K", "Q8_0")


def placed(storages, random, K=512, N=150):
    """W with rows and columns in disorder and zeros between, and the same W in float32."""
    each = [encoded(random.standard_normal((N, K)), storage, i) for i, storage in enumerate(storages)]
    whole = np.concatenate([one.dequantised().astype(np.float32) for one in each])
    columns, rows = random.permutation(len(whole))[: len(whole) - 20], random.permutation(K)[: K - 30]
    columns[[0, 70]] = rows[[3, 4, 100]] = -1
    W = np.where((columns >= 0) & (rows[:, None] >= 0), whole[columns][:, rows].T, np.float32(0))
    return stored([Coded(one.storage.name, one.data) for one in each], columns, rows), np.ascontiguousarray(W)


def same(found, expected):
    assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


def test_every_supported_type_is_known():
    assert {*SUPPORTED, "F64"} == set(STORAGES)


@pytest.mark.parametrize("storages", [*[(each,) for each in SUPPORTED], ("Q4_K", "F16", "Q6_K")], ids="+".join)
def test_numbers_and_products_have_the_bits_of_float32(storages):
    random = np.random.default_rng(len(storages[0]))
    W, wide = placed(storages, random)
    (K, N), plain = wide.shape, pack.columns(wide)
    x, A = random.standard_normal(K).astype(np.float32), random.standard_normal((7, K)).astype(np.float32)
    order = RingOrder(random.permutation(4), -(-K // 4), np.array([0, 2]), np.array([1, 3, 0]), 4, -(-N // 3))
    by_hand = np.zeros(N, np.float32)
    for k in range(K):  # products of float32 numbers are exact in float64: one rounding to float32 after each addition
        by_hand = (by_hand + x[k].astype(np.float64) * wide[k]).astype(np.float32)
    expected, tree = ring.ring_product(A, wide, order), ([1, 0], [2, 1], [0])
    for width in sorted({"portable", "avx2", host.simd()} if storages[0] in VARIED else {host.simd()}):
        with host.force_simd(width):
            same(W.take(np.arange(N)) + np.float32(0), wide.T.copy() + np.float32(0))
            same(W.numbers() + np.float32(0), wide + np.float32(0))
            np.testing.assert_allclose(gemv.gemv_sums(x, W, 1)[0], by_hand, rtol=0, atol=2e-5)
            for parts in (1, 3, 40):
                for threads in (1, 2):
                    same(gemv.gemv_sums(x, W, parts, threads=threads), gemv.gemv_sums(x, plain, parts))
            same(gemv.gemv_sums(x, W, 3, *tree), gemv.gemv_sums(x, plain, 3, *tree))
            same(ring.ring_product(A, W, order), expected)
    same(gemv.gemv_sums(x, W, 3, *tree, accumulate="float16"), gemv.gemv_sums(x, plain, 3, *tree, accumulate="float16"))



def test_what_is_not_there_is_refused():
    one = encoded(np.ones((4, 32)), "Q8_0")
    blocks = [Coded("Q8_0", one.data)]
    for columns, rows in (([4], [0]), ([0], [32])):
        with pytest.raises(MeshError, match="4 rows of"):
            stored(blocks, columns, rows)
