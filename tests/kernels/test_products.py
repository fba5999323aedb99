"""The kernel layer against the definition of its sums: chains of fused multiply-adds, bit by bit.

The oracle shares nothing with the kernels: NumPy's float64 with rounding to odd for float32, fractions for float64.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import ml_dtypes
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshkernels.errors import MeshError
from meshkernels.kernels import chains, gemv, host, pack, pool, reduce, ring, tiles
from meshkernels.kernels.resident import wide
from meshkernels.kernels.ukernel import Ahead, Left, Right, Sums
from meshkernels.kernels.ukernel import chain as micro_kernel
from meshkernels.mesh import Mesh
from meshkernels.placed import Placed
from meshkernels.schedules import RingOrder

WIDTHS = list(host.SIMD)
BFLOAT = ml_dtypes.bfloat16


def fma32(a, b, c):
    """float32 a * b + c rounded once: exact product and two-sum in float64, rounded to odd before float32."""
    p, c = a.astype(np.float64) * b, c.astype(np.float64)
    s = p + c
    t = s - p
    error = (p - (s - t)) + (c - t)
    even = s.view(np.int64) & 1 == 0
    away = np.sign(error) * np.sign(s) > 0
    odd = np.where((error != 0) & even, s.view(np.int64) + np.where(away, 1, -1), s.view(np.int64)).view(np.float64)
    return odd.astype(np.float32)


def fma64(a, b, c):
    """float64 a * b + c rounded once, element by element."""
    exact = np.vectorize(lambda x, y, z: float(Fraction(x) * Fraction(y) + Fraction(z)), otypes=[np.float64])
    return exact(a, b, c)


def half(x):
    return x.astype(np.float16).astype(np.float32)


def chain(A, B, ks, accumulate=None, start=None):
    """(M, N): for k in ``ks``: c = fma(A[:, k], B[k, :], c)."""
    wide = np.float64 if A.dtype == np.float64 else np.float32
    A, B = A.astype(wide), B.astype(wide)
    c = np.zeros((A.shape[0], B.shape[1]), wide) if start is None else start
    for k in ks:
        step = fma64 if wide is np.float64 else fma32
        c = step(*np.broadcast_arrays(A[:, k, None], B[None, k], c))
        c = half(c) if accumulate == "float16" else c
    return c


def ring_oracle(A, B, order, accumulate=None):
    (M, K), N, L = A.shape, B.shape[1], len(order.blocks)
    C = np.zeros((M, N), np.float64 if A.dtype == np.float64 else np.float32)
    for i0 in range(0, M, order.row_tile):
        for j0 in range(0, N, order.col_tile):
            start = order.row_start[i0 // order.row_tile] + order.col_start[j0 // order.col_tile]
            blocks = [order.blocks[(start + t) % L] for t in range(L)]
            ks = [k for b in blocks for k in range(b * order.block, min((b + 1) * order.block, K))]
            tile = np.s_[i0 : i0 + order.row_tile, j0 : j0 + order.col_tile]
            C[tile] = chain(A[tile[0]], B[:, tile[1]], ks, accumulate)
    return C


def random_order(rng, M, K, N, rows, cols, L):
    """Any starts and any order of the blocks; the last blocks may be short or empty."""
    return RingOrder(
        blocks=rng.permutation(L), block=-(-K // L), row_start=rng.integers(0, L, rows),
        col_start=rng.integers(0, L, cols), row_tile=-(-M // rows), col_tile=-(-N // cols),
    )  # fmt: skip


def matrices(rng, M, K, N, dtype):
    return rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)


def same_bits(x, y):
    assert x.dtype == y.dtype and x.shape == y.shape
    np.testing.assert_array_equal(x.view(f"u{x.itemsize}"), y.view(f"u{x.itemsize}"))


sides = st.integers(1, 70)
meshes = st.integers(1, 9)


def test_the_oracle_rounds_once():
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 3000)).astype(np.float32) * np.exp2(rng.integers(-12, 12, (3, 3000))).astype("f4")
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c)]
    got = fma32(a, b, c)
    up, down = np.nextafter(got, np.float32(np.inf)), np.nextafter(got, np.float32(-np.inf))
    for value, g, *others in zip(exact, got, up, down):
        assert all(abs(value - Fraction(float(g))) <= abs(value - Fraction(float(o))) for o in others)
    assert (got != a * b + c).any()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ring_product_is_its_definition(data):
    M, K, N, rows, cols, L = (data.draw(side) for side in (sides, sides, sides, meshes, meshes, meshes))
    dtype, accumulate = data.draw(st.sampled_from([
        ("float32", None), ("float16", None), ("float16", "float16"), (BFLOAT, None)]))
    rng = np.random.default_rng(M * 71 + K)
    A, B = matrices(rng, M, K, N, dtype)
    order = random_order(rng, M, K, N, rows, cols, L)
    with host.force_simd(data.draw(st.sampled_from(WIDTHS))):
        C = ring.ring_product(A, B, order, accumulate=accumulate)
    same_bits(C, ring_oracle(A, B, order, accumulate).astype(dtype))


@pytest.mark.parametrize("width", WIDTHS)
def test_float64_is_fused_too(width):
    rng = np.random.default_rng(0)
    A, B = matrices(rng, 14, 23, 18, np.float64)
    order = random_order(rng, 14, 23, 18, 3, 5, 4)
    with host.force_simd(width):
        same_bits(ring.ring_product(A, B, order), ring_oracle(A, B, order))


@pytest.mark.parametrize("dtype, accumulate", [("float32", None), ("float64", None), ("float16", "float16")])
def test_same_bits_for_every_width_and_thread_count(dtype, accumulate):
    rng = np.random.default_rng(1)
    A, B = matrices(rng, 300, 700, 260, dtype)
    order = random_order(rng, 300, 700, 260, 12, 20, 60)
    results = []
    for width in WIDTHS:
        with host.force_simd(width):
            results += [ring.ring_product(A, B, order, accumulate=accumulate, threads=n) for n in (1, 2, 5)]
    for other in results[1:]:
        same_bits(results[0], other)


def test_any_strides_and_read_only_inputs():
    rng = np.random.default_rng(2)
    A, B = matrices(rng, 40, 50, 60, np.float32)
    order = random_order(rng, 40, 50, 60, 4, 3, 5)
    expected = ring.ring_product(A, B, order)
    padded = np.zeros((80, 100), np.float32)
    padded[::2, ::-2] = A
    frozen = B.copy()
    frozen.flags.writeable = False
    for a in (np.asfortranarray(A), padded[::2, ::-2]):
        for b in (np.asfortranarray(B), frozen, np.repeat(B, 2, 1)[:, ::2]):
            same_bits(ring.ring_product(a, b, order), expected)


def test_a_packed_operand_is_reusable():
    rng = np.random.default_rng(3)
    A, B = matrices(rng, 45, 33, 70, np.float32)
    order = random_order(rng, 45, 33, 70, 5, 7, 8)
    expected = ring.ring_product(A, B, order)
    right = ring.pack_right(B, order)
    for rows in (slice(None), slice(7), slice(None)):  # whatever the number of rows
        same_bits(ring.ring_product(A[rows], right, order), expected[rows])


def test_infinities_stay_in_their_row_and_column():
    """Numbers outside an element's life are computed and thrown away: not even their NaNs may leak."""
    rng = np.random.default_rng(4)
    A, B = matrices(rng, 37, 41, 53, np.float32)
    order = random_order(rng, 37, 41, 53, 8, 9, 9)
    finite = ring.ring_product(A, B, order)
    A[5, 7], B[11, 13] = np.inf, np.nan
    C = ring.ring_product(A, B, order)
    assert not np.isfinite(C[5]).any() and np.isnan(C[:, 13]).all()
    clean = np.ones(C.shape, bool)
    clean[5], clean[:, 13] = False, False
    np.testing.assert_array_equal(C[clean], finite[clean])


def test_no_length_and_no_elements():
    order = RingOrder(blocks=np.arange(2), block=0, row_start=np.zeros(1, int), col_start=np.zeros(1, int),
                      row_tile=4, col_tile=4)  # fmt: skip
    assert not ring.ring_product(np.ones((4, 0)), np.ones((0, 4)), order).any()
    order = replace(order, block=2)
    assert ring.ring_product(np.ones((0, 4)), np.ones((4, 4)), order).shape == (0, 4)


def test_half_overflow_and_subnormals():
    order = RingOrder(blocks=np.arange(1), block=2, row_start=np.zeros(1, int), col_start=np.zeros(1, int),
                      row_tile=3, col_tile=1)  # fmt: skip
    A = np.array([[240, 240], [2.0**-12, 2.0**-13], [255, 2]], np.float16)
    B = np.array([[256], [2.0**-12]], np.float16)
    C = ring.ring_product(A, B, order, accumulate="float16")
    assert C[:, 0].tolist() == [61440.0, float(np.float16(2.0**-4) + np.float16(2.0**-25)), 65280.0]
    assert ring.ring_product(A + A, B, order, accumulate="float16")[0, 0] == np.inf


def test_results_are_rounded_to_bfloat16_to_nearest_even():
    values = np.concatenate([np.random.default_rng(5).standard_normal(4000) * 1e3, [np.nan, np.inf, -np.inf, 1e-40, 0]])
    values = np.concatenate([values, 1 + np.arange(1, 64, 2) * 2.0**-8]).astype(np.float32)[:, None]  # ties too
    order = RingOrder(blocks=np.arange(1), block=1, row_start=np.zeros(1, int), col_start=np.zeros(1, int),
                      row_tile=len(values), col_tile=1)  # fmt: skip
    got = ring.ring_product(values, np.ones((1, 1), np.float32), order, out_dtype=BFLOAT)
    np.testing.assert_array_equal(got.astype(np.float32), (values + 0).astype(BFLOAT).astype(np.float32))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_chain_product_is_its_definition(data):
    M, E, N, parts = (data.draw(side) for side in (sides, sides, sides, meshes))
    dtype, accumulate = data.draw(st.sampled_from([("float32", None), ("float16", "float16")]))
    rng = np.random.default_rng(M + 71 * E)
    Q, Kt = matrices(rng, M, E, N, dtype)
    root, eb = rng.integers(0, parts, N), -(-E // parts)
    def keep(x):
        return half(x) if accumulate else x

    p = [chain(Q, Kt, range(min(x * eb, E), min(x * eb + eb, E)), accumulate) for x in range(parts)]
    expected = np.empty((M, N), np.float32)
    for j, r in enumerate(root):
        left = p[0][:, j]
        for x in range(1, r + 1):
            left = keep(left + p[x][:, j])
        right = p[-1][:, j] if r < parts - 1 else None
        for x in range(parts - 2, r, -1):
            right = keep(right + p[x][:, j])
        expected[:, j] = left if right is None else keep(left + right)
    with host.force_simd(data.draw(st.sampled_from(WIDTHS))):
        got = chains.chain_product(Q, Kt.T, root, parts, accumulate=accumulate)
    same_bits(got, expected.astype(dtype))


@pytest.mark.parametrize(
    "dtype, accumulate", [("float32", None), ("float16", None), ("float16", "float16"), (BFLOAT, None)])
@pytest.mark.parametrize("parts", [1, 3, 40])
@pytest.mark.parametrize("width", WIDTHS)
def test_gemv_partials(dtype, accumulate, parts, width):
    rng = np.random.default_rng(6)
    x, W = matrices(rng, 1, 31, 150, dtype)
    kb = -(-31 // parts)
    with host.force_simd(width):
        got = gemv.gemv_sums(x[0], pack.columns(W), parts, accumulate=accumulate)
    spans = [range(min(y * kb, 31), min(y * kb + kb, 31)) for y in range(parts)]
    same_bits(np.ascontiguousarray(got), np.concatenate([chain(x, W, ks, accumulate) for ks in spans]))


def test_sums_of_partials_in_a_given_order():
    rng = np.random.default_rng(7)
    x, W = matrices(rng, 1, 31, 3000, "float32")
    dst, src = [3, 1, 3, 2], [4, 0, 1, 3]
    expected = np.concatenate([chain(x, W, range(7 * y, min(7 * y + 7, 31)), None) for y in range(5)])
    partials = expected.copy()
    for d, s in zip(dst, src):
        expected[d] += expected[s]
    same_bits(reduce.combine_in_order(partials, dst, src), expected)
    same_bits(gemv.gemv_sums(x[0], pack.columns(W), 5, dst, src, [2, 4]), expected[[2, 4]])


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
@pytest.mark.parametrize("panels", [0, 1, 9, 48, 448])
def test_runs_are_all_panels_once_and_the_last_are_short(panels, threads):
    W, none = pack.columns(np.ones((1, 64 * panels), np.float32)), np.zeros(0, np.int64)
    runs = gemv.Stated(W, 1, none, none, np.array([0]), False).runs(threads)
    lengths = np.diff(runs)
    assert runs[0] == 0 and runs[-1] == panels and (lengths > 0).all()
    if panels:  # a run is at most the share of one thread of what is left
        assert lengths[-1] == 1 and lengths.max() <= 16
        assert (lengths <= np.maximum((panels - runs[:-1]) / threads, 1)).all()


@pytest.mark.parametrize("N", [64 * 9, 64 * 48 - 5])
def test_runs_of_panels_in_either_direction_and_for_any_threads_give_the_same_bits(N, monkeypatch):
    random, taken = np.random.default_rng(N), []
    W, x = random.standard_normal((40, N), np.float32), random.standard_normal(40, np.float32)
    work = gemv._work
    monkeypatch.setattr(gemv, "_work", lambda runs, *rest: taken.append((runs, rest[-1])) or work(runs, *rest))
    monkeypatch.setattr(gemv.pool, "threads_for", lambda numbers, threads: threads or 1)
    stored = pack.columns(W)
    first = gemv.gemv_sums(x, stored, 5, threads=1)
    for threads in (1, 1, 2, 2, 3, 3, 4, 4):
        same_bits(gemv.gemv_sums(x, stored, 5, threads=threads), first)
    assert {back for _, back in taken} == {False, True}
    for runs, back in taken:  # taken from the last to the first if back
        lengths = np.diff(runs)[::-1] if back else np.diff(runs)
        assert runs[0] == 0 and runs[-1] == -(-N // 64) and (np.diff(lengths) <= 0).all() and lengths[-1] == 1
    expected = np.stack([x[8 * y : 8 * y + 8].astype(float) @ W[8 * y : 8 * y + 8] for y in range(5)])
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mt, nt, kb", [(1, 7, 5), (24, 64, 9), (16, 16, 16), (13, 35, 4), (3, 1, 1), (24, 64, 0)])
@pytest.mark.parametrize("dtype, accumulate", [("float32", None), ("float16", "float16"), (BFLOAT, None)])
@pytest.mark.parametrize("transposed", [False, True])
def test_tile_products_continue_their_chains(mt, nt, kb, dtype, accumulate, transposed):
    rng = np.random.default_rng(8)
    At = rng.standard_normal((3, mt, kb)).astype(dtype)
    Bt = rng.standard_normal((4, kb, nt)).astype(dtype)
    ha, hb = rng.integers(0, 3, 6), rng.integers(0, 4, 6)
    start = half(rng.standard_normal((6, mt, nt)).astype(np.float32))
    expected = np.stack([chain(At[a], Bt[b], range(kb), accumulate, c) for a, b, c in zip(ha, hb, start)])
    right = np.ascontiguousarray(Bt.swapaxes(1, 2)) if transposed else Bt
    for width in WIDTHS:
        C = start.copy()
        with host.force_simd(width):
            tiles.tile_products(At, right, ha, hb, C, transposed=transposed, accumulate=accumulate)
        same_bits(C, expected)


def test_products_from_several_threads_do_not_share_buffers():
    rng = np.random.default_rng(9)
    A, B = matrices(rng, 200, 200, 200, np.float32)
    order = random_order(rng, 200, 200, 200, 5, 5, 10)
    inputs = [A * s for s in range(1, 9)]
    expected = [ring.ring_product(a, B, order) for a in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, right in zip(pool.map(lambda a: ring.ring_product(a, B, order), inputs * 4), expected * 4):
            same_bits(got, right)


def test_unknown_width():
    with pytest.raises(MeshError, match=r"'sse9'.*avx512, avx2, portable"), host.force_simd("sse9"):
        pass


def test_unknown_width_in_the_environment():
    """One line of a command; nothing happens at import."""
    environment = os.environ | {"MESHKERNELS_SIMD": "bogus"}
    subprocess.run([sys.executable, "-c", "import meshkernels"], env=environment, check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-m", "meshkernels", "demo", "--grid", "2"], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "meshkernels: MESHKERNELS_SIMD is 'bogus'; known: avx512, avx2, portable\n"


def test_a_width_is_forced_for_one_thread_alone():
    """One thread changes its width all the time; products of the others, and their helpers, do not notice."""
    rng, stop = np.random.default_rng(10), threading.Event()
    A, B = matrices(rng, 150, 120, 130, np.float32)
    order, placed = random_order(rng, 150, 120, 130, 5, 5, 10), Placed(B, Mesh(5))
    expected = ring.ring_product(A, B, order)

    def change():
        while not stop.is_set():
            for name in WIDTHS:
                with host.force_simd(name):
                    assert host.simd() == name

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            for _ in range(300):
                same_bits(ring.ring_product(A, B, order, threads=2), expected)
                same_bits(ring.ring_product(A, placed.on_ring(order), order), expected)
        finally:
            stop.set()
        changing.result()
    assert len(placed._arranged) == 1


def test_panels_of_another_width_are_refused():
    rng = np.random.default_rng(11)
    A, B = matrices(rng, 20, 30, 40, np.float32)
    order = random_order(rng, 20, 30, 40, 2, 2, 2)
    right = ring.pack_right(B, order)
    other = "portable" if host.simd() != "portable" else "avx2"
    with host.force_simd(other), pytest.raises(MeshError, match=r"packed \d+ lanes wide, for another width"):
        ring.ring_product(A, right, order)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", BFLOAT])
def test_stored_columns_hold_for_every_width_and_product(dtype):
    rng = np.random.default_rng(12)
    A, B = matrices(rng, 20, 30, 150, dtype)
    order = random_order(rng, 20, 30, 150, 2, 2, 2)
    stored, product, vector = pack.columns(B), ring.ring_product(A, B, order), gemv.gemv_sums(A[0], pack.columns(B), 3)
    for width in WIDTHS:
        with host.force_simd(width):
            same_bits(ring.ring_product(A, stored, order), product)
            same_bits(gemv.gemv_sums(A[0], stored, 3), vector)
    which = rng.integers(0, 150, 7)
    same_bits(stored.take(which), np.ascontiguousarray(B[:, which].T).astype(wide(B.dtype)))


def test_width_from_the_environment():
    script = (
        "from meshkernels.kernels import host; print(host.simd())\n"
        "with host.force_simd('avx2'): print(host.simd())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], env=os.environ | {"MESHKERNELS_SIMD": "portable"},
                           check=True, capture_output=True, text=True).stdout  # fmt: skip
    assert found.split() == ["portable", "avx2"]


@pytest.mark.parametrize("total, unit, most, parts", [(0, 4, 8, 1), (7, 1, 3, 2), (100, 12, 24, 3), (5, 8, 8, 4)])
def test_spans_cover_everything_once(total, unit, most, parts):
    covered = [i for span in pool.spans(total, unit, most, parts) for i in range(total)[span]]
    assert covered == list(range(total))
    assert all(span.start % unit == 0 for span in pool.spans(total, unit, most, parts))


def spills(tile):
    """Vector instructions on the stack in the register tile of the ring product, compiled for this CPU."""

    @numba.njit
    def product(tile, a, b, c, depth):
        nr = len(tile.vectors) * len(tile.lanes)
        ahead = Ahead(a.ctypes.data, 8)
        micro_kernel(tile, Left(a, 0, 1, len(tile.rows)), Right(b, 0, nr), Sums(c, 0, nr), depth, ahead)

    product.compile((numba.typeof(tile), *[numba.float32[::1]] * 3, numba.int64))
    (assembly,) = product.inspect_asm().values()
    body = re.search(r"^_chain_\d+x\d+x\d+_.*?^\.Lfunc_end", assembly, re.M | re.S)[0]
    assert "vfmadd" in body
    return re.findall(r".*[xyz]mm\d+.*\(%r[sb]p\).*|.*\(%r[sb]p\).*[xyz]mm\d+.*", body)


@pytest.mark.parametrize("name", ["avx512", "avx2"])
def test_accumulators_stay_in_registers(name):
    if host.host_simd() == "portable" or WIDTHS.index(name) < WIDTHS.index(host.host_simd()):
        pytest.skip(f"this CPU has no {name}")
    with host.force_simd(name):
        assert not spills(host.micro_tile(np.dtype(np.float32)))
        assert spills(host.micro_tile(np.dtype(np.float32), rows=16))  # 32 vectors: more than there is room for


@pytest.mark.parametrize("runs", [16, 32, 40])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT, np.float32, np.float64])
@pytest.mark.parametrize("width", WIDTHS)
def test_panels_written_past_the_caches(width, dtype, runs, monkeypatch):
    """Every number where `Panels` says, for lanes in runs, also as if the last cache held nothing."""
    monkeypatch.setattr(host, "caches", lambda: (32 << 10, 512 << 10, 1))
    lanes, K, kc = 2 * runs + 24, 21, 8
    X = np.arange(lanes * K).reshape(K, lanes).astype(dtype).T
    with host.force_simd(width):
        tile = host.micro_tile(pack.wide(np.dtype(dtype)))
        across = len(tile.vectors) * len(tile.lanes)
        start = -(np.arange(lanes) // runs)  # the last run comes first
        where = pack.layout(start, [2, 0, 1], 7, K, across)
        panels = pack.pack(X, where, kc)
    expected = np.empty(len(panels.data), panels.data.dtype)
    for place in range(K):
        chunk = place // kc * kc
        depth = min(kc, K - chunk)
        for lane, source in enumerate(where.source):
            p, l = divmod(lane, across)
            at = chunk * len(where.source) + (p * depth + place - chunk) * across + l
            expected[at] = X[source, (place // 7 + 2) % 3 * 7 + place % 7]
    same_bits(panels.data, expected)
