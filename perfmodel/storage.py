"""Storage types of weights: what a tile of codes and scales takes on a core.

A row of a stored matrix is cut into blocks, and a block into groups. They run along the inputs of a product and do not
end where tiles do: a tile keeps the scale of every block, and the factors of every group, that it has a part of.
Factors take a byte each once they are unpacked. The types are those of ggml's files (``ggml-quants.c``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from perfmodel.checks import choice
from perfmodel.counts import cdiv


class Type(NamedTuple):
    """A storage type.

    Attributes:
        planes: bits of a number, in the pieces that are stored apart.
        block: numbers that share a scale; 1: plain numbers.
        scales: bytes of a block's scale and minimum.
        group: numbers that share a factor.
        factors: bytes of a group's factors.
    """

    planes: tuple[int, ...]
    block: int = 1
    scales: int = 0
    group: int = 1
    factors: int = 0


#: types by name
TYPES = {
    "F32": Type((32,)), "F16": Type((16,)), "BF16": Type((16,)),
    "Q8_0": Type((8,), 32, 2), "Q5_0": Type((4, 1), 32, 2), "Q5_1": Type((4, 1), 32, 4),
    "Q4_0": Type((4,), 32, 2), "Q4_1": Type((4,), 32, 4),
    "Q2_K": Type((2,), 256, 4, 16, 2), "Q3_K": Type((2, 1), 256, 2, 16, 1), "Q4_K": Type((4,), 256, 4, 32, 2),
    "Q5_K": Type((4, 1), 256, 4, 32, 2), "Q6_K": Type((4, 2), 256, 2, 16, 1),
}


def tile_bytes(storage: str, inputs: int, tile: Any, outputs: Any) -> Any:
    """Bytes of the largest tile of a matrix: codes in whole bytes, and for each output the scales that they need.

    Args:
        storage: name of a type.
        inputs: length of a row; the inputs of a core's tile are consecutive, the first of it a multiple of ``tile``.
        tile: inputs of a tile; a number or an array.
        outputs: outputs of a tile; a number or an array.

    Returns:
        Bytes, like ``tile``.

    Raises:
        UnknownName: no such type; the message lists the known ones.

    >>> int(tile_bytes("F16", 4096, 12, 40)), int(tile_bytes("Q4_0", 4096, 12, 40))
    (960, 400)
    """
    kind = TYPES[choice("storage", storage, TYPES)]
    tile, outputs = (np.asarray(length, np.int64)[..., None] for length in (tile, outputs))
    first = tile * np.arange(kind.block)  # where tiles begin; in blocks, these places repeat after as many tiles
    end = np.minimum(first + tile, inputs)
    codes = sum(cdiv(bits * (end - first) * outputs, 8) for bits in kind.planes)
    scales, factors = (bytes_ * ((end - 1) // length - first // length + 1)
                       for bytes_, length in ((kind.scales, kind.block), (kind.factors, kind.group)))
    return np.where(first < inputs, codes + outputs * (scales + factors), 0).max(axis=-1)
