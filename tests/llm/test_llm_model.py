"""Tiny seeded models on every grid and head layout against a plain NumPy forward pass in float64."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from llama_reference import NumpyLlama, Synthetic, tiny

from meshkernels import Mesh
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.kernels import memory, team
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


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(team, "_cores", lambda: 3)
    source = Synthetic(tiny(6, 3, vocab=5000), seed=6)
    alone, three = Llama(source, 4, threads=1), Llama(source, 4, threads=3)
    for token in TOKENS:
        assert np.array_equal(alone.decode(token), three.decode(token))


def test_no_helper_waits_while_hooks_run(monkeypatch):
    monkeypatch.setattr(team, "_cores", lambda: 2)
    model, woken = Llama(Synthetic(tiny()), 2, threads=2), []
    awake = model.team.awake
    monkeypatch.setattr(model.team, "awake", lambda: woken.append(1) or awake())
    model.hooks.append(lambda *_: None)
    with_hook = model.decode(1)
    assert not woken
    model.reset()
    model.hooks.clear()
    assert np.array_equal(model.decode(1), with_hook) and woken


def test_one_model_is_used_by_one_thread_at_a_time():
    model, refused = Llama(Synthetic(tiny()), 2), []

    def other_thread(block, op, values):
        if block != 1 or op.name != "residual 2":
            return
        for act in (lambda: model.decode(1), lambda: model.prefill([1]), model.reset, model.warm_up):
            with ThreadPoolExecutor(1) as pool:
                refused.append(str(pool.submit(act).exception()))

    model.hooks.append(other_thread)
    model.prefill(TOKENS)
    model.decode(1)
    assert len(refused) == 8 and all("at work in another thread" in message for message in refused)
    assert len(model.cache) == len(TOKENS) + 1


def test_warm_up_leaves_the_text_alone():
    source = Synthetic(tiny())
    model, cold = Llama(source, 3), Llama(source, 3)
    for llama in (model, cold):
        llama.prefill(TOKENS)
    assert model.warm_up() > 0
    assert len(model.cache) == len(TOKENS) and np.array_equal(model.decode(1), cold.decode(1))


WARM = """
import sys
from numba.core.registry import CPUDispatcher
from llama_reference import Synthetic, tiny
from meshkernels.llm import Llama

def compiled():
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("meshkernels.")]
    return {f"{module.__name__}.{key}": len(value.overloads) for module in modules
            for key, value in vars(module).items() if isinstance(value, CPUDispatcher)}

model = Llama(Synthetic(tiny(6, 3)), 4, threads=1, **OPTIONS)
cold = sum(compiled().values())
model.warm_up()
warm = compiled()
for length in (1, 5, 70):
    model.prefill([7] * (length % 60 + 1))
    model.decode(3)
assert cold < sum(warm.values()) and compiled() == warm, {k: n for k, n in compiled().items() if n != warm[k]}
"""


@pytest.mark.parametrize("options", [{}, {"dtype": "float16", "accumulate": "float16"}, {"plan": "fused"}],
                         ids=["float32", "float16", "fused"])
def test_nothing_is_compiled_after_warm_up(options):
    """In a fresh process: no kernel gains a specialisation between the warm-up and the end of a text."""
    here = str(Path(__file__).parents[1])
    script = f"import sys; sys.path.insert(0, {here!r})\n" + WARM.replace("OPTIONS", repr(options))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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


def test_the_first_token_after_a_prompt_frees_what_the_prompt_packed(monkeypatch):
    monkeypatch.setattr(memory, "_kept", {})
    model = Llama(Synthetic(tiny(), seed=8), 3)
    model.prefill([1, 2, 3])
    memory.give_back(memory.borrow(8 << 20, np.dtype(np.uint8)))
    assert memory.kept_bytes() > 8 << 20
    model.decode(4)
    assert memory.kept_bytes() < 8 << 20


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


def test_the_penalty_is_of_the_prompt_and_of_the_new_tokens():
    source = Synthetic(tiny(), seed=9)
    reference, text = NumpyLlama(source), list(TOKENS)
    for token in Llama(source, 3).generate(TOKENS, 12, repeat_penalty=8.0, repeat_last=-1):
        reference.reset()
        logits, seen = reference.forward(text), np.unique(text)
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / 8, logits[seen] * 8)
        assert token == logits.argmax()
        text.append(token)
    assert len(text) == len(TOKENS) + 12


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
    for ids in ([1.5], "abc", [[1]]):
        with pytest.raises(MeshTypeError, match="token ids must be"):
            model.prefill(ids)
    with pytest.raises(MeshError, match="threads = 0"):
        Llama(Synthetic(tiny()), 2, threads=0)
    with pytest.raises(MeshError, match="float64"):
        Llama(Synthetic(tiny()), 2, dtype="float64")
    with pytest.raises(MeshError, match="need dtype='float16'"):
        Llama(Synthetic(tiny()), 2, accumulate="float16")
    with pytest.raises(MeshError, match="temperature = -1"):
        next(model.generate([1], 2, temperature=-1))
