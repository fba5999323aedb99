"""One line of cores: where a ring of tiles passes, how far, and through which routers."""

from __future__ import annotations

import numpy as np


def interleaved(n: int) -> np.ndarray:
    """Ring position of each core of a line: pi(p) = p/2 if p is even, n - (p+1)/2 if odd.

    Args:
        n: cores of the line.

    Returns:
        ``(n,)`` positions on the ring.

    >>> interleaved(5).tolist()
    [0, 4, 1, 3, 2]
    """
    p = np.arange(n)
    return np.where(p % 2 == 0, p // 2, n - (p + 1) // 2)


def natural(n: int) -> np.ndarray:
    """Ring position of each core when tiles pass to the lower neighbour and wrap from core 0 to the last.

    Args:
        n: cores of the line.

    Returns:
        ``(n,)`` positions on the ring.

    >>> natural(5).tolist()
    [0, 4, 3, 2, 1]
    """
    return -np.arange(n) % n


def shift_hops(n: int, ring: str) -> int:
    """Longest message of one ring shift: 2 hops if interleaved, the wrap of n-1 if natural.

    Args:
        n: cores of the line.
        ring: "interleaved" or "natural".

    Returns:
        Hops.

    >>> shift_hops(720, "interleaved"), shift_hops(720, "natural"), shift_hops(1, "natural")
    (2, 719, 0)
    """
    return min(2, n - 1) if ring == "interleaved" else n - 1


def ring_flows(n: int) -> np.ndarray:
    """Flows of a one-directional ring that touch each router of the line, both kinds of ring alike.

    A router sends one and receives one; between the ends one more passes through: interleaved, the flow
    of its two neighbours; natural, the wrap.

    Args:
        n: cores of the line.

    Returns:
        ``(n,)`` flows at each router; 0 where the line is one core.

    >>> ring_flows(5).tolist()
    [2, 3, 3, 3, 2]
    """
    if n == 1:
        return np.zeros(1, int)
    flows = np.full(n, 3)
    flows[[0, -1]] = 2
    return flows


def touching(n: int, spans: list[tuple[int, int]]) -> int:
    """Most of the given spans (first core, last core) that meet in one core of a line of n.

    Args:
        n: cores of the line.
        spans: first and last core of each span, in either order.

    Returns:
        The number of spans in the busiest core.

    >>> touching(4, [(0, 1), (1, 2), (1, 3)])
    3
    """
    delta = np.zeros(n + 1, int)
    for a, b in spans:
        delta[min(a, b)] += 1
        delta[max(a, b) + 1] -= 1
    return int(delta.cumsum().max())
