"""The plan as data: placements that feed each operation, the published operator table, counts by hand."""

from itertools import product

import numpy as np
import pytest

from meshkernels import Mesh
from meshkernels.files.checkpoint import Config
from meshkernels.llm import Layout, Placement, decode_plan, prefill_plan
from meshkernels.llm.redistribute import Transfer, redistribution, transfer

SMOLLM = Config(blocks=30, dim=576, ffn=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152, context=8192)
GRIDS = [(1, 1), (2, 3), (5, 5), (8, 4), (24, 24)]


def cut(placement: Placement) -> str:
    """Along which axes of cores a tensor is cut: "", "x", "y" or "xy" (a replicating part cuts nothing)."""
    return "".join(axis for axis in "xy" if any(dim for dim, _ in getattr(placement, axis)))


# --------------------------------------------------------------------------------------------------------- plan
def test_decode_has_the_ten_all_reduces_of_the_published_table():
    plan = decode_plan(Layout(SMOLLM, Mesh(24)), 48)
    collectives = [c for line in plan.ledger() for c in line.collectives]
    assert [axis + op for op, axis, _ in collectives] == [
        "yadd", "yadd", "xadd", "ymax", "yadd", "yadd", "xadd", "yadd", "yadd", "xadd"]
    words = [n for _, _, n in collectives]
    # norm 1; fused q 3x8, k 8, v 8; scores of 3 heads x 2 entries; max and sum of 3 heads; 24 features; ...
    assert words == [1, 40, 6, 3, 3, 24, 24, 1, 128, 24]


def test_decode_never_transposes():
    """A GEMV's input is cut along the axis that is summed, its output along the other, its weight along both."""
    plan = decode_plan(Layout(SMOLLM, Mesh(24)), 48)
    for op in plan.layer + plan.after:
        for gemv in op.schedules:
            if not gemv.multiplies:
                continue
            summed, other = "yx"[gemv.axis], "xy"[gemv.axis]
            weights = plan.weights(op)
            assert weights
            assert cut(plan.placements[op.reads[0]]) == summed
            assert all(cut(plan.placements[name]) == other for name in op.writes)
            assert all(cut(plan.placements[name]) == "xy" for name in weights)
    axes = [gemv.axis for op in plan.layer for gemv in op.schedules if gemv.multiplies]
    assert axes == [0, 1, 0, 1]  # QKV, out, up and gate, down


def test_every_operation_finds_its_inputs_where_they_were_left():
    for plan in (decode_plan(Layout(SMOLLM, Mesh(8, 4)), 9), prefill_plan(Layout(SMOLLM, Mesh(8, 4)), 9)):
        there = {"token"}
        for op in plan.before + plan.layer + plan.after:
            assert set(op.reads) - set(plan.weights(op)) <= there, op.name
            there |= set(op.writes)
            assert all(name in plan.placements for name in (*op.reads, *op.writes))


def test_prefill_activations_are_cut_both_ways():
    plan = prefill_plan(Layout(SMOLLM, Mesh(24)), 100)
    for name in ("X", "N", "Q", "K", "V", "S", "P", "O", "Y", "Z", "M", "U", "G", "F", "R"):
        assert cut(plan.placements[name]) == "xy"
    assert plan.placements["X"].notation == "L_y E_x"
    assert plan.placements["S"].notation == "H_x:3 L_y S_x:8"
    verbs = [used.algorithm for op in plan.layer for used in op.schedules if used.multiplies]
    assert verbs == ["meshgemm", "gemm_t", "meshgemm", "meshgemm", "meshgemm", "meshgemm"]


def test_weights_are_placed_the_other_way_round_for_decode():
    first, then = prefill_plan(Layout(SMOLLM, Mesh(24)), 9), decode_plan(Layout(SMOLLM, Mesh(24)), 9)
    for name in ("Wq", "Wk", "Wv", "Wup", "Wgate"):
        assert first.placements[name].notation == then.placements[name].notation
    assert first.placements["Wdown"].notation == "F_y E_x" and then.placements["Wdown"].notation == "F_x E_y"


# --------------------------------------------------------------------------------------------------- placements
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_blocks_cover_each_tensor_once_per_copy(grid):
    small = Config(blocks=1, dim=22, ffn=37, heads=6, kv_heads=3, head_dim=6, vocab=53, context=99)
    for plan in (decode_plan(Layout(small, Mesh(*grid)), 13), prefill_plan(Layout(small, Mesh(*grid)), 13)):
        for placement in plan.placements.values():
            held = np.zeros(tuple(placement.dims.values()), int)
            for core in product(*map(range, grid)):
                held[tuple(slice(*span) for span in placement.block(*core).values())] += 1
            copies = np.prod(grid) // np.prod([placement.parts(dim) for dim in placement.dims])
            assert (held == copies).all(), placement


def test_a_placement_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="do not multiply to 4"):
        Placement("A", {"E": 8}, Mesh(4), y=(("E", 3),))
    with pytest.raises(ValueError, match="cut once"):
        Placement("A", {"E": 8}, Mesh(4), y=(("E", 4),), x=(("E", 4),))


@pytest.mark.parametrize("grid", [*GRIDS, (4, 6), (7, 9), (3, 12)], ids=str)
@pytest.mark.parametrize("heads", [(6, 3), (3, 3), (4, 1), (8, 2)], ids=str)
def test_layout_splits_what_it_fused(grid, heads):
    config = Config(blocks=1, dim=10, ffn=37, heads=heads[0], kv_heads=heads[1], head_dim=6, vocab=5, context=9)
    layout, draw = Layout(config, Mesh(*grid)), np.random.default_rng(1).standard_normal
    x, q, k, v = draw((2, 10)), *(draw((n * 6, 10)) for n in (heads[0], heads[1], heads[1]))
    for found, weight in zip(layout.split_qkv(x @ layout.fuse_qkv(q, k, v)), (q, k, v)):
        expected = (x @ weight.T).reshape(2, -1, 6).swapaxes(0, 1)
        np.testing.assert_allclose(found[..., :6], expected, atol=1e-12)
        assert not found[..., 6:].any()  # padding
    o = draw((heads[0], 2, 6))
    padded = np.pad(o, ((0, 0), (0, 0), (0, layout.head - 6)))
    out = draw((10, heads[0] * 6))
    expected = o.swapaxes(0, 1).reshape(2, -1) @ out.T
    np.testing.assert_allclose(layout.from_heads(padded) @ layout.arrange_out(out), expected, atol=1e-12)
    assert layout.width % 2 == 0  # RoPE's pairs stay on one core
    assert layout.out % layout.mesh.lcm == 0 and layout.ffn % layout.mesh.lcm == 0


# ------------------------------------------------------------------------------------------------------- counts
def test_ledger_of_a_block_on_a_line_of_cores_by_hand():
    """3 x 1 cores: each all-reduce along y is 1 hop to the middle and 1 back; nothing moves along x."""
    config = Config(blocks=4, dim=6, ffn=6, heads=1, kv_heads=1, head_dim=2, vocab=9, context=99)
    plan = decode_plan(Layout(config, Mesh(3, 1)), 7)  # the seventh token
    lines = {line.name: line for line in plan.ledger()}
    assert lines["attention norm"].work.hops == 2 and lines["attention norm"].work.all_reduces == 1
    assert lines["down"].work.hops == 0 and lines["down"].work.words == 0
    assert lines["QKV"].work.macs == 6 * 3 * 2  # dim x (q, k, v of width 2)
    # 6 entries lie 2, 2, 2: level, so rows 1 and 2 pass one up: key and value of 2 features each
    assert lines["append"].work.hops == 1 and lines["append"].work.words == 2 * 4
    assert plan.total().all_reduces == 4 * 10 + 1 + 1 + 1 + 1


def test_resident_bytes_are_the_weights_divided_by_the_cores():
    plan = decode_plan(Layout(SMOLLM, Mesh(24)), 24)
    kept = plan.resident(2)
    weights = 30 * (576 * (576 + 192 + 192 + 576) + 3 * 576 * 1536)
    assert kept["weights"] == weights * 2 // 576
    assert kept["table"] == 49152 * 576 * 2 // 576
    assert kept["cache"] == 30 * 2 * 192 * 2 * 24 // 576


# ------------------------------------------------------------------------------------------------ redistribution
def by_element(before: Placement, after: Placement) -> Transfer:
    """The same count, one element and one core at a time."""
    def holders(placement, element):
        return [core for core in product(*map(range, placement.mesh.shape))
                if all(a <= i < b for i, (a, b) in zip(element, placement.block(*core).values()))]

    words = far = links = 0
    for element in product(*(range(n) for n in before.dims.values())):
        sources = holders(before, element)
        for y, x in holders(after, element):
            distance = min(abs(y - v) + abs(x - u) for v, u in sources)
            words, far, links = words + (distance > 0), max(far, distance), links + distance
    return Transfer(words, far, links)


@pytest.mark.parametrize("grids", [((2, 3), (2, 3)), ((3, 3), (2, 2)), ((1, 4), (3, 2))], ids=str)
def test_transfer_counts_every_element(grids):
    config = Config(blocks=1, dim=5, ffn=6, heads=2, kv_heads=1, head_dim=4, vocab=7, context=99)
    first, then = (f(Layout(config, Mesh(*g)), 5) for f, g in zip((prefill_plan, decode_plan), grids))
    for name in ("Wk", "Wup", "Wdown", "table", "w_ffn"):
        old, new = first.placements[name], then.placements[name]
        if all(old.dims[dim] == new.dims[dim] for dim in old.dims):  # padded alike: the elements are the same
            assert transfer(old, new) == by_element(old, new), name


def test_same_grid_moves_only_what_is_placed_otherwise():
    layout = Layout(SMOLLM, Mesh(24))
    moved = redistribution(prefill_plan(layout, 48), decode_plan(layout, 49))
    assert all(moved[name].words == 0 for name in ("Wq", "Wk", "Wv", "Wup", "Wgate"))
    assert moved["K cache"].words == 0  # 48 tokens lie 2 on each of 24 rows in both phases
    # W_down is transposed in placement: only the tiles on the diagonal stay
    assert moved["Wdown"].words == 30 * 1536 * 576 * 23 // 24 and moved["Wdown"].hops == 46
