"""Make the stored vectors of the end-to-end test, once, with engines that share no code with this project.

Logits and greedy tokens come from Hugging Face ``transformers`` (its own GGUF loader, CPU torch, float32,
eager attention), token ids from llama.cpp's tokenizer. Neither is a dependency of the project; in an
environment of their own:

    pip install torch==2.13.0 transformers accelerate gguf llama-cpp-python
    python tests/make_vectors.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf
    python tests/make_vectors.py --tiny             # needs torch and transformers alone
    python tests/make_vectors.py --sampling         # needs llama-cpp-python alone

For every prompt ``tests/llm/data/vectors_NAME.npz`` gets

    ids      (L,)      token ids of the prompt
    greedy   (64,)     the 64 tokens that greedy decoding adds (end-of-text does not stop it)
    rows     (R,)      positions whose logits are kept: some of the prompt's, its last, all 64 of decoding
    top_ids, top       (R, 16)  the largest logits and whose they are
    sample   (R, 256)  every 193rd logit, the first one shifting with the row so that all are met
    norm     (R,)      Euclidean norm of all 49152 (float64)

``--tiny`` writes ``tests/llm/data/tiny.npz``: of seeded models, whose weights the tests draw again,
the logits ``NAME`` (L, vocab) of `IDS`, and ``NAME.rope_freqs`` (head_dim / 2,) where RoPE is scaled pair by pair.
``--sampling`` writes ``tests/llm/data/sampling.json``: what llama.cpp's samplers leave of seeded logits, in its order.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DATA = HERE / "llm" / "data"
STEPS, TOP, STRIDE, SAMPLES = 64, 16, 193, 256


#: A prompt longer than any period of a tiny model's grids.
IDS = [3, 1, 41, 5, 9, 2, 6, 52, 35, 8, 9, 7, 9, 3, 23, 8, 46, 2, 6, 43]
#: Tiny models: name -> (dimensions for `llama_reference.tiny`, tied, RoPE as LLaMA 3.1 scales it).
TINY: dict[str, tuple[dict, bool, bool]] = {
    "llama": ({"dim": 24}, True, False),
    "llama_mha_untied": ({"heads": 3, "kv_heads": 3, "head_dim": 10, "dim": 30}, False, False),
    "llama3": ({"heads": 6, "kv_heads": 2, "head_dim": 8, "dim": 36}, False, True),
    "qwen2": ({"architecture": "qwen2", "dim": 24}, True, False),
    "qwen2_untied": ({"architecture": "qwen2", "heads": 6, "kv_heads": 1, "head_dim": 8, "dim": 48}, False, False)}


def in_halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of queries or keys, RoPE's pairs neighbours as in ``llama`` files, in the order of ``transformers``."""
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def tiny_vectors() -> dict[str, np.ndarray]:
    """Logits of every tiny model by ``transformers``, and the factors by which it slows RoPE's pairs down."""
    import torch
    import transformers
    from llama_reference import Synthetic, tiny

    found = {}
    for name, (dimensions, tied, scaled) in TINY.items():
        c = tiny(**dimensions)
        kind = {"llama": "Llama", "qwen2": "Qwen2"}[c.architecture]
        scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 16} if scaled else {"rope_type": "default"}
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=c.vocab, hidden_size=c.dim, intermediate_size=c.ffn, num_hidden_layers=c.blocks,
            num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim, rms_norm_eps=c.norm_eps,
            max_position_embeddings=c.context, tie_word_embeddings=tied, attn_implementation="eager",
            rope_parameters={"rope_theta": c.rope_base, **scaling})
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        source, state = Synthetic(c, seed=7, tied=tied), {}
        outside = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
        inside = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
                  "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
                  "ffn_up": "mlp.up_proj", "ffn_gate": "mlp.gate_proj", "ffn_down": "mlp.down_proj"}
        for tensor in source.names:
            *where, last, role = tensor.split(".")
            theirs = f"model.layers.{where[1]}.{inside[last]}" if where else outside[last]
            value = source.tensor(tensor)
            if last in ("attn_q", "attn_k") and c.architecture == "llama":
                value = in_halves(value, c.head_dim)
            state[f"{theirs}.{role}"] = torch.tensor(value)
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= ({"lm_head.weight"} if tied else set()), (missing, unexpected)
        model.tie_weights()
        with torch.no_grad():
            found[name] = model(torch.tensor([IDS])).logits[0].numpy()
        if scaled:
            plain = c.rope_base ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
            found[f"{name}.rope_freqs"] = (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
        print(f"{name}: {found[name].shape}", flush=True)
    return found


#: Options of a sampler, as `meshkernels.llm.sampling.Sampler` names them, and the text before.
SAMPLERS: list[dict] = [
    {"temperature": 0.8}, {"temperature": 1.7, "top_k": 7}, {"temperature": 0.5, "top_p": 0.9},
    {"temperature": 2.0, "top_p": 0.6}, {"temperature": 0.3, "min_p": 0.05}, {"temperature": 3.0, "min_p": 0.2},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.95, "min_p": 0.1},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.3},
    {"temperature": 1.0, "repeat_penalty": 2.0, "repeat_last": 4}, {"temperature": 0.0, "repeat_penalty": 9.0},
    {"temperature": 1.0, "repeat_penalty": 0.7, "repeat_last": 0},
    {"temperature": 1.0, "top_p": 0.7, "repeat_penalty": 1.1, "repeat_last": -1}]


def sampled_logits(case: int) -> np.ndarray:
    """Logits ``(64,)`` of a case."""
    return np.random.default_rng(case).normal(0, 3, 64).astype(np.float32)


def sampling_vectors() -> list[dict]:
    """Ids and probabilities that llama.cpp's samplers leave, in the order of its programs."""
    import ctypes

    import llama_cpp as lib

    found = []
    for case, options in enumerate(SAMPLERS):
        logits = sampled_logits(case)
        text = np.argsort(-logits)[[0, 3, 5, 9, 0, 40, 60]].tolist()
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        last = options.get("repeat_last", 64)
        penalties = lib.llama_sampler_init_penalties(
            len(logits), len(text) if last < 0 else last, options.get("repeat_penalty", 1.0), 0.0, 0.0)
        for sampler in (penalties, lib.llama_sampler_init_top_k(options.get("top_k", 0)),
                        lib.llama_sampler_init_top_p(options.get("top_p", 1.0), 0),
                        lib.llama_sampler_init_min_p(options.get("min_p", 0.0), 0),
                        lib.llama_sampler_init_temp(options["temperature"]), lib.llama_sampler_init_dist(1)):
            lib.llama_sampler_chain_add(chain, sampler)
        for token in text:
            lib.llama_sampler_accept(chain, token)
        data = (lib.llama_token_data * len(logits))(*((i, x, 0.0) for i, x in enumerate(logits.tolist())))
        left = lib.llama_token_data_array(data, len(logits), -1, False)
        lib.llama_sampler_apply(chain, ctypes.byref(left))
        kept = [(left.data[i].id, left.data[i].p) for i in range(left.size) if left.data[i].p > 0]
        kept.sort(key=lambda pair: (-pair[1], pair[0]))
        found.append({"options": options, "text": text, "ids": [i for i, _ in kept], "p": [p for _, p in kept]})
        print(f"{options}: {len(kept)}", flush=True)
    return found


def sample(logits: np.ndarray, row: int) -> np.ndarray:
    """Every 193rd logit, from ``row mod 193`` on, wrapping round the vocabulary."""
    return logits[(row % STRIDE + STRIDE * np.arange(SAMPLES)) % logits.size]


def kept(length: int) -> list[int]:
    """Prompt positions whose logits are stored: eight spread over it, and the last."""
    return sorted({*range(0, length, -(-length // 8)), length - 1})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, nargs="?", help="SmolLM2-135M-Instruct")
    parser.add_argument("--tiny", action="store_true", help="make the vectors of tiny models, and no others")
    parser.add_argument("--sampling", action="store_true", help="make those of samplers, and no others")
    parser.add_argument("--only", nargs="*", help="names of prompts to make (default: all)")
    options = parser.parse_args(argv)

    sys.path[:0] = [str(HERE), str(HERE.parent)]
    if options.tiny:
        np.savez_compressed(DATA / "tiny.npz", **tiny_vectors())
        return 0
    if options.sampling:
        (DATA / "sampling.json").write_text(json.dumps(sampling_vectors(), indent=0))
        return 0
    if options.gguf is None:
        parser.error("the path of the model file is missing")

    import llama_cpp
    import torch
    import transformers
    from prompts import PROMPTS, TEXTS

    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    engine = llama_cpp.Llama(str(options.gguf), vocab_only=True, verbose=False)

    def tokenize(text: str) -> list[int]:
        return engine.tokenize(text.encode(), add_bos=False, special=True)

    tokens = [[text, tokenize(text)] for text in [*TEXTS, *PROMPTS.values()]]
    (HERE / "files" / "data" / "tokens.json").write_text(json.dumps(tokens, indent=0))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.gguf.parent, gguf_file=options.gguf.name, dtype=torch.float32, attn_implementation="eager")
    for name, text in PROMPTS.items():
        if options.only and name not in options.only:
            continue
        ids = tokenize(text)
        greedy: list[int] = []
        rows, logits = kept(len(ids)), []
        with torch.no_grad():
            out = model(torch.tensor([ids]), use_cache=True)
            logits += [out.logits[0, row].numpy() for row in rows]
            for step in range(STEPS):
                greedy.append(int(logits[-1].argmax()))
                out = model(torch.tensor([[greedy[-1]]]), past_key_values=out.past_key_values, use_cache=True)
                logits.append(out.logits[0, -1].numpy())
                rows.append(len(ids) + step)
        top = np.argsort(-np.array(logits), axis=1)[:, :TOP]
        np.savez_compressed(
            DATA / f"vectors_{name}.npz", ids=np.array(ids, np.int32), greedy=np.array(greedy, np.int32),
            rows=np.array(rows, np.int32), top_ids=top.astype(np.int32),
            top=np.take_along_axis(np.array(logits), top, 1).astype(np.float32),
            sample=np.array([sample(v, r) for v, r in zip(logits, rows)], np.float32),
            norm=np.array([np.linalg.norm(v.astype(np.float64)) for v in logits]))
        print(f"{name}: {len(ids)} ids", flush=True)
    versions = {m.__name__: m.__version__ for m in (torch, transformers, llama_cpp)}
    (DATA / "versions.json").write_text(json.dumps(versions, indent=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
