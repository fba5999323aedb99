"""Choosing tokens: the distribution that is drawn from, and logits that no token can be chosen from."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from make_vectors import SAMPLERS, sampled_logits

from meshkernels.errors import MeshError
from meshkernels.llm.sampling import Sampler


@pytest.mark.parametrize("temperature, top_p", [(0.7, 1.0), (1.0, 1.0), (1.3, 0.8)])
def test_draws_follow_the_softmax_cut_to_its_nucleus(temperature, top_p):
    logits = np.array([1.0, 3.0, -2.0, 2.0, 0.5], np.float32)
    plain, p = (np.exp(logits.astype(np.float64) / t) for t in (1.0, temperature))
    plain /= plain.sum()  # which the nucleus is cut from, whatever the temperature
    order = sorted(range(5), key=lambda i: -p[i])
    nucleus = next(order[:n] for n in range(1, 6) if sum(plain[i] for i in order[:n]) >= top_p - 1e-12)
    expected = np.array([p[i] if i in nucleus else 0 for i in range(5)]) / sum(p[i] for i in nucleus)
    sampler = Sampler(temperature, top_p, seed=2)
    found = np.bincount([sampler(logits) for _ in range(4000)], minlength=5) / 4000
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert not found[expected == 0].any()


@pytest.mark.parametrize("case", range(len(SAMPLERS)))
def test_what_is_drawn_from_is_what_llama_cpp_leaves(case):
    stored = json.loads((Path(__file__).parent / "data" / "sampling.json").read_text())[case]
    assert stored["options"] == SAMPLERS[case]
    ids, p = Sampler(**stored["options"]).distribution(sampled_logits(case), stored["text"])
    assert ids.tolist() == stored["ids"]
    np.testing.assert_allclose(p, stored["p"], rtol=1e-4)  # llama.cpp's are float32


@pytest.mark.parametrize("options, allowed", [
    ({"top_k": 2}, {1, 3}), ({"min_p": 0.2}, {1, 3}), ({"top_k": 1}, {1}), ({"top_p": 0.5, "min_p": 0.01}, {1}),
    ({"min_p": 0.01, "top_k": 4}, {0, 1, 3, 4})], ids=str)
def test_cuts_leave_the_likeliest(options, allowed):
    logits = np.array([1.0, 3.0, -2.0, 2.0, 0.5], np.float32)  # shares of the likeliest: 0.14, 1, 0.007, 0.37, 0.08
    sampler = Sampler(1.0, seed=2, **options)
    assert {sampler(logits) for _ in range(400)} == allowed


def test_samplers_of_one_generator_go_on_with_its_numbers():
    logits, one = np.zeros(1000, np.float32), Sampler(1.0, seed=4)
    shared = np.random.default_rng(4)
    assert [Sampler(1.0, seed=shared)(logits) for _ in range(5)] == [one(logits) for _ in range(5)]


def test_a_repeated_token_is_penalised():
    logits = np.array([1.0, 3.0, 2.5, -1.0], np.float32)
    sampler = Sampler(repeat_penalty=1.5, repeat_last=2)
    assert sampler(logits) == 1 and sampler(logits, [1]) == 2 and sampler(logits, [1, 0, 0]) == 1
    assert Sampler(repeat_penalty=4.0)(np.array([-1.0, -2.0], np.float32), [0]) == 1


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("values, found", [
    ([np.nan], "1 are NaN and 0 infinite"), ([np.inf], "0 are NaN and 1 infinite"),
    ([-np.inf, np.nan, np.nan], "2 are NaN and 1 infinite"), ([np.nan] * 8, "8 are NaN and 0 infinite")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_logits_that_are_no_numbers_choose_no_token(temperature, values, found, dtype):
    logits = np.arange(8).astype(dtype)
    logits[: len(values)] = values
    with pytest.raises(MeshError, match=f"of 8 logits {found}"):
        Sampler(temperature, 0.9, seed=0)(logits)


@pytest.mark.parametrize("shape", [(0,), (2, 3), ()])
def test_logits_are_one_for_each_token(shape):
    with pytest.raises(MeshError, match="logits of shape"):
        Sampler()(np.zeros(shape, np.float32))


def test_a_temperature_of_next_to_nothing_is_greedy_without_a_warning():
    logits = np.array([3e38, 1.0, -3e38], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Sampler(1e-320, seed=1)(logits) == Sampler(1e-320, 0.5, seed=1)(logits) == 0
        assert Sampler(1e300, seed=1)(logits) in (0, 1, 2)


@pytest.mark.parametrize("arguments, message", [
    ({"temperature": float("nan")}, "temperature = nan"), ({"temperature": "hot"}, "temperature = 'hot'"),
    ({"top_p": float("nan")}, "top_p = nan"), ({"top_p": None}, "top_p = None"), ({"top_p": 1.5}, "top_p = 1.5"),
    ({"top_k": 1.5}, "top_k = 1.5"), ({"min_p": -0.1}, "min_p = -0.1"), ({"repeat_last": -2}, "repeat_last = -2"),
    ({"repeat_penalty": 0.0}, "repeat_penalty = 0.0"), ({"repeat_penalty": 1e-310}, "from 1e-6 to 1e6"),
    ({"seed": -1}, "seed = -1"), ({"seed": 0.5}, "seed = 0.5"), ({"seed": "x"}, "seed = 'x'")])
def test_refusals_name_argument_and_value(arguments, message):
    with pytest.raises(MeshError, match=message):
        Sampler(**arguments)


@pytest.mark.parametrize("token", [-1, 4])
def test_a_token_without_a_logit_is_not_penalised_in_silence(token):
    with pytest.raises(MeshError, match=f"the text has token {token}, there are 4 logits"):
        Sampler(repeat_penalty=2.0)(np.zeros(4, np.float32), [0, token, 1])
