"""Tiny seeded models on every grid and head layout against a plain NumPy forward pass in float64."""

import numpy as np
import pytest
from llama_reference import NumpyLlama, Synthetic, tiny

from meshkernels import Mesh
from meshkernels.errors import MeshError
from meshkernels.llm import Llama

GRIDS = [(1, 1), (2, 3), (5, 5), (8, 4), (24, 24)]
HEADS = {"MHA": (3, 3), "GQA": (6, 2), "MQA": (4, 1), "three strips": (6, 3)}
TOKENS = [7, 0, 52, 7, 31, 18, 44, 2, 9, 23, 11]
TOLERANCE = 2e-5  # float32 sums of at most a few dozen terms, two blocks deep, logits of order one


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_prefill_and_decode_equal_numpy(grid, heads):
    source = Synthetic(tiny(*heads))
    expected = NumpyLlama(source).forward(TOKENS, every=True)
    model = Llama(source, Mesh(*grid))
    assert_close(model.prefill(TOKENS[:7], every=True), expected[:7])
    for place in range(7, len(TOKENS)):
        assert_close(model.decode(TOKENS[place]), expected[place])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_token_by_token_equals_prefill(grid):
    source = Synthetic(tiny(), seed=3)
    model = Llama(source, Mesh(*grid))
    at_once = model.prefill(TOKENS)
    occupancy = model.cache.occupancy.copy()
    keys = model.cache.keys[..., : len(TOKENS)].copy()
    model.reset()
    for token in TOKENS:
        one_by_one = model.decode(token)
    assert_close(one_by_one, at_once)
    assert np.array_equal(model.cache.occupancy, occupancy)
    assert_close(model.cache.keys[..., : len(TOKENS)], keys)


@pytest.mark.parametrize("length", [1, 2, 3, 13, 29])
def test_lengths_that_divide_nothing(length):
    source = Synthetic(tiny(6, 3), seed=length)
    tokens = np.random.default_rng(length).integers(0, 53, length)
    expected = NumpyLlama(source).forward(tokens)
    assert_close(Llama(source, Mesh(5, 7)).prefill(tokens), expected)


def test_caches_give_identical_bits_where_rows_do_not_matter_and_equal_tokens_everywhere():
    source = Synthetic(tiny(), seed=5)
    runs = [list(Llama(source, Mesh(4, 3), cache=policy).generate(TOKENS, 20)) for policy in ("shift", "concat")]
    assert runs[0] == runs[1]


def test_threads_do_not_change_a_bit():
    source = Synthetic(tiny(6, 3, vocab=5000), seed=6)
    alone, team = Llama(source, 4, threads=1), Llama(source, 4, threads=3)
    for token in TOKENS:
        assert np.array_equal(alone.decode(token), team.decode(token))


def test_prefill_on_another_grid():
    source = Synthetic(tiny(6, 3), seed=6)
    expected = NumpyLlama(source).forward(TOKENS, every=True)
    model = Llama(source, Mesh(4, 5), prefill_mesh=Mesh(3, 6))
    assert_close(model.prefill(TOKENS[:9]), expected[8])
    assert_close(model.decode(TOKENS[9]), expected[9])


def test_untied_head():
    source = Synthetic(tiny(), seed=7, tied=False)
    assert_close(Llama(source, 3).prefill(TOKENS), NumpyLlama(source).forward(TOKENS))


def test_a_new_prompt_forgets_the_last_text():
    source = Synthetic(tiny(), seed=8)
    model = Llama(source, 3)
    model.prefill(TOKENS)
    model.decode(4)
    again = model.prefill(TOKENS[:4])
    assert np.array_equal(again, Llama(source, 3).prefill(TOKENS[:4]))
    assert len(model.cache) == 4


def test_hooks_see_every_operation_of_every_block():
    model = Llama(Synthetic(tiny()), 2)
    seen = []
    model.hooks.append(lambda block, op, values: seen.append((block, op.name, values[op.writes[0]] is not None)))
    model.decode(1)
    names = [name for block, name, _ in seen if block == 1]
    assert names[0] == "attention norm" and names[-1] == "residual 2" and len(names) == 14
    assert all(there for _, _, there in seen)


def test_greedy_generation_continues_with_the_most_likely_token():
    source = Synthetic(tiny(), seed=9)
    reference, text = NumpyLlama(source), list(TOKENS)
    for token in Llama(source, 3).generate(TOKENS, 12):
        reference.reset()
        assert token == reference.forward(text).argmax()
        text.append(token)


def test_sampling_is_reproducible_and_stops():
    model = Llama(Synthetic(tiny()), 3)
    draws = [list(model.generate(TOKENS, 10, temperature=1.0, top_p=0.9, seed=4)) for _ in range(2)]
    assert draws[0] == draws[1] and len(draws[0]) == 10
    stopped = list(model.generate(TOKENS, 10, temperature=1.0, top_p=0.9, seed=4, stop=[draws[0][2]]))
    assert stopped == draws[0][: draws[0].index(draws[0][2]) + 1]


def test_bad_input_names_value_and_limit():
    model = Llama(Synthetic(tiny(context=12)), 2)
    with pytest.raises(MeshError, match="empty"):
        model.prefill([])
    with pytest.raises(MeshError, match=r"13 tokens.*context 12"):
        model.prefill([1] * 13)
    with pytest.raises(MeshError, match="53 is outside the vocabulary of 53"):
        model.decode(53)
    model.prefill([1] * 12)
    with pytest.raises(MeshError, match=r"12 tokens.*context 12"):
        model.decode(1)
    with pytest.raises(MeshError, match="float64"):
        Llama(Synthetic(tiny()), 2, dtype="float64")
    with pytest.raises(MeshError, match="need dtype='float16'"):
        Llama(Synthetic(tiny()), 2, accumulate="float16")
    with pytest.raises(MeshError, match="temperature = -1"):
        next(model.generate([1], 2, temperature=-1))
