"""Small GGUF files for tests: written with the ``gguf`` package from a synthetic model, or in pieces to be spoilt."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from llama_reference import Synthetic


def byte_tokens() -> list[str]:
    """The 256 byte symbols of byte-level BPE, in the order of GPT-2's table."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [c for c in range(256) if c not in plain]
    return [chr(c) for c in plain] + [chr(256 + i) for i in range(len(others))]


def write(path: Path, source: Synthetic, storage: str = "F32", *, architecture: str = "",
          tokens: bool = True, chat_template: str = "", **metadata) -> dict[str, np.ndarray]:
    """Write a model, matrices stored as ``storage``; returns what was stored, dequantised by this function's caller.

    Args:
        metadata: further keys under the architecture, e.g. ``expert_count=8``.
    """
    c, architecture = source.config, architecture or source.config.architecture
    writer = gguf.GGUFWriter(str(path), architecture)
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
        if chat_template:
            writer.add_chat_template(chat_template)
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


#: Value type in a file -> its number and how ``struct`` packs it.
TYPES = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"),
         "f32": (6, "f"), "bool": (7, "B"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}


def string(text: str | bytes) -> bytes:
    """A string as the format has it, its length in front."""
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text)) + text


def value(kind: str, content: Any) -> bytes:
    """A metadata value with its type: ``kind`` of `TYPES`, "string", or either with ``[]`` for an array."""
    kind, array = kind.removesuffix("[]"), kind.endswith("[]")
    items = content if array else [content]
    if kind == "string":
        number, packed = 8, b"".join(map(string, items))
    else:
        number, letter = TYPES[kind]
        packed = struct.pack(f"<{len(items)}{letter}", *items)
    return (struct.pack("<IIQ", 9, number, len(items)) if array else struct.pack("<I", number)) + packed


@dataclass
class Piece:
    """A tensor of a `Pieces`: ``dims`` in the file's order, ``storage`` the file's number; offset None: next."""

    dims: tuple[int, ...]
    data: bytes
    storage: int = 0
    offset: int | None = None


@dataclass
class Pieces:
    """A GGUF file before it is put together; every part can be spoilt.

    Attributes:
        keys: key -> packed value (see `value`). A key may be bytes.
        tensors: name -> tensor.
        counts: tensors and keys, where they shall not be the true ones.
    """

    keys: dict[Any, bytes]
    tensors: dict[Any, Piece]
    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    counts: tuple[int | None, int | None] = (None, None)
    alignment: int = 32

    def pack(self) -> bytes:
        """The file."""
        tensors, keys = (len(true) if count is None else count
                         for count, true in zip(self.counts, (self.tensors, self.keys)))
        header = self.magic + self.version + struct.pack("<QQ", tensors, keys)
        header += b"".join(string(key) + packed for key, packed in self.keys.items())
        data = b""
        for name, t in self.tensors.items():
            data += bytes(-len(data) % self.alignment)
            offset = len(data) if t.offset is None else t.offset
            header += string(name) + struct.pack(f"<I{len(t.dims)}QIQ", len(t.dims), *t.dims, t.storage, offset)
            data += t.data
        return header + bytes(-len(header) % self.alignment) + data


def pieces(source: Synthetic) -> Pieces:
    """A whole and right file of a model, all in float32, with a vocabulary of bytes."""
    c = source.config
    vocabulary = ["<|end|>", *byte_tokens()][: c.vocab]
    vocabulary += [f"<|{i}|>" for i in range(c.vocab - len(vocabulary))]
    llama = {"block_count": ("u32", c.blocks), "context_length": ("u32", c.context), "embedding_length": ("u32", c.dim),
             "feed_forward_length": ("u32", c.ffn), "attention.head_count": ("u32", c.heads),
             "attention.head_count_kv": ("u32", c.kv_heads), "attention.key_length": ("u32", c.head_dim),
             "attention.value_length": ("u32", c.head_dim), "rope.dimension_count": ("u32", c.head_dim),
             "attention.layer_norm_rms_epsilon": ("f32", c.norm_eps), "rope.freq_base": ("f32", c.rope_base),
             "vocab_size": ("u32", c.vocab)}
    keys = {"general.architecture": value("string", "llama"), "general.name": value("string", "tiny"),
            "general.tags": value("string[]", ["test"]), "general.file_type": value("u32", 0),
            "general.quantization_version": value("u32", 2)}
    keys |= {f"llama.{key}": value(*content) for key, content in llama.items()}
    keys |= {"tokenizer.ggml.model": value("string", "gpt2"), "tokenizer.ggml.pre": value("string", "gpt-2"),
             "tokenizer.ggml.tokens": value("string[]", vocabulary),
             "tokenizer.ggml.token_type": value("i32[]", [3 if t.startswith("<|") else 1 for t in vocabulary]),
             "tokenizer.ggml.merges": value("string[]", []), "tokenizer.ggml.eos_token_id": value("u32", 0),
             "tokenizer.ggml.add_bos_token": value("bool", False)}
    tensors = {name: Piece(source.tensor(name).shape[::-1], source.tensor(name).tobytes()) for name in source.names}
    return Pieces(keys, tensors)
