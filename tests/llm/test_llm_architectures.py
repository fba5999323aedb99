"""LLaMA, LLaMA 3 and Qwen2 on meshes: logits of tiny models against ``transformers`` and NumPy, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf_files import write
from llama_reference import NumpyLlama, Synthetic, tiny
from make_vectors import IDS, TINY

from meshkernels import Mesh, files
from meshkernels.errors import WeightsError
from meshkernels.llm import Layout, Llama, decode_plan, prefill_plan
from meshkernels.llm.redistribute import redistribution

VECTORS = np.load(Path(__file__).parent / "data" / "tiny.npz")


def model(name: str) -> Synthetic:
    """The tiny model whose logits ``transformers`` computed."""
    dimensions, tied, scaled = TINY[name]
    factors = VECTORS[f"{name}.rope_freqs"] if scaled else None
    return Synthetic(tiny(**dimensions), seed=7, tied=tied, rope_freqs=factors)


@pytest.mark.parametrize("name", TINY)
def test_numpy_reference_agrees_with_transformers(name):
    found = NumpyLlama(model(name)).forward(IDS, every=True)
    np.testing.assert_allclose(found, VECTORS[name], atol=2e-5)


@pytest.mark.parametrize("plan", ["paper", "fused"])
@pytest.mark.parametrize("name", TINY)
def test_logits_of_transformers(name, plan):
    for mesh in (Mesh(1), Mesh(3, 4), Mesh(5, 2)):
        llama = Llama(model(name), mesh, plan=plan)
        np.testing.assert_allclose(llama.prefill(IDS, every=True), VECTORS[name], atol=5e-5)
        found = [llama.prefill(IDS[:7]), *(llama.decode(token) for token in IDS[7:])]
        np.testing.assert_allclose(found, VECTORS[name][6:], atol=5e-5)


def test_factors_of_llama_3_matter():
    plain = Synthetic(tiny(**TINY["llama3"][0]), seed=7, tied=False)
    assert np.abs(NumpyLlama(plain).forward(IDS) - VECTORS["llama3"][-1]).max() > 0.01


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("storage", ["F32", "Q8_0"])
def test_a_file_of_qwen2(tmp_path, tied, storage):
    source = Synthetic(tiny(4, 2, 16, dim=64, ffn=96, vocab=300, architecture="qwen2"), seed=3, tied=tied)
    write(tmp_path / "qwen2.gguf", source, storage)
    checkpoint = files.load(tmp_path / "qwen2.gguf")
    assert checkpoint.config == source.config and checkpoint.tied == tied
    expected = NumpyLlama(checkpoint).forward(IDS, every=True)
    np.testing.assert_allclose(Llama(checkpoint, Mesh(3, 5)).prefill(IDS, every=True), expected, atol=1e-4)


def test_float16_rounds_biases_too():
    source = model("qwen2")
    llama = Llama(source, 3, dtype="float16")
    biases = llama._decode.weights.vectors[0, "biases"]
    assert np.array_equal(biases, biases.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(llama.prefill(IDS), VECTORS["qwen2"][-1], atol=0.05)


def test_biases_are_resident_and_stay_where_they_are():
    """4 heads of 6 in 2 strips of 2 columns: a core's 2 query, 1 key and 1 value head have 4 features each."""
    layout = Layout(tiny(architecture="qwen2"), Mesh(3, 4))
    first, then = prefill_plan(layout, 5), decode_plan(layout, 6)
    assert first.resident(2)["biases"] == then.resident(2)["biases"] == 2 * 2 * (2 + 1 + 1) * 4
    moved = redistribution(first, then)
    assert all(moved[name].words == 0 for name in ("bq", "bk", "bv"))


@pytest.mark.parametrize(("architecture", "change", "message"), [
    ("llama", {"blk.0.attn_q.bias": 24}, "tensor 'blk.0.attn_q.bias' (1 such) is none of a 'llama' model"),
    ("qwen2", {"blk.1.attn_k.bias": None}, "no tensor 'blk.1.attn_k.bias', expected with shape (12,)"),
    ("qwen2", {"blk.1.attn_k.bias": 24}, "expected (12,) = (qwen2.attention.head_count_kv * key_length)"),
    ("qwen2", {"rope_freqs.weight": 3}, "'rope_freqs.weight' (1 such) is none of a 'qwen2' model"),
])  # fmt: skip
def test_tensors_of_the_wrong_architecture_are_refused(tmp_path, architecture, change, message):
    source = Synthetic(tiny(vocab=300, architecture=architecture))
    for name, length in change.items():
        if length is None:
            del source._tensors[name]
        else:
            source._tensors[name] = np.ones(length, np.float32)
    write(tmp_path / "model.gguf", source)
    with pytest.raises(WeightsError) as refusal:
        files.load(tmp_path / "model.gguf")
    assert message in str(refusal.value)


@pytest.mark.parametrize(("window", "code"), [(0, True), (64, True), (100, True), (63, False), (1, False)])
def test_a_window_shorter_than_the_context_is_refused(tmp_path, window, code):
    write(tmp_path / "model.gguf", Synthetic(tiny(vocab=300)), **{"attention.sliding_window": window})
    if code:
        assert files.load(tmp_path / "model.gguf").config.context == 64
    else:
        with pytest.raises(WeightsError, match=f"sliding_window = {window} is not .* than llama.context_length = 64"):
            files.load(tmp_path / "model.gguf")
