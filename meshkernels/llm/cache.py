"""The KV cache: which row of cores holds which entry, and the two ways to append one.

``shift``   the new entry goes to the last row; a row that gains one passes its oldest on to the row above, unless
            that row already holds more: level rows all shift at once, neighbours only. Occupancies never
            differ by more than one, and down the rows one meets the entries from the oldest to the newest.
``concat``  every new entry goes to the last row, which is full while the others have room.

Since physical order is logical order, the entries are stored in one piece and a shift moves the *bounds* of the
rows; `tests/llm/test_llm_cache.py` moves single entries from row to row and finds the same.

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


def capacity(rows: int, per_core: int, policy: str) -> int:
    """Tokens until the budget of some core is exceeded, from ``per_core`` entries that fit on one.

    ``shift`` uses every row, ``concat`` (from an empty cache) only the last one.

    Args:
        rows: of cores.
        per_core: entries that fit on one core.
        policy: "shift" or "concat".

    Returns:
        Tokens.
    """
    return per_core * rows if policy == "shift" else per_core


def fit_caches(layout: Layout, texts: int, tokens: int) -> None:
    """Refuse texts whose keys and values this machine cannot hold.

    Args:
        layout: the model on the decode mesh.
        texts: how many.
        tokens: of the longest.

    Raises:
        MeshError: they take more than half of its memory.
    """
    c, have = layout.config, physical_memory()
    need = texts * 256 * ceil_div(tokens + 1, 256) * 2 * 4 * c.blocks * c.kv_heads * layout.head
    if need > have / 2:
        raise MeshError(f"keys and values of {texts} x {tokens} tokens take {need / 1e9:.2g} GB; half of this "
                        f"machine's memory is {have / 2e9:.2g} GB: fewer texts, or shorter ones")


@dataclass(frozen=True, eq=False)
class Text:
    """Entries of all blocks; attributes as of `KVCache`. What ``keys`` and ``values`` hold past the entries is free."""

    occupancy: np.ndarray
    shifts: int
    keys: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return int(self.occupancy.sum())

    @property
    def room(self) -> int:
        """Entries that there is memory for."""
        return self.values.shape[2]

    @property
    def ends(self) -> np.ndarray:
        """``(rows,)`` one past each row's last entry, in the order of the text."""
        return np.cumsum(self.occupancy)


class KVCache:
    """Keys and values of all blocks.

    Args:
        layout: the model on the decode mesh.
        policy: "shift" or "concat".
        limit: bytes that the cache may take on one core; None: no limit.
        itemsize: bytes of one element on the wafer (2 for float16).
        entry_bytes: of one token on a core, where not all blocks share it.

    Attributes:
        text: what it holds, replaced as a whole: `cleared`, `filled` and `extended` make the next one.
    """

    def __init__(self, layout: Layout, policy: str = "shift", limit: int | None = None, itemsize: int = 4,
                 entry_bytes: int | None = None):
        if policy not in POLICIES:
            raise MeshError(f"cache policy {policy!r}; known: {', '.join(POLICIES)}")
        self.layout, self.policy, self.limit = layout, policy, limit
        self.entry_bytes = self.entry_words * itemsize if entry_bytes is None else entry_bytes
        self.text = Text(np.zeros(layout.mesh.rows, np.int64), 0, *self._memory(0))

    def _memory(self, room: int) -> tuple[np.ndarray, np.ndarray]:
        c, head = self.layout.config, self.layout.head
        return (np.zeros((c.blocks, c.kv_heads, head, room), np.float32),
                np.zeros((c.blocks, c.kv_heads, room, head), np.float32))

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
        """``(blocks, kv_heads, head, room)``: transposed, as the scores need them."""
        return self.text.keys

    @property
    def values(self) -> np.ndarray:
        """``(blocks, kv_heads, room, head)``."""
        return self.text.values

    def __len__(self) -> int:
        return len(self.text)

    @property
    def entry_words(self) -> int:
        """Elements of one token's keys and values on one core, all blocks together."""
        return 2 * self.layout.strip_kv * self.layout.width * self.layout.config.blocks

    @property
    def per_core(self) -> int | None:
        """Entries that fit on one core within the limit."""
        return None if self.limit is None else self.limit // self.entry_bytes

    def advance(self) -> int:
        """Make room for one more entry: shift where the policy says so.

        Returns:
            The entry's place in the text.

        Raises:
            CacheOverflow: a core has no room; the cache is as it was.
        """
        self.text = self.extended()
        return len(self) - 1

    # ---------------------------------------------------------------- what the text would be; the cache stays as it is
    def cleared(self) -> Text:
        """No entries, in the same memory."""
        return replace(self.text, occupancy=np.zeros_like(self.text.occupancy), shifts=0)

    def filled(self, kept: Sequence[tuple[np.ndarray, np.ndarray]]) -> Text:
        """A prefill's entries, spread evenly over the rows: the redistribution of keys and values between the phases.

        They get memory of their own while a text lies in that of the cache.

        Args:
            kept: keys and values of each block, ``(kv_heads, L, head)``; heads may be padded for another mesh.

        Returns:
            The text to put in place.

        Raises:
            CacheOverflow: a core has no room for them.
        """
        tokens, text, d = kept[0][0].shape[1], self.text, self.layout.config.head_dim
        occupancy = self._fitting(balanced(tokens, len(text.occupancy)))
        free = len(text) == 0 and tokens <= text.room
        new = Text(occupancy, 0, *((text.keys, text.values) if free else self._memory(256 * ceil_div(tokens + 1, 256))))
        for block, (k, v) in enumerate(kept):
            new.keys[block, :, :d, :tokens] = k[..., :d].swapaxes(1, 2)
            new.values[block, :, :tokens, :d] = v[..., :d]
        return new

    def extended(self) -> Text:
        """One more entry, not stored yet, at place ``len(self)``: see `advance`."""
        text, tokens, room = self.text, len(self.text), self.text.room
        after = text.occupancy.copy()
        passed = passing(after) if self.policy == "shift" else np.zeros(len(after), bool)
        after[passed] -= 1
        after[:-1] += passed[1:]
        after[-1] += 1
        after, keys, values = self._fitting(after), text.keys, text.values
        if tokens >= room:
            keys, values = self._memory(256 * ceil_div(max(tokens + 2, 2 * room), 256))
            keys[..., :room], values[..., :room, :] = text.keys, text.values
        return Text(after, text.shifts + int(passed.sum()), keys, values)

    def _fitting(self, occupancy: np.ndarray) -> np.ndarray:
        fullest = int(occupancy.argmax())
        if self.per_core is not None and occupancy[fullest] > self.per_core:
            needed = int(occupancy[fullest]) * self.entry_bytes
            raise CacheOverflow(
                f"KV cache ({self.policy}): core ({fullest}, 0) would hold {occupancy[fullest]} entries = "
                f"{needed} bytes, the limit is {self.limit} bytes ({self.per_core} entries)")
        return occupancy
