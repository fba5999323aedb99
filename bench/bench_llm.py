"""LLaMA on the mesh against a straightforward NumPy/BLAS forward pass of the same float32 weights.

Both decode the same tokens in turn, round by round, on the same number of threads; the ratio of a round is NumPy's
time over ours, and the median over rounds is kept (``ratio`` in the benchmark's extra info: 1.0 is as fast as BLAS).
``numpy`` is the oracle of the tests, whole matrices and no mesh. Where ``transformers`` or ``llama_cpp`` can be
imported they are timed too, for scale.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from meshkernels import Mesh, weights
from meshkernels.llm import Llama

THREADS = int(os.environ.get("NUMBA_NUM_THREADS", "1"))
GRIDS = (8, 24)
PROMPT = 512
CONTEXT, TOKENS, ROUNDS = 128, 4, 12


def _reference():
    """The NumPy forward pass that the tests use as their oracle."""
    path = Path(__file__).parents[1] / "tests" / "llm" / "llama_reference.py"
    spec = importlib.util.spec_from_file_location("llama_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint():
    return weights.load()


@pytest.fixture(scope="module")
def numpy_llama(checkpoint):
    return _reference().NumpyLlama(checkpoint, np.float32)


@pytest.fixture(scope="module", params=GRIDS, ids=lambda side: f"{side}x{side}")
def on_mesh(request, checkpoint):
    return Llama(checkpoint, Mesh(request.param), threads=THREADS)


@pytest.fixture(scope="module")
def ids(checkpoint):
    text = (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8")
    return checkpoint.tokenizer.encode(text)[:PROMPT]


def paired(ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median times (ms) and the median, lower and upper quartile of peer over ours, measured in turn."""
    seconds: list[list[float]] = [[], []]
    with _pinned():
        ours(), peer()
        for _ in range(rounds):
            for run, kept in zip((ours, peer), seconds):
                if THREADS > 1:
                    time.sleep(0.1)  # BLAS threads spin for a while after a call, on cores that the other side needs
                begin = time.perf_counter()
                run()
                kept.append(time.perf_counter() - begin)
    ratios = [p / o for o, p in zip(*seconds)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"ours_ms": 1e3 * statistics.median(seconds[0]), "peer_ms": 1e3 * statistics.median(seconds[1]),
            "ratio": middle, "ratio_low": low, "ratio_high": high, "threads": THREADS}


def _pinned():
    """BLAS and Numba on the same number of threads."""
    import numba
    from threadpoolctl import threadpool_limits

    numba.set_num_threads(THREADS)
    return threadpool_limits(THREADS)


def test_decode(benchmark, on_mesh, numpy_llama, ids):
    """Milliseconds per token with 128 to 180 tokens in the cache."""
    on_mesh.prefill(ids[:CONTEXT])
    numpy_llama.reset()
    numpy_llama.forward(ids[:CONTEXT])

    def ours():
        for token in ids[:TOKENS]:
            on_mesh.decode(token)

    def peer():
        for token in ids[:TOKENS]:
            numpy_llama.forward([token])

    found = paired(ours, peer, ROUNDS)
    for key in ("ours_ms", "peer_ms"):
        found[key] /= TOKENS
    benchmark.extra_info.update(found, peer="numpy", tokens_per_s=1e3 / found["ours_ms"])
    benchmark.pedantic(on_mesh.decode, args=(ids[0],), rounds=5)


def test_prefill(benchmark, on_mesh, numpy_llama, ids):
    """Milliseconds for a prompt of 512 tokens, with the logits of its last."""
    def peer():
        numpy_llama.reset()
        return numpy_llama.forward(ids)

    found = paired(lambda: on_mesh.prefill(ids), peer, 5)
    benchmark.extra_info.update(found, peer="numpy", tokens_per_s=1e3 * len(ids) / found["ours_ms"])
    benchmark.pedantic(on_mesh.prefill, args=(ids,), rounds=1)


def test_memory(checkpoint):
    """Bytes of arrays that a placed model holds, over the bytes of its weights in float32: at most 1.3."""
    import tracemalloc

    tracemalloc.start()
    model = Llama(checkpoint, Mesh(24))
    model.decode(1)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    weight = sum(4 * int(np.prod(checkpoint.tensor(name).shape)) for name in checkpoint.names)
    assert held <= 1.3 * weight, f"{held / weight:.2f}"


def test_transformers_decode(benchmark, checkpoint, ids):
    """For scale: CPU torch, float32, the same file."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.set_num_threads(THREADS)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.path.parent, gguf_file=checkpoint.path.name, dtype=torch.float32)
    with torch.no_grad():
        out = model(torch.tensor([ids[:CONTEXT]]), use_cache=True)

        def step():
            model(torch.tensor([ids[:1]]), past_key_values=out.past_key_values, use_cache=True)

        benchmark.pedantic(step, rounds=20, warmup_rounds=2)


def test_llama_cpp_decode(benchmark, checkpoint, ids):
    """For scale: llama.cpp on the quantised file as it is (a quarter of the bytes per token)."""
    llama_cpp = pytest.importorskip("llama_cpp")
    engine = llama_cpp.Llama(str(checkpoint.path), n_threads=THREADS, n_ctx=1024, verbose=False)
    engine.eval(ids[:CONTEXT])
    benchmark.pedantic(lambda: engine.eval(ids[:1]), rounds=20, warmup_rounds=2)
