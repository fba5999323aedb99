"""Bytes between ranks, against a count message by message that shares no code with the library."""

from __future__ import annotations

import numpy as np
import pytest

import meshkernels as mk
from meshkernels import schedules as S
from tests.oracle import value


def pairs_of(move: S.Move, mesh: mk.Mesh, t: int, s: int):
    """``((y, x), (y, x), extra)`` of each message: a sum for a `Reduce`, a tile otherwise."""
    route = move.route
    for y in range(mesh.rows):
        for x in range(mesh.cols):
            if isinstance(route, S.Permute):
                to = value(route.y, y, x, t, s), value(route.x, y, x, t, s)
                if min(to) >= 0:
                    yield (y, x), to
                continue
            if isinstance(route, S.Reduce):
                continue
            place = (y, x)[route.axis]
            if isinstance(route, S.Shift):
                cycle = next((c for c in route.cycles if place in c), None)
                if cycle is None:
                    continue
                source = cycle[(cycle.index(place) - value(route.by, y, x, t, s)) % len(cycle)]
            else:
                source = value(route.source, y, x, t, s)
            if source >= 0:
                yield ((source, x) if route.axis == 0 else (y, source)), (y, x)


def sums_of(route: S.Reduce, mesh: mk.Mesh, t: int, s: int):
    """The streams of a `Reduce`: from each member to the next one towards the root."""
    for line in range(mesh.lines(route.axis)):
        cores = [(i, line) if route.axis == 0 else (line, i) for i in range(mesh.length(route.axis))]
        roots = [value(route.root, *core, t, s) for core in cores]
        for root in set(roots) - {-1}:
            members = [i for i, named in enumerate(roots) if named == root]
            for i in members:
                nearer = [j for j in [*members, root] if (i < j <= root or root <= j < i)]
                if i != root:
                    yield cores[i], cores[min(nearer, key=lambda j: abs(i - j))]


def between(schedule: S.Schedule, owner, ranks: int, stored: int, summed: int) -> np.ndarray:
    total, mesh = np.zeros((ranks, ranks), int), schedule.mesh

    def run(program, t=0, s=0):
        for node in program:
            if isinstance(node, S.Repeat):
                for i in range(node.times):
                    run(node.body, i, t)
                continue
            for move in node.moves:
                h, w = schedule.tile(move.buffer)
                held = schedule.buffers[move.buffer]
                slots = (held.depth if isinstance(held, S.Tiles) else held.pieces) if move.slot is None else 1
                width = summed if isinstance(held, S.Values) and held.dtype == "sum" else stored
                if isinstance(move.route, S.Reduce):
                    for a, b in sums_of(move.route, mesh, t, s):
                        total[owner(a), owner(b)] += h * w * slots * width
                    continue
                once = set()
                for a, b in pairs_of(move, mesh, t, s):
                    slot = None if move.slot is None else value(move.slot, *a, t, s)
                    once.add((a, slot, owner(a), owner(b)))
                for _, _, a, b in once:
                    total[a, b] += h * w * slots * width

    run(schedule.program)
    return total * (1 - np.eye(ranks, dtype=int))


SCHEDULES = [("gemm", name, (13, 14, 9)) for name in mk.algorithms()["gemm"]] + [
    ("gemm_t", name, (13, 14, 9)) for name in mk.algorithms()["gemm_t"]] + [
    ("reduce", name, (14, 9)) for name in mk.algorithms()["reduce"]] + [
    ("transpose", "transpose", (7, 9)), ("alltoall", "alltoall", (3,))]  # fmt: skip


@pytest.mark.parametrize("cores", [(4, 4), (3, 5), (2, 4), (6, 2), (1, 5)])
@pytest.mark.parametrize(("family", "name", "sizes"), SCHEDULES, ids=[name for _, name, _ in SCHEDULES])
def test_between_is_what_the_messages_add_up_to(family, name, sizes, cores):
    try:
        schedule = mk.schedule(name, mk.Mesh(*cores), *sizes)
    except mk.MeshError:
        pytest.skip("not for a mesh of these proportions")
    ledger = mk.count(schedule, "float16", "float32")
    for down, across in [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (cores[0], cores[1])]:
        if down > cores[0] or across > cores[1]:
            continue

        def owner(core, down=down, across=across):
            return core[0] * down // cores[0] * across + core[1] * across // cores[1]

        wanted = between(schedule, owner, down * across, 2, 4)
        assert (ledger.between((down, across)) == wanted).all()


def test_every_core_a_rank_without_multicasts_is_the_whole_ledger():
    ledger = mk.count(mk.schedule("meshgemm", mk.Mesh(4, 6), 13, 14, 9), "float32")
    assert ledger.between((4, 6)).sum() == ledger.bytes


@pytest.mark.parametrize(("ranks", "says"), [
    (0, "0 ranks"), (17, "17 ranks on 4 x 4 cores"), ((5, 1), "ranks = 5 x 1")])  # fmt: skip
def test_ranks_that_do_not_fit(ranks, says):
    ledger = mk.count(mk.schedule("meshgemm", mk.Mesh(4), 8, 8, 8))
    with pytest.raises(mk.MeshError, match=says):
        ledger.between(ranks)
