"""The KV cache: which row of cores holds which entry, and the two ways to append one.

``shift``   the new entry goes to the last row; a row that gains one passes its oldest on to the row above, unless
            that row already holds more: level rows all shift at once, neighbours only. Occupancies never
            differ by more than one, and down the rows one meets the entries from the oldest to the newest.
``concat``  every new entry goes to the last row, which is full while the others have room.

Since physical order is logical order, the entries are stored in one piece and a shift moves the *bounds* of the
rows; `tests/llm/test_llm_cache.py` moves single entries from row to row and finds the same.

On ranks each has its `Part` of the entries, and an entry that leaves the first of its rows goes to the rank above.

What a cache holds is one `Text`. An operation makes the next one beside it, which nobody reads meanwhile, and one
assignment puts it in place: whatever interrupts an operation finds the old text or the new one.

References:
    He et al., WaferLLM, OSDI 2025, section 4 (KV cache shift, Table 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from meshkernels.errors import DeviceLimitError, MeshError
from meshkernels.kept import physical_memory
from meshkernels.llm.layout import Layout
from meshkernels.llm.part import Part
from meshkernels.mesh import ceil_div

POLICIES = ("shift", "concat")


class CacheOverflow(DeviceLimitError):
    """A core has no room for the next entry."""


def balanced(tokens: int, rows: int) -> np.ndarray:
    """Entries on each of ``rows`` rows after ``tokens`` appends by ``shift``.

    While some rows are empty, the last ones are filled; afterwards the first ones are ahead by one.

    Args:
        tokens: entries in all.
        rows: of cores.

    Returns:
        ``(rows,)`` entries of each.

    Examples:
        >>> balanced(3, 5).tolist(), balanced(13, 5).tolist()
        ([0, 0, 1, 1, 1], [3, 3, 3, 2, 2])
    """
    each, over = divmod(tokens, rows)
    ahead = np.arange(rows) < over if each else np.arange(rows) >= rows - over
    return each + ahead.astype(np.int64)


def passing(occupancy: np.ndarray) -> np.ndarray:
    """Rows that pass their oldest entry up before the next append by ``shift``: ``(rows,)`` booleans."""
    above = np.concatenate([occupancy[:1] + 1, occupancy[:-1]])  # nothing is above the first row
    willing = (occupancy > 0) & (occupancy >= above)
    return np.logical_and.accumulate(willing[::-1])[::-1]  # only a row that gains passes one on


def fit_caches(layout: Layout, texts: int, tokens: int) -> None:
    """Refuse texts whose keys and values this machine cannot hold.

    Args:
        layout: the model on the decode mesh.
        texts: how many.
        tokens: of the longest.

    Raises:
        MeshError: they take more than half of its memory, all ranks together: these may be on one machine.
    """
    c, have = layout.config, physical_memory()
    need = texts * 256 * ceil_div(tokens + 1, 256) * 2 * 4 * c.blocks * c.kv_heads * layout.head
    if need > have / 2:
        raise MeshError(f"keys and values of {texts} x {tokens} tokens take {need / 1e9:.2g} GB; half of this "
                        f"machine's memory is {have / 2e9:.2g} GB: fewer texts, or shorter ones")


@dataclass(frozen=True, eq=False)
class Text:
    """Entries of all blocks; attributes as of `KVCache`. What ``keys`` and ``values`` hold past the entries is free.

    Attributes:
        part: what this process has of them; None: all.
        first: where the first of its entries lies: those before have gone to the rank above.
    """

    occupancy: np.ndarray
    shifts: int
    keys: np.ndarray
    values: np.ndarray
    part: Part
    first: int = 0

    def __len__(self) -> int:
        return int(self.occupancy.sum())

    @property
    def room(self) -> int:
        """Entries that there is memory for."""
        return self.values.shape[2]

    @property
    def bounds(self) -> np.ndarray:
        """``(own rows + 1,)`` where the entries of each of this process's rows begin, and where the last one's end."""
        return self.part.bounds(self.occupancy, self.first)

    @property
    def every_bound(self) -> np.ndarray:
        """``(rows + 1,)`` where the entries of each row begin and end in the text."""
        return np.concatenate([[0], np.cumsum(self.occupancy)])


class KVCache:
    """Keys and values of all blocks.

    Args:
        layout: the model on the decode mesh.
        policy: "shift" or "concat".
        limit: bytes that the cache may take on one core; None: no limit.
        itemsize: bytes of one element on the wafer (2 for float16).
        entry_bytes: of one token on a core, where not all blocks share it.
        part: what this process has of the entries; None: all.

    Attributes:
        text: what it holds, replaced as a whole: `cleared`, `filled` and `extended` make the next one.
    """

    def __init__(self, layout: Layout, policy: str = "shift", limit: int | None = None, itemsize: int = 4,
                 entry_bytes: int | None = None, part: Part | None = None):
        if policy not in POLICIES:
            raise MeshError(f"cache policy {policy!r}; known: {', '.join(POLICIES)}")
        self.layout, self.policy, self.limit = layout, policy, limit
        self.entry_bytes = self.entry_words * itemsize if entry_bytes is None else entry_bytes
        self.part = part or Part.of(layout)
        self.text = Text(np.zeros(layout.mesh.rows, np.int64), 0, *self._memory(0), self.part)

    def _memory(self, room: int) -> tuple[np.ndarray, np.ndarray]:
        blocks, heads, head = self.layout.config.blocks, self.part.heads[1] - self.part.heads[0], self.layout.head
        return np.zeros((blocks, heads, head, room), np.float32), np.zeros((blocks, heads, room, head), np.float32)

    @property
    def occupancy(self) -> np.ndarray:
        """``(rows,)`` entries on each row of cores."""
        return self.text.occupancy

    @property
    def shifts(self) -> int:
        """Entries passed from one row to the next so far, in all."""
        return self.text.shifts

    @property
    def keys(self) -> np.ndarray:
        """``(blocks, kv_heads, head, room)``: transposed, as the scores need them; on ranks a part."""
        return self.text.keys

    @property
    def values(self) -> np.ndarray:
        """``(blocks, kv_heads, room, head)``, likewise."""
        return self.text.values

    def __len__(self) -> int:
        return len(self.text)

    @property
    def entry_words(self) -> int:
        """Elements of one token's keys and values on one core, all blocks together."""
        return 2 * self.layout.strip_kv * self.layout.width * self.layout.config.blocks

    def advance(self) -> int:
        """Make room for one more entry: shift where the policy says so.

        Returns:
            The entry's place in the text.

        Raises:
            CacheOverflow: a core has no room; the cache is as it was.
        """
        text = self.extended()
        self.pass_on(text)
        self.text = text
        return len(self) - 1

    # ---------------------------------------------------------------- what the text would be; the cache stays as it is
    def cleared(self) -> Text:
        """No entries, in the same memory."""
        return replace(self.text, occupancy=np.zeros_like(self.text.occupancy), shifts=0, first=0)

    def filled(self, kept: Sequence[tuple[np.ndarray, np.ndarray]], tokens: int | None = None) -> Text:
        """A prefill's entries, spread evenly over the rows: the redistribution of keys and values between the phases.

        They get memory of their own while a text lies in that of the cache.

        Args:
            kept: keys and values of each block, ``(kv_heads, L, head)``, those of this part; heads may be padded for
                another mesh.
            tokens: of the prompt; None: as many as are kept.

        Returns:
            The text to put in place.

        Raises:
            CacheOverflow: a core has no room for them.
        """
        n, text, d = kept[0][0].shape[1], self.text, self.layout.config.head_dim
        occupancy = self._fitting(balanced(n if tokens is None else tokens, len(text.occupancy)))
        free = len(text) == 0 and n <= text.room
        memory = (text.keys, text.values) if free else self._memory(256 * ceil_div(n + 1, 256))
        new = Text(occupancy, 0, *memory, self.part)
        for block, (k, v) in enumerate(kept):
            new.keys[block, :, :d, :n] = k[..., :d].swapaxes(1, 2)
            new.values[block, :, :n, :d] = v[..., :d]
        return new

    def extended(self) -> Text:
        """One more entry, not stored yet, at place ``len(self)``: see `advance`."""
        text, room = self.text, self.text.room
        after, passed = text.occupancy.copy(), self._passing()
        after[passed] -= 1
        after[:-1] += passed[1:]
        after[-1] += 1
        after, keys, values, end = self._fitting(after), text.keys, text.values, int(text.bounds[-1])
        first = text.first + int(self.part.rows[0] > 0 and passed[self.part.rows[0]])
        if end >= room:
            staying = end - first
            keys, values = self._memory(256 * ceil_div(max(staying + 2, 2 * staying), 256))
            keys[..., :staying], values[..., :staying, :] = text.keys[..., first:], text.values[..., first:, :]
            first = 0
        return Text(after, text.shifts + int(passed.sum()), keys, values, self.part, first)

    def _passing(self) -> np.ndarray:
        occupancy = self.text.occupancy
        return passing(occupancy) if self.policy == "shift" else np.zeros(len(occupancy), bool)

    def pass_on(self, text: Text) -> None:
        """What goes from rank to rank before ``text``, which is `extended`, is complete: an entry of all blocks.

        It goes to the place past the entries that the rank above has now, which is free; collective.
        """
        part, passed, (first, end) = self.part, self._passing(), self.part.rows
        if part.ranks is None or not part.cut_by_rows:
            return
        above, below = (part.column[part.column.index(part.ranks.rank) + step] if inside else None
                        for step, inside in ((-1, first > 0), (1, end < len(passed))))  # fmt: skip
        shape, request = (2, *text.keys.shape[:3]), None
        if below is not None and passed[end]:
            came = np.empty(shape, np.float32)
            request = part.ranks.receive_into(below, came)
        if above is not None and passed[first]:
            oldest = self.text.first
            part.ranks.send(above, np.stack([self.text.keys[..., oldest], self.text.values[..., oldest, :]]), "layout")
        if request is not None:
            part.ranks.settle(request, came.nbytes)
            place = text.bounds[-1] - 1
            text.keys[..., place], text.values[..., place, :] = came
        part.ranks.finish()

    def _fitting(self, occupancy: np.ndarray) -> np.ndarray:
        entries = int(occupancy.max())
        if self.limit is not None and entries * self.entry_bytes > self.limit:
            raise CacheOverflow(
                f"KV cache ({self.policy}): core ({occupancy.argmax()}, 0) would hold {entries} entries = "
                f"{entries * self.entry_bytes} bytes, the limit is {self.limit} bytes "
                f"({self.limit // self.entry_bytes} entries)")
        return occupancy
