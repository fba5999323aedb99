"""Rings: a cyclic order of the cores of one line, along which tiles are shifted.

On a line of cores the natural ring 0 -> 1 -> ... -> P-1 -> 0 has one edge of P-1 hops, and the slowest edge
sets the pace of every shift. The *interleaved* ring visits the even cores upwards and the odd cores
downwards (0 2 4 ... 5 3 1), so that no edge is longer than two hops. Two is the least possible for P >= 3:
with every edge at one hop, core 0 would have to send to core 1 and to receive from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from meshkernels.errors import MeshError
from perfmodel.values import ByValue


@dataclass(frozen=True, eq=False)
class Ring(ByValue):
    """One cycle through the cores ``0 .. P-1`` of a line.

    Attributes:
        order: ``(P,)`` the core at each ring position (the paper's rho).
        position: ``(P,)`` the ring position of each core (pi), the inverse of ``order``.
        send: ``(P,)`` the core that each core sends to: the next on the ring.
        recv: ``(P,)`` the core that each core receives from.
        hops: ``(P,)`` links between each core and the one it sends to.

    Examples:
        >>> ring = Ring.interleaved(6)
        >>> ring.order.tolist(), ring.send.tolist(), int(ring.hops.max())
        ([0, 2, 4, 5, 3, 1], [2, 0, 4, 1, 5, 3], 2)
        >>> int(Ring.natural(6).hops.max())
        5
    """

    order: np.ndarray
    position: np.ndarray = field(repr=False)
    send: np.ndarray = field(repr=False)
    recv: np.ndarray = field(repr=False)
    hops: np.ndarray = field(repr=False)

    @classmethod
    def through(cls, order: ArrayLike) -> Ring:
        """The ring that visits the cores of a line in a given order.

        Args:
            order: ``(P,)``, a permutation of ``0 .. P-1``.

        Returns:
            The ring; core ``order[P - 1]`` sends to core ``order[0]``.

        Raises:
            MeshError: ``order`` is not a permutation.
        """
        given = np.asarray(order)
        order = given.astype(np.intp)
        size = len(order)
        if size < 1 or not np.array_equal(order, given) or not np.array_equal(np.sort(order), np.arange(size)):
            raise MeshError(f"a ring visits each core of 0..{size - 1} once; got {given.tolist()}")
        position = np.argsort(order)
        send = order[(position + 1) % size]
        recv = order[(position - 1) % size]
        return cls(order, position, send, recv, np.abs(send - np.arange(size)))

    @classmethod
    def natural(cls, size: int) -> Ring:
        """Cannon's ring: every core sends to its lower neighbour, core 0 wraps round to core ``size - 1``.

        Args:
            size: cores on the line.

        Returns:
            The ring, whose one long edge has ``size - 1`` hops.
        """
        return cls.through(-np.arange(size) % size)

    @classmethod
    def interleaved(cls, size: int) -> Ring:
        """WaferLLM's INTERLEAVE: even cores upwards, then odd cores downwards; at most two hops an edge.

        In closed form rho(k) = 2k where 2k <= P-1, else 2(P-k)-1. It holds for P = 1 and 2 too.

        Args:
            size: P, cores on the line.

        Returns:
            The ring.

        References:
            He et al., WaferLLM, OSDI 2025, section 5 (Algorithm INTERLEAVE).
        """
        k = np.arange(size)
        return cls.through(np.where(2 * k <= size - 1, 2 * k, 2 * (size - k) - 1))

    def __len__(self) -> int:
        return len(self.order)

    def reversed(self) -> Ring:
        """The same cycle run the other way round.

        Returns:
            The ring on which every core sends to the one that it received from.
        """
        return Ring.through(self.order[::-1])
