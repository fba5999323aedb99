"""A model on the ranks of a mesh: each holds the weights of its own cores, and every rank has all activations.

Products with a weight run as the mesh's verbs do, message by message; what follows from whole activations alone (norms,
RoPE, attention, the cache) every rank computes for itself, the same bits everywhere. Weights lie as decode has them;
prefill takes its arrangement of one weight at a time from the ranks that have it, and lets it go after the product.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from typing import Any

import numpy as np

from meshkernels.engines import mpi
from meshkernels.engines.matrix import DistMatrix, whole
from meshkernels.engines.matrix import Layout as OnRanks
from meshkernels.engines.plan import home
from meshkernels.engines.ranks import Distribution
from meshkernels.errors import MeshError
from meshkernels.mesh import Mesh
from meshkernels.schedules.steps import Schedule


class Share:
    """A weight ``(K, N)`` of which this rank holds the blocks of its cores.

    Args:
        W: the whole weight, ``(K, N)`` float32; not kept.
        schedule: the product that decode makes with it; its second operand.
        on: the ranks.

    Attributes:
        matrix: what this rank has of it.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, W: np.ndarray, schedule: Schedule, on: Distribution):
        name = schedule.task.operands[1]
        tiling, blocks = schedule.operands[name], home(schedule, name)  # (cores, slots)
        owner = np.empty(tiling.grid[0] * tiling.grid[1], np.int64)
        owner[blocks[blocks >= 0]] = np.repeat(on.cut.owner, blocks.shape[1])[blocks.ravel() >= 0]
        layout = OnRanks(tiling, tuple(owner.tolist()))
        self.matrix = DistMatrix(layout, on, tiling.cut(W)[layout.ids(on.ranks.rank)])

    @property
    def shape(self) -> tuple[int, int]:
        """``(K, N)`` of the whole."""
        return self.matrix.shape

    @property
    def nbytes(self) -> int:
        """Bytes on this rank, padding included."""
        return self.matrix.nbytes

    def take(self, columns: np.ndarray, do: object = None) -> np.ndarray:
        """Columns of the whole, as rows, on every rank: ``(n,)`` numbers of columns -> ``(n, K)``; collective."""
        tiling, K = self.matrix.layout.tiling, self.shape[0]
        (h, w), across = tiling.tile, tiling.grid[1]
        ranks = self.matrix.on.ranks
        found, total = np.zeros((2, len(columns), K), np.float32)
        for block, number in zip(self.matrix.blocks, self.matrix.layout.ids(ranks.rank)):
            y, x = divmod(int(number), across)
            rows = min(h, K - y * h)
            for at in np.flatnonzero(columns // w == x):
                found[at, y * h : y * h + rows] = block[:rows, columns[at] - x * w]
        ranks.settle(ranks.comm.Iallreduce(found, total))  # one rank has each number, the others a zero
        return total

    def product(self, schedule: Schedule, accumulate: str) -> Callable[[np.ndarray], np.ndarray]:
        """The product with it, as `Scheduled.prepared`; collective."""
        (left, right), on = schedule.task.operands, self.matrix.on.over(schedule.mesh)

        def multiply(X: np.ndarray) -> np.ndarray:
            given: dict[str, np.ndarray | DistMatrix] = {left: np.ascontiguousarray(X, self.dtype), right: self.matrix}
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


def same_seed(on: Distribution | None, seed: int | None) -> int | None:
    """A seed that all ranks have: where none is given, one that rank 0 draws."""
    if on is None or seed is not None:
        return seed
    return int(on.ranks.comm.bcast(secrets.randbits(32)))
