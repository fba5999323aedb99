"""What one process has of attention: the cache's entries on some rows of cores, the heads of some strips of columns.

On ranks a process has the entries of its own rows of cores and the heads of the strips that its columns lie in: where a
cut goes through a strip, each rank beside it has the strip's heads whole. Where ranks are no grid, each has everything.

In decode a rank computes the scores of its entries and their weighted values; ranks one below the other, which have the
same heads, then exchange them and add up all rows of cores in the order of the schedule. A head of a prompt is computed
by one of the ranks that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from meshkernels.engines.distribution import Distribution
from meshkernels.engines.ranks import Ranks
from meshkernels.kept import remember
from meshkernels.llm.layout import Layout
from meshkernels.mesh import ceil_div


@dataclass(frozen=True)
class Part:
    """What this process has.

    Attributes:
        rows: ``(first, end)`` of its rows of cores.
        heads: ``(first, end)`` of its key/value heads; query heads are with theirs.
        mesh_rows, kv_heads: how many there are in all.
        ranks: the processes; None: this one alone.
        column: ranks with the same heads, this one among them, from the first row of cores to the last.
        cuts: the first rows of these, and the end of the last.
        prompts: key/value heads of which each rank computes a prompt.
    """

    rows: tuple[int, int]
    heads: tuple[int, int]
    mesh_rows: int
    kv_heads: int
    ranks: Ranks | None = None
    column: tuple[int, ...] = (0,)
    cuts: tuple[int, ...] = ()
    prompts: tuple[tuple[int, ...], ...] = ()

    @staticmethod
    def of(layout: Layout, on: Distribution | None = None) -> Part:
        """What this process has of a model.

        Args:
            layout: the model on the decode mesh.
            on: the ranks of that mesh; None: this process alone.

        Returns:
            Its part.
        """
        rows, kv_heads = layout.mesh.rows, layout.config.kv_heads
        if on is None:
            return Part((0, rows), (0, kv_heads), rows, kv_heads, cuts=(0, rows))
        rank, size, grid = on.ranks.rank, on.ranks.size, on.cut.grid
        if grid is None:
            prompts = tuple(tuple(range(r, kv_heads, size)) for r in range(size))
            return Part((0, rows), (0, kv_heads), rows, kv_heads, on.ranks, (rank,), (0, rows), prompts)
        down, across = grid
        cuts = tuple(ceil_div(n * rows, down) for n in range(down + 1))
        columns = [(ceil_div(n * layout.mesh.cols, across), ceil_div((n + 1) * layout.mesh.cols, across))
                   for n in range(across)]  # fmt: skip
        heads = [(first // layout.strip.cols * layout.strip_kv, ceil_div(end, layout.strip.cols) * layout.strip_kv)
                 for first, end in columns]  # fmt: skip
        having = [[r for r in range(size) if heads[r % across][0] <= g < heads[r % across][1]] for g in range(kv_heads)]
        by = [ranks[g % len(ranks)] for g, ranks in enumerate(having)]
        y, x = divmod(rank, across)
        return Part((cuts[y], cuts[y + 1]), heads[x], rows, kv_heads, on.ranks, tuple(range(x, size, across)), cuts,
                    tuple(tuple(g for g in range(kv_heads) if by[g] == r) for r in range(size)))  # fmt: skip

    @property
    def cut_by_rows(self) -> bool:
        """Whether other ranks have other entries of the same heads."""
        return len(self.column) > 1

    @property
    def appends(self) -> bool:
        """Whether a new entry comes here: to the last row of cores."""
        return self.rows[1] == self.mesh_rows

    # ---------------------------------------------------------------------------------------------- entries
    def entries(self, occupancy: np.ndarray) -> tuple[int, int]:
        """``(first, end)`` of its entries in the text, from those on each row of cores ``(rows,)``."""
        return int(occupancy[: self.rows[0]].sum()), int(occupancy[: self.rows[1]].sum())

    def bounds(self, occupancy: np.ndarray, first: int) -> np.ndarray:
        """Where its rows' entries begin and end in memory, the first at place ``first``: ``(own rows + 1,)``."""
        return first + np.concatenate([[0], np.cumsum(occupancy[slice(*self.rows)])])

    def across_rows(self, mine: np.ndarray, counts: Sequence[int] | np.ndarray) -> np.ndarray:
        """``(heads, own n, ...)`` -> ``(heads, n, ...)`` of all ranks with these heads; collective.

        Args:
            mine: what this rank has, C-contiguous.
            counts: n of each of these ranks.

        Returns:
            Those of all, in order.
        """
        assert self.ranks is not None
        shapes = [(len(mine), int(n), *mine.shape[2:]) for n in counts]
        return np.concatenate(self.ranks.everyones(self.column, mine, shapes), axis=1)

    def counts(self, occupancy: np.ndarray) -> np.ndarray:
        """Entries of each rank with these heads, from those on each row of cores ``(rows,)``."""
        return np.add.reduceat(occupancy, self.cuts[:-1])

    def combined(self, rows: np.ndarray, order: tuple[np.ndarray, np.ndarray, int],
                 combine: Callable[[np.ndarray, np.ndarray, np.ndarray], None]) -> np.ndarray:  # fmt: skip
        """Values of all rows of cores combined, those of a rank as far as that goes before they are sent; collective.

        Args:
            rows: ``(heads, own rows, ...)``, used up.
            order: ``(dst, src, root)`` of all combinations between rows of cores.
            combine: ``combine(values, dst, src)`` does some of them in place.

        Returns:
            ``(heads, ...)`` on every rank with these heads.
        """
        dst, src, root = order
        local, kept, rest, root = _halves(tuple(dst.tolist()), tuple(src.tolist()), int(root), self.cuts)
        own = self.cuts.index(self.rows[0])
        combine(rows, *local[own])
        every = self.across_rows(np.ascontiguousarray(rows[:, kept[own]]), list(map(len, kept)))
        combine(every, *rest)
        return every[:, root]

    # ------------------------------------------------------------------------------------------------ heads
    def own(self, heads: np.ndarray) -> np.ndarray:
        """Its own of all heads, or of all key/value heads: ``(heads, ...)``."""
        each = len(heads) // self.kv_heads
        return heads[self.heads[0] * each : self.heads[1] * each]

    def among_all(self, mine: np.ndarray, heads: int) -> np.ndarray:
        """Its own heads among all of them; the others, which its cores do not read, are 0."""
        if len(mine) == heads:
            return mine
        every = np.zeros((heads, *mine.shape[1:]), mine.dtype)
        self.own(every)[:] = mine
        return every

    def kept(self, heads: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
        """What it keeps of a prompt's keys or values ``(kv_heads, L, head)``."""
        if self.ranks is None:
            return heads
        return self.own(heads)[:, slice(*self.entries(occupancy))].copy()

    def prompt(self, heads: np.ndarray) -> np.ndarray:
        """The heads of a prompt that it computes, of all heads or key/value heads ``(heads, L, ...)``."""
        if self.ranks is None:
            return heads
        mine = heads.reshape(self.kv_heads, -1, *heads.shape[1:])[list(self.prompts[self.ranks.rank])]
        return mine.reshape(-1, *heads.shape[1:])

    def whole_prompt(self, mine: np.ndarray, group: int) -> np.ndarray:
        """Query heads of a prompt ``(own heads, L, head)`` -> ``(heads, L, head)`` from all ranks; collective."""
        if self.ranks is None:
            return mine
        every = np.empty((self.kv_heads, group, *mine.shape[1:]), mine.dtype)
        shapes = [(len(heads) * group, *mine.shape[1:]) for heads in self.prompts]
        for heads, found in zip(self.prompts, self.ranks.everyones(range(self.ranks.size), mine, shapes)):
            every[list(heads)] = found.reshape(-1, group, *mine.shape[1:])
        return every.reshape(-1, *mine.shape[1:])


_Order = tuple[np.ndarray, np.ndarray]


@remember
def _halves(dst: tuple[int, ...], src: tuple[int, ...], root: int,
            cuts: tuple[int, ...]) -> tuple[list[_Order], list[np.ndarray], _Order, int]:  # fmt: skip
    """What ranks can combine of rows ``cuts[i]`` to ``cuts[i + 1]`` before they exchange any, in an order of all rows.

    Returns:
        ``(dst, src)`` on each rank; its rows that are read or added to later; ``(dst, src)`` and the place of the
        result among the rows that all ranks keep.
    """
    owner = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts)).tolist()
    local: list[list[tuple[int, int]]] = [[] for _ in cuts[1:]]
    rest: list[tuple[int, int]] = []
    waiting: set[int] = set()  # rows whose turn comes after the exchange
    for to, of in zip(dst, src):
        if owner[to] == owner[of] and not {to, of} & waiting:
            local[owner[to]].append((to - cuts[owner[to]], of - cuts[owner[to]]))
        else:
            rest.append((to, of))
            waiting |= {to, of}
    kept = sorted(waiting | {root})
    place = {row: i for i, row in enumerate(kept)}

    def arrays(pairs: list[tuple[int, int]]) -> _Order:
        to, of = np.array(pairs, np.int64).reshape(-1, 2).T
        return np.ascontiguousarray(to), np.ascontiguousarray(of)

    return ([arrays(pairs) for pairs in local],
            [np.array([row - cuts[i] for row in kept if owner[row] == i], np.int64) for i in range(len(local))],
            arrays([(place[to], place[of]) for to, of in rest]), place[root])  # fmt: skip
