"""The interleaved ring against the published tables and its defining properties."""

import numpy as np
import pytest

import meshkernels as mk
from meshkernels.errors import MeshError
from meshkernels.schedules import Shift
from tests import oracle

#: Published tables: ring order, send, recv for P = 5 .. 8.
PUBLISHED = {
    5: ("02431", "20413", "13042"),
    6: ("024531", "204153", "130524"),
    7: ("0246531", "2041635", "1305264"),
    8: ("02467531", "20416375", "13052746"),
}


@pytest.mark.parametrize("P", PUBLISHED)
def test_published_tables(P):
    ring = mk.Ring.interleaved(P)
    order, send, recv = ([int(c) for c in text] for text in PUBLISHED[P])
    assert ring.order.tolist() == order
    assert ring.send.tolist() == send
    assert ring.recv.tolist() == recv


@pytest.mark.parametrize("P", [*range(1, 40), 127, 128, 719, 720, 1000])
def test_one_cycle_of_at_most_two_hops(P):
    ring = mk.Ring.interleaved(P)
    seen, core = [], 0
    for _ in range(P):
        seen.append(core)
        core = ring.send[core]
    assert core == 0 and sorted(seen) == list(range(P)), "a single cycle through all cores"
    assert ring.hops.max() <= 2
    assert [oracle.pi(p, P) for p in range(P)] == ring.position.tolist()
    if P >= 3:
        assert np.count_nonzero(ring.hops == 2) == P - 2, "two one-hop links, all others two"


@pytest.mark.parametrize("P", range(1, 30))
def test_paper_interleave(P):
    """INTERLEAVE(index, N) as the paper prints it."""
    ring = mk.Ring.interleaved(P)
    for i in range(P):
        up, down = min(i + 2, P - 1), max(i - 2, 0)
        send, recv = (up, down) if i % 2 == 0 else (down, up)
        if i == 0 and P > 1:
            recv = 1
        if i == P - 1 and i > 0:
            recv, send = (P - 2, send) if P % 2 == 0 else (recv, P - 2)
        if P > 1:
            assert (ring.send[i], ring.recv[i]) == (send, recv)


@pytest.mark.parametrize("P", [2, 3, 4, 5, 8, 9, 64, 101])
def test_each_directed_link_carries_one_flow(P):
    links = []
    ring = mk.Ring.interleaved(P)
    for core in range(P):
        step = 1 if ring.send[core] > core else -1
        links += [(at, at + step) for at in range(core, ring.send[core], step)]
    assert len(links) == len(set(links)) == 2 * (P - 1), "every directed link, once"
    assert Shift(0, ring).flows(1, P).link_load().max() == 1


def test_two_hops_are_the_least():
    """No cycle through a line of cores has all edges at one hop: exhaustively for P = 3 .. 7."""
    from itertools import permutations

    for P in range(3, 8):
        best = min(max(abs(a - b) for a, b in zip(order, order[1:] + order[:1]))
                   for order in permutations(range(P)))  # fmt: skip
        assert best == 2


def test_reversed_ring_swaps_send_and_recv():
    ring = mk.Ring.interleaved(9)
    back = ring.reversed()
    assert back.send.tolist() == ring.recv.tolist() and back.recv.tolist() == ring.send.tolist()


def test_not_a_permutation():
    with pytest.raises(MeshError, match="visits each core"):
        mk.Ring.through([0, 2, 2])
