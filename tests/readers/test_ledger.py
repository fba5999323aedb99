"""The ledger against a message-by-message count, hand-derived counts, and the published closed forms."""

import json
from collections import defaultdict
from itertools import pairwise
from math import lcm

import numpy as np
import pytest

import meshkernels as mk
from meshkernels import schedules as S
from meshkernels.algorithms import known
from meshkernels.readers.lockstep import walk
from meshkernels.readers.traffic import EAST, NORTH, SOUTH, WEST, walked_macs
from meshkernels.schedules import Multicast, Permute, Reduce, Relay, Shift, Tiles
from tests import oracle
from tests.handmade import bent_allreduce

GEMMS = list(known("gemm"))
REDUCTIONS = list(known("reduce"))
GRIDS = [(1, 1), (1, 5), (2, 2), (3, 3), (4, 4), (5, 5), (8, 8), (3, 2), (4, 6), (5, 3), (6, 9)]


def _schedules(rows, cols):
    mesh = mk.Mesh(rows, cols)
    for name in (*GEMMS, *known("gemm_t")):
        if name != "cannon25d":
            yield mk.schedule(name, mesh, 13, 17, 11)
    if cols % rows == 0 and rows % (cols // rows) == 0:
        for ring in ("natural", "interleaved"):
            yield mk.schedule("cannon25d", mesh, 13, 17, 11, ring=ring)
    yield mk.schedule("transpose", mesh, 13, 17)
    for axis in (0, 1):
        yield mk.schedule("alltoall", mesh, 3, axis=axis)
        for name in REDUCTIONS:
            yield mk.schedule(name, mesh, 17, 11, axis=axis)
    for row_first in (False, True):
        yield bent_allreduce(mesh, 3, row_first)


def _messages(mesh, route):
    """``(source, ends, axis)`` of every message: sending core, cores at its ends, axis or None where it may bend."""
    if isinstance(route, Permute):
        for y, x in np.ndindex(*mesh.shape):
            to = oracle.value(route.y, y, x), oracle.value(route.x, y, x)
            if min(to) >= 0 and to != (y, x):
                yield (y, x), [to], None
        return
    for line in range(mesh.lines(route.axis)):
        def core(place, line=line):
            return (place, line) if route.axis == 0 else (line, place)

        if isinstance(route, Shift):
            paths = []
            for cycle in route.cycles:
                for i, place in enumerate(cycle):
                    paths.append([place, cycle[(i + oracle.value(route.by, *core(place))) % len(cycle)]])
        else:
            named = [oracle.value(route.root if isinstance(route, Reduce) else route.source, *core(place))
                     for place in range(mesh.length(route.axis))]  # fmt: skip
            paths = []
            for root in sorted(set(named) - {-1}):
                group = sorted({place for place, each in enumerate(named) if each == root} | {root})
                if type(route) is Multicast:
                    if len(group) > 1:
                        yield core(root), [core(group[0]), core(group[-1])], route.axis
                    continue
                up, down = [p for p in group if p >= root], [p for p in reversed(group) if p <= root]
                paths += [up[::-1], down[::-1]] if isinstance(route, Reduce) else [up, down]
        for path in paths:
            for a, b in pairwise(path):
                if a != b:
                    yield core(a), [core(b)], route.axis


def _way(source, end, row_first):
    """Cores that a message passes, ends included."""
    (y, x), (to_y, to_x), way = source, end, [source]
    for axis in (1, 0) if row_first else (0, 1):
        while (x != to_x) if axis == 1 else (y != to_y):
            x, y = (x + (1 if to_x > x else -1), y) if axis == 1 else (x, y + (1 if to_y > y else -1))
            way.append((y, x))
    return way


def _by_message(schedule, stored, summed):
    """Send every message of every step on its own, link by link and router by router; in words, bytes and messages."""
    mesh = schedule.mesh
    links, routers = np.zeros((3, 4, *mesh.shape), int), defaultdict(set)
    sent, hops, stages = np.zeros(3, int), 0, 0
    for step in schedule.steps:
        step_hops = step_stages = 0
        for move in step.moves:
            held = schedule.buffers[move.buffer]
            tiles = isinstance(held, Tiles)
            h, w = schedule.operands[held.operand].tile if tiles else held.shape
            n = h * w * ((held.depth if tiles else held.pieces) if move.slot is None else 1)
            size = np.array([n, n * (stored if tiles or held.dtype == "stored" else summed), 1])
            dependent = isinstance(move.route, (Relay, Reduce))
            chain = defaultdict(lambda: (0, 0))  # longest dependent path that ends at a core
            for source, ends, axis in _messages(mesh, move.route):
                sent += size
                touched = set()
                for end in ends:
                    way = _way(source, end, move.route.row_first if axis is None else True)
                    touched |= set(way)
                    for (y, x), (to_y, to_x) in pairwise(way):
                        direction = (SOUTH if to_y > y else NORTH) if x == to_x else (EAST if to_x > x else WEST)
                        links[:, direction, y, x] += size
                    path = chain[source] if dependent else (0, 0)
                    handled = 1 if dependent or move.combine else 0
                    ends_at = (path[0] + len(way) - 1, path[1] + handled)
                    chain[end] = max(chain[end][0], ends_at[0]), max(chain[end][1], ends_at[1])
                turns = None if axis is not None else move.route.row_first
                for core in touched:
                    routers[core].add((axis, source, tuple(sorted(ends)), type(move.route) is Multicast, turns))
            step_hops = max([step_hops, *(c[0] for c in chain.values())])
            step_stages = max([step_stages, *(c[1] for c in chain.values())])
        hops, stages = hops + step_hops, stages + step_stages
    colours = np.zeros(mesh.shape, int)
    for core, paths in routers.items():
        colours[core] = len(paths)
    return {"links": links, "sent": sent, "hops": hops, "stages": stages, "colours": colours}


@pytest.mark.parametrize("grid", GRIDS)
def test_message_by_message(grid):
    for schedule in _schedules(*grid):
        counted, expected = mk.count(schedule, np.float16, np.float32), _by_message(schedule, 2, 4)
        for n, kind in enumerate(("words", "bytes", "messages")):
            assert np.array_equal(getattr(counted, f"link_{kind}"), expected["links"][n]), (schedule.name, kind)
            assert getattr(counted, kind) == expected["sent"][n], (schedule.name, kind)
        assert counted.critical_hops == expected["hops"], schedule.name
        assert counted.stages == expected["stages"], schedule.name
        assert np.array_equal(counted.colours_per_core, expected["colours"]), schedule.name


@pytest.mark.parametrize("name", ["summa", "gemm_t", "transpose"])
def test_the_ledger_as_a_plain_mapping(name):
    shape = (13, 17) if name == "transpose" else (13, 17, 11)
    ledger = mk.count(mk.schedule(name, mk.Mesh(3, 2), *shape), np.float16, np.float32)
    found = json.loads(json.dumps(ledger.to_dict()))
    assert found["bytes"] == ledger.bytes and found["messages"] == ledger.messages and found["algorithm"] == name
    sides = [found["links"]["bytes"][side] for side in ("east", "west", "south", "north")]
    assert np.array_equal(sides, ledger.link_bytes)
    assert sum(found["step_hops"]) == found["critical_hops"] and (found["itemsize"], found["accumulator"]) == (2, 4)


def test_a_word_is_as_wide_as_its_buffer_says():
    """gemm_t on 2 x 3 cores: B moves as it is stored, partial sums as wide as sums are."""
    schedule = mk.schedule("gemm_t", mk.Mesh(3, 2), 6, 6, 6)
    narrow, wide = mk.count(schedule, np.float16, np.float16), mk.count(schedule, np.float16, np.float32)
    tiles = 2 * 2 * 3 * 2 * 3  # two shifts of two tiles of 1 x 3 on each of 3 x 2 cores
    sums = 2 * 3 * 3 * 2  # in each of three steps two sums of 2 x 1 cross the one link of each of three rows
    assert narrow.words == wide.words == tiles + sums
    assert narrow.bytes == 2 * (tiles + sums) and wide.bytes == 2 * tiles + 4 * sums


@pytest.mark.parametrize("grid", GRIDS)
def test_colours_are_a_real_assignment(grid):
    """At every router all paths have different colours, and the highest colour is no larger than it must be."""
    for schedule in _schedules(*grid):
        for routes in mk.count(schedule).routes:
            routes.check()
            for flows, colours in zip(routes.flows, routes.colours):
                for router in range(routes.size):
                    here = colours[(flows[:, 1] <= router) & (router <= flows[:, 2])]
                    assert len(here) == len(set(here.tolist()))
                assert len(np.unique(colours)) <= routes.touching().max(initial=0)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_core_computes_its_share(grid):
    """Multiply-adds: the product's M K N, spread as the tiles are; counted by symmetry as by walking."""
    for schedule in _schedules(*grid):
        macs = mk.count(schedule).macs
        assert np.array_equal(macs, walked_macs(schedule))
        products = schedule.task.kind in ("product", "product_t")
        assert macs.sum() == products * (17 * 11 if schedule.result.shape[0] == 1 else 13 * 17 * 11)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", [name for name in GEMMS if name != "cannon25d"])
def test_each_core_meets_each_block_of_k_once(grid, name):
    schedule = mk.schedule(name, mk.Mesh(*grid), 13, 17, 11)
    L = lcm(*grid)
    met = np.zeros((*grid, L), int)
    for _, step, holds in walk(schedule):
        for op in step.compute:
            for y, x in np.ndindex(*grid):
                a = holds[op.left][y, x, oracle.value(op.left_slot, y, x)]
                b = holds[op.right][y, x, oracle.value(op.right_slot, y, x)]
                assert a // L == y and b % grid[1] == x, "its own row of A and its own column of B"
                assert a % L == b // grid[1]
                met[y, x, a % L] += 1
    assert np.all(met == 1)


@pytest.mark.parametrize("P", [3, 4, 5, 6, 7, 8, 16])
def test_published_alignment(P):
    """The tiles of W after alignment are ind[i][j] = rho(pi(i) + pi(j)); rows turn min(pi, P - pi) times."""
    schedule = mk.schedule("meshgemm", mk.Mesh(P), P, P, P)
    aligned = next(holds for _, step, holds in walk(schedule) if step.compute)
    expected = [[oracle.rho(oracle.pi(i, P) + oracle.pi(j, P), P) for j in range(P)] for i in range(P)]
    assert (aligned["B"][..., 0] // P).tolist() == expected
    assert (aligned["A"][..., 0] % P).tolist() == expected
    rounds = [step for step in schedule.steps if step.label == "align"]
    turns = [sum(abs(oracle.value(step.moves[0].route.by, y, 0)) for step in rounds) for y in range(P)]
    assert turns == [min(oracle.pi(y, P), P - oracle.pi(y, P)) for y in range(P)]
    assert len(rounds) == P // 2


@pytest.mark.parametrize(("P", "table"), [(5, "0r 1f 1r 2f 2r"), (6, "0r 1f 1r 2f 2r 3f"), (7, "0r 1f 1r 2f 2r 3f 3r")])
def test_published_skew_directions(P, table):
    schedule = mk.schedule("meshgemm", mk.Mesh(P), P, P, P)
    by = np.array([[oracle.value(step.moves[0].route.by, y, 0) for y in range(P)]
                   for step in schedule.steps if step.label == "align"])  # fmt: skip
    for row, entry in enumerate(table.split()):
        turns, direction = int(entry[0]), entry[1]
        moved = by[by[:, row] != 0, row]
        assert len(moved) == turns
        tied = 2 * turns == P  # both ways are as short
        assert tied or all(moved == (1 if direction == "f" else -1))


@pytest.mark.parametrize("P", [4, 5, 8, 16, 33])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_meshgemm_by_hand(P, n):
    """Square mesh, n x n tiles: P // 2 rounds of alignment and P - 1 shifts of both operands, all of 2 hops."""
    ledger = mk.count(mk.schedule("meshgemm", mk.Mesh(P), n * P, n * P, n * P))
    turns = sum(min(oracle.pi(i, P), P - oracle.pi(i, P)) for i in range(P))
    assert ledger.steps == P // 2 + P
    assert ledger.step_hops.tolist() == [2] * (P // 2 + P - 1) + [0]
    assert ledger.words == 2 * n * n * P * (turns + P * (P - 1))
    assert ledger.word_hops == 2 * n * n * 2 * (P - 1) * (turns + P * (P - 1)), "a ring is 2 (P - 1) links long"
    assert ledger.peak_bytes_per_core == 2 * (2 * n * n + 2 * n * n + n * n), "published: 2 (2 MtKt + 2 KtNt + MtNt)"
    assert ledger.colours == 12, "published: 3 colours in each of 4 ring sets"
    assert ledger.imbalance == 1.0


@pytest.mark.parametrize("P", [4, 9, 24])
def test_what_the_baselines_violate(P):
    """The paper's table: hops per step, stages, colours and memory of the other three."""
    def counted(name):
        return mk.count(mk.schedule(name, mk.Mesh(P), P, P, P))

    assert counted("cannon").hops_per_step == P - 1
    assert counted("summa").hops_per_step == P - 1 and counted("summa").colours == 2 * P
    assert counted("summa").stages == 0 and counted("summa_relay").step_stages.max() == P - 1
    assert counted("summa_relay").colours == 8, "two directions, two parities, two axes"
    assert counted("allgather").colours == 2 * P and counted("allgather_relay").stages == P - 1
    assert counted("allgather").words_per_core == 2 + 2 * P + 1, "a whole row and column of tiles"
    assert counted("summa").words_per_core == 2 + 4 + 1, "home tiles, double-buffered panels, C"


#: Published decode configurations: P, G, g, r1, R.
TREES = [(8, 2, 4, 2, 6), (240, 15, 16, 8, 120), (256, 16, 16, 8, 136), (300, 15, 20, 10, 150), (360, 18, 20, 10, 190),
         (420, 20, 21, 10, 220), (480, 20, 24, 12, 252), (512, 32, 16, 8, 264), (540, 20, 27, 13, 283),
         (600, 24, 25, 12, 312), (660, 22, 30, 15, 345), (720, 24, 30, 15, 375)]  # fmt: skip


@pytest.mark.parametrize(("P", "G", "g", "r1", "R"), TREES)
def test_two_phase_tree_closed_forms(P, G, g, r1, R):
    """H = r1 + (G // 2) g + max(R, P - 1 - R) and S = r1 + G // 2, counted from the schedule."""
    schedule = mk.schedule("ktree", mk.Mesh(P, 1), P, 1, groups=G)
    ledger = mk.count(schedule)
    assert schedule.steps[-1].moves[0].route.source == R
    assert ledger.critical_hops == r1 + (G // 2) * g + max(R, P - 1 - R)
    assert ledger.stages == r1 + G // 2
    assert ledger.colours == (5 if G > 2 else 4), "published for WSE-3: 2 + 2 + 1"


@pytest.mark.parametrize(("P", "groups"), [(64, (16, 4)), (27, (9, 3)), (125, (25, 5)), (256, (64, 16, 4))])
def test_more_levels(P, groups):
    """S = sum of b_i // 2 over the levels' branchings b_i, and 2 K + 1 colours at most."""
    ledger = mk.count(mk.schedule("ktree", mk.Mesh(P, 1), P, 1, levels=len(groups) + 1, groups=groups))
    branching = [a // b for a, b in zip((P, *groups), (*groups, 1))]
    assert ledger.stages == sum(b // 2 for b in branching)
    assert ledger.colours <= 2 * len(branching) + 1


@pytest.mark.parametrize("P", [2, 3, 8, 31, 64])
def test_baseline_reductions_by_hand(P):
    def counted(name):
        return mk.count(mk.schedule(name, mk.Mesh(P, 1), P, 1))

    assert (counted("chain").critical_hops, counted("chain").stages) == (2 * (P // 2), P // 2)
    assert (counted("pipeline").critical_hops, counted("pipeline").stages) == (2 * (P - 1), P - 1)
    ring = counted("ring")
    assert (ring.critical_hops, ring.stages) == (2 * (P - 1) * min(2, P - 1), P - 1)
    assert ring.steps == 1 + 2 * (P - 1)


@pytest.mark.parametrize("P", [2, 5, 16, 60])
@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (2, 10), (1, 100)])
def test_best_groups_is_the_best(P, alpha, beta):
    """Against a search over every G with the counted schedule."""
    from meshkernels.algorithms.ktree import best_groups

    def cost(G):
        ledger = mk.count(mk.schedule("ktree", mk.Mesh(P, 1), P, 1, groups=G))
        return alpha * ledger.critical_hops + beta * ledger.stages

    (chosen,) = best_groups(P, 2, alpha, beta)
    assert cost(chosen) == min(map(cost, range(1, P + 1)))


def test_many_levels_are_searched_quickly_and_well():
    """No single count of the found tree can be improved, and levels beyond log2 P change nothing."""
    from meshkernels.algorithms.ktree import best_groups, hops_and_stages

    def cost(groups):
        hops, stages = hops_and_stages(100, groups)
        return 2 * hops + 10 * stages

    for levels in (3, 4):
        best = best_groups(100, levels, 2, 10)
        every = ((a, b) for a in range(1, 101) for b in range(1, a + 1))
        if levels == 3:
            assert cost(best) == min(map(cost, every))
        assert cost(best) <= cost(best_groups(100, levels - 1, 2, 10) + (1,))
    assert cost(best_groups(100, 2000, 2, 10)) <= cost(best_groups(100, 7, 2, 10))


def test_wafer_sized_ledgers():
    """720 x 720 cores; the counts of MeshGEMM by hand."""
    P, n = 720, 12
    ledger = mk.count(mk.schedule("meshgemm", mk.Mesh(P), n * P, n * P, n * P))
    turns = sum(min(oracle.pi(i, P), P - oracle.pi(i, P)) for i in range(P))
    assert ledger.words == 2 * n * n * P * (turns + P * (P - 1))
    assert (ledger.critical_hops, ledger.colours, ledger.steps) == (2 * (360 + 719), 12, 1080)
    assert mk.count(mk.schedule("summa", mk.Mesh(P), n * P, n * P, n * P)).colours == 1440


def test_relays_of_several_roots_are_independent():
    """0 <- 1, 1 <- 0, 2 <- 1, 3 <- 2 read before anything arrives: four messages, each of one hop and one stage."""
    flows = Relay(1, S.line(1, [1, 0, 1, 2])).flows(0, 4)
    assert flows.critical_path() == (1, 1) and len(flows.source) == 4
    # from 0 to 3 by way of 1, and from 4 down to 1 by way of 3: two links and two stages, three links and two stages
    assert Relay(1, S.line(1, [-1, 0, 0, -1, -1])).flows(0, 5).critical_path() == (2, 2)
    assert Relay(1, S.line(1, [-1, 4, 0, 4, -1])).flows(0, 5).critical_path() == (3, 2)


@pytest.mark.parametrize(("P", "n"), [(1, 1 << 21), (8, 1 << 22), (2, (1 << 31) - 1)])
def test_what_cannot_be_counted_exactly_is_refused(P, n):
    for name in ("meshgemm", "summa", "gemm_t"):
        with pytest.raises(mk.ScheduleError, match="can be counted"):
            mk.count(mk.schedule(name, mk.Mesh(P), n, n, n))


def test_the_largest_counts_are_exact():
    n = 2_000_000
    assert sum(mk.count(mk.schedule("meshgemm", mk.Mesh(4), n, n, n)).macs.ravel().tolist()) == n**3
    with pytest.raises(mk.ScheduleError, match="bytes are sent"):
        mk.count(mk.schedule("transpose", mk.Mesh(2), (1 << 31) - 1, (1 << 31) - 1))


def _wasteful():
    """Two cores that make each product twice; one core of two whose products nobody collects."""
    mesh, x, k = mk.Mesh(1, 2), S.line(1, range(2)), S.Index(range(3), step=1)
    A, B, C = mk.Tiling((1, 1), (1, 1)), mk.Tiling((1, 3), (1, 2)), mk.Tiling((1, 3), (1, 2))
    buffers = {"A": S.Tiles("A", home=S.Place(0, 0)), "B": S.Tiles("B", home=S.Place(0, x)), "C": S.Values(C.tile),
               "D": S.Values(C.tile)}  # fmt: skip
    step = S.Step("go", [S.Multiply("A", "B", into) for into in "CD"])
    task = S.Task("product", ("A", "B"))
    yield S.Schedule("twice", task, mesh, {"A": A, "B": B}, C, buffers, (step,), S.Collect("C", S.Place(0, x))), [4, 2]
    A, B, C = mk.Tiling((1, 5), (1, 3)), mk.Tiling((5, 1), (3, 1)), mk.Tiling((1, 1), (1, 1))
    buffers = {"A": S.Tiles("A", 3, S.Place(0, k)), "B": S.Tiles("B", 3, S.Place(k, 0)), "C": S.Values(C.tile)}
    step = S.Step("go", [S.Multiply("A", "B", "C", *[S.Index([n, 2], x=[0, 1])] * 2) for n in range(3)])
    yield S.Schedule("idle", task, mesh, {"A": A, "B": B}, C, buffers, (step,),
                     S.Collect("C", S.Place(0, S.line(1, [0, -1])))), [5, 3]  # fmt: skip


def test_multiply_adds_that_nobody_needs_are_counted_where_they_are_made():
    for schedule, macs in _wasteful():
        assert mk.count(schedule).macs.tolist() == [macs], schedule.name
