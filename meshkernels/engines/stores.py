"""Blocks of one operand on a rank: those that its cores hold in a step, or all that ever come by."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from meshkernels.engines.ranks import Incoming, Ranks
from meshkernels.kernels import memory
from meshkernels.kernels.pack import Blocks
from meshkernels.mesh import Tiling

#: Bytes of a block from which on MPI moves each from store to store; smaller ones are gathered first.
LARGE = 16 << 10


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

    A block that is here does not change, so it leaves from where it lies, and arrives where it belongs.

    Args:
        tiling: of the operand.
        touched: ids of the blocks.
        dtype: of the elements.
        home: ``(n, h, w)`` blocks that are all there ever is, in the order of their ids; None: blocks are put.

    Attributes:
        rows, cols: the block rows and block columns.
        array: ``(len(rows) * len(cols), h, w)``.
    """

    def __init__(self, tiling: Tiling, touched: np.ndarray, dtype: np.dtype, home: np.ndarray | None = None):
        self.rows, self.cols = np.unique(touched // tiling.grid[1]), np.unique(touched % tiling.grid[1])
        self.tiling, self._borrowed = tiling, None
        self._large = tiling.words * dtype.itemsize >= LARGE
        self._nothing = np.zeros(tiling.tile if self._large else (0, 0), dtype)
        count = len(self.rows) * len(self.cols)
        if home is not None and len(home) == count and home.flags.c_contiguous:
            self.array = home
        else:
            self._borrowed = memory.borrow(count * tiling.words, dtype)
            self.array = self._borrowed.reshape(count, *tiling.tile)
            if home is not None:
                self.put(touched, home)

    def close(self) -> None:
        """Let the memory go to the next product."""
        if self._borrowed is not None:
            memory.give_back(self._borrowed)

    def _place(self, ids: np.ndarray) -> np.ndarray:
        row, col = np.divmod(ids, self.tiling.grid[1])
        return np.searchsorted(self.rows, row) * len(self.cols) + np.searchsorted(self.cols, col)

    def put(self, ids: np.ndarray, blocks: np.ndarray) -> None:
        """Keep blocks, those of an id of -1 left out."""
        kept = np.flatnonzero(ids >= 0)
        places = self._place(ids[kept])
        if self._large:  # one by one in half the time
            for place, each in zip(places.tolist(), kept.tolist()):
                self.array[place] = blocks[each]
        else:
            self.array[places] = blocks[kept]

    def send(self, ranks: Ranks, to: int, ids: np.ndarray) -> None:
        """Send blocks; zeros for an id of -1."""
        places = self._place(ids)

        def gather(out: np.ndarray) -> None:
            np.take(self.array, places, axis=0, out=out, mode="clip")
            out[ids < 0] = 0

        if self._large:
            ranks.send_parts(to, np.where(ids < 0, ranks.address(self._nothing), self._address(ranks, places)),
                             self._nothing.nbytes)  # fmt: skip
        else:
            ranks.send_filled(to, (len(ids), *self.tiling.tile), self.array.dtype, gather)

    def expect(self, ranks: Ranks, source: int, ids: np.ndarray) -> Incoming:
        """Blocks on their way; small ones are to be put when they have arrived."""
        if self._large:
            return ranks.receive_parts(source, self._address(ranks, self._place(ids)), self._nothing.nbytes, ids < 0)
        return ranks.receive(source, (len(ids), *self.tiling.tile), self.array.dtype)

    def _address(self, ranks: Ranks, places: np.ndarray) -> np.ndarray:
        return ranks.address(self.array) + places * self._nothing.nbytes

    def matrix(self, rows: ArrayLike | None, cols: ArrayLike | None) -> Blocks:
        """The elements in block rows and columns (None: in all), padding left out."""
        (I, J), (h, w) = self.tiling.grid, self.tiling.tile
        down, right = (np.arange(n) if some is None else np.asarray(some) for some, n in ((rows, I), (cols, J)))
        array = self.array.reshape(len(self.rows), len(self.cols), h, w)
        if not (np.array_equal(down, self.rows) and np.array_equal(right, self.cols)):
            array = array[np.searchsorted(self.rows, down)][:, np.searchsorted(self.cols, right)]
        shape = int(self.tiling.useful(0)[down].sum()), int(self.tiling.useful(1)[right].sum())
        return Blocks(array.transpose(0, 2, 1, 3), shape)
