"""Small GGUF files for tests, written with the ``gguf`` package from a synthetic model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from llama_reference import Synthetic


def byte_tokens() -> list[str]:
    """The 256 byte symbols of byte-level BPE, in the order of GPT-2's table."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [c for c in range(256) if c not in plain]
    return [chr(c) for c in plain] + [chr(256 + i) for i in range(len(others))]


def write(path: Path, source: Synthetic, storage: str = "F32", *, architecture: str = "llama",
          tokens: bool = True, **metadata) -> dict[str, np.ndarray]:
    """Write a model, matrices stored as ``storage``; returns what was stored, dequantised by this function's caller.

    Args:
        metadata: further keys under the architecture, e.g. ``expert_count=8``.
    """
    c, writer = source.config, gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(c.blocks)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.dim)
    writer.add_feed_forward_length(c.ffn)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_freq_base(c.rope_base)
    for key, value in metadata.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(f"{architecture}.{key}", value)
    if tokens:
        vocabulary = ["<|end|>", *byte_tokens(), "ab", "abc"][: c.vocab]
        vocabulary += [f"<|{i}|>" for i in range(c.vocab - len(vocabulary))]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(vocabulary)
        writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
        writer.add_token_merges(["a b", "ab c"] if c.vocab > 258 else [])
        writer.add_eos_token_id(0)
    kind, stored = gguf.GGMLQuantizationType[storage], {}
    for name in source.names:
        value = source.tensor(name)
        if value.ndim == 1 or storage == "F32":
            writer.add_tensor(name, value)
            stored[name] = value
        else:
            packed = gguf.quants.quantize(value, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
            stored[name] = gguf.quants.dequantize(packed, kind).reshape(value.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored
