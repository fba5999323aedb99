"""A model on a wafer whose cores are too small for it: its blocks shared out over regions that a token passes through.

Region r of n holds the blocks from r blocks // n on; the first has the embedding too, the last the final norm and the
head. Regions are rectangles of the phase's grid, in a snake over the fabric: each touches the next. The activations are
handed over from one to the next, every core taking what it needs from the nearest that has it; in decode the id of the
next token goes back to the first. Nothing of that changes a bit of a result.

References:
    He et al., WaferLLM, OSDI 2025: 48 KB a core force pipeline parallelism over regions of the wafer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice, pairwise
from math import ceil, sqrt
from typing import Any

from meshkernels.errors import DeviceLimitError
from meshkernels.kernels.storage import STORAGES
from meshkernels.llm.footprint import Footprint, Storages
from meshkernels.llm.layout import Layout, Placement
from meshkernels.llm.operations import Plan, Work
from meshkernels.llm.redistribute import Transfer, transfer
from meshkernels.mesh import Mesh
from meshkernels.readers.compliance import as_device

#: Bytes of an element of activations and the cache, as on the wafer.
_ITEMSIZE = 2


@dataclass(frozen=True)
class Region:
    """Some blocks of a model on a rectangle of cores.

    Attributes:
        y, x: its first core.
        blocks: the numbers of its blocks.
        kept_bytes: on its fullest core: weights, norms, and the most that an operation needs.
        entry_bytes: of one entry of the cache on a core.
        held_bytes: on its fullest core, with the caches of all sequences.
    """

    y: int
    x: int
    blocks: range
    kept_bytes: int
    entry_bytes: int
    held_bytes: int


@dataclass(frozen=True)
class Regions:
    """How a wafer holds a phase of a model.

    Attributes:
        device: the wafer's name.
        plan: of the phase, on the grid of one region.
        storages: of the model's tensors.
        batch: sequences whose caches it holds.
        wanted: regions to use; None: all that lie on the fabric, but no more than there are blocks.
    """

    device: str
    plan: Plan
    storages: Storages
    batch: int = 1
    wanted: int | None = None

    @property
    def memory(self) -> int:
        """Bytes of a core."""
        return as_device(self.device).memory_per_core

    @cached_property
    def there(self) -> tuple[int, int]:
        """``(down, across)`` how many lie on the fabric."""
        chip, mesh = as_device(self.device), self.plan.layout.mesh
        return chip.rows // mesh.rows, chip.cols // mesh.cols

    @cached_property
    def most(self) -> int:
        """How many can be used."""
        return min(self.there[0] * self.there[1], self.plan.layout.config.blocks)

    @property
    def count(self) -> int:
        """How many are used."""
        return self.most if self.wanted is None else min(self.wanted, self.most)

    def blocks(self, number: int) -> range:
        """The blocks of a region."""
        total = self.plan.layout.config.blocks
        return range(number * total // self.count, (number + 1) * total // self.count)

    @cached_property
    def stored(self) -> Footprint:
        """Bytes of matrices."""
        return Footprint.of(self.plan, self.storages)

    def resident_bytes(self, number: int) -> int:
        """Bytes on a region's fullest core of what stays but for the cache."""
        blocks, stored = self.blocks(number), self.stored
        first, last = number == 0, number == self.count - 1
        matrices = stored.held(blocks)
        if first:
            matrices = matrices + stored.embedding
        if last and not (first and stored.head is stored.embedding):
            matrices = matrices + stored.head
        vectors = len(blocks) * self._words("w_attn", "w_ffn", "bq", "bk", "bv") + last * self._words("w_out")
        return int(matrices.max()) + vectors * STORAGES[self.storages["output_norm.weight"]].nbytes

    def cache_bytes(self, number: int) -> int:
        """Bytes on a core of a region that the keys and values of all sequences take."""
        return self.batch * len(self.blocks(number)) * self._words("K cache", "V cache") * _ITEMSIZE

    def _words(self, *names: str) -> int:
        placed = self.plan.placements
        return sum(placed[name].words for name in names if name in placed)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """All of them, in the order in which a token passes through."""
        plan, mesh = self.plan, self.plan.layout.mesh
        before, layer, after = (plan.working_bytes(part, _ITEMSIZE, _ITEMSIZE, self.storages)
                                for part in (plan.before, plan.layer, plan.after))

        def made(number: int) -> Region:
            blocks, (down, along) = self.blocks(number), divmod(number, self.there[1])
            across = self.there[1] - 1 - along if down % 2 else along  # a snake
            working = max(layer, before if number == 0 else 0, after if number == self.count - 1 else 0)
            kept = self.resident_bytes(number) + working
            entry = len(blocks) * 2 * plan.layout.strip_kv * plan.layout.width * _ITEMSIZE
            return Region(down * mesh.rows, across * mesh.cols, blocks, kept, entry, kept + self.cache_bytes(number))

        return tuple(map(made, range(self.count)))

    @property
    def fullest(self) -> Region:
        """The region whose cores hold most."""
        return max(self.regions, key=lambda region: region.held_bytes)

    @property
    def tightest(self) -> Region:
        """The region that has room for the fewest entries of the cache."""
        return min(self.regions, key=lambda region: (self.memory - region.kept_bytes) // region.entry_bytes)

    # ------------------------------------------------------------------------------------------------ hand-overs
    @cached_property
    def hand_overs(self) -> tuple[Transfer, ...]:
        """Of the activations from each region to the next; in decode the way back of the id comes last."""
        def moved(what: Placement, a: Region, b: Region) -> Transfer:
            return transfer(what, what, offset=(b.y - a.y, b.x - a.x))

        found = [moved(self.plan.placements["X"], a, b) for a, b in pairwise(self.regions)]
        if self.plan.phase == "decode" and found:
            token = Placement("id", {"I": 1}, self.plan.layout.mesh)
            found.append(moved(token, self.regions[-1], self.regions[0]))
        return tuple(found)

    @property
    def work(self) -> Work:
        """What the hand-overs add to the plan's counts: each is a step and a stage."""
        over = self.hand_overs
        return Work(len(over), sum(each.hops for each in over), len(over), sum(each.words for each in over))

    # ------------------------------------------------------------------------------------------------- refusals
    def check(self) -> None:
        """Refuse a model that these regions cannot hold.

        Raises:
            DeviceLimitError: so many regions cannot be used, or a core's memory is too small; says what would do.
        """
        mesh, chip = self.plan.layout.mesh, as_device(self.device)
        if self.most == 0:
            raise DeviceLimitError(f"a grid of {mesh.rows} x {mesh.cols} cores does not fit {chip.name}, which has "
                                   f"{chip.rows} x {chip.cols}")
        if self.wanted is not None and not 1 <= self.wanted <= self.most:
            raise DeviceLimitError(f"{self.wanted} regions of {mesh.rows} x {mesh.cols} cores: from 1 to {self.most} "
                                   f"can be used, {self.there[0]} x {self.there[1]} lie on {chip.name}, and a region "
                                   "holds a block at least")
        worst = self.fullest
        if worst.held_bytes > self.memory:
            texts = "" if self.batch == 1 else f"{self.batch} texts of "
            blocks = "block" if len(worst.blocks) == 1 else "blocks"
            raise DeviceLimitError(
                f"{self.plan.phase} of {texts}{self.plan.tokens} tokens: the fullest of {self.count} regions of "
                f"{mesh.rows} x {mesh.cols} cores on {chip.name} has {blocks} "
                f"{span(worst.blocks.start, len(worst.blocks))}, {worst.held_bytes} bytes on a core, the limit is "
                f"{self.memory} bytes{self._advice()}")

    def _advice(self) -> str:
        """The square regions nearest to this size that would do; what operations need takes a second to count."""
        for side in islice(self._sides(), 4):
            other = self.of_side(side)
            if other.fullest.held_bytes <= self.memory:
                return f"; {other.count} regions of {side} x {side} would do"
        return "; no square regions would do"

    def _sides(self) -> Iterator[int]:
        """Sides, the nearest first, whose cores have room for what stays.

        Tried are the largest that cut the fabric into so many, and steps of an eighth from this one on; of each, the
        multiple of the key/value heads below it too, on which heads are cut with less padding.

        Yields:
            Each side.
        """
        chip, mesh, config = as_device(self.device), self.plan.layout.mesh, self.plan.layout.config
        here, most, fabric = sqrt(mesh.cores), 2 * config.blocks, min(chip.rows, chip.cols)
        tried = {min(chip.rows // down, chip.cols // across)
                 for down in range(1, most + 1) for across in range(1, most // down + 1)}
        tried |= {side for step in range(1, 64) if (side := ceil(here * 1.125**step)) <= fabric}
        sides = (tried | {side // config.kv_heads * config.kv_heads for side in tried}) - {0}
        for side in sorted(sides, key=lambda side: (abs(side - here), side)):
            other = self.of_side(side)
            if max(other.resident_bytes(n) + other.cache_bytes(n) for n in range(other.count)) < self.memory:
                yield side

    def of_side(self, side: int) -> Regions:
        """The same model and text on square regions of so many cores a side."""
        from meshkernels.llm.block import decode_plan, prefill_plan  # which import what this module does

        build = prefill_plan if self.plan.phase == "prefill" else decode_plan
        plan = build(Layout(self.plan.layout.config, Mesh(side)), self.plan.tokens, plan=self.plan.name)
        return replace(self, plan=plan)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the regions, in order, and what goes from each to the next."""
        return {"device": self.device, "memory_per_core": self.memory, "batch": self.batch,
                "regions": [{"y": each.y, "x": each.x, "first_block": each.blocks.start, "blocks": len(each.blocks),
                             "bytes_per_core": each.held_bytes} for each in self.regions],
                "hand_overs": [asdict(each) for each in self.hand_overs]}


def span(first: int, count: int) -> str:
    """The first and the last of so many blocks, or the only one."""
    return f"{first}" if count == 1 else f"{first} to {first + count - 1}"
