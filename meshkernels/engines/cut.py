"""How the cores of a mesh are shared out among ranks, and how many bytes a schedule sends between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from meshkernels.arguments import as_count
from meshkernels.engines.messages import Messages, additions, messages
from meshkernels.errors import MeshError
from meshkernels.mesh import Mesh
from meshkernels.schedules import Reduce
from meshkernels.schedules.steps import Schedule, unrolled

if TYPE_CHECKING:
    from meshkernels.readers.ledger import Ledger


@dataclass(frozen=True)
class Cut:
    """Which rank owns each core.

    A grid of ``ranks`` cuts rows and columns into runs that differ by one core at most. Where no grid of so many ranks
    fits into the mesh (five ranks on 2 x 3 cores), each rank gets a run of cores, row by row.

    Attributes:
        rows, cols: cores.
        ranks: how many.
        grid: ranks down and across; None: runs of cores.
    """

    rows: int
    cols: int
    ranks: int
    grid: tuple[int, int] | None

    @staticmethod
    def of(mesh: Mesh, ranks: int | tuple[int, int]) -> Cut:
        """Cut a mesh.

        Args:
            mesh: the cores.
            ranks: how many, or a grid ``(down, across)`` of them.

        Returns:
            The cut; of a number of ranks the grid whose blocks of cores have the shortest border.

        Raises:
            MeshError: more ranks than cores, or a grid that does not fit into the mesh.

        Examples:
            >>> Cut.of(Mesh(7, 5), 6).grid, Cut.of(Mesh(2, 3), 5).grid
            ((3, 2), None)
        """
        if isinstance(ranks, tuple):
            down, across = (as_count("ranks", n) for n in ranks)
            if not (1 <= down <= mesh.rows and 1 <= across <= mesh.cols):
                raise MeshError(f"ranks = {down} x {across}: {mesh.rows} x {mesh.cols} cores take a grid of 1 to "
                                f"{mesh.rows} by 1 to {mesh.cols} ranks")
            return Cut(mesh.rows, mesh.cols, down * across, (down, across))
        count = as_count("ranks", ranks)
        if not 1 <= count <= mesh.cores:
            raise MeshError(f"{count} ranks on {mesh.rows} x {mesh.cols} cores: each needs a core of its own, so 1 to "
                            f"{mesh.cores} ranks; take a larger mesh or start fewer ranks")
        grids = [(n, count // n) for n in range(1, count + 1)
                 if count % n == 0 and n <= mesh.rows and count // n <= mesh.cols]  # fmt: skip
        border = [(down * mesh.cols + across * mesh.rows, down) for down, across in grids]
        return Cut(mesh.rows, mesh.cols, count, grids[border.index(min(border))] if grids else None)

    @cached_property
    def owner(self) -> np.ndarray:
        """``(cores,)`` the rank of each core."""
        if self.grid is None:
            return np.arange(self.rows * self.cols) * self.ranks // (self.rows * self.cols)
        (down, across), (y, x) = self.grid, np.ogrid[: self.rows, : self.cols]
        return (y * down // self.rows * across + x * across // self.cols).ravel()

    @cached_property
    def place(self) -> np.ndarray:
        """``(cores,)`` the place of each core among those of its rank."""
        place = np.empty_like(self.owner)
        for rank in range(self.ranks):
            own = self.cores(rank)
            place[own] = np.arange(len(own))
        return place

    def cores(self, rank: int) -> np.ndarray:
        """The cores of a rank, ascending."""
        return np.flatnonzero(self.owner == rank)


def crossing(found: Messages, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What travels between ranks: a tile once for each rank that has receivers, however many cores of it receive.

    Args:
        found: messages between cores.
        owner: ``(cores,)`` ranks.

    Returns:
        ``(first, which, going)``: ``first (n,)`` entries that stand for one message each, ordered by sending core, slot
        and receiving rank; ``which`` of them brings each entry of ``going``, those between ranks.
    """
    going = np.flatnonzero(owner[found.source] != owner[found.target])
    source, sent, to = found.source[going], found.sent[going], owner[found.target[going]]
    key = (source * (1 + found.sent.max(initial=0)) + sent) * (1 + owner.max()) + to
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return going[first], which, going


def _crossings(ledger: Ledger, cut: Cut) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """What is on its way between ranks at once, time after time: ``(from, to, bytes of each)``, a tile or sum each."""
    schedule: Schedule = ledger.schedule
    owner = cut.owner
    for step, t, s in unrolled(schedule.program):
        for move in step.moves:
            width = ledger.itemsize if schedule.stored(move.buffer) else ledger.accumulator
            if isinstance(move.route, Reduce):
                adds = additions(move.route, schedule.mesh, t, s)
                source, target, nbytes = owner[adds.source], owner[adds.target], schedule.words(move) * width
                for number in np.unique(adds.round):
                    now = (adds.round == number) & (source != target)
                    yield source[now], target[now], nbytes
                continue
            slots = schedule.slots(move.buffer)
            found = messages(move, schedule.mesh, slots, t, s)
            first = crossing(found, owner)[0]
            yield (owner[found.source[first]], owner[found.target[first]],
                   schedule.words(move) // (slots if move.slot is None else 1) * width)  # fmt: skip


def between(ledger: Ledger, ranks: int | tuple[int, int] | Cut) -> np.ndarray:
    """Bytes that the schedule of a ledger sends from rank to rank.

    A tile goes once to each rank that has cores to receive it; local moves are not counted. Laying out operands that
    lie otherwise, before the schedule begins, is not in it.

    Args:
        ledger: what was counted.
        ranks: how many, a grid of them, or a `Cut`.

    Returns:
        ``(ranks, ranks)`` bytes [from, to].

    Raises:
        MeshError: ranks that do not fit on the mesh.
    """
    cut = ranks if isinstance(ranks, Cut) else Cut.of(ledger.schedule.mesh, ranks)
    total = np.zeros((cut.ranks, cut.ranks), np.int64)
    for source, target, nbytes in _crossings(ledger, cut):
        np.add.at(total, (source, target), nbytes)
    return total


def per_rank(ledger: Ledger, ranks: int | tuple[int, int] | Cut) -> dict[str, Any]:
    """What each rank does in the schedule of a ledger.

    Args:
        ledger: what was counted.
        ranks: how many, a grid of them, or a `Cut`.

    Returns:
        ``macs``, and ``bytes`` and ``messages`` sent and received, ``(ranks,)`` each by name; ``rounds``, messages that
        may wait for each other. What goes from one rank to another at once is one message; where blocks are large,
        MPI may send each for itself.

    Raises:
        MeshError: ranks that do not fit on the mesh.
    """
    cut = ranks if isinstance(ranks, Cut) else Cut.of(ledger.schedule.mesh, ranks)
    found: dict[str, Any] = {f"{what}_{way}": np.zeros(cut.ranks, np.int64)
                             for what in ("bytes", "messages") for way in ("sent", "received")}  # fmt: skip
    rounds = 0
    for source, target, nbytes in _crossings(ledger, cut):
        rounds += len(source) > 0
        once = np.divmod(np.unique(source * cut.ranks + target), cut.ranks)
        for way, ends, pairs in (("sent", source, once[0]), ("received", target, once[1])):
            found[f"bytes_{way}"] += np.bincount(ends, minlength=cut.ranks) * nbytes
            found[f"messages_{way}"] += np.bincount(pairs, minlength=cut.ranks)
    macs = np.bincount(cut.owner, weights=np.ravel(ledger.macs), minlength=cut.ranks).astype(np.int64)
    return {"algorithm": ledger.schedule.name, "ranks": cut.ranks, "macs": macs, "rounds": rounds, **found}


def as_cut(mesh: Mesh, size: int, ranks: Any) -> Cut:
    """The cut of a mesh for ``size`` ranks, by a grid where one is asked for.

    Args:
        mesh: the cores.
        size: ranks.
        ranks: a grid of them, or None.

    Returns:
        The cut.

    Raises:
        MeshError: a grid of another number of ranks, or as `Cut.of`.
    """
    if ranks is None:
        return Cut.of(mesh, size)
    cut = Cut.of(mesh, tuple(ranks))
    if cut.ranks != size:
        raise MeshError(f"ranks = {tuple(ranks)}: that is {cut.ranks} ranks; the communicator has {size}")
    return cut
