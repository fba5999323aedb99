"""A model on the ranks of a mesh: each holds the weights of its own cores, and of attention its `Part`.

Products with a weight send the messages of their schedules; what follows from whole activations alone (norms, RoPE)
every rank computes for itself, the same bits everywhere. Weights lie as decode has them, in the
storage types of their file; prefill takes its arrangement of one weight at a time, as float32, from the ranks that have
it, and lets it go after the product.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from typing import Any

import numpy as np

from meshkernels.engines import mpi, vectors
from meshkernels.engines.distribution import Distribution
from meshkernels.engines.matrix import DistMatrix, whole
from meshkernels.engines.matrix import Layout as OnRanks
from meshkernels.engines.plan import home
from meshkernels.errors import MeshError
from meshkernels.kernels.resident import Columns
from meshkernels.mesh import Mesh
from meshkernels.schedules.steps import Schedule

#: Makes a weight: rows and columns of it by number, or all.
Build = Callable[[np.ndarray | None, np.ndarray | None], Columns]


class Share:
    """A weight ``(K, N)`` of which this rank holds the part of its cores.

    Where those are a rectangle of the weight it stays in the storage types of its file, and decode multiplies with it;
    otherwise it is kept as float32 blocks.

    Args:
        build: makes rows and columns of the weight, given by number (-1: zeros); all of it without numbers.
        schedule: the product that decode makes with it; its second operand.
        on: the ranks.

    Attributes:
        shape: ``(K, N)`` of the whole.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, build: Build, schedule: Schedule, on: Distribution):
        self._schedule, self._on, name = schedule, on, schedule.task.operands[1]
        tiling, blocks = schedule.operands[name], home(schedule, name)  # (cores, slots)
        self.shape, owner = tiling.shape, np.empty(tiling.grid[0] * tiling.grid[1], np.int64)
        owner[blocks[blocks >= 0]] = np.repeat(on.cut.owner, blocks.shape[1])[blocks.ravel() >= 0]
        self._layout, self._where = OnRanks(tiling, tuple(owner.tolist())), vectors.rectangle(schedule, on)
        self._part: Columns | None = None
        if self._where is not None:
            rows, columns = (np.where(np.arange(len(part)) + part.start < size, part, -1)
                             for part, size in zip((self._where.rows, self._where.columns), self.shape))  # fmt: skip
            self._part = build(rows, columns)
        else:
            W = build(None, None)
            self._blocks = tiling.cut(W.numbers())[self._layout.ids(on.ranks.rank)]

    @property
    def nbytes(self) -> int:
        """Bytes on this rank, padding included."""
        return self._blocks.nbytes if self._part is None else self._part.nbytes

    def matrix(self) -> DistMatrix:
        """What this rank has of it, as float32 blocks."""
        if self._part is None:
            return DistMatrix(self._layout, self._on, self._blocks)
        (h, w), (K, N) = self._layout.tiling.tile, self._part.shape
        blocks = self._part.numbers().reshape(K // max(h, 1), h, N // max(w, 1), w).swapaxes(1, 2)
        return DistMatrix(self._layout, self._on, np.ascontiguousarray(blocks.reshape(-1, h, w)))

    def take(self, columns: np.ndarray, do: object = None) -> np.ndarray:
        """Columns of the whole, as rows, on every rank: ``(n,)`` numbers of columns -> ``(n, K)``; collective."""
        K, ranks = self.shape[0], self._on.ranks
        found, total = np.zeros((2, len(columns), K), np.float32)
        if self._where is not None and self._part is not None:
            rows, mine = self._where.rows, self._where.columns
            own = np.flatnonzero((columns >= mine.start) & (columns < mine.stop))
            taken = self._part.take(columns[own] - mine.start)[:, : max(0, K - rows.start)]
            found[own, rows.start : rows.start + taken.shape[1]] = taken
        else:
            (h, w), across = self._layout.tiling.tile, self._layout.tiling.grid[1]
            for block, number in zip(self._blocks, self._layout.ids(ranks.rank)):
                y, x = divmod(int(number), across)
                height = min(h, K - y * h)
                for at in np.flatnonzero(columns // w == x):
                    found[at, y * h : y * h + height] = block[:height, columns[at] - x * w]
        ranks.settle(ranks.comm.Iallreduce(found, total))  # one rank has each number, the others a zero
        return total

    def product(self, schedule: Schedule, accumulate: str) -> Callable[[np.ndarray], np.ndarray]:
        """The product with it, as `Scheduled.prepared`; collective."""
        (left, right), on = schedule.task.operands, self._on.over(schedule.mesh)
        if self._part is not None and self._where is not None and schedule == self._schedule:
            return vectors.Prepared(schedule, on, self._where, self._part, accumulate)

        def multiply(X: np.ndarray) -> np.ndarray:
            given: dict[str, np.ndarray | DistMatrix] = {left: np.ascontiguousarray(X, self.dtype),
                                                         right: self.matrix()}  # fmt: skip
            result = mpi.run(schedule, given, np.dtype(accumulate), self.dtype, on, False)
            found = whole(result)
            assert found is not None
            return found

        return multiply


def agreed(on: Distribution | None, verb: str, *said: Any) -> AbstractContextManager[None]:
    """A block of checks that all ranks pass, having been asked for the same, or none.

    Args:
        on: the ranks; None: this process alone.
        verb: what is asked for.
        *said: what else must be the same on every rank.

    Returns:
        A context; on leaving it raises `RankError` where another rank refuses or was asked for something else.
    """
    if on is None:
        return nullcontext()
    return on.ranks.agreed(f"{verb}({blake2b(repr(said).encode(), digest_size=6).hexdigest()}) on {on}")


def same_ranks(decode: Mesh, prefill: Mesh) -> Distribution | None:
    """The ranks that both phases run on.

    Args:
        decode: its cores.
        prefill: its cores.

    Returns:
        The ranks of decode; None: this process alone.

    Raises:
        MeshError: the phases have other ranks.
    """
    on, other = decode.distribution, prefill.distribution
    if (on and on.ranks) is not (other and other.ranks):
        raise MeshError(f"decode runs on {on or 'one process'}, prefill on {other or 'one process'}: give both meshes "
                        "the same communicator, or none")
    return on


def fatal(on: Distribution | None) -> AbstractContextManager[None]:
    """A block in which ranks wait for each other: an exception on one ends all of them."""
    return nullcontext() if on is None else on.ranks.fatal()


def same_seed(on: Distribution | None, seed: int | np.random.Generator | None) -> int | np.random.Generator | None:
    """A seed, or a generator, that all ranks have: where none is given, one that rank 0 draws."""
    if on is None or seed is not None:
        return seed
    return int(on.ranks.comm.bcast(secrets.randbits(32)))
