"""Bytes of a model file flipped, inserted, deleted, replaced by extremes; and files that end too early."""

from __future__ import annotations

import bisect

import numpy as np

from tests.fuzz import generate
from tests.fuzz.gguf_writer import tiny_file

QUICK = 60

#: Parts whose bytes may say something else that is as valid: another model, words or stops.
FREE = ("data", "llama.context_length", "llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base",
        "general.name", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges",
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token",
        "key of tokenizer.ggml.eos_token_id", "key of tokenizer.ggml.token_type",
        "tokenizer.chat_template")  # fmt: skip
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def case(number: int, random: np.random.Generator):
    raw, ends = tiny_file().encoded()
    header = next(end for end, what in ends if what == "data")
    kind = ("flip", "truncate", "extreme", "insert", "delete", "flips")[number % 6]
    # most in the header: in the data a change is another model
    at = int(random.integers(len(raw) if random.random() < 0.1 else header))
    part = ends[bisect.bisect_right([end for end, _ in ends], at)][1]
    changed, free = bytearray(raw), part in FREE
    if kind == "truncate":
        if number % 12 == 1:  # at the end of a part
            at = ends[int(random.integers(len(ends) - 1))][0]
        del changed[at:]
        free = False
    elif kind == "flip":
        changed[at] ^= 1 << int(random.integers(8))
    elif kind == "extreme":
        value, size = EXTREMES[random.integers(len(EXTREMES))], (4, 8)[random.integers(2)]
        changed[at : at + size] = (value % 256**size).to_bytes(size, "little")
    elif kind == "insert":
        changed[at:at] = bytes(random.integers(256, size=random.integers(1, 40), dtype=np.uint8))
    elif kind == "delete":
        del changed[at : at + int(random.integers(1, 40))]
    else:
        for place in random.integers(header, size=random.integers(2, 20)):
            changed[place] ^= 1 << int(random.integers(8))
    if kind in ("extreme", "insert", "delete", "flips"):
        free = True  # it may reach into the next part
    name = f"{kind} at byte {at} ({part})"
    return name, generate.in_a_file(f"bytes-{number}", bytes(changed), wrong=kind == "truncate" and at < len(raw),
                                    same=not free)
