"""GGUF files that nobody trusts: whatever they hold, opening one ends in a right model or in one `WeightsError`.

The files are put together byte by byte here, by nothing that the reader uses.
"""

import contextlib
import os
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
from gguf_files import Piece, pieces, value
from llama_reference import Synthetic, tiny

from meshkernels import Mesh, files
from meshkernels.errors import MeshError
from meshkernels.files.checkpoint import Config, WeightsError
from meshkernels.llm import Layout, Llama
from meshkernels.llm.weights import Precision, Weights

SMALL = tiny(4, 2, 16, dim=64, ffn=96, vocab=300)
TINY = tiny(2, 1, 4, dim=6, ffn=10, blocks=1, vocab=20)
NAMES = {"blocks": "block_count", "dim": "embedding_length", "ffn": "feed_forward_length", "context": "context_length",
         "heads": "attention.head_count", "kv_heads": "attention.head_count_kv", "head_dim": "attention.key_length",
         "eps": "attention.layer_norm_rms_epsilon", "base": "rope.freq_base"}


@pytest.fixture
def opened(tmp_path):
    """Write the bytes, or the pieces, of a file and open it."""

    def opened(file):
        (tmp_path / "m.gguf").write_bytes(file if isinstance(file, bytes) else file.pack())
        return files.load(tmp_path / "m.gguf")

    return opened


def shapes(c: Config, tied: bool) -> dict[str, tuple[int, ...]]:
    """What LLaMA's equations ask for, written down once more."""
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    found = {"token_embd.weight": (c.vocab, c.dim), "output_norm.weight": (c.dim,)}
    for b in range(c.blocks):
        found |= {f"blk.{b}.attn_norm.weight": (c.dim,), f"blk.{b}.attn_q.weight": (q, c.dim),
                  f"blk.{b}.attn_k.weight": (kv, c.dim), f"blk.{b}.attn_v.weight": (kv, c.dim),
                  f"blk.{b}.attn_output.weight": (c.dim, q), f"blk.{b}.ffn_norm.weight": (c.dim,),
                  f"blk.{b}.ffn_gate.weight": (c.ffn, c.dim), f"blk.{b}.ffn_up.weight": (c.ffn, c.dim),
                  f"blk.{b}.ffn_down.weight": (c.dim, c.ffn)}
    return found if tied else found | {"output.weight": (c.vocab, c.dim)}


# ---------------------------------------------------------------------------------------- shapes and configuration
@pytest.mark.parametrize("tied", [True, False])
def test_a_right_file_opens(opened, tied):
    source = Synthetic(SMALL, tied=tied)
    file = pieces(source)
    file.tensors["rope_freqs.weight"] = Piece((8,), np.linspace(1, 8, 8, dtype="f4").tobytes())
    found = opened(file)
    assert found.config == SMALL and found.tied == tied
    for name in source.names:
        np.testing.assert_array_equal(found.tensor(name), source.tensor(name))
    assert found.metadata("general.tags") == ["test"] and found.metadata("tokenizer.ggml.add_bos_token") is False
    assert found.metadata("tokenizer.ggml.token_type")[:3] == [3, 1, 1] and found.metadata("absent", 5) == 5
    assert found.tokenizer.decode(found.tokenizer.encode("héllo")) == "héllo"
    assert np.isfinite(Llama(found, 2).prefill([1, 2, 3])).all()


@pytest.mark.parametrize("name", sorted(shapes(SMALL, tied=False)))
def test_a_tensor_of_another_shape_is_refused(opened, name):
    right = shapes(SMALL, tied=False)[name]
    wrong = {(right[0] + 32, *right[1:]), (*right[:-1], right[-1] + 32), (1,), (*right, 1), right[::-1],
             (right[0], 2000)}
    for shape in wrong - {right}:
        file = pieces(Synthetic(SMALL, tied=False))
        file.tensors[name] = Piece(shape[::-1], bytes(4 * int(np.prod(shape))))
        with pytest.raises(WeightsError) as refusal:
            opened(file)
        if name != "token_embd.weight":  # its rows define the vocabulary
            assert f"{name}' has shape {shape}, expected {right}".replace(",)'", ")'") in str(refusal.value)


@pytest.mark.parametrize("name", sorted(shapes(SMALL, tied=True)))
def test_a_missing_tensor_is_refused(opened, name):
    file = pieces(Synthetic(SMALL))
    del file.tensors[name]
    with pytest.raises(WeightsError, match=rf"^m.gguf: no tensor '{name}'"):
        opened(file)


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.2.attn_q.weight", "blk.00.attn_q.weight", "x", "", "\n",
                                  "blk.0.ffn_gate_exps.weight", "blk.0.attn_q_norm.weight", "token_embd.bias",
                                  "output", "blk.0.output.weight", "attn_q.weight", "blk.-1.attn_q.weight", "é" * 999])
def test_a_tensor_that_is_not_used_is_refused(opened, name):
    file = pieces(Synthetic(SMALL))
    file.tensors[name] = Piece((64,), bytes(256))
    with pytest.raises(WeightsError, match=r"^m.gguf: tensor '.*' \(1 such\) is none of a 'llama' model of") as refusal:
        opened(file)
    assert repr(name)[:30] in str(refusal.value) and len(str(refusal.value)) < 300


@pytest.mark.parametrize("field", ["blocks", "dim", "ffn", "heads", "kv_heads", "head_dim"])
def test_a_dimension_that_is_not_the_tensors_is_refused(opened, field):
    """Every single wrong number, however large, is found at once and named."""
    right, key = getattr(SMALL, field), f"llama.{NAMES[field]}"
    for wrong in {0, 1, 2, 3, right - 1, right + 1, 2 * right, 32, 2**16, 2**31 - 1, 2**31, 2**32, 2**63,
                  2**64 - 1} - {right}:
        file = pieces(Synthetic(SMALL))
        file.keys[key] = value("u64", wrong)
        with pytest.raises(WeightsError) as refusal:
            opened(file)
        assert key.removeprefix("llama.").split(".")[-1] in str(refusal.value), refusal.value
    for kind, wrong in (("i32", -1), ("bool", True), ("f32", float(right)), ("string", str(right)), ("u32[]", [right])):
        file = pieces(Synthetic(SMALL))
        file.keys[key] = value(kind, wrong)
        with pytest.raises(WeightsError, match=rf"^m.gguf: {key} = .*; an integer from 1 to 2147483647"):
            opened(file)


@pytest.mark.parametrize("field, wrong", [
    ("context", ("u64", 2**63)), ("context", ("u32", 0)), ("context", ("f64", 64.0)), ("context", ("string", "64")),
    ("base", ("f32", 0.0)), ("base", ("f32", -1.0)), ("base", ("f32", np.nan)), ("base", ("f32", np.inf)),
    ("base", ("f64", 1e300)), ("base", ("u32", 10_000)), ("base", ("string[]", ["1"])), ("base", ("f64", 1e-300)),
    ("eps", ("f32", 0.0)), ("eps", ("f32", -1e-5)), ("eps", ("f32", np.nan)), ("eps", ("f32", np.inf)),
    ("eps", ("f64", 1e-300)), ("eps", ("f32", 1.0)), ("eps", ("string", "1e-5"))])
def test_other_values_have_a_type_and_a_range(opened, field, wrong):
    file, key = pieces(Synthetic(SMALL)), f"llama.{NAMES[field]}"
    file.keys[key] = value(*wrong)
    with pytest.raises(WeightsError, match=rf"^m.gguf: {key} = .*; an? (integer|float) from .* is expected: \w+"):
        opened(file)


@pytest.mark.parametrize("key, wrong", [
    ("general.architecture", ("u32", 1)), ("general.architecture", ("string[]", ["llama"])),
    ("general.architecture", ("string", "x" * 100_000)), ("general.quantization_version", ("u32", 1)),
    ("split.count", ("u16", 3)), ("split.count", ("bool", 1)), ("llama.vocab_size", ("u32", 299)),
    ("llama.vocab_size", ("string", "300")),
    ("llama.attention.value_length", ("u32", 8)), ("llama.rope.dimension_count", ("u32", 8)),
    ("llama.expert_count", ("u32", 8)), ("llama.expert_count", ("bool", False)),
    ("llama.attention.causal", ("bool", 0)),
    ("llama.rope.scaling.type", ("u32", 1)), ("llama.rope.scaling.type", ("string", "yarn")),
    ("llama.rope.scaling.factor", ("f32", 0.0)), ("llama.rope.scaling.factor", ("f32", np.nan)),
    ("llama.rope.scale_linear", ("f32", 4.0)), ("llama.attention.sliding_window", ("u32", 9)),
    ("tokenizer.ggml.tokens", ("string[]", ["a"] * 299)), ("tokenizer.ggml.tokens", ("u32", 300)),
    ("tokenizer.ggml.tokens", ("u8[]", [1] * 300))])
def test_what_would_not_be_heeded_is_refused(opened, key, wrong):
    file = pieces(Synthetic(SMALL))
    file.keys[key] = value(*wrong)
    with pytest.raises(WeightsError, match=f"^m.gguf: .*{key.split('.')[-1]}") as refusal:
        opened(file)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("key, harmless", [
    ("llama.expert_count", ("u32", 0)), ("llama.attention.causal", ("bool", 1)), ("split.count", ("u16", 0)),
    ("llama.rope.scaling.type", ("string", "none")), ("llama.tensor_data_layout", ("string", "Meta AI original pth")),
    ("llama.context_length", ("u64", 2**31 - 1)), ("general.anything", ("f64[]", [1.0, np.nan])),
    ("llama.rope.freq_base", ("f64", 500_000.0)), ("general.alignment", ("u32", 32))])
def test_what_changes_nothing_is_accepted(opened, key, harmless):
    file = pieces(Synthetic(SMALL))
    file.keys[key] = value(*harmless)
    assert opened(file).config.dim == 64


def test_linear_scaling_of_positions(opened):
    file = pieces(Synthetic(SMALL))
    file.keys["llama.rope.scaling.factor"] = value("f32", 4.0)
    assert opened(file).config.rope_scale == 4  # linear, as llama.cpp has it, unless another type is named
    file.keys["llama.rope.scaling.type"] = value("string", "none")
    with pytest.raises(WeightsError, match=r"llama.rope.scaling.factor = 4.0, but .* 'none'"):
        opened(file)


def test_heads_follow_from_the_width_only_where_they_divide_it(opened):
    file = pieces(Synthetic(SMALL))
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        del file.keys[f"llama.{key}"]
    assert opened(file).config == SMALL
    file.keys["llama.attention.head_count"] = value("u32", 5)
    with pytest.raises(WeightsError, match=r"llama.embedding_length = 64 is no multiple of llama.attention.head_count"):
        opened(file)


@pytest.mark.parametrize("name, bad", [("output_norm.weight", np.nan), ("blk.1.ffn_norm.weight", np.inf),
                                       ("rope_freqs.weight", np.nan), ("rope_freqs.weight", 0),
                                       ("rope_freqs.weight", -1)])
def test_vectors_that_spoil_every_number_are_refused(opened, name, bad):
    file, size = pieces(Synthetic(SMALL)), 8 if name.startswith("rope") else 64
    file.tensors[name] = Piece((size,), np.array([1] * (size - 1) + [bad], "f4").tobytes())
    with pytest.raises(WeightsError, match=rf"{name}\[{size - 1}\] = .*; a finite number"):
        opened(file)


@pytest.mark.filterwarnings("error")
def test_matrices_are_read_as_they_are(opened):
    file = pieces(Synthetic(SMALL))
    spoilt = np.full((300, 64), np.nan, "f4")
    file.tensors["token_embd.weight"].data = spoilt.tobytes()
    np.testing.assert_array_equal(opened(file).tensor("token_embd.weight"), spoilt)
    file.tensors["token_embd.weight"] = Piece((64, 300), b"\x00\x7c\x00\xfc" + bytes(16) + bytes(600 * 20 - 20), 3)
    assert np.isnan(opened(file).tensor("token_embd.weight")[0, :32]).all()  # Q4_1 with scale inf, offset -inf


def test_rows_are_rows(opened):
    found = opened(pieces(Synthetic(SMALL)))
    for wrong in ([300], [-1], [0.5], [True], ["a"], [2**63], [None], []):
        with pytest.raises(MeshError, match=r"integers from 0 to 299"):
            found.rows("token_embd.weight", np.array(wrong))
    assert found.rows("token_embd.weight", np.array([], int)).shape == (0, 64)


def test_weights_that_come_from_elsewhere_are_held_to_the_same_shapes():
    for name, shape in shapes(TINY, tied=False).items():
        source = Synthetic(TINY, tied=False)
        source._tensors[name] = np.zeros((shape[0] + 1, *shape[1:]), np.float32)
        with pytest.raises(WeightsError, match=rf"'{name}' has shape"):
            Llama(source, 2)
    source._tensors["blk.0.attn_q.bias"] = np.zeros(8, np.float32)
    with pytest.raises(WeightsError, match=r"blk.0.attn_q.bias"):
        Weights(source, Layout(source.config, Mesh(1)), Precision())


@pytest.mark.parametrize("field, wrong", [("heads", 0), ("heads", 2.0), ("dim", "64"), ("context", 2**31),
                                          ("vocab", True), ("rope_base", float("nan")), ("norm_eps", None),
                                          ("blocks", None)])
def test_a_config_by_hand_is_checked_too(field, wrong):
    right = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}
    with pytest.raises(MeshError, match=f"^{field} = "):
        Config(**right | {field: wrong})


# ------------------------------------------------------------------------------------------------- the file's structure
TOO_LONG = 2**60
NORM = "output_norm.weight"


def norm(*dims, storage=0, offset=None) -> dict:
    """The last norm's tensor in another form."""
    return {NORM: Piece(dims, bytes(256), storage, offset)}


def name(kind: str, content) -> dict:
    """A key that nobody reads, with a value of any kind."""
    return {"general.name": value(kind, content)}


def packed(format: str, *numbers: int) -> dict:
    """The same with a value of any bytes."""
    return {"general.name": struct.pack("<" + format, *numbers)}


def alignment(kind: str, content) -> dict:
    return {"general.alignment": value(kind, content)}


@pytest.mark.parametrize("part, change, reason", [
    ("version", struct.pack("<I", 1), "GGUF version 1; versions 2 and 3"),
    ("version", struct.pack(">I", 3), r"version 50331648 \(or 3, big-endian\)"),
    ("counts", (TOO_LONG, None), "truncated.*1152921504606846976 tensors"),
    ("counts", (None, 2**63), "truncated.*9223372036854775808 keys"),
    ("counts", (None, 3), ""),
    ("counts", (3, None), "no tensor"),
    ("keys", {b"general.name": value("u8", 1)}, "key 'general.name' appears twice"),
    ("keys", {b"\xff\xfe": value("u8", 1)}, r"key 24 is not UTF-8: b'\\xff"),
    ("keys", name("string", b"a\xc3"), "'general.name' is not UTF-8"),
    ("keys", {"tokenizer.ggml.tokens": value("string[]", [b"\x80"] * 300)}, "'tokenizer.ggml.tokens' is not UTF-8"),
    ("keys", name("bool", 2), "'general.name' = 2 is no boolean"),
    ("keys", name("bool[]", [0, 1, 255]), "'general.name' = 255 is no boolean"),
    ("keys", packed("I", 13), "'general.name' has value type 13"),
    ("keys", packed("IIQ", 9, 99, 0), "'general.name' has value type 99"),
    ("keys", packed("IIQIQB", 9, 9, 1, 0, 1, 1), "'general.name' is an array of arrays"),
    ("keys", packed("IIQ", 9, 0, TOO_LONG), "truncated.*'general.name'"),
    ("keys", packed("IIQ", 9, 8, 2**61), "truncated.*'general.name'"),
    ("keys", packed("IQ", 8, 2**64 - 1), "truncated.*'general.name'"),
    ("keys", alignment("u32", 0), "general.alignment = 0; a power of two"),
    ("keys", alignment("u32", 24), "general.alignment = 24"),
    ("keys", alignment("u32", 4), "general.alignment = 4"),
    ("keys", alignment("string", "32"), "general.alignment = '32'"),
    ("keys", alignment("u64", 2**63), "general.alignment = 9223372036854775808"),
    ("tensors", {b"output_norm.weight": Piece((64,), bytes(256))}, f"tensor '{NORM}' appears twice"),
    ("tensors", {b"\xff\n": Piece((64,), bytes(256))}, r"the name of tensor 20 is not UTF-8: b'\\xff"),
    ("tensors", norm(), f"'{NORM}' has 0 dimensions, 1 to 4"),
    ("tensors", norm(64, 1, 1, 1, 1), "has 5 dimensions"),
    ("tensors", norm(64, 0), rf"'{NORM}' has shape \(0, 64\): it is empty"),
    ("tensors", norm(2**32, 2**32), rf"truncated.*'{NORM}' of shape \(4294967296, 4294967296\)"),
    ("tensors", norm(*[2**63] * 4), f"truncated.*'{NORM}'"),
    ("tensors", norm(64, storage=4711), f"'{NORM}' is stored as type 4711"),
    ("tensors", norm(64, storage=16), f"'{NORM}'.*IQ2_XXS.*blocks of 256"),
    ("tensors", norm(33, storage=8), f"'{NORM}' .*rows are stored in blocks of 32"),
    ("tensors", norm(64, offset=2**64 - 32), f"'{NORM}'.*at offset 18446744073709551584: it must be at offset"),
    ("tensors", norm(64, offset=2**25), f"'{NORM}'.*at offset 33554432: it must be at offset"),
    ("tensors", norm(64, offset=1), f"'{NORM}'.*at offset 1: it must be at offset"),
    ("tensors", norm(64, offset=32), f"'{NORM}'.*at offset 32: it must be at offset"),
])
def test_a_file_that_breaks_the_format_is_refused(opened, part, change, reason):
    file = pieces(Synthetic(SMALL))
    setattr(file, part, getattr(file, part) | change if isinstance(change, dict) else change)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=f"^m.gguf.*{reason}") as refusal:
            opened(file)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(file.pack()) + 2**20  # nothing as large as the numbers say
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def test_files_that_are_none(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for path, reason in ((tmp_path / "empty", "it is empty"), ("/dev/null", "no regular file"),
                         (tmp_path, "a directory"), ("/dev/zero", "no regular file"), ("a\0b", "null"),
                         ("a" * 300, "too long")):
        with pytest.raises(WeightsError, match=reason):
            files.load(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(WeightsError, match="no regular file"):
            files.load(tmp_path / "fifo")


def test_a_long_array_is_not_walked(tmp_path):
    """Of the items of an array, 64 MB here, more than any model needs are not even looked at."""
    for kind, count, reason in ((0, 2**26, "67108864 items.*at most"), (6, 2**26, "truncated"),
                                (7, 2**26, "67108864 items.*at most"), (8, 2**23, "8388608 items.*at most")):
        with open(tmp_path / "m.gguf", "wb") as file:
            file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"x")
            file.write(struct.pack("<IIQ", 9, kind, count))
            file.truncate(2**26 + 64)
        tracemalloc.start()
        with pytest.raises(WeightsError, match=reason):
            files.load(tmp_path / "m.gguf")
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------------------ mutations
WHOLE = pieces(Synthetic(TINY, tied=False)).pack()
NUMBERS = [0, 1, 2, 7, 8, 31, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**63,
           2**64 - 32, 2**64 - 1]


def mutation(random: np.random.Generator) -> bytes:
    """The file with one to four spoilt places, most of them in its header."""
    data = bytearray(WHOLE)
    header = WHOLE.index(b"output.weight") + 64
    for _ in range(random.integers(1, 5)):
        at = int(random.integers(len(data) if random.random() < 0.1 else min(header, len(data))))
        number = struct.pack("<Q", NUMBERS[random.integers(len(NUMBERS))])
        some = int(random.integers(1, 40))
        kind = random.choice(["bit", "byte", "64", "32", "less", "more", "end"], p=[0.2] * 4 + [0.08, 0.08, 0.04])
        if kind == "bit":
            data[at] ^= 1 << int(random.integers(8))
        elif kind == "byte":
            data[at] = int(random.integers(256))
        elif kind in ("64", "32"):
            width = int(kind) // 8
            data[at : at + width] = number[:width]
        elif kind == "less":
            del data[at : at + some]
        elif kind == "more":
            data[at:at] = random.bytes(some)
        else:
            del data[max(at, 1) :]
    return bytes(data)


def attempt(path, random: np.random.Generator) -> bool:
    """Open a mutation and use it; returns whether it opened. Fails if anything but a refusal in one line comes out."""
    path.write_bytes(mutation(random))
    try:
        found = files.load(path)
    except WeightsError as refusal:
        assert str(refusal).startswith(path.name) and "\n" not in str(refusal) and len(str(refusal)) < 500
        return False
    expected = shapes(found.config, found.tied)
    assert set(found.names) - {"rope_freqs.weight"} == set(expected)
    for name in expected:
        tensor = found.tensor(name)
        assert tensor.shape == expected[name] and tensor.dtype == np.float32
    assert found.rows("token_embd.weight", np.arange(found.config.vocab)).shape == expected["token_embd.weight"]
    for key in found._metadata:
        found.metadata(key)
    with contextlib.suppress(MeshError):  # a model that no mesh of 2 x 2 takes
        Llama(found, 2)
    return True


def test_mutations_of_a_tiny_file(tmp_path):
    random = np.random.default_rng(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = sum(attempt(tmp_path / "m.gguf", random) for _ in range(600))
    assert 30 < loaded < 300  # both ends were met
