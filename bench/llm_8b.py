"""LLaMA3-8B's shape in Q4_0, decoded on the paper's 360 x 360 grid, and by llama.cpp where it can be imported.

The weights are seeded random codes: no text comes of them, but every byte is read and every multiply-add done. Each
side has a process of its own, so that its memory is its own, and they decode in turn. Ours has run a tiny model before:
what Python and compiled code take is not counted.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import tokenizers.pre_tokenizers

from meshkernels.files.checkpoint import Config, tensor_shape
from meshkernels.files.fetch import cache_dir
from meshkernels.llm import Llama, load

#: Dimensions of LLaMA 3 8B.
CONFIG = Config(blocks=32, dim=4096, ffn=14336, heads=32, kv_heads=8, head_dim=128, vocab=128256, context=8192,
                rope_base=500000.0)
SIDE, PROMPT, TOKENS, ROUNDS = 360, list(range(1, 17)), 2, 5
_KIND = gguf.GGMLQuantizationType.Q4_0
_IN_BLOCK = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


def write(path: Path, c: Config = CONFIG) -> None:
    """The model as a GGUF file. Numbers have the size of a trained model's, so that nothing overflows."""
    writer, random = gguf.GGUFWriter(str(path), "llama"), np.random.default_rng(8)
    for add, value in ((writer.add_block_count, c.blocks), (writer.add_context_length, c.context),
                       (writer.add_embedding_length, c.dim), (writer.add_feed_forward_length, c.ffn),
                       (writer.add_head_count, c.heads), (writer.add_head_count_kv, c.kv_heads),
                       (writer.add_key_length, c.head_dim), (writer.add_value_length, c.head_dim),
                       (writer.add_rope_dimension_count, c.head_dim), (writer.add_layer_norm_rms_eps, c.norm_eps),
                       (writer.add_rope_freq_base, c.rope_base), (writer.add_vocab_size, c.vocab),
                       (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, "gpt-2")):
        add(value)
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pairs = [a + b for a in letters for b in letters]
    tokens = [*letters, *pairs, *(f"<|{i}|>" for i in range(c.vocab))][: c.vocab]
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([f"{a} {b}" for a, b in pairs if a + b in tokens[: len(letters) + len(pairs)]])
    writer.add_eos_token_id(c.vocab - 1)
    names = ["token_embd", "output_norm", "output", *(f"blk.{i}.{name}" for i in range(c.blocks) for name in _IN_BLOCK)]
    shapes = {f"{name}.weight": tensor_shape(c, f"{name}.weight") for name in names}
    block, size = gguf.GGML_QUANT_SIZES[_KIND]
    for name, shape in shapes.items():
        stored = shape if len(shape) == 1 else (shape[0], shape[1] // block * size)
        kind, dtype = (None, np.float32) if len(shape) == 1 else (_KIND, np.uint8)
        writer.add_tensor_info(name, stored, np.dtype(dtype), int(np.prod(stored)) * np.dtype(dtype).itemsize, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for shape in shapes.values():
        if len(shape) == 1:
            writer.write_tensor_data(np.ones(shape, np.float32))
            continue
        data = np.frombuffer(random.bytes(shape[0] * shape[1] // block * size), np.uint8).reshape(-1, size).copy()
        scale = random.uniform(0.5, 1.5, len(data)) / 4.6 / np.sqrt(shape[1])  # codes have a deviation of 4.6
        data[:, :2] = scale.astype(np.float16)[:, None].view(np.uint8)
        writer.write_tensor_data(data.reshape(shape[0], -1))
    writer.close()


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ------------------------------------------------------------------------------------ what either side's process does
def _ours(path: str, tiny: str, side: int, threads: int):
    """Facts about loading, and a function that decodes."""
    small = load(tiny, side, threads=threads)
    small.prefill(PROMPT)
    small.decode(1)
    before, begin = resident(), time.perf_counter()
    model: Llama = load(path, side, threads=threads)
    placed = time.perf_counter() - begin
    model.prefill(PROMPT)
    first = time.perf_counter() - begin
    held = model.cache.keys.nbytes + model.cache.values.nbytes
    return {"placed_s": placed, "first_token_s": first, "cache_bytes": held}, model.decode, before


def _peer(path: str, tiny: str, side: int, threads: int):
    import llama_cpp

    begin = time.perf_counter()
    engine = llama_cpp.Llama(path, n_threads=threads, n_threads_batch=threads, n_ctx=512, verbose=False)
    placed = time.perf_counter() - begin
    for token in PROMPT:  # one by one: version 0.3.36 crashes in a batch where the CPU has AMX
        engine.eval([token])
    first = time.perf_counter() - begin
    return {"placed_s": placed, "first_token_s": first}, lambda token: engine.eval([token]), 0


def child(kind: str, *arguments: str) -> None:
    """Load, say so, and decode `TOKENS` for each line on stdin."""
    facts, decode, before = {"ours": _ours, "llama.cpp": _peer}[kind](
        *arguments[:2], *map(int, arguments[2:]))
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for token in range(TOKENS):
            decode(token)
        seconds = (time.perf_counter() - begin) / TOKENS
        print(json.dumps({"token_s": seconds, "resident_bytes": resident() - before}), flush=True)


# ------------------------------------------------------------------------------------------------------- the report
def _start(kind: str, *arguments: object) -> tuple[subprocess.Popen, dict]:
    threads = str(arguments[-1])
    process = subprocess.Popen([sys.executable, "-m", "bench.llm_8b", kind, *map(str, arguments)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env=os.environ | {"NUMBA_NUM_THREADS": threads})
    return process, _answer(process)


def _answer(process: subprocess.Popen, ask: bool = False) -> dict:
    if ask:
        process.stdin.write("\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended with exit code {process.wait()}")
    return json.loads(line)


def report(threads: int = 2, side: int = SIDE) -> dict:
    """Write the file if it is not there, run both sides in turn, and print what they say."""
    path, tiny = cache_dir() / "synthetic-8B.Q4_0.gguf", cache_dir() / "synthetic-tiny.Q4_0.gguf"
    if not path.exists():
        begin, part = time.perf_counter(), path.with_suffix(".part")
        print(f"writing {path} (4.5 GB, about two minutes)", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
        print(f"written in {time.perf_counter() - begin:.0f} s")
    write(tiny, Config(blocks=1, dim=256, ffn=256, heads=8, kv_heads=8, head_dim=32, vocab=1024, context=512))
    size = path.stat().st_size
    sides = {"ours": _start("ours", path, tiny, side, threads)}
    if importlib.util.find_spec("llama_cpp"):
        sides["llama.cpp"] = _start("llama.cpp", path, tiny, side, threads)
    found: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(ROUNDS + 1):
        for name, (process, _) in sides.items():
            found[name].append(_answer(process, ask=True))
    result: dict = {"file_bytes": size, "threads": threads, "grid": side}
    for name, (process, facts) in sides.items():
        process.stdin.close()
        process.wait()
        seconds = statistics.median(each["token_s"] for each in found[name][1:])
        result[name] = facts | {"tokens_per_s": 1 / seconds, "resident_bytes": found[name][-1]["resident_bytes"]}
        held = f"{result[name]['resident_bytes'] / 1e9:.2f} GB resident, {facts.get('cache_bytes', 0) / 1e6:.0f} MB " \
               "of it keys and values, " if name == "ours" else ""
        print(f"{name}: {1 / seconds:.2f} tokens/s, {threads} threads; {held}placed in {facts['placed_s']:.1f} s, "
              f"first token after {facts['first_token_s']:.1f} s")
    if len(sides) == 2:
        pairs = zip(found["ours"][1:], found["llama.cpp"][1:])
        result["ratio"] = statistics.median(b["token_s"] / a["token_s"] for a, b in pairs)
        print(f"llama.cpp's time over ours: {result['ratio']:.2f}")
    ours = result["ours"]
    print(f"file {size / 1e9:.2f} GB; memory over file and keys and values: "
          f"{ours['resident_bytes'] / (size + ours['cache_bytes']):.2f}")
    return result


if __name__ == "__main__":
    child(*sys.argv[1:])
