"""How matrices are stored: plain numbers, or GGUF's blocks of codes with scales.

A number of a block is one of

    scale * (code - zero)                     Q4_0, Q5_0, Q8_0
    scale * code + minimum                    Q4_1, Q5_1
    scale * factor * (code - zero)            Q3_K, Q6_K: a factor for every 16 numbers
    scale * factor * code - minimum * other   Q2_K, Q4_K, Q5_K: a factor and an other for every 16 or 32

with scale and minimum in float16. ``scale * factor * (code - zero)`` has at most 24 significant bits (11 of the scale,
7 of a factor, 6 of a code; 11 and 8 of Q8_0): it is exact in float32 in any order, so that one multiply-add rounds a
number exactly as the two operations of the reference do.

References:
    ggml, ``ggml-quants.c``; the ``gguf`` package, ``quants.py``, which the tests compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Plane(NamedTuple):
    """Some bits of every number: ``(byte >> shift) % 2**bits`` of the block's byte ``at``.

    Attributes:
        bits: 1, 2 or 4 of each number, or all of its 8, 16, 32 or 64.
        at: ``(numbers,)`` the byte in the block where each number has them.
        shift: ``(numbers,)`` below them in this byte.
    """

    bits: int
    at: np.ndarray
    shift: np.ndarray


#: The planes of one number, its lowest bits first; none where there is no such number.
Planes = tuple[Plane, ...]


@dataclass(frozen=True, eq=False)
class Storage:
    """One way to store numbers.

    Attributes:
        name: as GGUF has it.
        block: numbers of a block; nbytes: bytes of it.
        codes: planes of the numbers or their codes; eight bits are a signed code.
        zero: the code of 0.
        group: numbers that share a factor (or a scale, where there are no factors); 0: plain numbers, without a scale.
        scale, minimum: bytes of the block at which these begin, float16; -1: none.
        factors, others: planes for each group; eight bits are signed.
        factor_zero: is subtracted from factors.
    """

    name: str
    block: int
    nbytes: int
    codes: Planes
    zero: int = 0
    group: int = 0
    scale: int = -1
    minimum: int = -1
    factors: Planes = ()
    others: Planes = ()
    factor_zero: int = 0

    @property
    def groups(self) -> int:
        """Factors in a block, or 0."""
        return self.block // self.group if self.factors else 0

    @property
    def wide(self) -> np.dtype:
        """The dtype that numbers are read as."""
        return np.dtype(np.float64 if self.name == "F64" else np.float32)


def _plane(bits: int, at, shift=0) -> Plane:
    at = np.asarray(at, np.int64)
    return Plane(bits, at, np.broadcast_to(np.asarray(shift, np.int64), at.shape).copy())


def _plain(name: str, nbytes: int) -> Storage:
    return Storage(name, 1, nbytes, (_plane(8 * nbytes, [0]),))


def _stored() -> tuple[Storage, ...]:
    e, j = np.arange(256), np.arange(16)
    i, half, quarter, in_half = e[:32], e // 128, e % 128 // 32, e % 32

    def nibbles(first: int) -> Plane:
        """Of 32 numbers; 16 bytes, the second half of the numbers in the upper bits."""
        return _plane(4, first + i % 16, i // 16 * 4)

    def nibbles_k(first: int, run: int) -> Plane:
        """Of 256 numbers; runs of bytes hold one run of numbers in their lower bits and the next in their upper."""
        return _plane(4, first + e // (2 * run) * run + e % run, e // run % 2 * 4)

    def pairs(first: int) -> Plane:
        return _plane(2, first + half * 32 + in_half, quarter * 2)

    def bits_k(first: int) -> Plane:
        return _plane(1, first + in_half, e // 32)

    # Twelve bytes from 4 on hold eight factors and eight others, of six bits: the last four bytes have the lower four
    # of numbers 4 to 7, whose upper two are above the six of numbers 0 to 3.
    g, early = j[:8], j[:8] < 4
    six = (_plane(4, np.where(early, 4 + g, 8 + g)), _plane(2, np.where(early, 4 + g, g), np.where(early, 4, 6)))
    six_others = (_plane(4, 8 + g, np.where(early, 0, 4)),
                  _plane(2, np.where(early, 8 + g, 4 + g), np.where(early, 4, 6)))
    six_of_16 = (_plane(4, 96 + j % 8, j // 8 * 4), _plane(2, 104 + j % 4, j // 4 * 2))
    return (
        Storage("Q4_0", 32, 18, (nibbles(2),), 8, 32, 0),
        Storage("Q4_1", 32, 20, (nibbles(4),), 0, 32, 0, 2),
        Storage("Q5_0", 32, 22, (nibbles(6), _plane(1, 2 + i // 8, i % 8)), 16, 32, 0),
        Storage("Q5_1", 32, 24, (nibbles(8), _plane(1, 4 + i // 8, i % 8)), 0, 32, 0, 2),
        Storage("Q8_0", 32, 34, (_plane(8, 2 + i),), 0, 32, 0),
        Storage("Q2_K", 256, 84, (pairs(16),), 0, 16, 80, 82, (_plane(4, j),), (_plane(4, j, 4),)),
        Storage("Q3_K", 256, 110, (pairs(32), bits_k(0)), 4, 16, 108, -1, six_of_16, (), 32),
        Storage("Q4_K", 256, 144, (nibbles_k(16, 32),), 0, 32, 0, 2, six, six_others),
        Storage("Q5_K", 256, 176, (nibbles_k(48, 32), bits_k(16)), 0, 32, 0, 2, six, six_others),
        Storage("Q6_K", 256, 210, (nibbles_k(0, 64), pairs(128)), 32, 16, 208, -1, (_plane(8, 192 + j),)),
    )


#: Storage types by their name in GGUF.
STORAGES = {each.name: each for each in (
    _plain("F64", 8), _plain("F32", 4), _plain("F16", 2), _plain("BF16", 2), *_stored())}
#: The storage type of arrays, by the name of their dtype.
OF_DTYPE = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
