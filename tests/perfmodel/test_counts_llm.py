"""Counts of a block in closed form, held equal to the ledger of the library's plans: both phases, both plans."""

import pytest

import perfmodel as pm
from meshkernels import Mesh
from meshkernels.files.checkpoint import Config
from meshkernels.llm import Layout, decode_plan, prefill_plan
from perfmodel import counts_llm

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
