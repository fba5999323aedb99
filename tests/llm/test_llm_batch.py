"""Several texts at once: the bits of each are those of a run of its own, and what happens to one happens to none."""

from __future__ import annotations

import numpy as np
import pytest
from llama_reference import Synthetic, tiny

from meshkernels import Mesh
from meshkernels.errors import DeviceLimitError, MeshError, MeshTypeError
from meshkernels.llm import CacheOverflow, Layout, Llama, cache
from meshkernels.llm.regions import Regions

CONFIG = tiny()
PROMPTS = [[3, 1, 41, 5, 9], [2, 6, 52], [3, 1, 41, 5, 9], [7]]
TOKENS = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, None, 11]]


@pytest.fixture(scope="module")
def source() -> Synthetic:
    return Synthetic(CONFIG)


@pytest.mark.parametrize("options", [{}, {"plan": "fused", "cache": "concat"}, {"dtype": "float16", "wafer": "wse2"}])
@pytest.mark.parametrize("prefill_mesh", [None, Mesh(2)])
def test_every_text_has_the_bits_of_a_run_of_its_own(source, options, prefill_mesh):
    model = Llama(source, Mesh(3, 4), prefill_mesh=prefill_mesh, **options)
    model.prefill([8, 8])
    batch = model.batch(4)
    found = [batch.prefill(PROMPTS), *map(batch.decode, TOKENS)]
    assert batch.lengths == (8, 6, 7, 4) and len(model.cache) == 2
    for i, prompt in enumerate(PROMPTS):
        alone = Llama(source, Mesh(3, 4), prefill_mesh=prefill_mesh, **options)
        assert found[0][i].tobytes() == alone.prefill(prompt).tobytes()
        for logits, tokens in zip(found[1:], TOKENS):
            if tokens[i] is None:
                assert np.isnan(logits[i]).all()
            else:
                assert logits[i].tobytes() == alone.decode(tokens[i]).tobytes()


def test_generate_is_that_of_each_alone(source):
    model, samplers = Llama(source, 3), {"temperature": 1.0, "top_k": 9, "repeat_penalty": 1.3}
    steps = list(model.batch(4).generate(PROMPTS, 6, seed=5, stop=[int(i) for i in range(0, 53, 4)], **samplers))
    for i, prompt in enumerate(PROMPTS):
        alone = list(model.generate(prompt, 6, seed=5 + i, stop=range(0, 53, 4), **samplers))
        found = [step[i] for step in steps]
        assert found[: len(alone)] == alone and not any(token is not None for token in found[len(alone) :])
    assert len({tuple(step[i] for step in steps) for i in (0, 2)}) == 2  # two samples of one prompt


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda batch: batch.decode([1, 2]), MeshError, "2 tokens for a batch of 4 texts"),
    (lambda batch: batch.decode([1, 2, 3, 53]), MeshError, "token id 53"),
    (lambda batch: batch.decode([1, 2, 3, 1.5]), MeshTypeError, "sequence of integers"),
    (lambda batch: batch.prefill(PROMPTS[:3]), MeshError, "3 prompts for a batch of 4 texts"),
    (lambda batch: batch.prefill([*PROMPTS[:3], []]), MeshError, "the prompt is empty"),
    (lambda batch: batch.prefill([*PROMPTS[:3], [0] * 65]), MeshError, "context 64"),
    (lambda batch: batch.prefill([*PROMPTS[:3], "ab"]), MeshTypeError, "sequence of integers"),
    (lambda batch: batch.prefill(None), MeshTypeError, "prompts must be a sequence, one for each of 4 texts, not None"),
    (lambda batch: batch.decode(7), MeshTypeError, "tokens must be a sequence, one for each of 4 texts, not 7"),
    (lambda batch: next(batch.generate("abcd")), MeshTypeError, "prompts must be a sequence, one for each"),
    (lambda batch: next(batch.generate([1, 2, 3, 4])), MeshTypeError, "sequence of integers"),
    (lambda batch: next(batch.generate(PROMPTS, seed="x")), MeshTypeError, "seed must be an integer, not 'x'"),
])  # fmt: skip
def test_a_refusal_leaves_all_texts_as_they_were(source, call, error, message):
    batch, other = Llama(source, 3).batch(4), Llama(source, 3).batch(4)
    for each in (batch, other):
        each.prefill(PROMPTS)
        each.decode(TOKENS[0])
    with pytest.raises(error, match=message):
        call(batch)
    assert batch.lengths == (6, 4, 6, 2)
    assert batch.decode(TOKENS[1]).tobytes() == other.decode(TOKENS[1]).tobytes()


@pytest.mark.parametrize("operations", [0, 7, 45, 60])
def test_an_interrupt_leaves_all_texts_as_they_were(source, operations):
    model, left = Llama(source, 3), [operations]
    batch, other = model.batch(3), Llama(source, 3).batch(3)
    for each in (batch, other):
        each.prefill(PROMPTS[:3])

    def interrupt(*_):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    model.hooks.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        batch.decode([1, 2, 3])
    model.hooks.clear()
    assert batch.lengths == (5, 3, 5)
    assert batch.decode([4, 5, 6]).tobytes() == other.decode([4, 5, 6]).tobytes()


def test_the_cores_memory_is_shared_out(source):
    """1 x 1 cores with room for 12 entries: 4 texts of 3, or one of 12."""
    entry = 2 * CONFIG.blocks * CONFIG.kv_heads * CONFIG.head_dim * 4
    model = Llama(source, 1, cache_limit=12 * entry)
    batch = model.batch(4)
    for _ in range(3):
        batch.decode([1, 2, 3, 4])
    with pytest.raises(CacheOverflow, match="would hold 4 entries"):
        batch.decode([1, None, None, None])
    assert batch.lengths == (3, 3, 3, 3)
    batch.reset()
    assert batch.lengths == (0, 0, 0, 0)


def test_a_wafer_holds_the_caches_of_all_texts_or_refuses(source, tmp_path):
    path = tmp_path / "small.toml"
    layout = Layout(CONFIG, Mesh(2))

    def wafer(memory: int) -> str:
        path.write_text(f'base = "wse2"\nname = "small"\n[rows]\nvalue = 2\n[cols]\nvalue = 4\n'
                        f'[memory_per_core]\nvalue = {memory}\n')
        return str(path)

    from meshkernels.llm import decode_plan
    from meshkernels.llm.weights import storages

    found = Regions(wafer(1 << 20), decode_plan(layout, 1), storages(source), batch=5).fullest
    assert len(Llama(source, 2, wafer=wafer(found.held_bytes)).batch(5)) == 5
    with pytest.raises(DeviceLimitError, match="decode of 6 texts of 1 tokens: the fullest of 2 regions"):
        Llama(source, 2, wafer=wafer(found.held_bytes)).batch(6)


def test_caches_that_exceed_this_machine(source, monkeypatch):
    batch = Llama(source, 3).batch(4)
    monkeypatch.setattr(cache, "physical_memory", lambda: 1 << 18)
    with pytest.raises(MeshError, match="keys and values of 4 x 5 tokens take"):
        batch.prefill(PROMPTS)


@pytest.mark.parametrize(("texts", "error", "message"), [
    (0, MeshError, "texts = 0: a batch has at least one"), (-1, MeshError, "texts = -1"),
    (10**12, MeshError, "keys and values of 1000000000000 x 1 tokens take"),
    (1.5, MeshTypeError, "must be an integer"), ("2", MeshTypeError, "must be an integer"),
])  # fmt: skip
def test_no_batch(source, texts, error, message):
    with pytest.raises(error, match=message):
        Llama(source, 1).batch(texts)
