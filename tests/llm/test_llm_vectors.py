"""The real model, token by token, against logits and greedy tokens of an independent engine (make_vectors.py)."""

from pathlib import Path

import numpy as np
import pytest
from make_vectors import STEPS, sample
from prompts import PROMPTS

DATA = Path(__file__).parent / "data"

#: Issue's bound on the absolute error of a float32 logit; logits are of order 20.
LIMIT = 1e-3


def error(logits: np.ndarray, stored, row: int) -> float:
    """Largest deviation from the stored part of one row: a 256-logit sample, the 16 largest, the norm."""
    found = np.abs(sample(logits, stored["rows"][row]) - stored["sample"][row]).max()
    largest = np.abs(logits[stored["top_ids"][row]] - stored["top"][row]).max()
    norm = abs(np.linalg.norm(logits.astype(np.float64)) - stored["norm"][row])
    return max(found, largest, norm / np.sqrt(len(logits)))


@pytest.mark.parametrize("plan", ["paper", "fused"])
@pytest.mark.parametrize("name", PROMPTS)
def test_logits_and_greedy_tokens(smollm2, smollm2_on_24, smollm2_fused, name, plan):
    stored = np.load(DATA / f"vectors_{name}.npz")
    model = {"paper": smollm2_on_24, "fused": smollm2_fused}[plan]
    assert smollm2.tokenizer.encode(PROMPTS[name]) == stored["ids"].tolist()
    length, greedy = len(stored["ids"]), stored["greedy"]
    every = model.prefill(stored["ids"], every=True)
    inside = int((stored["rows"] < length).sum())
    assert max(error(every[stored["rows"][i]], stored, i) for i in range(inside)) <= LIMIT
    logits = every[-1]
    for step in range(STEPS):
        best, other = stored["top"][inside - 1 + step][:2]
        assert logits.argmax() == greedy[step] or best - other < LIMIT, f"step {step} is no tie"
        logits = model.decode(greedy[step])
        assert error(logits, stored, inside + step) <= LIMIT, f"step {step}"
    assert len(model.cache) == length + STEPS


def test_vectors_are_what_they_should_be():
    stored = {name: np.load(DATA / f"vectors_{name}.npz") for name in PROMPTS}
    lengths = [len(v["ids"]) for v in stored.values()]
    assert len(stored) == 12 and max(lengths) > 1000 and min(lengths) == 1
    for v in stored.values():
        assert len(v["greedy"]) == STEPS and v["sample"].shape == (len(v["rows"]), 256)
        assert np.array_equal(v["top_ids"][-STEPS - 1 : -1, 0], v["greedy"])
