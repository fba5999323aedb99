"""Paired measurements: ours and the peer in turn, the same threads on both sides, the median of their ratios."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numba
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

import meshkernels as mk
from meshkernels.kernels import host, memory, pool
from meshkernels.kernels.ukernel import Left, Right, Sums, chain

Call = Callable[[], object]


def quick() -> bool:
    """Whether this is a quick run."""
    return os.environ.get("BENCH_QUICK", "0") != "0"


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """BLAS and the kernels on the same number of threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        numba.set_num_threads(before)


def seconds(call: Call) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def counted(schedule: mk.Schedule, dtype: str | type = "float32") -> dict[str, int]:
    """What the ledger counts of a product, for ``extra_info``: `python -m perfmodel fit` finds this machine's cost of
    each.

    Returns:
        flops, bytes between cores, local products of all cores, steps, hops on the critical path.
    """
    ledger = mk.count(schedule, np.dtype(dtype))
    products = schedule.mesh.cores * sum(map(len, ledger.to_dict()["step_products"]))
    return {"flops": 2 * int(ledger.macs.sum()), "bytes": int(ledger.bytes), "products": products,
            "steps": int(ledger.steps), "hops": int(ledger.critical_hops)}  # fmt: skip


def rest() -> None:
    """Wait until no thread of this process runs: those of OpenBLAS spin for 0.1 s after a product, on the cores that
    the next contender needs."""
    while True:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.002:
            return


def warm_seconds(call: Call) -> float:
    """Mean of two calls after one untimed (of a long one: its first), which wakes threads; the other side's sleep."""
    rest()
    first = seconds(call)
    return first if first > 1 else seconds(lambda: (call(), call())) / 2


def paired(ours: Call, peer: Call, threads: int = 1, budget: float = 2.0, least: int = 5) -> dict[str, float]:
    """Measure in turn until ``budget`` seconds were measured in ``least`` rounds; with threads, in warm blocks.

    A quick run (``BENCH_QUICK``) takes half a second and three rounds, two where a round takes over two seconds.

    Returns:
        Median times in ms, and the quartiles of peer / ours round by round: 1.1 is 10 % faster than the peer.
    """
    times: list[tuple[float, float]] = []
    clock, most = (seconds, 300) if threads == 1 else (warm_seconds, 40)
    with pinned(threads):
        long = seconds(ours) + seconds(peer) > 2
        if not long:
            ours(), peer()
        if quick():
            budget, least = min(budget, 0.5), min(least, 2 if long else 3)
        while len(times) < least or (sum(map(sum, times)) < budget and len(times) < most):
            times.append((clock(ours), clock(peer)))
    mine, theirs = zip(*times)
    low, ratio, high = statistics.quantiles([p / o for o, p in times], n=4)
    return {"threads": threads, "ours_ms": 1e3 * statistics.median(mine), "peer_ms": 1e3 * statistics.median(theirs),
            "ratio": ratio, "ratio_low": low, "ratio_high": high, "rounds": len(times)}  # fmt: skip


@numba.njit
def _in_cache(tile, a, b, c, depth, times):
    columns = len(tile.vectors) * len(tile.lanes)
    for _ in range(times):
        chain(tile, Left(a, 0, 1, len(tile.rows)), Right(b, 0, columns), Sums(c, 0, columns), depth, None)


def fma_peak(dtype: str = "float32") -> float:
    """GFLOP/s of one core: the register tile of the GEMM on operands that stay in L1 (best of 20)."""
    tile = host.micro_tile(np.dtype(dtype))
    rows, columns, depth, times = len(tile.rows), len(tile.vectors) * len(tile.lanes), 128, 500
    a, b, c = (memory.aligned(n, dtype) for n in (rows * depth, columns * depth, rows * columns))
    for x in (a, b, c):
        x[:] = 0
    best = min(seconds(lambda: _in_cache(tile, a, b, c, depth, times)) for _ in range(20))
    return 2e-9 * rows * columns * depth * times / best


@numba.njit(nogil=True, fastmath=True)
def _sum(x):
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i]
    return total


def stream_read(x: np.ndarray, threads: int) -> Call:
    """A call that reads every byte of ``x`` once with so many threads and does nothing else: the bandwidth to beat."""
    words = x.reshape(-1).view(np.float32)
    step = -(-len(words) // (16 * threads))
    _sum(words[:16])

    def work(items):
        for item in items:
            _sum(words[item * step : (item + 1) * step])

    return lambda: pool.parallel(work, 16 * threads, threads)


def machine() -> dict[str, object]:
    """What the figures depend on: CPU, caches, width in use, versions."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        name = f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"
    except (OSError, KeyError):
        pass
    l1, l2, l3 = host.caches()
    libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
    blas = max(libraries, key=lambda info: "numpy" in info["filepath"], default={})  # SciPy has one of its own
    packages = {package: version(package) for package in ("numpy", "numba", "llvmlite")}
    return {
        "cpu": name, "cores": os.cpu_count(), "simd": host.simd(),
        "l1_kib": l1 >> 10, "l2_kib": l2 >> 10, "l3_kib": l3 >> 10,
        "blas": f"{blas.get('internal_api')} {blas.get('version')} ({blas.get('architecture')})",
        "python": platform.python_version(), **packages,
    }  # fmt: skip
