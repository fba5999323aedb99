"""The KV cache: which row of cores holds which entry, and the two ways to append one.

``shift``   the new entry goes to the last row; a row that gains one passes its oldest on to the row above, unless
            that row already holds more: level rows all shift at once, neighbours only. Occupancies never
            differ by more than one, and down the rows one meets the entries from the oldest to the newest.
``concat``  every new entry goes to the last row, which is full while the others have room.

Since physical order is logical order, the entries are stored in one piece and a shift moves the *bounds* of the
rows; `tests/llm/test_cache.py` moves single entries from row to row and finds the same.

References:
    He et al., WaferLLM, OSDI 2025, section 4 (KV cache shift, Table 5).
"""

from __future__ import annotations

import numpy as np

from meshkernels.errors import DeviceLimitError, MeshError
from meshkernels.llm.layout import Layout
from meshkernels.mesh import ceil_div

POLICIES = ("shift", "concat")


class CacheOverflow(DeviceLimitError):
    """A core has no room for the next entry."""


def balanced(tokens: int, rows: int) -> np.ndarray:
    """Entries on each of ``rows`` rows after ``tokens`` appends by ``shift``.

    While some rows are empty, the last ones are filled; afterwards the first ones are ahead by one.

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
    """
    return per_core * rows if policy == "shift" else per_core


class KVCache:
    """Keys and values of all blocks.

    Args:
        layout: the model on the decode mesh.
        policy: "shift" or "concat".
        limit: bytes that the cache may take on one core; None: no limit.
        itemsize: bytes of one element on the wafer (2 for float16).

    Attributes:
        occupancy: ``(rows,)`` entries on each row of cores.
        keys: ``(blocks, kv_heads, head, room)``: transposed, as the scores need them.
        values: ``(blocks, kv_heads, room, head)``.
        shifts: entries passed from one row to the next so far, in all.
    """

    def __init__(self, layout: Layout, policy: str = "shift", limit: int | None = None, itemsize: int = 4):
        if policy not in POLICIES:
            raise MeshError(f"cache policy {policy!r}; known: {', '.join(POLICIES)}")
        self.layout, self.policy, self.limit, self.itemsize = layout, policy, limit, itemsize
        self._room(0)
        self.clear()

    def _room(self, room: int) -> None:
        c = self.layout.config
        self.keys = np.zeros((c.blocks, c.kv_heads, self.layout.head, room), np.float32)
        self.values = np.zeros((c.blocks, c.kv_heads, room, self.layout.head), np.float32)

    def clear(self) -> None:
        """Forget everything; the memory is kept for the next text."""
        self.occupancy = np.zeros(self.layout.mesh.rows, np.int64)
        self.shifts = 0

    def __len__(self) -> int:
        return int(self.occupancy.sum())

    @property
    def entry_words(self) -> int:
        """Elements of one token's keys and values on one core, all blocks together."""
        return 2 * self.layout.strip_kv * self.layout.width * self.layout.config.blocks

    @property
    def per_core(self) -> int | None:
        """Entries that fit on one core within the limit."""
        return None if self.limit is None else self.limit // (self.entry_words * self.itemsize)

    @property
    def ends(self) -> np.ndarray:
        """``(rows,)`` one past each row's last entry, in the order of the text."""
        return np.cumsum(self.occupancy)

    def hand_over(self, keys: list[np.ndarray], values: list[np.ndarray]) -> None:
        """Take a prefill's keys and values, per block ``(kv_heads, L, head)``, spread evenly over the rows."""
        tokens = keys[0].shape[1]
        self.clear()
        self._set(balanced(tokens, len(self.occupancy)))
        self._reserve(tokens)
        for block, (k, v) in enumerate(zip(keys, values)):
            self.keys[block, :, :, :tokens] = k.swapaxes(1, 2)
            self.values[block, :, :tokens] = v

    def advance(self) -> int:
        """Make room for one more entry: shift where the policy says so; returns the entry's place in the text.

        Raises:
            CacheOverflow: a core has no room; the cache is as it was.
        """
        after = self.occupancy.copy()
        passed = passing(after) if self.policy == "shift" else np.zeros(len(after), bool)
        after[passed] -= 1
        after[:-1] += passed[1:]
        after[-1] += 1
        self._set(after)
        self.shifts += int(passed.sum())
        self._reserve(len(self))
        return len(self) - 1

    def store(self, block: int, place: int, key: np.ndarray, value: np.ndarray) -> None:
        """Put one token's key and value ``(kv_heads, head)`` of one block at its place."""
        self.keys[block, :, :, place] = key
        self.values[block, :, place] = value

    def _set(self, occupancy: np.ndarray) -> None:
        fullest = int(occupancy.argmax())
        if self.per_core is not None and occupancy[fullest] > self.per_core:
            needed = int(occupancy[fullest]) * self.entry_words * self.itemsize
            raise CacheOverflow(
                f"KV cache ({self.policy}): core ({fullest}, 0) would hold {occupancy[fullest]} entries = "
                f"{needed} bytes, the limit is {self.limit} bytes ({self.per_core} entries)")
        self.occupancy = occupancy

    def _reserve(self, tokens: int) -> None:
        room = self.values.shape[2]
        if tokens <= room:
            return
        keys, values = self.keys, self.values
        self._room(256 * ceil_div(max(tokens + 1, 2 * room), 256))
        self.keys[..., :room], self.values[..., :room, :] = keys, values
