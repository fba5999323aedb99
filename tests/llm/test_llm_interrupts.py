"""An operation that is interrupted leaves the text as it was: every moment, against a model that never was."""

from __future__ import annotations

import random
import signal
import threading

import numpy as np
import pytest
from interrupts import at, interrupted, lines
from llama_reference import Synthetic, tiny

from meshkernels import Mesh
from meshkernels.kernels import attention as kernels
from meshkernels.kernels import team
from meshkernels.kernels.program import Program
from meshkernels.llm import CacheOverflow, Llama, block

PROMPT, TOKEN = [7, 0, 52, 7, 31], 9


def contents(model: Llama) -> tuple:
    """Everything that is valid in a cache, as something that can be compared."""
    cache = model.cache
    n = len(cache)
    return n, cache.shifts, cache.occupancy.tolist(), cache.keys[..., :n].tobytes(), cache.values[:, :, :n].tobytes()


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def models(request, monkeypatch):
    """Two models alike, with a prompt; the second one is never interrupted."""
    monkeypatch.setattr(team, "_cores", lambda: 2)
    pair = [Llama(Synthetic(tiny(context=1000)), Mesh(3), threads=threads) for threads in (request.param, 1)]
    for model in pair:
        model.warm_up()
        model.prefill(PROMPT)
    return pair


@pytest.mark.parametrize("operation", ["decode", "prefill", "reset", "warm_up"])
def test_interrupted_at_any_line(models, operation):
    model, other = models
    act = {"decode": lambda m: m.decode(TOKEN), "prefill": lambda m: m.prefill([3, 4, 5], every=True),
           "reset": lambda m: m.reset(), "warm_up": lambda m: m.warm_up()}[operation]
    before, met = contents(model), lines(lambda: act(other))
    other.prefill(PROMPT)
    expected = other.decode(TOKEN)
    firsts = {where: number for number, where in reversed(list(enumerate(met)))
              if where.startswith(("model.", "cache.", "block.", "team.", "pool."))}  # each of these lines once
    for number in sorted({*firsts.values(), *random.Random(0).sample(range(len(met)), min(20, len(met)))}):
        _, where = interrupted(lambda: act(model), at(number))
        if not where:  # threads share out lines otherwise: it went through
            model.prefill(PROMPT)
        assert contents(model) == before, where
        if number % 4 == 0:
            assert np.array_equal(model.decode(TOKEN), expected), where
            model.prefill(PROMPT)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_interrupted_at_random_moments(models):
    model, other = models
    before, expected, draw = contents(model), other.decode(TOKEN), random.Random(1)

    def ring(*_):
        raise KeyboardInterrupt

    standing = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(100):
            logits = None
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + draw.random() * 3e-3)
                logits = model.decode(TOKEN)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
            if logits is None:
                assert contents(model) == before
                logits = model.decode(TOKEN)
            assert np.array_equal(logits, expected)
            model.prefill(PROMPT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, standing)


@pytest.mark.parametrize("failure", [ZeroDivisionError, MemoryError, KeyboardInterrupt])
def test_a_hook_that_raises(models, failure):
    model, other = models

    def hook(block, op, values):
        if block == 1 and op.name == "residual 1":
            raise failure

    before = contents(model)
    model.hooks.append(hook)
    for act in (lambda: model.decode(TOKEN), lambda: model.prefill([1, 2]), lambda: list(model.generate([1, 2], 3))):
        with pytest.raises(failure):
            act()
        assert contents(model) == before
    model.hooks.clear()
    assert np.array_equal(model.decode(TOKEN), other.decode(TOKEN))


def test_no_memory_for_more_entries(models, monkeypatch):
    """The entry for which the cache has to grow, and a prompt that needs memory of its own."""
    model, other = models
    for m in models:
        for token in np.random.default_rng(0).integers(0, 53, m.cache.text.room - len(m.cache)):
            m.decode(int(token))
    before = contents(model)

    def refuse(room):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(model.cache, "_memory", refuse)
        for act in (lambda: model.decode(TOKEN), lambda: model.prefill([1, 2])):
            with pytest.raises(MemoryError):
                act()
            assert contents(model) == before
    assert np.array_equal(model.decode(TOKEN), other.decode(TOKEN))


def test_a_text_that_does_not_fit():
    source = Synthetic(tiny())
    room = Llama(source, 3).cache.entry_words * 4 * 2  # two entries on each of three rows
    model, other = Llama(source, 3, cache_limit=room), Llama(source, 3)
    model.prefill(PROMPT)
    model.decode(1)
    before = contents(model)
    for act in (lambda: model.decode(2), lambda: model.prefill([1] * 7)):
        with pytest.raises(CacheOverflow):
            act()
        assert contents(model) == before
    assert np.array_equal(model.prefill(PROMPT), other.prefill(PROMPT))


def test_a_generation_that_is_given_up(models):
    model, other = models
    text = model.generate(PROMPT, 10)
    first, second = next(text), next(text)
    text.close()
    logits = other.prefill(PROMPT)
    assert first == logits.argmax()
    assert second == other.decode(first).argmax()
    assert contents(model) == contents(other)


def test_two_models_in_two_threads(monkeypatch):
    """They share helpers, and nothing else."""
    monkeypatch.setattr(team, "_cores", lambda: 2)
    source, found = Synthetic(tiny()), {}
    expected = list(Llama(source, 3, threads=1).generate(PROMPT, 30))
    pair = [Llama(source, 3, threads=2) for _ in range(2)]

    def run(number):
        found[number] = list(pair[number].generate(PROMPT, 30))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {0: expected, 1: expected}


def test_a_hook_that_clears_the_cache_does_not_move_a_token_out_of_it():
    """Attention reads as many entries as the token found, whatever becomes of the cache meanwhile."""
    model, other = Llama(Synthetic(tiny()), 3), Llama(Synthetic(tiny()), 3)
    for m in (model, other):
        m.prefill(PROMPT)
    one = [[np.ones((2, 1, model.layout.head))] * 2] * 2
    model.hooks.append(lambda block, op, values: setattr(model.cache, "text", model.cache.filled(one)))
    assert np.array_equal(model.decode(TOKEN), other.decode(TOKEN))


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (5, 5), (24, 24)], ids=str)
@pytest.mark.parametrize("half", [False, True])
def test_kernels_are_given_what_they_do_not_check(grid, half, monkeypatch):
    """Kernels index without bounds: every call of a text has sizes and places inside the arrays."""
    called = set()

    def tree(dst, src, root, leaves):
        assert dst.shape == src.shape and all(((x >= 0) & (x < leaves)).all() for x in (dst, src, np.array([root])))

    def square_sums(item, items, X, tile, half, out):
        assert 0 <= item < items and X.ndim == 2 and tile * len(out) >= X.shape[1] and out.shape[1] == len(X)

    def scores(times, q, keys, bounds, width, dst, src, root, scale, half, out):
        (heads, head), tokens = q.shape, bounds[-1]
        assert head % width == 0 and keys.shape[1] == head and keys.shape[2] >= tokens and heads % len(keys) == 0
        assert times == out.shape[0] == heads and out.shape[1] >= tokens
        tree(dst, src, root, head // width)

    def present(bounds, dst, src, root, to, of, found):
        tree(dst, src, root, len(bounds) - 1)
        assert len(dst) == len(to) == len(of) and found.shape == (3,)

    def softmax(times, S, bounds, to, of, found, stored, half):
        assert times == len(S) and S.flags.writeable
        assert bounds[0] >= 0 and (np.diff(bounds) >= 0).all() and bounds[-1] <= S.shape[1]
        assert to.shape == of.shape == (len(bounds) - 2,) and found.shape == (3,)

    def mix(times, P, values, bounds, to, of, found, half, out):
        softmax(times, P, bounds, to, of, found, False, half)
        heads, head = out.shape
        assert heads % len(values) == 0 and values.shape[2] == head and len(P) == heads
        assert bounds[-1] <= values.shape[1]

    def causal_softmax(item, items, S, scale, tile, dst, src, root, stored, half):
        assert 0 <= item < items and S.shape[1] == S.shape[2] and S.flags.writeable
        assert tile >= 1 and -(-S.shape[2] // tile) <= len(dst) + 1
        tree(dst, src, root, len(dst) + 1)

    checks = {getattr(kernels, check.__name__): check for check in (square_sums, scores, present, softmax, mix,
                                                                 causal_softmax)}  # fmt: skip
    record, call, by_heads = Program.add, block.at_once, block.Run.by_heads

    def checked(kernel, arguments):
        if kernel in checks:
            called.add(kernel.__name__)
            checks[kernel](*arguments)

    def checked_by_heads(self, kernel, heads, *arguments):
        checked(kernel, (heads, *arguments))
        by_heads(self, kernel, heads, *arguments)

    monkeypatch.setattr(Program, "add", lambda self, kernel, *a, **more: (
        checked(kernel, a), record(self, kernel, *a, **more)))
    monkeypatch.setattr(block, "at_once", lambda kernel, *a, **more: (checked(kernel, a), call(kernel, *a, **more)))
    monkeypatch.setattr(block.Run, "by_heads", checked_by_heads)
    model = Llama(Synthetic(tiny(6, 3)), Mesh(*grid), **({"dtype": "float16", "accumulate": "float16"} if half else {}))
    for length in (1, 7, 29):
        list(model.generate([5] * length, 4))
    assert called == {"square_sums", "scores", "present", "softmax", "mix", "causal_softmax"}
