"""LLaMA on the mesh against a straightforward NumPy/BLAS forward pass, and against llama.cpp, in the same run.

``numpy`` is the oracle of the tests: whole matrices in float32, no mesh. Where ``llama_cpp`` can be imported it is a
peer on the same file, where ``transformers`` can it is timed for scale; they are no dependencies.
"""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bench.measure import paired, pinned, seconds
from meshkernels import Mesh, files
from meshkernels.llm import Llama
from meshkernels.llm.block import PLANS, Forward, decode_plan

ROOT = Path(__file__).parents[1]
PROMPT, CONTEXT = 512, 128
both = pytest.mark.parametrize("threads", [1, 2])


def _numpy_llama(checkpoint):
    """The NumPy forward pass that the tests use as their oracle."""
    spec = importlib.util.spec_from_file_location("llama_reference", ROOT / "tests" / "llama_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NumpyLlama(checkpoint, np.float32)


@pytest.fixture(scope="module")
def checkpoint():
    return files.load()


@pytest.fixture(scope="module")
def numpy_llama(checkpoint):
    return _numpy_llama(checkpoint)


@pytest.fixture(scope="module", params=[8, 24], ids=lambda side: f"{side}x{side}")
def on_mesh(request, checkpoint):
    return Llama(checkpoint, Mesh(request.param))


@pytest.fixture(scope="module")
def ids(checkpoint):
    return checkpoint.tokenizer.encode((ROOT / "LICENSE").read_text(encoding="utf-8"))[:PROMPT]


def _grid(model: Llama) -> str:
    return f"{model.layout.mesh.rows}x{model.layout.mesh.cols}"


@both
@pytest.mark.benchmark(group="SmolLM2-135M, float32")
def test_decode(benchmark, on_mesh, numpy_llama, ids, threads):
    """Four tokens, with 128 and more in the cache. BLAS threads spin for a while after a call, on a core that the
    other side needs: with two threads the first token of a round is slower on both sides."""
    on_mesh.prefill(ids[:CONTEXT])
    numpy_llama.reset()
    numpy_llama.forward(ids[:CONTEXT])

    def ours():
        for token in ids[:4]:
            on_mesh.decode(token)

    def peer():
        for token in ids[:4]:
            numpy_llama.forward([token])

    found = paired(ours, peer, threads, budget=8.0)
    target = 0.9 if on_mesh.layout.mesh.rows == 8 else 0.7
    what = f"decode of 4 tokens on {_grid(on_mesh)} ({4e3 / found['ours_ms']:.1f} tokens/s)"
    benchmark.extra_info.update(found, what=what, target=target, peer="NumPy forward")
    with pinned(threads):
        benchmark.pedantic(ours, rounds=3)


@both
@pytest.mark.benchmark(group="SmolLM2-135M, float32")
def test_prefill(benchmark, on_mesh, numpy_llama, ids, threads):
    """A prompt of 512 tokens, with the logits of its last."""
    def peer():
        numpy_llama.reset()
        return numpy_llama.forward(ids)

    found = paired(lambda: on_mesh.prefill(ids), peer, threads, budget=20.0)
    target = 0.7 if on_mesh.layout.mesh.rows == 8 else 0.5
    what = f"prefill of {len(ids)} tokens on {_grid(on_mesh)} ({1e3 * len(ids) / found['ours_ms']:.0f} tokens/s)"
    benchmark.extra_info.update(found, what=what, target=target, peer="NumPy forward")
    with pinned(threads):
        benchmark.pedantic(on_mesh.prefill, args=(ids,), rounds=1)


@both
@pytest.mark.parametrize("what", ["decode of 4 tokens", "prefill of 128 tokens"])
@pytest.mark.benchmark(group="SmolLM2-135M: the fused plan beside the paper's, one set of weights")
def test_plans(benchmark, on_mesh, ids, what, threads):
    """The paper's plan over the fused one: both run on the same weights, since the pages of a second set differ."""
    decode = {plan: Forward(decode_plan(on_mesh.layout, 1, plan), on_mesh._decode.weights, on_mesh.team)
              for plan in PLANS}
    on_mesh.prefill(ids[:CONTEXT])

    def by(plan):
        def work():
            on_mesh.plan, on_mesh._decode = plan, decode[plan]
            if what.startswith("prefill"):
                on_mesh.prefill(ids[:CONTEXT])
            else:
                for token in ids[:4]:
                    on_mesh.decode(token)

        return work

    try:
        found = paired(by("fused"), by("paper"), threads, budget=8.0)
        benchmark.extra_info.update(found, what=f"{what} on {_grid(on_mesh)}", target=1.0, peer="paper's plan")
        with pinned(threads):
            benchmark.pedantic(by("fused"), rounds=1)
    finally:
        on_mesh.plan, on_mesh._decode = "paper", decode["paper"]


@pytest.mark.benchmark(group="SmolLM2-135M: memory")
def test_memory(benchmark, checkpoint):
    """Bytes of the arrays that a placed and used model holds, over the bytes of its file."""
    tracemalloc.start()
    model = Llama(checkpoint, Mesh(24))
    model.prefill([1, 2, 3])
    model.decode(4)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    cache = model.cache.keys.nbytes + model.cache.values.nbytes
    over = held / (checkpoint.path.stat().st_size + cache)
    benchmark.extra_info.update(what="held by a model on 24x24, over its file and cache", seconds=over, target=1.15)
    benchmark.pedantic(model.decode, args=(1,), rounds=1)


@both
@pytest.mark.benchmark(group="SmolLM2-135M: one token of others, for scale (seconds)")
def test_transformers_decode(benchmark, checkpoint, ids, threads):
    """CPU torch, float32, the same file."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.path.parent, gguf_file=checkpoint.path.name, dtype=torch.float32)
    with torch.no_grad():
        out = model(torch.tensor([ids[:CONTEXT]]), use_cache=True)
        _for_scale(benchmark, f"transformers, float32, {threads} threads", lambda: model(
            torch.tensor([ids[:1]]), past_key_values=out.past_key_values, use_cache=True))


def _llama_cpp(checkpoint, threads: int, repacked: bool = True):
    """The engine of llama.cpp on the same file; its weights repacked for the CPU as it does by default, or not."""
    llama_cpp = pytest.importorskip("llama_cpp")
    low, default = llama_cpp.llama_cpp, llama_cpp.llama_cpp.llama_model_default_params

    def chosen():
        options = default()
        options.use_extra_bufts = repacked
        return options

    low.llama_model_default_params = chosen
    try:
        return llama_cpp.Llama(str(checkpoint.path), n_threads=threads, n_threads_batch=threads, n_ctx=1024,
                               verbose=False)  # fmt: skip
    finally:
        low.llama_model_default_params = default


@both
@pytest.mark.benchmark(group="SmolLM2-135M Q4_1, against llama.cpp")
def test_llama_cpp_decode(benchmark, on_mesh, checkpoint, ids, threads):
    """Four tokens with 128 and more in the cache. Ours multiplies in float32, llama.cpp rounds activations to int8."""
    engine = _llama_cpp(checkpoint, threads)
    for token in ids[:CONTEXT]:  # one by one: version 0.3.36 crashes in a batch where the CPU has AMX
        engine.eval([token])
    on_mesh.prefill(ids[:CONTEXT])

    def ours():
        for token in ids[:4]:
            on_mesh.decode(token)

    def peer():
        for token in ids[:4]:
            engine.eval([token])

    found = paired(ours, peer, threads, budget=8.0)
    what = f"decode of 4 tokens on {_grid(on_mesh)} ({4e3 / found['ours_ms']:.1f} tokens/s)"
    target = 1.2 if on_mesh.layout.mesh.rows == 8 else 1.0
    benchmark.extra_info.update(found, what=what, target=target, peer="llama.cpp")
    with pinned(threads):
        benchmark.pedantic(ours, rounds=3)


@both
@pytest.mark.benchmark(group="SmolLM2-135M Q4_1, against llama.cpp")
def test_llama_cpp_prefill(benchmark, on_mesh, checkpoint, ids, threads):
    """A prompt of 512 tokens; llama.cpp does not repack its weights (see above), which it does for single tokens."""
    engine = _llama_cpp(checkpoint, threads, repacked=False)

    def peer():
        engine.reset()
        engine.eval(ids)

    found = paired(lambda: on_mesh.prefill(ids), peer, threads, budget=20.0)
    what = f"prefill of {len(ids)} tokens on {_grid(on_mesh)} ({1e3 * len(ids) / found['ours_ms']:.0f} tokens/s)"
    benchmark.extra_info.update(found, what=what, target=1.5, peer="llama.cpp")
    with pinned(threads):
        benchmark.pedantic(on_mesh.prefill, args=(ids,), rounds=1)


def _for_scale(benchmark, what, step):
    step()
    found = float(np.median([seconds(step) for _ in range(20)]))
    benchmark.extra_info.update(what=what, seconds=found, target=None)
    benchmark.pedantic(step, rounds=3)
