"""Run on ranks: our product and the textbooks' in turn, one JSON object a line from rank 0.

``mpiexec -n RANKS python -m bench.on_ranks N ROUNDS [scalapack]``; each rank has the threads that NUMBA_NUM_THREADS
says. With ``scalapack`` that is the only peer, and the MPI must be its own: see `bench.scalapack`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mpi4py import MPI
from numba import config
from threadpoolctl import threadpool_limits

import meshkernels as mk
import perfmodel as pm
from bench.measure import rest
from bench.mpi_peers import Summa, cannon
from bench.scalapack import Psgemm
from perfmodel import pingpong

COMM = MPI.COMM_WORLD
#: Our cores a side.
SIDE = 16


def alone(call: Callable[[], object]) -> Callable[[], object]:
    """A call by rank 0 on as many threads as there are ranks, while the others sleep."""

    def on_rank_0() -> None:
        if COMM.rank:
            while not COMM.Iprobe(0):
                time.sleep(1e-3)
            COMM.recv(source=0)
            return
        before = config.NUMBA_NUM_THREADS
        config.NUMBA_NUM_THREADS = COMM.size
        call()
        config.NUMBA_NUM_THREADS = before
        for rank in range(1, COMM.size):
            COMM.send(None, rank)

    return on_rank_0


def clocked(call: Callable[[], object]) -> float:
    """Seconds until the last rank has ended, of the second of two calls: the first wakes ranks and threads."""
    rest()
    call()
    COMM.Barrier()
    begin = time.perf_counter()
    call()
    COMM.Barrier()
    return COMM.bcast(time.perf_counter() - begin)


def peers(A: np.ndarray, B: np.ndarray, name: str) -> dict[str, Callable[[], object]]:
    """What ours is held against, each checked against NumPy."""
    grid = COMM.Create_cart(MPI.Compute_dims(COMM.size, 2), periods=[True, True])
    own = tuple(slice(i * len(A) // parts, (i + 1) * len(A) // parts) for i, parts in zip(grid.coords, grid.dims))
    a, b = np.ascontiguousarray(A[own]), np.ascontiguousarray(B[own])
    if name == "scalapack":
        product = Psgemm(A, B, tuple(grid.dims), COMM.rank)
        assert np.allclose(product(), A[product.rows] @ B[:, product.cols], rtol=1e-3, atol=1e-2)
        return {"ScaLAPACK psgemm": product}
    summa, one = Summa(grid), mk.Mesh(SIDE)
    found: dict[str, Callable[[], object]] = {"mpi4py SUMMA, Bcast and np.matmul": lambda: summa(a, b)}
    if grid.dims[0] == grid.dims[1]:
        found["mpi4py Cannon, Cart_shift and np.matmul"] = lambda: cannon(a, b, grid)
    for call in found.values():
        assert np.allclose(call(), A[own[0]] @ B[:, own[1]], rtol=1e-3, atol=1e-2)
    return found | {"one process, as many threads, fused": alone(lambda: mk.gemm(A, B, one))}


def predicted(ledger: mk.Ledger, milliseconds: float) -> dict[str, float]:
    """What a ping-pong on these ranks, just measured, says of the run: milliseconds and the signed relative error."""
    found, chip = pingpong.measure(), None
    with tempfile.TemporaryDirectory() as folder:
        if found is not None:
            pingpong.write(Path(folder) / "here.toml", pingpong.fitted(found))
            chip = pm.device(Path(folder) / "here.toml")
    if chip is None:
        return {}
    expected = 1e3 * pm.on_ranks(ledger.per_rank(COMM.size), chip).seconds
    return {"predicted_ms": expected, "predicted_error": expected / milliseconds - 1}


def main(n: int, rounds: int, name: str) -> None:
    rng = np.random.default_rng(n)
    A, B = (rng.standard_normal((n, n), np.float32) for _ in range(2))
    mesh = mk.Mesh(SIDE, comm=COMM)
    dA, dB = (mk.scatter(X if COMM.rank == 0 else None, mesh) for X in (A, B))
    ours = {method: lambda method=method: mk.gemm(dA, dB, mesh, method=method) for method in ("fused", "lockstep")}
    threads = 1
    with threadpool_limits(threads):
        others = peers(A, B, name)
        calls = ours | others
        times: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            clocked(call)
        for _ in range(rounds):
            for each, call in calls.items():
                times[each].append(clocked(call))
        sent = mesh.distribution.ranks.sent["schedule"].copy()
        _, ledger = mk.gemm(dA, dB, mesh, ledger=True)
        assert (mesh.distribution.ranks.sent["schedule"] - sent == ledger.between(COMM.size)[COMM.rank]).all()
        more = predicted(ledger, 1e3 * statistics.median(times["fused"])) if COMM.size > 1 else {}
    if COMM.rank:
        return
    for method in ours:
        for peer in others:
            low, ratio, high = statistics.quantiles([p / o for o, p in zip(times[method], times[peer])], n=4)
            print(json.dumps({
                "what": f"{n}^3 on {SIDE}x{SIDE} cores, {COMM.size} ranks, {method}", "threads": threads,
                "ours_ms": 1e3 * statistics.median(times[method]), "peer_ms": 1e3 * statistics.median(times[peer]),
                "ratio": ratio, "ratio_low": low, "ratio_high": high, "rounds": rounds, "peer": peer,
                "target": None if method == "lockstep" else 0.9 if peer.startswith("one process") else 1.0,
                **(more if method == "fused" else {}),
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:] or ["mpi4py"])[0])
