"""The ledger against a message-by-message count, hand-derived counts, and the published closed forms."""

from collections import defaultdict
from math import lcm

import numpy as np
import pytest

import meshkernels as mk
from meshkernels import algorithms
from meshkernels.ledger import EAST, NORTH, SOUTH, WEST, walked_macs
from meshkernels.schedule import Tiles
from tests import oracle

GEMMS = list(algorithms.known("gemm"))
REDUCTIONS = list(algorithms.known("reduce"))
GRIDS = [(1, 1), (1, 5), (2, 2), (3, 3), (4, 4), (5, 5), (8, 8), (3, 2), (4, 6), (5, 3), (6, 9)]


def _schedules(rows, cols):
    mesh = mk.Mesh(rows, cols)
    for name in (*GEMMS, "gemm_t"):
        yield mk.schedule(name, mesh, 13, 17, 11)
    for name in REDUCTIONS:
        for axis in (0, 1):
            yield mk.schedule(name, mesh, 17, 11, axis=axis)


def _by_message(schedule):
    """Send every message of every step on its own, link by link and router by router."""
    mesh = schedule.mesh
    links, routers = np.zeros((4, *mesh.shape), int), defaultdict(set)
    words = hops = stages = 0
    for step in schedule.steps:
        step_hops = step_stages = 0
        for move in step.moves:
            held = schedule.buffers[move.buffer]
            h, w = schedule.operands[held.operand].tile if isinstance(held, Tiles) else held.shape
            pieces = held.depth if isinstance(held, Tiles) else held.pieces
            size = h * w * (pieces if move.piece is None else 1)
            for line in range(mesh.lines(move.axis)):
                use = 0 if move.use is None else move.use[line]
                if use < 0:
                    continue
                t = move.traffic[use]
                chain = defaultdict(lambda: (0, 0))  # longest dependent path that ends at a core
                for source, low, high in zip(t.source, t.low, t.high):
                    ends = [low, high] if t.kind == "multicast" else [low + high - source]
                    words += size
                    for end in ends:
                        step_direction = 1 if end > source else -1
                        for at in range(source, end, step_direction):
                            direction = (SOUTH if step_direction > 0 else NORTH) if move.axis == 0 else (
                                EAST if step_direction > 0 else WEST)
                            links[direction, *((at, line) if move.axis == 0 else (line, at))] += size
                        dependent = t.kind in ("relay", "reduce")
                        path = chain[source] if dependent else (0, 0)
                        touched = 1 if dependent or move.combine else 0
                        ends_at = (path[0] + abs(end - source), path[1] + touched)
                        chain[end] = max(chain[end][0], ends_at[0]), max(chain[end][1], ends_at[1])
                    for core in range(low, high + 1):
                        where = (core, line) if move.axis == 0 else (line, core)
                        routers[where].add((move.axis, source, low, high, t.kind == "multicast"))
                step_hops = max([step_hops, *(c[0] for c in chain.values())])
                step_stages = max([step_stages, *(c[1] for c in chain.values())])
        hops, stages = hops + step_hops, stages + step_stages
    colours = np.zeros(mesh.shape, int)
    for core, paths in routers.items():
        colours[core] = len(paths)
    return {"links": links, "words": words, "hops": hops, "stages": stages, "colours": colours}


@pytest.mark.parametrize("grid", GRIDS)
def test_message_by_message(grid):
    for schedule in _schedules(*grid):
        counted, expected = mk.count(schedule), _by_message(schedule)
        assert np.array_equal(counted.link_words, expected["links"]), schedule.name
        assert counted.words == expected["words"]
        assert counted.critical_hops == expected["hops"]
        assert counted.stages == expected["stages"]
        assert np.array_equal(counted.colours_per_core, expected["colours"])


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
        assert macs.sum() == (17 * 11 if schedule.output == "y" else 13 * 17 * 11)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", GEMMS)
def test_each_core_meets_each_block_of_k_once(grid, name):
    schedule = mk.schedule(name, mk.Mesh(*grid), 13, 17, 11)
    L = lcm(*grid)
    met = np.zeros((*grid, L), int)
    for _, step, holds in schedule.walk():
        if step.multiply:
            for _, a, b in schedule.handles(step.multiply, holds):
                assert np.array_equal(a // L, np.broadcast_to(np.arange(grid[0])[:, None], grid)), "its own row of A"
                assert np.array_equal(b % grid[1], np.broadcast_to(np.arange(grid[1]), grid)), "its own column of B"
                np.add.at(met, (*np.indices(grid), a % L), 1)
    assert np.all(met == 1)


@pytest.mark.parametrize("P", [3, 4, 5, 6, 7, 8, 16])
def test_published_alignment(P):
    """The tiles of W after alignment are ind[i][j] = rho(pi(i) + pi(j)); rows turn min(pi, P - pi) times."""
    schedule = mk.schedule("meshgemm", mk.Mesh(P), P, P, P)
    aligned = next(holds for _, step, holds in schedule.walk() if step.multiply)
    expected = [[oracle.rho(oracle.pi(i, P) + oracle.pi(j, P), P) for j in range(P)] for i in range(P)]
    assert (aligned["B"][..., 0] // P).tolist() == expected
    assert (aligned["A"][..., 0] % P).tolist() == expected
    rounds = [step for step in schedule.steps if step.label == "align"]
    turns = np.array([step.moves[0].use >= 0 for step in rounds]).sum(axis=0)
    assert turns.tolist() == [min(oracle.pi(y, P), P - oracle.pi(y, P)) for y in range(P)]
    assert len(rounds) == P // 2


@pytest.mark.parametrize(("P", "table"), [(5, "0r 1f 1r 2f 2r"), (6, "0r 1f 1r 2f 2r 3f"), (7, "0r 1f 1r 2f 2r 3f 3r")])
def test_published_skew_directions(P, table):
    schedule = mk.schedule("meshgemm", mk.Mesh(P), P, P, P)
    use = np.array([step.moves[0].use for step in schedule.steps if step.label == "align"])
    for row, entry in enumerate(table.split()):
        turns, direction = int(entry[0]), entry[1]
        moved = use[use[:, row] >= 0, row]
        assert len(moved) == turns
        tied = 2 * turns == P  # both ways are as short
        assert tied or all(moved == (0 if direction == "f" else 1))


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
    assert schedule.steps[-1].moves[0].traffic[0].roots[0] == R
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
