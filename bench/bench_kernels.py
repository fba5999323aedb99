"""The targets of the executor, as ratios to a peer in the same run (``ratio`` in each benchmark's extra info).

``python -m bench`` runs these and prints the tables. ``BENCH_QUICK=1`` leaves out what takes minutes.
"""

from __future__ import annotations

import os
import resource
import statistics
import time

import ml_dtypes
import numpy as np
import pytest

import meshkernels as mk
from bench import peers
from bench.measure import counted, paired, pinned, quick, stream_read
from meshkernels.fabric import machine, play

both = pytest.mark.parametrize("threads", [1, 2])
large = pytest.mark.large


def random(*shape, dtype="float32"):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32).astype(dtype)


def report(benchmark, what, target, ours, peer, threads, counts, peer_name="np.matmul", **options):
    """Measure in turn, keep the figures and the counts of ours, and let pytest-benchmark time ours once more."""
    found = paired(ours, peer, threads, **options)
    benchmark.extra_info.update(found, what=what, target=target, peer=peer_name, **counts)
    with pinned(threads):
        benchmark.pedantic(ours, rounds=3 if found["ours_ms"] < 1e3 and not quick() else 1)


def gemm_ratio(benchmark, sizes, side, target, threads, *, dtype="float32", placed=False, peer=None, **options):
    M, K, N = sizes
    mesh, A, B = mk.Mesh(side), random(M, K, dtype=dtype), random(K, N, dtype=dtype)
    wide = np.float64 if dtype == "float64" else np.float32
    a, b = A.astype(wide), B.astype(wide)
    right = mk.place(B, mesh) if placed else B
    what = f"{M}x{K}x{N} on {side}x{side}, tile {M // side}x{N // side}" + (", B placed" if placed else "")
    name = "np.matmul" if a.dtype == A.dtype else "np.matmul of float32"
    rounds = {"budget": 0.0, "least": 3} if M > 8000 else {}
    counts = counted(mk.schedule(options.get("algorithm", "meshgemm"), mesh, M, K, N), dtype)
    report(benchmark, what, target, lambda: mk.gemm(A, right, mesh, **options), lambda: a @ b, threads, counts, name,
           **rounds)


@both
@pytest.mark.parametrize("tile", [16, 32, 64, 128])
@pytest.mark.benchmark(group="MeshGEMM, float32")
def test_square(benchmark, tile, threads):
    gemm_ratio(benchmark, (2048,) * 3, 2048 // tile, 1.00, threads)


@both
@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.benchmark(group="MeshGEMM, float32")
def test_placed(benchmark, tile, threads):
    gemm_ratio(benchmark, (2048,) * 3, 2048 // tile, 1.05, threads, placed=True)


@large
@both
@pytest.mark.parametrize("tile, target", [(8, 0.90), (16, 1.00), (64, 1.00)])
@pytest.mark.benchmark(group="MeshGEMM, float32")
def test_larger(benchmark, tile, target, threads):
    gemm_ratio(benchmark, (4096,) * 3, 4096 // tile, target, threads)


@large
@both
@pytest.mark.benchmark(group="MeshGEMM, float32")
def test_half_a_million_cores(benchmark, threads):
    gemm_ratio(benchmark, (8640,) * 3, 720, 0.97, threads)


@both
@pytest.mark.parametrize("sizes, side", [((2048, 1024, 4096), 64), ((4096, 2048, 1024), 64), ((512, 4096, 2048), 128)])
@pytest.mark.benchmark(group="MeshGEMM, float32")
def test_rectangular(benchmark, sizes, side, threads):
    gemm_ratio(benchmark, sizes, side, 0.95, threads)


@pytest.mark.parametrize("n, tile", [(512, 16), (1024, 8)])
@pytest.mark.benchmark(group="MeshGEMM, float32")
def test_small(benchmark, n, tile):
    gemm_ratio(benchmark, (n,) * 3, n // tile, 0.85, 1)


@both
@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.benchmark(group="MeshGEMM, float64")
def test_float64(benchmark, tile, threads):
    gemm_ratio(benchmark, (2048,) * 3, 2048 // tile, 0.97, threads, dtype="float64")


@both
@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.benchmark(group="MeshGEMM, 16-bit storage")
def test_sixteen_bits(benchmark, dtype, threads):
    gemm_ratio(benchmark, (2048,) * 3, 64, 1.00, threads, dtype=dtype)
    benchmark.extra_info["what"] += f", {np.dtype(dtype).name}"


@pytest.mark.parametrize("peer, target", [(peers.half_loop, 20), (peers.half_loop_by_rows, None)])
@pytest.mark.benchmark(group="MeshGEMM, 16-bit storage")
def test_wafer_numerics(benchmark, peer, target):
    n, mesh = 256, mk.Mesh(16)
    A, B = random(n, n, dtype="float16"), random(n, n, dtype="float16")
    a, b, c = A.astype(np.float32), B.astype(np.float32), np.zeros((n, n), np.float32)
    peer(a, b, c)
    np.testing.assert_array_equal(mk.gemm(A, B, mesh, algorithm="summa", accumulate="float16"), c.astype(A.dtype))
    report(benchmark, f"{n}^3 on 16x16, rounded after every multiply-add", target,
           lambda: mk.gemm(A, B, mesh, accumulate="float16"), lambda: peer(a, b, c), 1,
           counted(mk.schedule("meshgemm", mesh, n, n, n), "float16"), f"plain Numba, {peer.__name__}")


@both
@pytest.mark.parametrize("tile", [32, 64])
@pytest.mark.parametrize("algorithm", ["cannon", "summa", "allgather"])
@pytest.mark.benchmark(group="Other algorithms, float32")
def test_algorithms(benchmark, algorithm, tile, threads):
    gemm_ratio(benchmark, (2048,) * 3, 2048 // tile, 0.95, threads, algorithm=algorithm)
    benchmark.extra_info["what"] += f", {algorithm}"


@both
@pytest.mark.parametrize("tile", [32, 64, 128])
@pytest.mark.benchmark(group="Other algorithms, float32")
def test_gemm_t(benchmark, tile, threads):
    n, mesh = 2048, mk.Mesh(2048 // tile)
    A, B = random(n, n), random(n, n) * 2
    report(benchmark, f"{n}^3 on {n // tile}x{n // tile}, tile {tile}x{tile}, dist-GEMM-T", 0.95,
           lambda: mk.gemm_t(A, B, mesh), lambda: A @ B.T, threads, counted(mk.schedule("gemm_t", mesh, n, n, n)))


@large
@both
@pytest.mark.parametrize("n, side, dtype, peer, target", [
    (4096, 8, "float32", "x @ W", 1.0), (4096, 128, "float32", "x @ W", 1.0),
    (16384, 8, "float32", "x @ W", 1.1), (16384, 128, "float32", "x @ W", 1.1),
    (16384, 8, "float32", "stream read", 0.97), (16384, 128, "float32", "stream read", 0.97),
    (16384, 64, "float16", "x @ W of float32", 2.2),
])  # fmt: skip
@pytest.mark.benchmark(group="MeshGEMV, W placed once, K-tree included")
def test_gemv(benchmark, n, side, dtype, peer, target, threads):
    mesh, x, W = mk.Mesh(side), random(n), random(n, n)
    stored = W.astype(dtype)
    placed, vector = mk.place(stored, mesh), x.astype(dtype)
    theirs = stream_read(stored, threads) if peer == "stream read" else lambda: x @ W
    report(benchmark, f"{n}x{n} {dtype} on {side}x{side}", target, lambda: mk.gemv(vector, placed, mesh), theirs,
           threads, counted(mk.schedule("ktree", mesh, n, n), dtype), peer)


@both
@pytest.mark.parametrize("tile", [pytest.param(16, marks=large), 32, 64, 128])
@pytest.mark.benchmark(group="Stepping through the mesh, float32")
def test_lockstep(benchmark, tile, threads):
    gemm_ratio(benchmark, (2048,) * 3, 2048 // tile, 0.5 if tile >= 32 else None, threads, method="lockstep")


@large
@pytest.mark.parametrize("tile", [32, 64])
@pytest.mark.benchmark(group="Stepping through the mesh, float32")
def test_lockstep_moving_tiles(benchmark, tile):
    """Tiles move as numbers: every step reads and writes both operands, 4 n^2 words of traffic per step."""
    from meshkernels.readers import lockstep

    n, side = 1024, 1024 // tile
    A, B, mesh = random(n, n), random(n, n), mk.Mesh(side)
    plan = mk.schedule("meshgemm", mesh, n, n, n)
    operands = {"A": A, "B": B}
    report(benchmark, f"{n}^3 on {side}x{side}, tile {tile}, tiles copied from core to core", None,
           lambda: lockstep.run(plan, operands, np.dtype(np.float32), copy_tiles=True), lambda: A @ B, 1,
           counted(plan))
    benchmark.extra_info["traffic_gb"] = 4 * n * n * 4 * side / 1e9


@large
@pytest.mark.parametrize("tile", [16, 32, 64])
@pytest.mark.parametrize("peer", [peers.batched_cannon, peers.roll_cannon])
@pytest.mark.benchmark(group="What people write today, float32")
def test_peers(benchmark, peer, tile):
    A, B, side = random(1024, 1024), random(1024, 1024), 1024 // tile
    np.testing.assert_allclose(peer(A, B, side), A @ B, rtol=0, atol=1e-3)
    report(benchmark, f"1024^3 on {side}x{side}, tile {tile}, {peer.__name__}", None,
           lambda: peer(A, B, side), lambda: A @ B, 1, counted(mk.schedule("cannon", mk.Mesh(side), *(1024,) * 3)),
           least=3)


@pytest.mark.parametrize("state, target", [("cold", 10.0), pytest.param("warm", 0.5, marks=large)])
@pytest.mark.benchmark(group="First call")
def test_first_call(benchmark, state, target, tmp_path):
    """Seconds of the first mk.gemm in a new process beyond the second: with an empty cache, and with a full one."""
    import subprocess
    import sys

    script = (
        "import time, numpy as np, meshkernels as mk; A = np.ones((64, 64), np.float32); m = mk.Mesh(4)\n"
        "t = time.perf_counter(); mk.gemm(A, A, m); u = time.perf_counter(); mk.gemm(A, A, m)\n"
        "print(u - t - (time.perf_counter() - u))"
    )
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    run = lambda: float(subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True,  # noqa: E731
                                       text=True).stdout)
    found = []
    if state == "warm":
        run()
    benchmark.pedantic(lambda: found.append(run()), rounds=1 if state == "cold" else 5)
    benchmark.extra_info.update(what=f"first call, {state} cache", target=target, seconds=statistics.median(found),
                                threads=1)


@large
@pytest.mark.benchmark(group="Memory")
def test_memory(benchmark):
    """Greatest extra resident memory of mk.gemm at n = 4096 beyond inputs and output, over the bytes of the inputs."""
    import subprocess
    import sys

    script = (
        "import re, numpy as np, meshkernels as mk; m = mk.Mesh(64)\n"
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "A = np.ones((64, 64), np.float32); mk.gemm(A, A, m); n = 4096\n"
        "A, B = np.ones((n, n), np.float32), np.ones((n, n), np.float32); before = peak()\n"
        "C = mk.gemm(A, B, m); print((peak() - before - C.nbytes) / (A.nbytes + B.nbytes))"
    )  # not ru_maxrss: a child inherits that of the process that starts it
    run = lambda: subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)  # noqa: E731
    found = float(benchmark.pedantic(run, rounds=1).stdout)
    benchmark.extra_info.update(what="4096^3 on 64x64: extra memory / inputs", target=1.25, seconds=found, threads=2)


@pytest.mark.parametrize("name, side, tile, options, target", [
    ("ktree", 720, 8, {"groups": 24}, 1.0), ("summa", 64, 8, {}, None), ("allgather", 64, 8, {}, None),
    pytest.param("meshgemm", 720, 8, {}, 10.0, marks=large),
])  # fmt: skip
@pytest.mark.benchmark(group="Fabric, one core: seconds of the processor")
def test_simulate(benchmark, name, side, tile, options, target):
    """What a simulation takes, the schedule given; its messages and its events, heads at routers, a second."""
    size = side * tile
    shape = (size, size) if name == "ktree" else (size,) * 3
    schedule, costs = mk.schedule(name, mk.Mesh(side), *shape, **options), machine("wse3")
    play(mk.schedule(name, mk.Mesh(4), *(4 for _ in shape)), costs, progress=False)  # compiles
    run = play(schedule, costs, progress=False)
    begin = time.process_time()
    benchmark.pedantic(lambda: play(schedule, costs, progress=False), rounds=1)
    took = time.process_time() - begin
    rates = {"messages_per_s": run.messages / took, "events_per_s": float(run.link_messages.sum()) / took}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    what = (f"{name} on {side}x{side}, {run.messages / 1e6:.1f} M messages: {rates['messages_per_s'] / 1e6:.1f} M "
            f"messages and {rates['events_per_s'] / 1e6:.1f} M events a second, {memory:.1f} GB")  # fmt: skip
    benchmark.extra_info.update(rates, what=what, seconds=took, target=target)
