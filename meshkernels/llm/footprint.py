"""Bytes of a model's weights on every core, in the storage types of its file.

Of a tile of k inputs and n outputs of one storage type a core keeps

    the codes, plane by plane (`meshkernels.kernels.storage`), each plane in whole bytes
    of every output, a byte for each factor and each minimum's factor of the groups that its inputs lie in
    of every output, two bytes for each scale and each minimum of the blocks that its inputs lie in

Groups and blocks run along the inputs and do not end where tiles do: of tiles of 12 inputs and blocks of 32, the third
lies in two blocks and keeps the scales of both. Padding is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from meshkernels.kernels.storage import STORAGES
from meshkernels.llm.weights import Arranged, arranged
from meshkernels.mesh import ceil_div

if TYPE_CHECKING:
    from meshkernels.llm.operations import Plan

#: The name of a tensor in a model file -> its storage type.
Storages = Mapping[str, str]


def tile_bytes(storage: str, inputs: np.ndarray, outputs: np.ndarray, parts: tuple[int, int]) -> np.ndarray:
    """Bytes of every tile of a matrix of one storage type.

    Args:
        storage: its name.
        inputs: ``(K,)`` which number of a stored row each is; -1: padding.
        outputs: ``(N,)`` booleans: those that there are.
        parts: into how many parts inputs and outputs are cut.

    Returns:
        ``parts`` int64.

    Examples:
        >>> tile_bytes("Q4_0", np.arange(36), np.ones(4, bool), (3, 2)).tolist()
        [[16, 16], [16, 16], [20, 20]]
    """
    kind, tiles = STORAGES[storage], np.arange(len(inputs)) // ceil_div(len(inputs), parts[0])

    def touched(length: int) -> np.ndarray:
        """Of each part: how many runs of so many numbers its inputs lie in."""
        there = inputs >= 0
        pairs = np.unique(np.stack([tiles[there], inputs[there] // length]), axis=1)
        return np.bincount(pairs[0], minlength=parts[0])

    wide = np.bincount(np.arange(len(outputs)) // ceil_div(len(outputs), parts[1]), outputs, parts[1]).astype(np.int64)
    codes = np.multiply.outer(touched(1), wide)
    found = sum((codes * plane.bits + 7) // 8 for plane in kind.codes)
    scales = touched(kind.block) * 2 * ((kind.scale >= 0) + (kind.minimum >= 0))
    if kind.factors:
        scales = scales + touched(kind.group) * (1 + (len(kind.others) > 0))
    return found + np.multiply.outer(scales, wide)


@dataclass(frozen=True, eq=False)
class Footprint:
    """What the matrices of a plan take, as they are stored.

    Attributes:
        blocks: ``(rows, cols)`` bytes of those of each block on each core; blocks of the same types share an array.
        embedding, head: ``(rows, cols)`` bytes of these; one array where the head is the embedding.
        largest: bytes of the largest tile of each operand, by its names in the plan: what moves in a matrix product.
    """

    blocks: tuple[np.ndarray, ...]
    embedding: np.ndarray
    head: np.ndarray
    largest: dict[tuple[str, ...], int]

    @property
    def table(self) -> np.ndarray:
        """``(rows, cols)`` bytes of embedding and head together."""
        return self.embedding if self.head is self.embedding else self.embedding + self.head

    @property
    def fullest(self) -> tuple[int, int]:
        """``(y, x)`` of the core that holds most."""
        held = self.held(range(len(self.blocks))) + self.table
        y, x = np.unravel_index(held.argmax(), held.shape)
        return int(y), int(x)

    def held(self, blocks: Sequence[int]) -> np.ndarray:
        """``(rows, cols)`` bytes of some blocks on each core."""
        return sum((self.blocks[block] for block in blocks), np.zeros_like(self.embedding))

    @classmethod
    def of(cls, plan: Plan, storages: Storages) -> Footprint:
        """Count a plan's matrices.

        Args:
            plan: which says how they are cut.
            storages: the storage type of each, and of any other tensor.

        Returns:
            The bytes.
        """
        config, mesh = plan.layout.config, plan.layout.mesh
        axes = {plan.matrices(op): used.axis for op in (*plan.layer, *plan.after) if plan.matrices(op)
                for used in op.schedules if used.multiplies}
        padding = plan.placements["X"].dims["E"] - config.dim  # in prefill, to what its grid cuts

        def padded(order: np.ndarray) -> np.ndarray:
            return np.pad(order, (0, padding), constant_values=-1) if len(order) == config.dim else order

        def on_cores(matrix: Arranged, kinds: tuple[str, ...]) -> np.ndarray:
            across = axes[matrix.names] == 1  # inputs are cut along the axis that is summed
            parts = mesh.shape[::-1] if across else mesh.shape
            inputs, columns = padded(matrix.rows), padded(matrix.columns)
            stored = np.array(kinds)[padded(matrix.kinds)]
            found = sum(tile_bytes(kind, inputs, (stored == kind) & (columns >= 0), parts)
                        for kind in dict.fromkeys(kinds))
            assert isinstance(found, np.ndarray)
            return found.T if across else found

        matrices = tuple(arranged(plan.layout))

        @cache
        def of_block(kinds: tuple[tuple[str, ...], ...]) -> tuple[np.ndarray, list[int]]:
            found = [on_cores(matrix, types) for matrix, types in zip(matrices, kinds)]
            return np.sum(found, axis=0), [int(held.max()) for held in found]

        blocks = [of_block(tuple(tuple(storages[f"blk.{block}.{tensor}.weight"] for tensor in matrix.tensors)
                                 for matrix in matrices)) for block in range(config.blocks)]
        words = np.arange(config.vocab)
        tables = [on_cores(Arranged(("table",), (name,), words, np.arange(config.dim), 0 * words), (storages[name],))
                  for name in ("token_embd.weight", "output.weight") if name in storages]
        largest = {matrix.names: max(most[i] for _, most in blocks) for i, matrix in enumerate(matrices)}
        largest["table",] = int(tables[-1].max())
        return cls(tuple(held for held, _ in blocks), tables[0], tables[-1], largest)
