"""Counts of a block in closed form, held equal to the ledger of the library's plans: both phases, both plans."""

import importlib

import numpy as np
import pytest

import perfmodel as pm
from meshkernels import Mesh
from meshkernels.files.checkpoint import Config
from meshkernels.kernels.storage import STORAGES
from meshkernels.llm import Layout, decode_plan, footprint, prefill_plan
from perfmodel import counts_llm, storage

capacity = importlib.import_module("perfmodel.capacity")  # the package has a function of this name

GRIDS = [(1, 1), (1, 5), (5, 1), (2, 3), (7, 3), (5, 5), (4, 6), (8, 4), (24, 24)]
MODELS = [pm.Model("m", dim, ffn, 2, heads, kv, head, 53) for dim, ffn, heads, kv, head in (
    (22, 37, 4, 2, 6), (30, 41, 3, 3, 10), (18, 33, 6, 1, 8), (8, 9, 1, 1, 2), (96, 100, 8, 4, 16))]


def config(model: pm.Model) -> Config:
    return Config(blocks=model.layers, dim=model.dim, ffn=model.ffn, heads=model.heads, kv_heads=model.kv_heads,
                  head_dim=model.head_dim, vocab=model.vocab, context=8192)


def of_ledger(plan) -> list[tuple]:
    lines = [(line.name, w.steps, w.hops, w.stages, w.words, w.all_reduces)
             for line in plan.ledger() for w in (line.work,)]
    return [line for line in lines if line[0] == "append" or any(line[1:])]


@pytest.mark.parametrize("plan", counts_llm.PLANS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_block_equals_the_ledger(grid, plan):
    for model in MODELS:
        layout = Layout(config(model), Mesh(*grid))
        for tokens in (1, 2, 5, 13, 24, 50):
            found = [tuple(line) for line in counts_llm.block(model, "decode", tokens, *grid, plan)]
            assert found == of_ledger(decode_plan(layout, tokens, plan)), (model, tokens)
        for tokens in (1, 13, 29):
            made = [tuple(line) for line in counts_llm.block(model, "prefill", tokens, *grid, plan)]
            assert [line for line in made if any(line[1:])] == of_ledger(prefill_plan(layout, tokens, plan=plan))


@pytest.mark.parametrize(("name", "grid"), [("llama3-8b", 420), ("qwen2-72b", 420), ("llama2-13b", 375)])
def test_decode_of_a_published_model_equals_the_ledger(name, grid):
    model = pm.model(name)
    for plan in counts_llm.PLANS:
        found = [tuple(line) for line in counts_llm.block(model, "decode", 4096, grid, grid, plan)]
        assert found == of_ledger(decode_plan(Layout(config(model), Mesh(grid)), 4096, plan))


def test_the_fused_block_by_hand():
    """SmolLM2 on 24 x 24 cores, 48 in the cache: 3 strips of 8 columns, 8 features, 2 entries and 3 heads a core."""
    layout = Layout(config(pm.model("smollm2-135m")), Mesh(24))
    fused = decode_plan(layout, 48, "fused")
    collectives = [c for line in fused.ledger() for c in line.collectives]
    assert collectives == [("add", "y", 40 + 1), ("add", "x", 3 * 2), ("logsumexp", "y", 3 * (1 + 1 + 8)),
                           ("add", "x", 24), ("add", "y", 128 + 1), ("add", "x", 24)]
    assert fused.all_reduces == 6 and fused.total().all_reduces == 30 * 6 + 3
    assert prefill_plan(layout, 48, plan="fused").all_reduces == 0


@pytest.mark.parametrize("kind", storage.TYPES)
def test_the_largest_tile_of_stored_weights_equals_the_ledgers(kind):
    """Of rows of 256 to 1,536 numbers on every number of cores: perfmodel's closed form and the count core by core."""
    assert set(storage.TYPES) | {"F64"} == set(STORAGES)
    for inputs in (256, 768, 1536):
        parts = np.arange(1, 41)
        expected = [footprint.tile_bytes(kind, np.arange(inputs), np.ones(35, bool), (n, 5)).max() for n in parts]
        assert storage.tile_bytes(kind, inputs, -(-inputs // parts), 7).tolist() == expected


def test_capacity_counts_the_tiles_of_the_ledger():
    """On grids that pad no head: a layer's matrices on the fullest core, W_O once more for prefill, and two norms.

    But for W_O: the library's strips cut every head, so that the inputs of a tile are not consecutive, as they are in
    the published kernels of one wide head.
    """
    model = pm.model("llama3-8b")
    for grid, kind in ((64, "Q4_K"), (32, "Q6_K"), (128, "Q5_1")):
        layout, d = Layout(config(model), Mesh(grid)), model.dim // grid
        names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        kinds = {f"blk.{b}.{name}.weight": kind for b in range(model.layers) for name in names}
        found = footprint.Footprint.of(decode_plan(layout, 1), kinds | {"token_embd.weight": kind}).largest
        expected = found["Wq", "Wk", "Wv"] + found["Wup", "Wgate"] + found["Wdown",] + 2 * 2 * d
        assert capacity.weight_bytes(model, grid, kind) - 2 * storage.tile_bytes(kind, model.dim, d, d) == expected
