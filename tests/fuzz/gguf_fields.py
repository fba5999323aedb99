"""Whole model files in which one field, or a few, says something wrong: every key, every tensor."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import cache

import numpy as np

from tests.fuzz import generate
from tests.fuzz.gguf_writer import F16, File, Tensor, tiny_file

QUICK = 70

#: How a change may end: refused only; refused or the same text; anything that is no fault (another, valid model).
WRONG, SAME, FREE = "wrong", "same", "free"
Change = tuple[str, str, tuple[str, ...], Callable[[File], None]]  # name, how it may end, what the refusal names

COUNTS = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
          "attention.head_count_kv", "attention.key_length")  # fmt: skip
REALS = ("attention.layer_norm_rms_epsilon", "rope.freq_base")
IDS = ("eos_token_id", "bos_token_id")
LISTS = ("tokens", "token_type", "merges")
TEXT = (("str", "six"), ("str", ""), ("str", b"\xff\xfe"), ("list", ("u32", [6])), ("list", ("str", [])),
        ("list", ("u32", [])))  # fmt: skip
NUMBERS = ("u64", 2**63), ("u64", 2**64 - 1), ("i64", -1), ("u32", 2**32 - 1), ("f32", math.nan), ("f64", math.inf), (
    "f32", -0.5), ("u32", 0), ("i32", -(2**31))
#: Keys that change what a model computes, or that it does not support: ignored, they would give another model's text.
FOREIGN = (("llama.expert_count", "u32", 8), ("llama.rope.scaling.type", "str", "yarn"),
           ("llama.rope.scaling.type", "u32", 7), ("llama.rope.dimension_count", "u32", 4),
           ("llama.attention.value_length", "u32", 4), ("general.alignment", "u32", 0),
           ("general.alignment", "u32", 3), ("general.alignment", "u32", 2**31), ("general.alignment", "str", "32"),
           ("llama.attention.value_length", "str", "6"), ("llama.expert_count", "str", ""))  # fmt: skip


def put(key: str, kind: str, value) -> Callable[[File], None]:
    """Set a key's type and value; a new key comes last."""

    def change(file: File) -> None:
        at = next((i for i, entry in enumerate(file.metadata) if entry[0] == key), len(file.metadata))
        file.metadata[at : at + 1] = [(key, kind, value)]

    return change


def remove(key: str) -> Callable[[File], None]:
    def change(file: File) -> None:
        file.metadata[:] = [entry for entry in file.metadata if entry[0] != key]

    return change


def _numbers(key: str, real: bool) -> list[Change]:
    tail = (key.rsplit(".", 1)[-1],)
    wrong = [value for value in NUMBERS if not (value == ("u32", 0) and key.endswith("epsilon"))]
    if real:  # these are large, and numbers
        wrong = [value for value in wrong if value[0] in ("f32", "f64", "i64", "i32") or value[1] == 0]
    if key.endswith("context_length"):
        wrong = [value for value in wrong if value[1] != 2**32 - 1]
    return [(f"{key} = {kind} {value!r:.40}", WRONG, tail, put(key, kind, value)) for kind, value in (*TEXT, *wrong)]


def metadata_changes() -> list[Change]:
    """Each key removed, of another type, at the ends of its range and beyond."""
    changes: list[Change] = []
    for tail in (*COUNTS, *REALS):
        key = f"llama.{tail}"
        changes += _numbers(key, tail in REALS)
        changes += [(f"without {key}", SAME, (), remove(key))]
    for tail in COUNTS:
        key = f"llama.{tail}"
        for value in (1, 3, 5, 31, 64, 1000, 2**20, 2**31 - 1):
            end = FREE if tail == "context_length" else SAME
            changes.append((f"{key} = {value}", end, (), put(key, "u32", value)))
    for value in (1.0, 500.0, 1e6, 1e38, 1e-38):
        changes += [(f"llama.{tail} = {value}", FREE, (), put(f"llama.{tail}", "f32", value)) for tail in REALS]
    for tail in IDS:
        key = f"tokenizer.ggml.{tail}"
        changes += [(f"{key} = {kind} {value!r}", WRONG, (tail,), put(key, kind, value)) for kind, value in TEXT]
        changes += [(f"{key} = {kind} {value}", FREE, (), put(key, kind, value)) for kind, value in NUMBERS]
        changes += [(f"without {key}", FREE, (), remove(key))]
    for tail in LISTS:
        key = f"tokenizer.ggml.{tail}"
        for kind, value in (("str", "a"), ("u32", 7), ("list", ("f32", [1.0, math.nan])),
                            ("list", ("u32", [2**32 - 1]))):  # fmt: skip
            changes.append((f"{key} = {kind} {value!r}", WRONG, (tail,), put(key, kind, value)))
        changes.append((f"without {key}", WRONG if tail != "token_type" else FREE, (), remove(key)))
        changes.append((f"{key} = []", WRONG if tail == "tokens" else FREE, (), put(key, "list", ("str", []))))
        changes.append((f"{key} cut to half", FREE if tail == "merges" else WRONG, (), _half(key)))
    words = tiny_file().metadata[14][2][1]
    for name, value in (("a word twice", [*words[:-1], words[5]]), ("one word more", [*words, "more"]),
                        ("a word that is no UTF-8", [*words[:-1], b"\xff\xfe"]), ("an empty word", [*words[:-1], ""]),
                        ("a byte missing", ["zz" if w == "a" else w for w in words])):  # fmt: skip
        end = WRONG if "UTF" in name or "more" in name else FREE
        changes.append((f"tokens: {name}", end, (), put("tokenizer.ggml.tokens", "list", ("str", value))))
    for merges in (["a b", "zz yy"], ["ab"], [""], ["a b c"], ["a  b"], [" "], [b"\xff a"], ["a b"] * 3,
                   ["a b", "ab ab"]):  # fmt: skip
        end = FREE if merges[0] == "a b" and merges[-1] == "a b" else WRONG
        changes.append((f"merges = {merges}", end, ("merge",) if end == WRONG else (),
                        put("tokenizer.ggml.merges", "list", ("str", merges))))
    for key in ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre"):
        tail = key.rsplit(".", 1)[-1]
        for kind, value in (*TEXT, ("u32", 0)):
            changes.append((f"{key} = {kind} {value!r}", WRONG, (), put(key, kind, value)))
        changes.append((f"without {key}", FREE if tail == "pre" else WRONG, (), remove(key)))
    for kind, value in (*TEXT, *NUMBERS):
        changes.append((f"general.name = {kind} {value!r}", SAME, (), put("general.name", kind, value)))
        changes.append((f"chat_template = {kind} {value!r}", SAME, (), put("tokenizer.chat_template", kind, value)))
        key = "tokenizer.ggml.add_bos_token"
        changes.append((f"add_bos_token = {kind} {value!r}", FREE, (), put(key, kind, value)))
    for key, kind, value in FOREIGN:
        named = "scaling" if "scaling" in key else key.rsplit(".", 1)[-1]
        changes.append((f"{key} = {kind} {value!r}", WRONG, (named,), put(key, kind, value)))
    for value in (0.0, -1.0, math.nan, math.inf):
        def scaled(file: File, value: float = value) -> None:
            put("llama.rope.scaling.type", "str", "linear")(file)
            put("llama.rope.scaling.factor", "f32", value)(file)

        changes.append((f"linear RoPE scaling by {value}", WRONG, ("factor",), scaled))
    return changes


def _half(key: str) -> Callable[[File], None]:
    def change(file: File) -> None:
        for at, (name, kind, value) in enumerate(file.metadata):
            if name == key:
                file.metadata[at] = name, kind, (value[0], value[1][: len(value[1]) // 2])

    return change


def tensor_changes() -> list[Change]:
    """Each tensor missing, of another shape, type or place; tensors that do not belong to the model."""
    changes: list[Change] = []
    for at, tensor in enumerate(tiny_file().tensors):
        def change(what: str, end: str, edit: Callable[[File, Tensor], object], at: int = at, name: str = tensor.name,
                   named: bool = True) -> None:
            changes.append((f"{name} {what}", end, (name,) if named else (), lambda file: edit(file, file.tensors[at])))

        change("missing", WRONG, lambda f, t: f.tensors.remove(t))
        change("renamed", WRONG, lambda f, t: setattr(t, "name", "blk.7.other.weight"), named=False)
        change("twice", WRONG, lambda f, t: f.tensors.append(t))
        change("reversed", WRONG if len(tensor.shape) == 2 else SAME, lambda f, t: t.shape.reverse())
        change("of one dimension more, 1", SAME, lambda f, t: t.shape.append(1))
        change("flat", WRONG if len(tensor.shape) == 2 else SAME, lambda f, t: _shape(t, [math.prod(t.shape)]))
        change("of no dimension", WRONG, lambda f, t: _shape(t, []))
        change("of five dimensions", WRONG, lambda f, t: _shape(t, [*t.shape, 1, 1, 1, 1][:6]), named=False)
        change("of one number", WRONG, lambda f, t: _shape(t, [1], t.data[:4]))
        change("of no number", WRONG, lambda f, t: _shape(t, [0, *t.shape[1:]], b""))
        change("half as long", WRONG,
               lambda f, t: _shape(t, [*t.shape[:-1], t.shape[-1] // 2], t.data[: len(t.data) // 2]))
        change("twice as long", WRONG, lambda f, t: _shape(t, [*t.shape[:-1], 2 * t.shape[-1]], t.data * 2))
        change("one longer on the first side", WRONG, lambda f, t: _grown(t))
        change("of 2^40 rows", WRONG, lambda f, t: _shape(t, [*t.shape[:-1], 2**40]), named=False)
        change("of 2^32 x 2^32 numbers", WRONG, lambda f, t: _shape(t, [2**32, 2**32]), named=False)
        change("of 2^63 numbers", WRONG, lambda f, t: _shape(t, [2**63]), named=False)
        change("stated as float16", WRONG, lambda f, t: setattr(t, "kind", F16), named=False)
        for kind in (2, 3, 8, 16, 24, 26, 28, 999, 2**32 - 1):
            change(f"of type {kind}", WRONG, lambda f, t, kind=kind: setattr(t, "kind", kind), named=False)
        for offset in (4, 32, 2**32, 2**63, 2**64 - 32):
            change(f"at an offset {offset} further", WRONG, lambda f, t, o=offset, at=at: setattr(
                t, "offset", (sum(-(-len(x.data) // 32) * 32 for x in f.tensors[:at]) + o) % 2**64), named=False)
        change("in the place of another", WRONG if at else SAME, lambda f, t: setattr(t, "offset", 0), named=False)
        change("of float64", WRONG, _doubled)
        if len(tensor.shape) == 2:
            change("as float16", FREE, _halved)
        change("of nothing but NaN", FREE, lambda f, t: setattr(t, "data", b"\xff" * len(t.data)), named=False)
    spare = np.ones((300, 64), np.float32).tobytes()
    for name, shape in (("output.weight", [64, 300]), ("output.weight", [32, 600]), ("output.weight", [1, 300]),
                        ("output.weight", [32, 299]), ("blk.0.attn_q.bias", [36]), ("blk.0.attn_v.bias", [18]),
                        ("blk.2.attn_q.weight", [32, 36]), ("rope_freqs.weight", [4]),
                        ("blk.0.ffn_gate_inp.weight", [32, 2]), ("blk.0.attn_q_norm.weight", [6]),
                        ("output_norm.bias", [32]), ("", [4]), ("x" * 5000, [4]),
                        ("blk.-1.attn_q.weight", [4]), ("a\nb", [4]), ("\x1b[2J", [4]),
                        ("token_embd.weight\0", [4])):  # fmt: skip
        def more(file: File, name: str = name, shape: list[int] = shape) -> None:
            file.tensors.append(Tensor(name, shape, spare[: 4 * math.prod(shape)]))

        names = (name,) if name.isprintable() and 0 < len(name) < 60 else ()
        changes.append((f"and {name!r:.40} {shape}", WRONG, names, more))
    changes.append(("and rope_freqs.weight of ones", SAME, (), lambda file: file.tensors.append(
        Tensor("rope_freqs.weight", [3], spare[:12]))))
    changes.append(("and output.weight [200000, 300]", WRONG, (), lambda file: file.tensors.append(
        Tensor("output.weight", [200000, 300], b"\0" * (4 * 200000 * 300)))))
    changes.append(("and output.weight, as it should be", FREE, (), lambda file: file.tensors.append(
        Tensor("output.weight", [32, 300], np.ones((300, 32), np.float32).tobytes()))))
    return changes


def _shape(tensor: Tensor, shape: list[int], data: bytes | None = None) -> None:
    tensor.shape = shape
    if data is not None:
        tensor.data = data


def _grown(tensor: Tensor) -> None:
    extra = math.prod(tensor.shape[1:]) * 4
    _shape(tensor, [tensor.shape[0] + 1, *tensor.shape[1:]], tensor.data + b"\0" * extra)


def _doubled(file: File, tensor: Tensor) -> None:
    tensor.data, tensor.kind = np.frombuffer(tensor.data, np.float32).astype(np.float64).tobytes(), 28


def _halved(file: File, tensor: Tensor) -> None:
    tensor.data, tensor.kind = np.frombuffer(tensor.data, np.float32).astype(np.float16).tobytes(), F16


@cache
def _changes() -> list[Change]:
    """All of them, in an order of their own; the worst known come first."""
    changes = metadata_changes() + tensor_changes()
    first = ("and 'output.weight' [64, 300]", "and output.weight [200000, 300]",
             "llama.embedding_length = u64 9223372036854775808", "llama.embedding_length = 64",
             "llama.embedding_length = 1", "blk.0.ffn_norm.weight of one number",
             "token_embd.weight at an offset 18446744073709551584 further", "llama.attention.head_count = u32 0",
             "without tokenizer.ggml.tokens", "merges = ['a b', 'zz yy']", "tokens: a word that is no UTF-8",
             "and 'blk.0.attn_q.bias' [36]")  # fmt: skip
    order = np.random.default_rng(0).permutation(len(changes))
    known = {change[0]: change for change in changes}
    return [known[name] for name in first] + [changes[i] for i in order if changes[i][0] not in first]


def case(number: int, random: np.random.Generator):
    """Every change once, by `generate`, then by `demo`; then two or three at once."""
    changes = _changes()
    turn, at = divmod(number, len(changes))
    chosen = [changes[at]]
    if turn >= 2:
        chosen = [changes[i] for i in random.integers(len(changes), size=random.integers(2, 4))]
    name, end, names, _ = chosen[0]
    if turn >= 2:
        name = " + ".join(change[0] for change in chosen)
        end, names = WRONG if all(c[1] == WRONG for c in chosen) and len({*chosen}) == 1 else FREE, ()
    file = tiny_file(half=turn % 2 == 1)
    try:
        for *_, change in chosen:
            change(file)
        raw = file.encoded()[0]
    except (ValueError, IndexError, struct.error):  # changes that exclude each other
        return name, lambda: "refused"
    demo = turn == 1 and end != SAME
    return name, generate.in_a_file(f"fields-{number}", raw, wrong=end == WRONG and not demo, demo=demo,
                                    names=() if demo else names, same=end == SAME and turn != 1)
