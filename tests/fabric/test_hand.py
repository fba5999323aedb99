"""Cycle counts of tiny meshes, derived by hand: exactly what the simulator must find.

The machine has round costs: hop 2, ramp 3, word 1, turn 20, stage 10, set-up 15 of a move and 16 of arithmetic. A
message of w words that one core sends and another takes, h hops away, nothing else going on:

    15 + 3 + 2 h + 3 + w + 15
"""

from dataclasses import replace

import numpy as np
import pytest

from meshkernels import schedules as S
from meshkernels.fabric import machine, play
from meshkernels.mesh import Mesh, Tiling

COSTS = replace(machine("wse3"), hop=2.0, ramp=3.0, word=1.0, turn=20.0, stage=10.0, setup=15.0, arithmetic=16.0,
                startup=100.0, launch=0.0, copy=1.0, die=0.0)  # fmt: skip


def ends(rows: int, cols: int, words: int, program, copies: int = 1, **values):
    """``(rows, cols)`` ends of a program that moves tiles of ``words`` words in buffers a, b, c, d."""
    mesh = Mesh(rows, cols)
    tiling = Tiling((rows, 2 * words * cols), mesh.shape)
    place = S.Place(S.line(0, range(rows)), S.line(1, range(cols)))
    buffers = {name: S.Tiles("A", 1, place, copies=copies if name == "b" else 1) for name in "abcd"} | values
    schedule = S.Schedule("hand", S.Task("by hand", ("A",)), mesh, {"A": tiling}, tiling, buffers, tuple(program),
                          S.Collect("r", place))  # fmt: skip
    return play(schedule, COSTS).ends


def send(buffer, into, *named, axis=1, kind=S.Multicast):
    """A move of one tile; each core names whom it receives from."""
    return S.Move(buffer, kind(axis, S.line(axis, named)), 0, into, 0)


def test_one_hop():
    found = ends(1, 2, 4, [S.Step("send", moves=[send("a", "b", -1, 0)])])
    assert found.tolist() == [[15 + 4, 15 + 3 + 2 + 3 + 4 + 15]]


def test_one_relay():
    """Core 1 hands on before it takes in: its tail has left when the head entered, at 30, and 4 words less a ramp."""
    found = ends(1, 3, 4, [S.Step("send", moves=[send("a", "b", -1, 0, 0, kind=S.Relay)])])
    assert found[0, 1:].tolist() == [30 + 4 - 3 + 15, 15 + 3 + 2 + 10 + 2 + 3 + 4 + 15]


def test_multicast_reaches_every_core_after_its_hops():
    found = ends(1, 5, 4, [S.Step("send", moves=[send("a", "b", 1, -1, 1, 1, 1)])])
    assert found[0].tolist() == [42, 19, 42, 44, 46]


def test_two_messages_on_one_link():
    """Core 1's message holds the link to core 2 from 18 to 118; core 0's head is there at 20."""
    both = [send("a", "b", -1, -1, 1), send("a", "c", -1, -1, 0)]
    found = ends(1, 3, 100, [S.Step("send", moves=both)])
    assert found[0, 2] == 118 + 2 + 3 + 100 + 15
    assert found[0, :2].tolist() == [115, 115]


def test_a_message_that_is_through_before_is_not_held_up():
    """The other way round core 0's message, on its way for one hop more, must not wait for a link that is free."""
    found = ends(1, 3, 1, [S.Step("send", moves=[send("a", "b", -1, -1, 1), send("a", "c", -1, -1, 0)])])
    assert found[0, 2] == (15 + 3 + 2 + 3 + 1 + 15) + 15  # the second is there already when the first is taken in


def bend(buffer, into, targets, shape):
    """A move by `Permute`: ``targets[core]`` is where each core sends to; nowhere by default."""
    rows, cols = shape
    y, x = (np.full(rows * cols, -1) for _ in range(2))
    for (sy, sx), (ty, tx) in targets.items():
        y[sy * cols + sx], x[sy * cols + sx] = ty, tx
    own = {"y": cols * np.arange(rows), "x": range(cols)}
    return S.Move(buffer, S.Permute(S.Index(y, **own), S.Index(x, **own)), 0, into, 0)


def test_a_turn():
    found = ends(2, 2, 4, [S.Step("send", moves=[bend("a", "b", {(0, 0): (1, 1)}, (2, 2))])])
    assert found[1, 1] == 15 + 3 + 2 + 20 + 2 + 3 + 4 + 15
    assert found.sum() == 19 + found[1, 1]


def test_contention_at_a_corner():
    """The link south of (0, 1) is taken from 18 to 118; the message that bends there comes at 15 + 3 + 2 + 20 = 40."""
    moves = [bend("a", "b", {(0, 1): (1, 1)}, (2, 2)), bend("a", "c", {(0, 0): (1, 1)}, (2, 2))]
    found = ends(2, 2, 100, [S.Step("send", moves=moves)])
    assert found[1, 1] == 118 + 2 + 3 + 100 + 15


@pytest.mark.parametrize("copies", [1, 2])
def test_back_pressure(copies):
    """Core 0 sends three times; core 1 copies what it gets, 500 words of two elements each, in 1000 + 15 cycles."""
    words, copy = 500, 1000 + 15
    step = (S.Step("send", moves=[send("a", "b", -1, 0)]), S.Step("copy", moves=[send("b", "c", -1, 1)]))
    found = ends(1, 2, words, [S.Repeat(3, step)], copies)
    first = 15 + 3 + 2 + 3 + words + 15 + copy  # taken in and copied
    if copies == 1:  # each message is taken when the copy of the one before has ended
        second = first + words + 15 + copy
        assert found[0].tolist() == [second - 8 + words, second + words + 15 + copy]
    else:  # the second is there when the first has been copied; the third is taken then
        second = first + 15 + copy
        assert found[0].tolist() == [first - 8 + words, second + 15 + copy]


def test_a_chain_of_sums():
    """Core 3 begins (15, ramp 3), cores 2 and 1 are a stage each, the root a ramp, its words and an add of its own."""
    y = S.Values((1, 8))
    found = ends(1, 4, 4, [S.Step("sum", moves=[S.Move("y", S.Reduce(1, 0), combine="add")])], y=y)
    assert found[0, 0] == 15 + 3 + 2 + 10 + 2 + 10 + 2 + 3 + 16 + 4
    assert found[0, 3] == 15 + 4


def test_two_streams_into_a_root():
    """From either side a stream of one hop: the second add begins when the first has ended."""
    y = S.Values((1, 8))
    found = ends(1, 3, 4, [S.Step("sum", moves=[S.Move("y", S.Reduce(1, 1), combine="add")])], y=y)
    assert found[0, 1] == (15 + 3 + 2 + 3 + 16 + 4) + 16 + 4


def test_asynchronous_step():
    """Sends, receives at once: start-up 100, of which the way of two hops and two ramps, 10, is run at its end."""
    found = ends(1, 2, 4, [S.Repeat(3, S.Step("shift", moves=[S.Move("b", S.Shift(1, ((0, 1),)))]))], copies=2)
    # one hop is 2 less than the two in the start-up; a step begins when its tile is there: 98 + 4
    assert found[0].tolist() == [102 + 102 + 100] * 2
