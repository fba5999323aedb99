"""Measure the connection of MPI ranks, and fit a cluster to it: ``mpiexec -n 2 python -m perfmodel ping-pong``.

Ranks 0 and 1, 2 and 3, ... work in pairs, all at once, as in a product. Of each pair

    one way      seconds of a message of n bytes there and back, halved, for n = 0 to 4 MiB
    stream       seconds of one more empty message in a row of them
    rate         multiply-adds per second of ``np.matmul``, float32, on every rank
    copy         bytes per second of a copy in a rank's memory

and the median over pairs counts. Alpha and the bandwidth are least squares of relative errors of ``alpha + n /
bandwidth``; beta, the rate and the copy are measured as they are.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel import files
from perfmodel.device import RULES, device
from perfmodel.errors import ModelError

INSTALL = "pip install 'meshkernels[mpi]'"
SIZES = (0, 64, 1 << 10, 8 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20)
#: Empty messages in a row; side of the matrices; rounds of which the fastest counts.
STREAM, SIDE, ROUNDS = 200, 768, 7


def measure() -> dict[str, Any] | None:
    """Measure between the ranks that mpiexec started; collective.

    Returns:
        On rank 0 ``ranks``, ``one_way`` (seconds by bytes), ``stream`` (seconds), ``rate`` (multiply-adds/s), ``copy``
        (bytes/s); None on the others.

    Raises:
        ModelError: no mpi4py, or fewer than two ranks.
    """
    try:
        from mpi4py import MPI
    except ImportError as missing:
        raise ModelError(f"ping-pong needs mpi4py, which cannot be imported ({missing}): {INSTALL}") from None
    comm = MPI.COMM_WORLD
    if comm.size < 2:
        raise ModelError("ping-pong needs two ranks or more: mpiexec -n 2 python -m perfmodel ping-pong")
    paired, other, leads = comm.rank ^ 1 < comm.size, comm.rank ^ 1, comm.rank % 2 == 0
    empty = np.empty(0, np.uint8)

    def fastest(call: Callable[[], object]) -> float:
        times = []
        for _ in range(ROUNDS):
            comm.Barrier()
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        return min(times)

    def there_and_back(message: np.ndarray, turns: int) -> None:
        for _ in range(turns if paired else 0):
            if leads:
                comm.Send(message, other)
                comm.Recv(message, other)
            else:
                comm.Recv(message, other)
                comm.Send(message, other)

    def stream() -> None:
        if paired:
            pending = [comm.Isend(empty, other) if leads else comm.Irecv(empty, other) for _ in range(STREAM)]
            MPI.Request.Waitall(pending)

    one_way = {}
    for nbytes in SIZES:
        message, turns = np.ones(nbytes, np.uint8), 20 if nbytes > 1 << 18 else 200
        one_way[nbytes] = fastest(partial(there_and_back, message, turns)) / turns / 2
    streamed = fastest(stream) / STREAM
    A, B = np.ones((2, SIDE, SIDE), np.float32)
    rate = SIDE**3 / fastest(lambda: A @ B)
    here, there = np.ones((2, 1 << 23), np.uint8)
    copy = here.nbytes / fastest(lambda: np.copyto(there, here))
    every = comm.gather((paired and leads, one_way, streamed, rate, copy))
    if every is None:
        return None
    pairs = [found for found in every if found[0]]
    return {"ranks": comm.size, "one_way": {n: statistics.median(found[1][n] for found in pairs) for n in SIZES},
            "stream": statistics.median(found[2] for found in pairs), "rate": min(found[3] for found in every),
            "copy": min(found[4] for found in every)}  # fmt: skip


def fitted(found: dict[str, Any]) -> dict[str, Any]:
    """Alpha and bandwidth from times by size.

    Args:
        found: as `measure` returns it.

    Returns:
        ``alpha`` (seconds), ``bandwidth`` (bytes/s), ``beta`` (seconds), ``rate``, ``copy``, ``ranks``, and ``rows``:
        for every size ``bytes``, ``seconds``, ``predicted`` and the signed relative ``error``.

    Raises:
        ModelError: times that do not grow with the size, to which no bandwidth can be fitted.

    Examples:
        >>> ideal = {n: 1e-6 + n / 1e10 for n in SIZES}
        >>> fit = fitted({"ranks": 2, "one_way": ideal, "stream": 1e-7, "rate": 1e10, "copy": 1e10})
        >>> round(fit["alpha"] * 1e6, 6), round(fit["bandwidth"] / 1e10, 6)
        (1.0, 1.0)
    """
    sizes = np.array(list(found["one_way"]), float)
    seconds = np.array(list(found["one_way"].values()))
    weighted = np.stack([np.ones(len(sizes)), sizes], axis=1) / seconds[:, None]
    alpha, per_byte = np.linalg.lstsq(weighted, np.ones(len(sizes)), rcond=None)[0]
    if alpha <= 0 or per_byte <= 0:
        raise ModelError(f"the times {seconds.tolist()} of {sizes.tolist()} bytes do not grow with the size: the "
                         "machine was busy with something else; measure again")
    predicted = alpha + per_byte * sizes
    rows = [{"bytes": int(n), "seconds": float(s), "predicted": float(p), "error": float(p / s - 1)}
            for n, s, p in zip(sizes, seconds, predicted)]
    return {"alpha": float(alpha), "bandwidth": float(1 / per_byte), "beta": found["stream"], "rate": found["rate"],
            "copy": found["copy"], "ranks": found["ranks"], "rows": rows}  # fmt: skip


def write(path: Path, fit: dict[str, Any]) -> None:
    """A device file of a cluster; what a ping-pong does not measure stays as in the packaged one, an estimate.

    Args:
        path: the file.
        fit: as `fitted` returns it.

    Raises:
        DataError: the file cannot be written.
    """
    base = device("cluster")
    clock, word = base.clock_hz, base.word_bytes
    values = {"alpha": fit["alpha"] * clock, "beta": fit["beta"] * clock, "cores": fit["ranks"], "rows": fit["ranks"],
              "cols": fit["ranks"], "link_words_per_cycle": fit["bandwidth"] / clock / word,
              "macs_per_cycle": fit["rate"] / clock, "memory_bytes_per_cycle": fit["copy"] / clock}  # fmt: skip
    values["rows"] = max(n for n in range(1, fit["ranks"] + 1) if fit["ranks"] % n == 0 and n * n <= fit["ranks"])
    values["cols"] = fit["ranks"] // values["rows"]
    lines = [f"# Measured by `mpiexec -n {fit['ranks']} python -m perfmodel ping-pong --save {path.name}`.",
             f"name = {json.dumps(path.stem)}", f'title = "{fit["ranks"]} ranks of MPI"', 'kind = "cluster"']
    for field, quantity in base.quantities.items():
        measured = field in values
        source = f"ping-pong on {fit['ranks']} ranks" if measured else quantity.source
        lines += ["", f"[{field}]", f"value = {values.get(field, quantity.value)!r}", f'unit = "{RULES[field][0]}"',
                  f"source = {json.dumps(source)}"] + ["estimated = true"] * (not measured and quantity.estimated)
    files.write(path, "\n".join(lines) + "\n")


def run(save: Path | None, as_json: bool) -> str:
    """Measure, fit and, on rank 0, report.

    Args:
        save: the device file to write; None: none.
        as_json: one JSON object instead of a table.

    Returns:
        The text; "" on the other ranks.

    Raises:
        ModelError: as `measure` and `fitted`.
    """
    if (found := measure()) is None:
        return ""
    fit = fitted(found)
    if save is not None:
        write(save, fit)
    if as_json:
        return json.dumps(fit | ({"written": str(save)} if save else {}))
    lines = [f"{fit['ranks']} ranks: alpha {fit['alpha'] * 1e6:.2f} us, bandwidth {fit['bandwidth'] / 1e9:.2f} GB/s, "
             f"beta {fit['beta'] * 1e6:.2f} us, {2e-9 * fit['rate']:.1f} GFLOP/s a rank",
             f"{'bytes':>9} {'measured us':>12} {'fitted us':>10} {'error':>8}"]  # fmt: skip
    lines += [f"{row['bytes']:>9} {row['seconds'] * 1e6:>12.2f} {row['predicted'] * 1e6:>10.2f} {row['error']:>+8.1%}"
              for row in fit["rows"]]
    return "\n".join(lines + ([f"written: {save}"] if save else []))
