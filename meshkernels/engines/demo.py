"""The engines as commands use them: this process, the ranks that mpiexec started, or devices of JAX."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

import meshkernels as mk
from meshkernels.engines import jax as on_jax
from meshkernels.engines.ranks import INSTALL
from meshkernels.errors import MeshError

Found = TypeVar("Found")

#: What the launchers of MPICH, Open MPI and Slurm tell their processes.
_LAUNCHED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS")


class Engine:
    """This process.

    Attributes:
        grid: cores where nobody says how many.
        where: words for the headline.
        legend: lines below the table.
        prints: whether this process prints the table.
    """

    grid: Sequence[int] = (24,)
    where = ""
    legend: Sequence[str] = ()
    prints = True
    gemm, gemm_t, gemv = staticmethod(mk.gemm), staticmethod(mk.gemm_t), staticmethod(mk.gemv)

    def mesh(self, *grid: int) -> mk.Mesh:
        """The cores."""
        return mk.Mesh(*grid)

    def first(self, load: Callable[[], Found]) -> Found:
        """What ``load`` returns; where there are several processes, one has done it before the others begin."""
        return load()

    def told(self, say: Callable[[], Found]) -> Found:
        """What ``say`` returns; where there are several processes, in the first of them."""
        return say()

    def whole(self, result: Any) -> np.ndarray:
        """A result as an array."""
        return np.asarray(result)

    def sent(self) -> int:
        """Bytes sent between ranks so far."""
        return 0

    def measured(self, sent: int) -> dict[str, Any]:
        """More columns of a row: what this engine alone can say, since ``sent``."""
        return {}


class Ranks(Engine):
    """The ranks of a communicator."""

    legend = ("bytes between ranks: what one run really sent from process to process, all ranks together.",)

    def __init__(self, comm: Any):
        self.comm, self.prints = comm, comm.rank == 0
        self.where = f" of {comm.size} ranks"

    def mesh(self, *grid: int) -> mk.Mesh:
        """The cores, shared out among the ranks."""
        self._mesh = mk.Mesh(*grid, comm=self.comm)
        return self._mesh

    def first(self, load: Callable[[], Found]) -> Found:
        """Rank 0 loads first: it may have to fetch."""
        assert self._mesh.distribution is not None
        ranks, found = self._mesh.distribution.ranks, None
        for turn in (0, 1):
            with ranks.agreed(f"load, turn {turn}"):
                if (self.comm.rank > 0) == turn:
                    found = load()
        assert found is not None
        return found

    def told(self, say: Callable[[], Found]) -> Found:
        """What rank 0 says; only it has the terminal."""
        return self.comm.bcast(say() if self.prints else None)

    def whole(self, result: Any) -> np.ndarray:
        """A result, on every rank."""
        if not isinstance(result, mk.DistMatrix):
            return np.asarray(result)
        found = mk.gather(result, self._mesh, root=None)
        assert found is not None
        return found

    def sent(self) -> int:
        """Bytes sent by moves of schedules, by all ranks."""
        assert self._mesh.distribution is not None
        return int(self.comm.allreduce(int(self._mesh.distribution.ranks.sent["schedule"].sum())))

    def measured(self, sent: int) -> dict[str, Any]:
        """The bytes of one run."""
        return {"bytes_between_ranks": self.sent() - sent}


class Devices(Engine):
    """Devices of JAX, emulated on the CPU where there are not enough others."""

    def __init__(self, count: int):
        if count < 1:
            raise MeshError(f"--jax {count}: at least 1 device")
        self.devices = emulated(count)
        rows = min(n for n in range(1, count + 1) if count % n == 0 and n * n >= count)
        self.grid = rows, count // rows
        self.where = f" on {count} {self.devices[0].platform} devices of JAX"
        self._functions: dict[Any, Any] = {}
        self.gemm = self.gemm_t = self._run
        self.gemv = self._gemv

    def mesh(self, *grid: int) -> mk.Mesh:
        """One core for each device."""
        mesh = mk.Mesh(*grid)
        if mesh.cores != len(self.devices):
            raise MeshError(f"--grid {' '.join(map(str, grid))}: {mesh.cores} cores; --jax {len(self.devices)} has as "
                            "many cores as devices")
        return mesh

    def _gemv(self, x: np.ndarray, W: np.ndarray, mesh: mk.Mesh, *, reduce: str, ledger: bool = False) -> Any:
        return self._run(x, W, mesh, algorithm=reduce, ledger=ledger)

    def _run(self, A: np.ndarray, B: np.ndarray, mesh: mk.Mesh, *, algorithm: str, ledger: bool = False) -> Any:
        if A.ndim == 1:
            sizes: tuple[int, ...] = B.shape
        elif algorithm in mk.algorithms()["gemm_t"]:
            sizes = (*A.shape, len(B))
        else:
            sizes = (*A.shape, B.shape[1])
        key = algorithm, sizes
        if key not in self._functions:
            schedule = mk.schedule(algorithm, mesh, *sizes)
            self._functions[key] = schedule, mk.to_jax(schedule, self.devices)
        schedule, function = self._functions[key]
        result = function(A, B).block_until_ready()
        return (result, mk.count(schedule, A.dtype)) if ledger else result


def emulated(count: int) -> Sequence[Any]:
    """So many devices of JAX: those it has, or the CPU as so many.

    Args:
        count: how many.

    Returns:
        The devices.

    Raises:
        MeshError: JAX has begun with fewer.
    """
    try:
        import jax
    except ImportError as missing:
        raise MeshError(f"--jax needs JAX, which cannot be imported ({missing}): {on_jax.INSTALL}") from None
    with suppress(RuntimeError):  # it has begun
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices()
    if len(devices) < count:
        devices = jax.devices("cpu")
    if len(devices) < count:
        raise MeshError(f"--jax {count}: JAX has begun with {len(devices)} devices")
    return devices[:count]


def find(devices: int | None) -> Engine:
    """The engine of this process.

    Args:
        devices: of JAX; None: none of them.

    Returns:
        `Devices`, `Ranks` where a launcher of MPI started this process with others, else an `Engine`.

    Raises:
        MeshError: what is needed is not installed.
    """
    if devices is not None:
        return Devices(devices)
    if any(name in os.environ for name in _LAUNCHED):
        try:
            from mpi4py import MPI
        except ImportError as missing:
            raise MeshError(f"started by mpiexec, but mpi4py cannot be imported ({missing}): {INSTALL}") from None
        if MPI.COMM_WORLD.size > 1:
            return Ranks(MPI.COMM_WORLD)
    return Engine()
