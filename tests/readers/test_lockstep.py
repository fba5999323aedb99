"""Pieces that are wholly padding move like all others, and carry nothing useful away."""

from dataclasses import replace

import numpy as np
import pytest

import meshkernels as mk
from meshkernels import schedules as S


@pytest.mark.parametrize("how", ["multicast", "permute", "copy"])
def test_one_element_cut_over_two_pieces(how):
    P, y = 2, S.line(0, range(2))
    buffers = {"x": S.Tiles("x", home=S.Place(y, 0)), "y": S.Values((1, 1), 2, copies=2)}
    both = [S.Move("y", S.Reduce(0, r), r, combine="add") for r in (0, 1)]
    back = S.Permute(S.line(0, [-1, 0]), 0) if how == "permute" else S.Multicast(0, 1)
    program = (S.Step("load", S.Copy("x", "y", piece=None)), S.Step("reduce", moves=both),
               S.Step("back", moves=S.Move("y", back, 1)))  # fmt: skip
    if how == "copy":
        program = (S.Step("junk", S.Copy("x", "y", piece=1)), *program)
    schedule = S.Schedule("padded", S.Task("allreduce", ("x",)), mk.Mesh(P, 1), {"x": mk.Tiling((P, 1), (P, 1))},
                          mk.Tiling((1, 1), (1, 1)), buffers, program,
                          S.Collect("y", S.Place(S.line(0, [0, -1]), 0), whole=True))  # fmt: skip
    for method in ("fused", "lockstep"):
        assert mk.run(schedule, {"x": np.array([[3.0], [4.0]])}, method=method) == [[7.0]]


def test_a_product_cut_over_padding_in_a_buffer_that_nobody_collects():
    ring = mk.schedule("ring", mk.Mesh(4), 4, 8)  # 2 columns of W a core, in 4 pieces
    first, *rest = ring.program
    op = first.compute[0]
    schedule = replace(ring, buffers=ring.buffers | {"scratch": ring.buffers["y"]},
                       program=(replace(first, compute=(op, replace(op, into="scratch"))), *rest))  # fmt: skip
    for method in ("fused", "lockstep"):
        assert np.array_equal(mk.run(schedule, {"x": np.ones((1, 4)), "W": np.ones((4, 8))}, method=method),
                              np.full((1, 8), 4.0))  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ring_written_as_permutations(axis):
    """Shift as the same Permute, of pieces that are padding too."""
    mesh = mk.Mesh(5, 4)
    ring = mk.schedule("ring", mesh, 20, 9, axis=axis)
    places = [S.line(a, range(mesh.length(a))) for a in (0, 1)]
    places[axis] = S.line(axis, mk.Ring.interleaved(mesh.length(axis)).send)

    def permuted(node):
        if isinstance(node, S.Repeat):
            return replace(node, body=tuple(map(permuted, node.body)))
        moves = []
        for move in node.moves:
            into = S.Index(move.slot.table, move.slot.y, move.slot.x, move.slot.step)
            moves.append(replace(move, route=S.Permute(*places), into_slot=into))
        return replace(node, moves=tuple(moves))

    schedule = replace(ring, program=tuple(map(permuted, ring.program)))
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((1, 20)).astype(np.float32), rng.standard_normal((20, 9)).astype(np.float32)
    expected = mk.run(ring, {"x": x, "W": W}, method="lockstep")
    for method in ("fused", "lockstep"):
        assert mk.run(schedule, {"x": x, "W": W}, method=method).tobytes() == expected.tobytes()
