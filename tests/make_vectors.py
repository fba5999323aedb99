"""Make the stored vectors of the end-to-end test, once, with engines that share no code with this project.

Logits and greedy tokens come from Hugging Face ``transformers`` (its own GGUF loader, CPU torch, float32,
eager attention), token ids from llama.cpp's tokenizer. Neither is a dependency of the project; in an
environment of their own:

    pip install torch==2.13.0 transformers accelerate gguf llama-cpp-python
    python tests/make_vectors.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf

For every prompt ``tests/llm/data/vectors_NAME.npz`` gets

    ids      (L,)      token ids of the prompt
    greedy   (64,)     the 64 tokens that greedy decoding adds (end-of-text does not stop it)
    rows     (R,)      positions whose logits are kept: some of the prompt's, its last, all 64 of decoding
    top_ids, top       (R, 16)  the largest logits and whose they are
    sample   (R, 256)  every 193rd logit, the first one shifting with the row so that all are met
    norm     (R,)      Euclidean norm of all 49152 (float64)
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


def sample(logits: np.ndarray, row: int) -> np.ndarray:
    """Every 193rd logit, from ``row mod 193`` on, wrapping round the vocabulary."""
    return logits[(row % STRIDE + STRIDE * np.arange(SAMPLES)) % logits.size]


def kept(length: int) -> list[int]:
    """Prompt positions whose logits are stored: eight spread over it, and the last."""
    return sorted({*range(0, length, -(-length // 8)), length - 1})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--only", nargs="*", help="names of prompts to make (default: all)")
    options = parser.parse_args(argv)

    import llama_cpp
    import torch
    import transformers

    sys.path.insert(0, str(HERE))
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
