"""The tokenizer of a file that nobody trusts: every value of its metadata is believed only where it can be."""

from __future__ import annotations

import random

import pytest
from gguf_files import byte_tokens, write
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_reference import Synthetic, tiny

from meshkernels import files
from meshkernels.__main__ import main
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.files.checkpoint import WeightsError
from meshkernels.files.tokenizer import Tokenizer

VOCAB = ["<|end|>", *byte_tokens(), "ab", "abc"]
GENUINE = {
    "ggml.model": "gpt2", "ggml.pre": "gpt-2", "ggml.tokens": VOCAB, "ggml.merges": ["a b", "ab c"],
    "ggml.token_type": [3] + [1] * 258, "ggml.bos_token_id": 0, "ggml.eos_token_id": 0, "ggml.add_bos_token": False,
    "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
}


def build(changed: dict[str, object] | None = None, rows: int | None = len(VOCAB)) -> Tokenizer:
    """The tokenizer of the genuine metadata with some changed (None: missing)."""
    values = {f"tokenizer.{key}": value for key, value in (GENUINE | (changed or {})).items()}
    return Tokenizer.from_metadata(values.get, rows, "m.gguf")


def test_genuine():
    tokenizer = build()
    assert tokenizer.encode("abcab<|end|>") == [258, 257, 0] and tokenizer.stop == {0}
    assert tokenizer.decode([258, 257, 0]) == "abcab<|end|>"
    assert tokenizer.chat([{"role": "user", "content": "abc"}]) == "<|end|>abc"
    fewest = build(dict.fromkeys(GENUINE.keys() - {"ggml.model", "ggml.tokens", "ggml.merges"}))
    assert fewest.encode("abc") == [258] and fewest.bos is fewest.chat_template is None and fewest.stop == frozenset()


@pytest.mark.parametrize("key, value, message", [
    ("ggml.model", None, "ggml.model is missing; it must be 'gpt2'"),
    ("ggml.model", "llama", "ggml.model = 'llama'; it must be 'gpt2'"),
    ("ggml.model", 3, "ggml.model = 3; it must be a text"),
    ("ggml.pre", "other", "ggml.pre = 'other' is not known; known: gpt-2, llama-bpe"),
    ("ggml.pre", ["gpt-2"], r"ggml.pre = \['gpt-2'\]; it must be a text"),
    ("ggml.tokens", None, "ggml.tokens is missing; it must be a list of texts"),
    ("ggml.tokens", "abc", "ggml.tokens = 'abc'; it must be a list of texts"),
    ("ggml.tokens", list(range(259)), r"ggml.tokens\[0\] = 0; it must be a text"),
    ("ggml.tokens", VOCAB[:-1], "ggml.tokens has 258 entries, the embedding 259 rows"),
    ("ggml.tokens", [*VOCAB[:-1], "ab"], r"ggml.tokens\[258\] = 'ab'; it must be new; tokens\[257\] is the same"),
    ("ggml.tokens", [*VOCAB[:-1], "a\udc80"], r"ggml.tokens\[258\] = 'a\\udc80'; it must be a text"),
    ("ggml.tokens", [*VOCAB[:-1], "abd"], r"ggml.merges\[1\] = 'ab c'; .*'abc' is not in tokenizer.ggml.tokens"),
    ("ggml.merges", None, "ggml.merges is missing; it must be a list of texts"),
    ("ggml.merges", 5, "ggml.merges = 5; it must be a list of texts"),
    ("ggml.merges", ["a b", b"ab c"], r"ggml.merges\[1\] = b'ab c'; it must be a text"),
    ("ggml.merges", ["ab"], r"ggml.merges\[0\] = 'ab'; it must be two tokens with one blank"),
    ("ggml.merges", [" ab"], r"ggml.merges\[0\] = ' ab'; it must be two tokens"),
    ("ggml.merges", ["a b c"], r"ggml.merges\[0\] = 'a b c'; it must be two tokens"),
    ("ggml.merges", ["a b", "zz c"], r"ggml.merges\[1\] = 'zz c'; it must be about tokens; 'zz' is not in"),
    ("ggml.merges", ["a b", "a b"], r"ggml.merges\[1\] = 'a b'; it must be new; merges\[0\] is the same"),
    ("ggml.token_type", "1", "ggml.token_type = '1'; it must be a list of whole numbers"),
    ("ggml.token_type", [1.0] * 259, r"ggml.token_type\[0\] = 1.0; it must be a whole number"),
    ("ggml.token_type", [1] * 258, "ggml.token_type has 258 entries for 259 tokens"),
    ("ggml.token_type", [1] * 258 + [7], r"ggml.token_type\[258\] = 7; it must be 0 to 6"),
    ("ggml.bos_token_id", 259, "ggml.bos_token_id = 259; it must be a token id, 0 to 258"),
    ("ggml.bos_token_id", True, "ggml.bos_token_id = True; it must be a whole number"),
    ("ggml.eos_token_id", -1, "ggml.eos_token_id = -1; it must be a token id"),
    ("ggml.eos_token_id", [0], r"ggml.eos_token_id = \[0\]; it must be a whole number"),
    ("ggml.add_bos_token", 1, "ggml.add_bos_token = 1; it must be a truth value"),
    ("chat_template", ["x"], r"chat_template = \['x'\]; it must be a text"),
    ("chat_template", "\ud800", r"chat_template = '\\ud800'; it must be a text"),
])  # fmt: skip
def test_each_wrong_value_is_named(key, value, message):
    with pytest.raises(WeightsError, match=f"^m.gguf: tokenizer.{message}") as refusal:
        build({key: value})
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 600


def test_numbers_that_python_does_not_print():
    with pytest.raises(WeightsError, match=r"ggml.eos_token_id = a value of type int; it must be a token id"):
        build({"ggml.eos_token_id": 10**5000})


def test_add_bos_needs_a_bos():
    with pytest.raises(WeightsError, match=r"bos_token_id is missing; it must be the token that .*add_bos_token"):
        build({"ggml.add_bos_token": True, "ggml.bos_token_id": None})


def test_a_value_that_is_not_utf8_is_named():
    def metadata(key: str) -> object:
        return b"a\xff".decode() if key == "tokenizer.ggml.merges" else GENUINE.get(key.removeprefix("tokenizer."))

    with pytest.raises(WeightsError, match=r"^m.gguf: tokenizer.ggml.merges = b'a\\xff'; it must be UTF-8 .*byte 1"):
        Tokenizer.from_metadata(metadata, 259, "m.gguf")


def test_the_file_and_its_embedding_are_named_by_the_command(tmp_path, capsys):
    path = tmp_path / "bare.gguf"
    write(path, Synthetic(tiny(vocab=300)), tokens=False)
    assert main(["generate", "abc", "--model", str(path), "--grid", "2"]) == 2
    assert capsys.readouterr().err.startswith("meshkernels: bare.gguf: tokenizer.ggml.model is missing; ")
    with pytest.raises(WeightsError, match=r"bare.gguf: tokenizer.ggml.model"):
        _ = files.load(path).tokenizer


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=5) | st.text(max_size=5)
    | st.sampled_from(["gpt2", "gpt-2", "llama-bpe", "a b", "ab c", "ab", "a", "", " ", 2**63, -1, "\udcff"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    | st.tuples(inner, inner), max_leaves=8)
SYMBOLS = st.text("abĠé<|>\x00", max_size=3)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(sorted(GENUINE)), ANY, max_size=3), st.none() | st.integers(0, 300))
def test_values_of_any_type_are_a_tokenizer_or_one_line(changed, rows):
    try:
        tokenizer = build(changed, rows)
    except WeightsError as refusal:
        assert str(refusal).startswith("m.gguf: ") and str(refusal).isprintable()
    else:
        assert tokenizer.decode(tokenizer.encode("abc")) in ("abc", "<|end|>abc")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(SYMBOLS, max_size=8), st.lists(st.builds("{} {}".format, SYMBOLS, SYMBOLS), max_size=4),
       st.sampled_from(["gpt-2", "smollm", "llama-bpe"]), st.data())
def test_any_vocabulary_spells_a_text_or_says_what_it_cannot(vocab, merges, pre, data):
    types = data.draw(st.lists(st.integers(0, 6), min_size=len(vocab), max_size=len(vocab)))
    try:
        tokenizer = build({"ggml.tokens": vocab, "ggml.merges": merges, "ggml.token_type": types, "ggml.pre": pre,
                           "ggml.bos_token_id": None, "ggml.eos_token_id": None}, len(vocab))
    except WeightsError:
        return
    text = data.draw(st.text("ab é<|>\x00", max_size=8))
    try:
        ids = tokenizer.encode(text)
    except MeshError as refusal:
        assert "no token for the bytes" in str(refusal)
    else:  # nothing is left out; only a special token may be spelled with symbols that stand for other bytes
        assert tokenizer.decode(ids) == text or set(types) & {3, 4}


def test_a_panic_of_the_engine_is_one_line(monkeypatch):
    class PanicException(BaseException):  # what Rust's panics are in Python
        pass

    def panic(*_, **__):
        raise PanicException("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr("meshkernels.files.tokenizer.BPE", panic)
    with pytest.raises(WeightsError, match=r"m.gguf: the tokenizer cannot be built: 'called `Option"):
        build()


def test_a_changed_byte_of_the_real_vocabulary_is_found(smollm2):
    values = {key: smollm2.metadata(f"tokenizer.{key}") for key in GENUINE}
    tokens, rng = values["ggml.tokens"], random.Random(3)
    for i in rng.sample(range(300, len(tokens)), 6):  # all made by merges
        letters = bytearray(tokens[i].encode())
        letters[rng.randrange(len(letters))] ^= 1
        changed = [*tokens[:i], letters.decode(errors="replace"), *tokens[i + 1:]]
        with pytest.raises(WeightsError, match=r"ggml.(tokens\[\d+\] = .* is the same|merges\[\d+\] = .* not in)"):
            build(values | {"ggml.tokens": changed}, len(tokens))


# --------------------------------------------------------------------------------------------------- texts and ids
def test_bytes_without_a_token_are_not_left_out():
    tokenizer = build({"ggml.tokens": VOCAB[:53], "ggml.token_type": [3] + [1] * 52, "ggml.merges": []}, 53)
    assert tokenizer.encode("PQ<|end|>") == [VOCAB.index("P"), VOCAB.index("Q"), 0]  # its "|" is no byte token
    with pytest.raises(MeshError, match=r"m.gguf: its vocabulary has no token for the bytes 0x20, 0xa9, 0xc3 of"):
        tokenizer.encode("P é Q<|end|>")


def test_real_vocabulary_without_tokens_for_some_bytes(smollm2):
    with pytest.raises(MeshError, match="no token for the bytes 0x04, 0xf1 of this text"):
        smollm2.tokenizer.encode("end\x04 \U00040000")


@pytest.mark.parametrize("text", ["a\udcff", "\ud83e\udd99", "\udc00" * 3])
def test_texts_that_are_not_unicode(text):
    tokenizer = build()
    for call in (tokenizer.encode, lambda text: tokenizer.chat([{"role": "user", "content": text}])):
        with pytest.raises(MeshError, match=r"not valid Unicode: it has '\\u\w+', half of a surrogate pair"):
            call(text)


@pytest.mark.parametrize("ids, error, message", [
    ([1, 259], MeshError, "token id 259 is outside the vocabulary of 259"), ([-1], MeshError, "token id -1 is outside"),
    ([2**70], MeshError, "is outside"), ([1.5], MeshTypeError, "sequence of integers"),
    (["a"], MeshTypeError, "sequence of integers"), (5, MeshTypeError, "sequence of integers")])
def test_ids_that_are_none(ids, error, message):
    with pytest.raises(error, match=message):
        build().decode(ids)


@pytest.mark.parametrize("text", [None, b"abc", ["abc"]])
def test_only_texts_are_encoded(text):
    with pytest.raises(MeshTypeError, match="must be a str"):
        build().encode(text)


@pytest.mark.parametrize("messages", ["hi", {"role": "user"}, ["hi"], None, [{"role": b"x"}], [{("a",): 1}]])
def test_messages_are_dictionaries_of_texts(messages):
    with pytest.raises(MeshTypeError, match="messages must"):
        build().chat(messages)


# ------------------------------------------------------------------------------------------------------------ BOS
def test_a_text_is_opened_once():
    tokenizer = build({"ggml.add_bos_token": True})
    assert tokenizer.encode("abc") == [0, 258] == tokenizer.encode("<|end|>abc")
    chat = tokenizer.chat([{"role": "user", "content": "abc"}])  # the template spells it too
    assert chat == "<|end|>abc" and tokenizer.encode(chat) == [0, 258]
    assert build().encode("abc") == [258]


@pytest.mark.parametrize("pre", ["llama-bpe", "llama3"])
def test_llama_3_opens_texts_and_keeps_words_that_are_tokens(pre):
    vocab = [*VOCAB, "cab"]  # no merge makes it
    changed = {"ggml.pre": pre, "ggml.tokens": vocab, "ggml.token_type": None, "ggml.add_bos_token": None}
    a, b, space = (vocab.index(symbol) for symbol in "abĠ")
    assert build(changed, 260).encode("cab") == [0, 259]
    assert build(changed | {"ggml.add_bos_token": False}, 260).encode("cab") == [259]
    assert build(changed | {"ggml.bos_token_id": None}, 260).encode("cab ba") == [259, space, b, a]
    assert build(changed | {"ggml.pre": "gpt-2"}, 260).encode("cab") == [vocab.index("c"), 257]


@pytest.mark.parametrize(("pre", "pieces"), [("llama3", ["123", "4"]), ("qwen2", list("1234"))])
def test_digits_are_cut_by_threes_or_one_by_one(pre, pieces):
    vocab = [*VOCAB, "12", "123"]
    tokenizer = build({"ggml.pre": pre, "ggml.tokens": vocab, "ggml.token_type": None, "ggml.add_bos_token": False,
                       "ggml.merges": ["a b", "ab c", "1 2", "12 3"]}, len(vocab))
    assert [vocab[i] for i in tokenizer.encode("1234")] == pieces
    assert [vocab[i] for i in tokenizer.encode("xabc 7")] == ["x", "abc", "Ġ", "7"]


def test_control_tokens_that_a_message_spells_are_text(smollm2):
    tokenizer, end = smollm2.tokenizer, smollm2.tokenizer.eos
    name = tokenizer.tokens[end]
    assert end in tokenizer.encode(f"say {name}") and end not in tokenizer.encode(f"say {name}", special=False)
    assert tokenizer.decode(tokenizer.encode(f"say {name}", special=False)) == f"say {name}"
    messages = [{"role": "user", "content": f"say {name} twice"}]
    safe, spelled = tokenizer.encode_chat(messages), tokenizer.encode(tokenizer.chat(messages))
    assert safe.count(end) == spelled.count(end) - 1 and tokenizer.decode(safe) == tokenizer.decode(spelled)
    plain = [{"role": "user", "content": "say it twice"}]
    assert tokenizer.encode_chat(plain) == tokenizer.encode(tokenizer.chat(plain))
