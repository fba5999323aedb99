"""float16 as a wafer stores and sums: every value fits 16 bits, and worse sums give worse results."""

import numpy as np
import pytest
from llama_reference import NumpyLlama, Synthetic, tiny

from meshkernels import Mesh
from meshkernels.llm import Llama
from meshkernels.llm.numerics import SUMS, half_errors

TOKENS = [7, 0, 52, 31, 18, 44, 2, 9]


@pytest.mark.parametrize("accumulate", ["float32", "float16"])
def test_every_activation_fits_in_16_bits(accumulate):
    model = Llama(Synthetic(tiny(6, 3)), Mesh(3, 6), dtype="float16", accumulate=accumulate)
    seen = set()

    def check(block, op, values):
        for name in op.writes:
            value = values[name]
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, value.astype(np.float16), err_msg=f"{op.name}: {name}")
                seen.add(name)

    model.hooks.append(check)
    model.prefill(TOKENS)
    model.decode(3)
    assert {"X", "Q", "S", "P", "O", "F", "logits", "K cache"} <= seen


@pytest.mark.parametrize("accumulate, low, high", [("float32", 1e-4, 2e-2), ("float16", 1e-4, 1e-1)])
@pytest.mark.parametrize("by_token", [False, True])
def test_logits_stay_near_exact_arithmetic_on_rounded_weights(accumulate, low, high, by_token):
    source = Synthetic(tiny(6, 3), seed=2)
    rounded = Synthetic(tiny(6, 3), seed=2)
    rounded._tensors = {n: rounded.tensor(n).astype(np.float16).astype(np.float32) for n in rounded.names}
    expected = NumpyLlama(rounded).forward(TOKENS)
    model = Llama(source, 4, dtype="float16", accumulate=accumulate)
    if by_token:
        for token in TOKENS:
            logits = model.decode(token)
    else:
        logits = model.prefill(TOKENS)
    assert low < np.abs(logits - expected).max() < high


def test_errors_grow_with_the_roughness_of_sums():
    source = Synthetic(tiny(6, 3, dim=96, ffn=200, blocks=3), seed=1)
    wide, narrow, _ = half_errors(source, 4, TOKENS)
    assert [(e.accumulate, e.norms) for e in (wide, narrow)] == list(SUMS[:2])
    assert wide.stream.shape == wide.logits.shape == (3,)
    assert (wide.stream > 0).all() and np.mean(narrow.stream) > np.mean(wide.stream)


def test_squares_that_exceed_float16_ruin_the_norm_as_they_would_on_the_wafer():
    source = Synthetic(tiny(dim=64), seed=1)
    source._tensors["token_embd.weight"] = source.tensor("token_embd.weight") * 400  # sum of squares near 160,000
    fine = Llama(source, 2, dtype="float16", accumulate="float16", norms="float32")
    ruined = Llama(source, 2, dtype="float16", accumulate="float16")
    expected = NumpyLlama(source).forward(TOKENS)
    scale = np.abs(expected).max()
    assert np.abs(fine.prefill(TOKENS) - expected).max() < 0.1 * scale
    assert np.abs(ruined.prefill(TOKENS) - expected).max() > 0.5 * scale
