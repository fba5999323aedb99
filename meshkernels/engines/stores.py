"""Blocks of one operand on a rank: those that its cores hold in a step, or all that ever come by."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from meshkernels.engines.ranks import Incoming, Ranks
from meshkernels.kernels import memory
from meshkernels.kernels.pack import Blocks
from meshkernels.mesh import Tiling

#: Blocks of at least so many bytes are a message each, from store to store; smaller ones are gathered first.
LARGE = 64 << 10


class Store(Protocol):
    """What moves of tiles need."""

    def put(self, ids: np.ndarray, blocks: np.ndarray) -> None:
        """Keep blocks, those of an id of -1 left out."""

    def send(self, ranks: Ranks, to: int, ids: np.ndarray) -> None:
        """Send blocks; zeros for an id of -1."""

    def expect(self, ranks: Ranks, source: int, ids: np.ndarray) -> Incoming:
        """Blocks to be put when they have arrived, where they do not arrive in their places."""
        ...


class Pool:
    """Blocks of one operand that a rank holds now, each once, however many of its cores hold it.

    Args:
        tiling: of the operand.
        dtype: of the elements.
        ids: of blocks that are here and stay, where no others come.
        home: ``(n, h, w)`` these blocks, referred to.

    Attributes:
        array: ``(places, h, w)``.
        place: ``(blocks,)`` where each block lies, or -1.
    """

    def __init__(self, tiling: Tiling, dtype: np.dtype, ids: np.ndarray | None = None, home: np.ndarray | None = None):
        self.array = np.zeros((0, *tiling.tile), dtype) if home is None else home
        self.place = np.full(tiling.grid[0] * tiling.grid[1], -1)
        if ids is not None:
            self.place[ids] = np.arange(len(ids))
        self._free: list[int] = []

    def put(self, ids: np.ndarray, blocks: np.ndarray) -> None:
        """Keep blocks, those of an id of -1 left out."""
        new = np.flatnonzero((ids >= 0) & (self.place[ids] < 0))
        new = new[np.unique(ids[new], return_index=True)[1]]
        short = len(new) - len(self._free)
        if short > 0:
            held = len(self.array)
            self.array = np.concatenate([self.array, np.zeros((short, *self.array.shape[1:]), self.array.dtype)])
            self._free += range(held, held + short)
        if len(new):
            self.place[ids[new]] = [self._free.pop() for _ in new]
            self.array[self.place[ids[new]]] = blocks[new]

    def keep(self, ids: np.ndarray) -> None:
        """Let go of all other blocks."""
        gone = self.place >= 0
        gone[ids[ids >= 0]] = False
        self._free += self.place[gone].tolist()
        self.place[gone] = -1

    def send(self, ranks: Ranks, to: int, ids: np.ndarray) -> None:
        """Send blocks; zeros for an id of -1."""
        def gather(out: np.ndarray) -> None:
            np.take(self.array, self.place[ids], axis=0, out=out, mode="clip")
            out[ids < 0] = 0

        ranks.send_filled(to, (len(ids), *self.array.shape[1:]), self.array.dtype, gather)

    def expect(self, ranks: Ranks, source: int, ids: np.ndarray) -> Incoming:
        """Blocks to be put when they have arrived."""
        return ranks.receive(source, (len(ids), *self.array.shape[1:]), self.array.dtype)


class Panel:
    """Blocks of one operand that a rank ever holds: all those in some rows and columns of blocks.

    A block that is here does not change: it leaves from where it lies, arrives where it belongs, and those of a matrix
    that the caller has already stay in it.

    Args:
        tiling: of the operand.
        touched: ids of the blocks.
        dtype: of the elements.
        ids: of blocks that are here at first.
        home: ``(n, h, w)`` these, in the order of their ids; None: blocks are put.
    """

    def __init__(self, tiling: Tiling, touched: np.ndarray, dtype: np.dtype, ids: np.ndarray | None = None,
                 home: np.ndarray | None = None):  # fmt: skip
        self.tiling, self.dtype, self._size = tiling, dtype, tiling.words * dtype.itemsize
        self._large, self._nothing = self._size >= LARGE, np.zeros(tiling.tile, dtype)
        self._rows, self._cols = (np.unique(part) for part in np.divmod(touched, tiling.grid[1]))
        R, C = len(self._rows), len(self._cols)
        rows, cols = self._staying(R, C, ids, home)
        across = len(cols) or C  # blocks side by side in memory
        others = R - len(rows) if across == C else C - across  # block rows that come, or block columns
        count = others * C if across == C else -(-others // across) * R * across
        self._borrowed = memory.borrow(count * tiling.words, dtype)
        self._held, self._home = self._borrowed.reshape(count, *tiling.tile), home  # home: kept alive
        came, own = Ranks.address(self._held), 0 if home is None else Ranks.address(home)
        if home is not None and len(rows) and not count:
            self._held = home
        self._down, self._across = np.arange(R) * across * self._size, np.arange(C) * self._size  # bytes, to be added
        if across == C:
            here = np.isin(self._rows, rows)
            self._down[here] = own + np.arange(len(rows)) * C * self._size
            self._down[~here] = came + np.arange(others) * C * self._size
        else:
            here, group = np.isin(self._cols, cols), np.divmod(np.arange(others), across)
            self._across[here] = own + np.arange(across) * self._size
            self._across[~here] = came + (group[0] * R * across + group[1]) * self._size
        self._address = np.full(tiling.grid[0] * tiling.grid[1] + 1, Ranks.address(self._nothing))  # the last for -1
        self._address[self._rows[:, None] * tiling.grid[1] + self._cols] = self._down[:, None] + self._across
        if home is not None and ids is not None and not len(rows):
            self.put(ids, home)

    def _staying(self, R: int, C: int, ids: np.ndarray | None,
                 home: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Block rows and columns of ``home`` if it can stay where it is: whole rows, or whole columns, of the panel."""
        none = self._rows[:0], self._cols[:0]
        if home is None or ids is None or not home.flags.c_contiguous or not (self._large or len(ids) == R * C):
            return none
        rows, cols = (np.unique(part) for part in np.divmod(ids, self.tiling.grid[1]))
        fits = len(rows) * len(cols) == len(ids) and (len(rows) == R or len(cols) == C)
        return (rows, cols) if fits else none

    def close(self) -> None:
        """Let the memory go to the next product."""
        memory.give_back(self._borrowed)

    def _place(self, ids: np.ndarray) -> np.ndarray:
        return (self._address[ids] - Ranks.address(self._held)) // max(self._size, 1)

    def put(self, ids: np.ndarray, blocks: np.ndarray) -> None:
        """Keep blocks, those of an id of -1 left out."""
        kept = np.flatnonzero(ids >= 0)
        places = self._place(ids[kept])
        if self._large:  # one by one in half the time
            for place, each in zip(places.tolist(), kept.tolist()):
                self._held[place] = blocks[each]
        else:
            self._held[places] = blocks[kept]

    def send(self, ranks: Ranks, to: int, ids: np.ndarray) -> None:
        """Send blocks; zeros for an id of -1."""
        def gather(out: np.ndarray) -> None:
            if len(self._held):
                np.take(self._held, self._place(ids), axis=0, out=out, mode="clip")
            out[ids < 0] = 0

        if self._large:
            ranks.send_parts(to, self._address[ids], self._size)
        else:
            ranks.send_filled(to, (len(ids), *self.tiling.tile), self.dtype, gather)

    def expect(self, ranks: Ranks, source: int, ids: np.ndarray) -> Incoming:
        """Blocks on their way; small ones are to be put when they have arrived."""
        if self._large:
            return ranks.receive_parts(source, self._address[ids], self._size, ids < 0)
        return ranks.receive(source, (len(ids), *self.tiling.tile), self.dtype)

    def matrix(self, rows: ArrayLike | None, cols: ArrayLike | None) -> Blocks:
        """The elements in block rows and columns (None: in all), padding left out; while this panel is there."""
        (I, J), (h, w) = self.tiling.grid, self.tiling.tile
        down, right = (np.arange(n) if some is None else np.asarray(some) for some, n in ((rows, I), (cols, J)))
        places = (self._down[np.searchsorted(self._rows, down)] - Ranks.address(self._nothing),
                  self._across[np.searchsorted(self._cols, right)])  # fmt: skip
        shape = int(self.tiling.useful(0)[down].sum()), int(self.tiling.useful(1)[right].sum())
        return Blocks(self._nothing.reshape(1, h, 1, w), shape, places)
