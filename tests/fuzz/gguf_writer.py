"""GGUF files written byte by byte, so that each can be wrong in any place: shares no code with the readers.

References:
    The GGUF file format: ggml, ``docs/gguf.md``.
"""

from __future__ import annotations

import copy
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.llama_reference import Synthetic, tiny

FORMATS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "B", "u64": "Q",
           "i64": "q", "f64": "d"}  # fmt: skip
CODES = {name: code for code, name in enumerate(
    ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "list", "u64", "i64", "f64"))}
F32, F16 = 0, 1


@dataclass
class Tensor:
    """One tensor as the file states it; ``shape`` as GGUF has it, the contiguous side first."""

    name: str
    shape: list[int]
    data: bytes
    kind: int = F32
    offset: int | None = None  #: in the data section; None: after the tensor before


@dataclass
class File:
    """A file: metadata ``(key, type, value)`` (of a list: ``(type, values)``) and tensors."""

    metadata: list[tuple[str, str, Any]]
    tensors: list[Tensor]

    def copy(self) -> File:
        """To be changed."""
        return copy.deepcopy(self)

    def encoded(self, alignment: int = 32) -> tuple[bytes, list[tuple[int, str]]]:
        """The bytes, and where each part ends: ``(end, what)``, ascending."""
        parts: list[tuple[bytes, str]] = [(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.metadata)),
                                           "head")]  # fmt: skip
        for key, kind, value in self.metadata:
            parts += [(_string(key), f"key of {key}"), (struct.pack("<I", CODES[kind]) + _value(kind, value), key)]
        offset = 0
        for tensor in self.tensors:
            at = offset if tensor.offset is None else tensor.offset
            parts.append((_string(tensor.name) + struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape),
                                                             *tensor.shape, tensor.kind, at), f"tensor {tensor.name}"))
            offset += -(-len(tensor.data) // alignment) * alignment
        size = sum(len(part) for part, _ in parts)
        parts.append((b"\0" * (-size % alignment), "data"))
        parts += [(tensor.data + b"\0" * (-len(tensor.data) % alignment), "data") for tensor in self.tensors]
        ends, end = [], 0
        for part, what in parts:
            end += len(part)
            ends.append((end, what))
        return b"".join(part for part, _ in parts), ends


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: str, value: Any) -> bytes:
    if kind == "str":
        return _string(value)
    if kind == "list":
        inner, values = value
        return struct.pack("<IQ", CODES[inner], len(values)) + b"".join(_value(inner, v) for v in values)
    return struct.pack("<" + FORMATS[kind], value)


def vocabulary(size: int) -> list[str]:
    """An end token, the 256 symbols of byte-level BPE (GPT-2's table), two merged ones, and names."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [*map(chr, plain), *(chr(256 + i) for i in range(256 - len(plain)))]
    return ["<|end|>", *symbols, "ab", "abc", *(f"<|{i}|>" for i in range(size - 259))]


def tiny_file(half: bool = False) -> File:
    """A llama of two blocks, 300 words and 100 kB; ``half``: matrices as float16."""
    source = Synthetic(tiny(6, 3, dim=32, vocab=300, context=80), seed=1)
    c, words = source.config, vocabulary(300)
    metadata = [
        ("general.architecture", "str", "llama"), ("general.name", "str", "tiny"),
        ("llama.block_count", "u32", c.blocks), ("llama.context_length", "u32", c.context),
        ("llama.embedding_length", "u32", c.dim), ("llama.feed_forward_length", "u32", c.ffn),
        ("llama.attention.head_count", "u32", c.heads), ("llama.attention.head_count_kv", "u32", c.kv_heads),
        ("llama.attention.key_length", "u32", c.head_dim),
        ("llama.attention.layer_norm_rms_epsilon", "f32", c.norm_eps),
        ("llama.rope.freq_base", "f32", c.rope_base), ("llama.vocab_size", "u32", c.vocab),
        ("tokenizer.ggml.model", "str", "gpt2"), ("tokenizer.ggml.pre", "str", "gpt-2"),
        ("tokenizer.ggml.tokens", "list", ("str", words)),
        ("tokenizer.ggml.token_type", "list", ("i32", [3 if w.startswith("<|") else 1 for w in words])),
        ("tokenizer.ggml.merges", "list", ("str", ["a b", "ab c"])), ("tokenizer.ggml.eos_token_id", "u32", 0),
        ("tokenizer.ggml.bos_token_id", "u32", 0), ("tokenizer.ggml.add_bos_token", "bool", 0),
        ("tokenizer.chat_template", "str", "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"),
    ]  # fmt: skip
    tensors = []
    for name in source.names:
        value = source.tensor(name)
        small = half and value.ndim == 2
        raw = value.astype(np.float16 if small else np.float32).tobytes()
        tensors.append(Tensor(name, list(value.shape[::-1]), raw, F16 if small else F32))
    return File(metadata, tensors)
