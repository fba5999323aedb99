"""A model on regions of a wafer: what lies where, what is handed over and refused; counts by hand and perfmodel's."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from gguf_files import write
from llama_reference import Synthetic, tiny

import perfmodel as pm
from meshkernels import Mesh
from meshkernels.__main__ import main
from meshkernels.errors import DeviceLimitError
from meshkernels.files.checkpoint import Config
from meshkernels.llm import CacheOverflow, Layout, Llama, decode_plan, prefill_plan
from meshkernels.llm.redistribute import Transfer, transfer
from meshkernels.llm.regions import Regions
from meshkernels.llm.weights import storages
from perfmodel import counts_llm

CONFIG = tiny(4, 2, 6, blocks=5)
IDS = [3, 1, 41, 5, 9]


def wafer(tmp_path, rows: int, cols: int, memory: int) -> str:
    """A small wafer, as a device file."""
    path = tmp_path / f"wafer{rows}x{cols}.toml"
    path.write_text(f'base = "wse2"\nname = "small"\n[rows]\nvalue = {rows}\n[cols]\nvalue = {cols}\n'
                    f'[memory_per_core]\nvalue = {memory}\n')
    return str(path)


def by_element(plan, offset: tuple[int, int]) -> Transfer:
    """Activations from one region to another, one element and one core at a time."""
    place, words, far, links = plan.placements["X"], 0, 0, 0
    for element in product(*(range(n) for n in place.dims.values())):
        cores = [core for core in product(*map(range, place.mesh.shape))
                 if all(a <= i < b for i, (a, b) in zip(element, place.block(*core).values()))]
        for y, x in cores:
            distance = min(abs(y + offset[0] - v) + abs(x + offset[1] - u) for v, u in cores)
            words, far, links = words + 1, max(far, distance), links + distance
    return Transfer(words, far, links)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 4)], ids=str)
@pytest.mark.parametrize("way", [(0, 1), (0, -1), (1, 0), (2, -1)], ids=str)
def test_hand_overs_element_by_element_and_in_closed_form(grid, way):
    layout, offset = Layout(CONFIG, Mesh(*grid)), (way[0] * grid[0], way[1] * grid[1])
    dims = pm.Model("m", CONFIG.dim, CONFIG.ffn, CONFIG.blocks, CONFIG.heads, CONFIG.kv_heads, CONFIG.head_dim, 53)
    for plan in (decode_plan(layout, 6), prefill_plan(layout, 5)):
        X = plan.placements["X"]
        found = transfer(X, X, offset=offset)
        assert found == by_element(plan, offset)
        assert (found.words, found.hops, found.word_hops) == counts_llm.hand_over(dims, plan.phase, 5, *grid, *way)


def test_regions_lie_in_a_snake_and_perfmodel_has_the_same(tmp_path):
    chip = wafer(tmp_path, 13, 15, 1 << 20)  # 3 x 3 regions of 4 x 4 fit in the first 12 rows and columns
    source = Synthetic(CONFIG)
    plan = decode_plan(Layout(CONFIG, Mesh(4)), 6)
    found = Regions(chip, plan, storages(source))
    assert [(r.y, r.x) for r in found.regions] == [(0, 0), (0, 4), (0, 8), (4, 8), (4, 4)]
    assert [list(r.blocks) for r in found.regions] == [[0], [1], [2], [3], [4]]
    dims = pm.Model("m", CONFIG.dim, CONFIG.ffn, CONFIG.blocks, CONFIG.heads, CONFIG.kv_heads, CONFIG.head_dim, 53)
    for phase, mine in (("decode", found), ("prefill", Regions(chip, prefill_plan(plan.layout, 6), storages(source)))):
        theirs = pm.pipeline(pm.device(chip), dims, phase=phase, tokens=6, grid=4, storage="F32")
        assert [len(r.blocks) for r in mine.regions] == list(theirs.layers)
        assert [(r.y, r.x) for r in mine.regions] == list(theirs.origins)
        assert mine.work.hops == theirs.hops
    # the id goes back one region down and one along: from the nearest core, at most 4 + 4 hops
    assert found.hand_overs[-1] == Transfer(16, 8, 2 * 4 * (1 + 2 + 3 + 4))
    last = found.hand_overs[-1]
    assert (last.words, last.hops, last.word_hops) == counts_llm.way_back(4, 4, -1, -1)
    assert found.work.words == 4 * CONFIG.dim * 4 + 16 and found.work.steps == 5


def test_bytes_of_regions_by_hand(tmp_path):
    """2 regions of 2 x 2 cores for 5 blocks: 2 and 3; the first has the embedding, the second norm and head."""
    source = Synthetic(CONFIG, tied=False)
    plan = decode_plan(Layout(CONFIG, Mesh(2)), 6)
    found = Regions(wafer(tmp_path, 2, 4, 1 << 20), plan, storages(source), batch=3)
    # dim 22, q 24, kv 12 and ffn 37 -> 38 on 2 cores: 11, 12, 6, 19; but of 37 the first core has 19, as has its tile
    block = 4 * (11 * (12 + 6 + 6 + 12) + 3 * 11 * 19) + 4 * 2 * 11
    table = 4 * 11 * 27
    cache = 2 * 2 * 6 * 3  # bytes, keys and values, features, entries: of a block and text
    needs = [plan.working_bytes(part, 2, 2, storages(source)) for part in (plan.before, plan.layer, plan.after)]
    first, last = found.regions
    assert first.kept_bytes == 2 * block + table + max(needs[:2]) and first.entry_bytes == 2 * 2 * 2 * 6
    assert last.kept_bytes == 3 * block + table + 4 * 11 + max(needs[1:])
    assert last.held_bytes == last.kept_bytes + 3 * 3 * cache


@pytest.mark.parametrize("plan", ["paper", "fused"])
def test_bits_are_those_of_a_run_without_a_wafer(plan):
    source = Synthetic(CONFIG)
    alone, shared = Llama(source, Mesh(3, 4), plan=plan), Llama(source, Mesh(3, 4), plan=plan, wafer="wse2")
    assert alone.prefill(IDS).tobytes() == shared.prefill(IDS).tobytes()
    assert all(alone.decode(token).tobytes() == shared.decode(token).tobytes() for token in IDS)


def test_what_would_do_does(tmp_path):
    source = Synthetic(CONFIG)
    chip = wafer(tmp_path, 16, 16, 4500)
    with pytest.raises(DeviceLimitError) as refusal:
        Llama(source, 2, wafer=chip)
    text = str(refusal.value)
    assert "decode of 1 tokens: the fullest of 5 regions of 2 x 2 cores on" in text and "the limit is 4500" in text
    regions, side = text.split("; ")[1].split(" regions of ")
    side = int(side.split(" x ")[0])
    model = Llama(source, side, wafer=chip)
    assert len(Regions(chip, decode_plan(model.layout, 1), model.storages).regions) == int(regions)
    with pytest.raises(DeviceLimitError, match="a grid of 17 x 17 cores does not fit"):
        Llama(source, 17, wafer=chip)


def test_a_text_that_outgrows_the_tightest_region_is_refused(tmp_path):
    source = Synthetic(CONFIG)
    plan = decode_plan(Layout(CONFIG, Mesh(2)), 1)
    found = Regions(wafer(tmp_path, 2, 4, 1 << 20), plan, storages(source)).tightest
    chip = wafer(tmp_path, 2, 4, found.kept_bytes + 4 * found.entry_bytes)  # 4 entries on each of 2 rows
    model = Llama(source, 2, wafer=chip, prefill_mesh=Mesh(2))
    for token in range(8):
        model.decode(token)
    with pytest.raises(CacheOverflow, match=f"would hold 5 entries = {5 * found.entry_bytes} bytes"):
        model.decode(1)
    assert len(model.cache) == 8


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    write(path, Synthetic(tiny(6, 3, dim=32, vocab=300, context=80, blocks=4), seed=1))
    return str(path)


def test_generate_on_a_wafer_shows_the_regions_and_the_same_text(small, capsys):
    arguments = ["generate", "abc", "-m", small, "--grid", "3", "-n", "5"]
    found = []
    for more in ([], ["--wafer", "wse2"]):
        assert main([*arguments, "--json", *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["new_ids"] == found[1]["new_ids"]
    alone, shared = (each["mesh"] for each in found)
    regions = shared["token"]["wafer"]["regions"]
    assert [each["blocks"] for each in regions] == [1, 1, 1, 1] and regions[3]["x"] == 9
    over = shared["token"]["wafer"]["hand_overs"]
    assert shared["token"]["critical_hops"] == alone["token"]["critical_hops"] + sum(each["hops"] for each in over)
    assert shared["token"]["words"] == alone["token"]["words"] + sum(each["words"] for each in over)
    assert shared["token"]["peak_bytes_per_core"] == max(each["bytes_per_core"] for each in regions)
    assert list(shared["predicted"]) == ["wse2"] and shared["predicted"]["wse2"]["tokens_per_s"] > 0
    assert main([*arguments, "--wafer", "wse2"]) == 0
    out = capsys.readouterr().out
    assert "decode on wse2: 4 regions of 3 x 3 cores; 4 hand-overs" in out and "prefill bytes/core" in out


@pytest.mark.parametrize(("arguments", "message"), [
    (("--wafer", "wse9"), "wse9"),
    (("--regions", "2"), "--regions 2 are of a --wafer"),
    (("--wafer", "wse2", "--regions", "5"), "5 regions of 24 x 24 cores: from 1 to 4 can be used, 41 x 31 lie on wse2"),
    (("--wafer", "wse2", "--regions", "0"), "0 regions of 24 x 24 cores: from 1 to 4"),
    (("--wafer", "wse2", "--device", "wse2"), "--wafer wse2 and --device wse2: one of them"),
    (("--wafer", "wse2", "--grid", "800"), "does not fit wse2"),
    (("--wafer", "wse2", "--grid", "1", "--dtype", "float16"), "the limit is 49152 bytes; 4 regions of"),
])  # fmt: skip
def test_refusals_are_one_line_before_anything_is_placed(tmp_path, capsys, monkeypatch, arguments, message):
    path = tmp_path / "large.gguf"
    write(path, Synthetic(tiny(4, 2, 32, dim=128, ffn=512, vocab=300, context=80, blocks=4)), storage="F16")
    monkeypatch.setattr("meshkernels.llm.cli.Llama", None)
    assert main(["generate", "abc", "-m", str(path), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


def test_fewer_regions_where_they_are_asked_for(small, capsys):
    assert main(["generate", "abc", "-m", small, "--grid", "3", "-n", "5", "--wafer", "wse2", "--regions", "3",
                 "--json"]) == 0
    token = json.loads(capsys.readouterr().out)["mesh"]["token"]["wafer"]
    assert [each["blocks"] for each in token["regions"]] == [1, 1, 2] and len(token["hand_overs"]) == 3
    source = Synthetic(CONFIG)
    model = Llama(source, 2, wafer="wse2", regions=1)
    found = Regions("wse2", decode_plan(model.layout, 1), model.storages, wanted=1)
    assert found.hand_overs == () and found.work.hops == 0
    peak = decode_plan(model.layout, 1).peak_bytes(2, 2, model.storages)
    assert found.fullest.held_bytes == peak  # one region holds all


def test_batches_overlap_in_regions_by_hand():
    """N texts get a token each in the time of one, or of N in the slowest region; layers are the same 8 in each."""
    one, many = (pm.pipeline("wse2", "llama3-8b", tokens=4096, grid=360, storage="Q4_0", batch=n) for n in (1, 4))
    single = pm.decode("wse2", "llama3-8b", context=4096, grid=360).cycles
    hand_over = 360 * 1 + 5 + 6  # alpha a hop, beta, 12 elements on a link
    assert one.cycles == pytest.approx(single + 3 * hand_over + 360 + 5)
    low, high = pm.decode("wse2", "llama3-8b", context=4096, grid=360).interval
    assert one.interval == pytest.approx((one.cycles - single + low, one.cycles - single + high))
    assert one.slowest == pytest.approx(single / 4 + hand_over)
    assert one.tokens_per_s == pytest.approx(1.1e9 / one.cycles)
    assert many.tokens_per_s == pytest.approx(4 * 1.1e9 / max(one.cycles, 4 * one.slowest))
    most = pm.pipeline("wse2", "llama3-8b", tokens=1024, grid=360, storage="Q4_0", batch=16)
    assert most.tokens_per_s == pytest.approx(1.1e9 / most.slowest)


def test_the_papers_model_on_the_papers_grid():
    """LLaMA3-8B in Q4_0 on 360 x 360: 4 regions of 8 blocks in a snake; a row has 12 entries of 4 features each."""
    c = Config(blocks=32, dim=4096, ffn=14336, heads=32, kv_heads=8, head_dim=128, vocab=128256, context=8192)
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    kinds = {f"blk.{b}.{name}.weight": "Q4_0" for b in range(32) for name in names}
    kinds |= {"token_embd.weight": "Q4_0", "output.weight": "Q4_0", "output_norm.weight": "F32"}
    found = Regions("wse2", decode_plan(Layout(c, Mesh(360)), 4096), kinds)
    found.check()
    assert [(r.y, r.x, len(r.blocks)) for r in found.regions] == [(0, 0, 8), (0, 360, 8), (360, 360, 8), (360, 0, 8)]
    assert found.regions[1].entry_bytes == 8 * 2 * 4 * 2  # strips of 45 columns: 4 features, one head
    kinds = {name: "F32" if name == "output_norm.weight" else "F16" for name in kinds}
    for side, fits in ((240, False), (360, True)):  # of 12 regions the last has 3 blocks and the head, of 4 it has 8
        mine = Regions("wse2", decode_plan(Layout(c, Mesh(side)), 4096), kinds).fullest.held_bytes
        assert (mine <= 48 * 1024) == fits
        if fits:
            theirs = pm.pipeline("wse2", "llama3-8b", tokens=4096, grid=side).bytes_per_core
            assert theirs == pytest.approx(mine, rel=0.15)  # which has 6 KB of code besides
        else:
            with pytest.raises(pm.DoesNotFit, match=r"3 of 32 layers and the head need 5\d{4} bytes per core"):
                pm.pipeline("wse2", "llama3-8b", tokens=4096, grid=side)
    assert found.work.hops == 4 * 360 and np.all([each.words == 4096 * 360 for each in found.hand_overs[:3]])
