"""The tokenizer a GGUF file carries: byte-level BPE, run by the ``tokenizers`` library.

GGUF stores vocabulary, merges and token types, and names the rule that cuts text into words before the
merges (``tokenizer.ggml.pre``). Each rule below is the published one of that model family.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import index
from typing import Any

from meshkernels.errors import MeshError, MeshTypeError, MissingExtra, WeightsError, shown
from meshkernels.files.chat import render
from meshkernels.files.vocabulary import Fields

try:
    import tokenizers
    from tokenizers import AddedToken, Regex, pre_tokenizers
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split
except ImportError as missing:
    raise MissingExtra("llm", missing) from None

#: Token types of GGUF that stand for themselves in the text: control and user-defined.
_CONTROL, _USER_DEFINED = 3, 4

_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
_QWEN2 = _LLAMA3.replace("{1,3}", "")  # digits one by one


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> PreTokenizer:
    return pre_tokenizers.Sequence([Digits(individual_digits=True), _gpt2()])


def _llama3() -> PreTokenizer:
    return pre_tokenizers.Sequence([Split(Regex(_LLAMA3), "isolated"), ByteLevel(False, use_regex=False)])


def _qwen2() -> PreTokenizer:
    return pre_tokenizers.Sequence([Split(Regex(_QWEN2), "isolated"), ByteLevel(False, use_regex=False)])


#: ``tokenizer.ggml.pre`` -> how text is cut into words.
PRE_TOKENIZERS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": _gpt2, "smollm": _smollm, "llama-bpe": _llama3, "llama3": _llama3, "qwen2": _qwen2,
}

#: Those of Llama 3. Its published tokenizer opens every text with its BOS (files leave ``add_bos_token`` out), and a
#: word that is a token stays one, whatever the merges make of it.
_OF_LLAMA3 = ("llama-bpe", "llama3")


def _symbols() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary -> the byte, as GPT-2 has it."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in plain)
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


_SYMBOLS = _symbols()


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MeshError(f"the text is not valid Unicode: it has {text[error.start]!r}, half of a surrogate pair, after "
                        f"{shown(text[max(error.start - 20, 0):error.start])}; was it UTF-8?") from None


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        bos, eos: ids that open a text (or None) and that end generation.
        stop: every id that ends generation: ``eos``, and the vocabulary's end-of-turn and end-of-text.
        chat_template: the model's own Jinja template, or None.
    """

    def __init__(self, vocab: Sequence[str], merges: Sequence[tuple[str, str]], special: Sequence[str],
                 pre: str, bos: int | None = None, eos: int | None = None, add_bos: bool = False,
                 chat_template: str | None = None, file: str = "the model file"):
        if pre not in PRE_TOKENIZERS:
            known = ", ".join(sorted(PRE_TOKENIZERS))
            raise WeightsError(f"{file}: tokenizer.ggml.pre = {shown(pre)} is not known; known: {known}")
        ids = {token: i for i, token in enumerate(vocab)}
        try:
            self._engine = tokenizers.Tokenizer(BPE(ids, list(merges), ignore_merges=pre in _OF_LLAMA3))
            self._engine.pre_tokenizer = PRE_TOKENIZERS[pre]()
            self._engine.decoder = ByteLevelDecoder()
            self._engine.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the engine, which is Rust, is no Exception
            raise WeightsError(f"{file}: the tokenizer cannot be built: {shown(str(error))}") from error
        self.bos, self.eos, self.add_bos = bos, eos, add_bos
        self.chat_template = chat_template
        self.tokens = list(vocab)
        ends = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>")
        self.stop = frozenset(ids[t] for t in ends if t in ids) | ({eos} if eos is not None else set())
        self._file, self._special = file, {ids[t] for t in special if t in ids}
        self._unspelled = frozenset(byte for symbol, byte in _SYMBOLS.items() if symbol not in ids)

    @classmethod
    def from_metadata(cls, metadata: Callable[..., Any], rows: int | None = None,
                      file: str = "the model file") -> Tokenizer:
        """Build it from a file's metadata.

        Args:
            metadata: ``metadata(key)``, the value of a key or None.
            rows: of the embedding: as many tokens there must be.
            file: its name, for the messages.

        Returns:
            The tokenizer.

        Raises:
            WeightsError: if the file carries no byte-level BPE, cuts words by an unknown rule, or holds a value of
                another type or range than the tokenizer needs.
        """
        fields = Fields(metadata, file)
        kind = fields.one("ggml.model", str, None)
        if kind != "gpt2":
            raise fields.refused("ggml.model", kind, "'gpt2' (byte-level BPE): no other tokenizer is supported")
        vocab = fields.tokens(rows)
        special = [t for t, kind in zip(vocab, fields.types(len(vocab))) if kind in (_CONTROL, _USER_DEFINED)]
        pre, bos = fields.one("ggml.pre", str, "gpt-2"), fields.token("ggml.bos_token_id", len(vocab))
        add_bos = fields.one("ggml.add_bos_token", bool, pre in _OF_LLAMA3 and bos is not None)
        if add_bos and bos is None:
            raise fields.refused("ggml.bos_token_id", None, "the token that tokenizer.ggml.add_bos_token asks for")
        return cls(
            vocab=vocab, merges=fields.merges(set(vocab)), special=special, pre=pre, bos=bos, add_bos=add_bos,
            eos=fields.token("ggml.eos_token_id", len(vocab)), chat_template=fields.one("chat_template", str, None),
            file=file)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text; control tokens written out in it are recognised, or are text like any other.

        Where the model wants its texts opened by ``bos``, the ids begin with one: a text that spells it (as many a
        chat template does) gets no second.

        Args:
            text: any text.
            special: recognise control tokens.

        Returns:
            The ids.

        Raises:
            MeshError: a text that is not valid Unicode, or has bytes for which the vocabulary has no token.
            MeshTypeError: not a text.
        """
        if not isinstance(text, str):
            raise MeshTypeError(f"a text to encode must be a str, not {type(text).__name__}")
        return self._opened(self._ids(text, special))

    def _opened(self, ids: list[int]) -> list[int]:
        return [self.bos, *ids] if self.add_bos and self.bos is not None and ids[:1] != [self.bos] else ids

    def _ids(self, text: str, special: bool) -> list[int]:
        spelled = _utf8(text)
        ids = (self._engine if special else self._plain).encode(text, add_special_tokens=False).ids
        if self._unspelled.intersection(spelled):  # bytes that the engine leaves out without a word
            lost = sorted(Counter(spelled) - Counter(b"".join(map(self._bytes, ids))))
            if lost:
                raise MeshError(f"{self._file}: its vocabulary has no token for the bytes "
                                f"{', '.join(f'0x{byte:02x}' for byte in lost)} of this text: leave them out")
        return ids

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The engine that takes control tokens for text."""
        plain = tokenizers.Tokenizer.from_str(self._engine.to_str())
        plain.encode_special_tokens = True
        return plain

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of messages in the model's own chat format; control tokens that a message spells are text.

        Args:
            messages: as of `chat`.

        Returns:
            The ids.

        Raises:
            WeightsError: as `chat`.
            MeshError: as `chat` and `encode`.
            MeshTypeError: as `chat`.
        """
        names = [self.tokens[token] for token in self._special]
        spelling = [i for i, message in enumerate(messages)
                    if any(name in message.get("content", "") for name in names)]
        if not spelling:
            return self.encode(self.chat(messages))
        marks = {f"\ue000{i}\ue001": messages[i]["content"] for i in spelling}  # of the area for private use
        marked = [dict(message) for message in messages]
        for i, mark in zip(spelling, marks):
            marked[i]["content"] = mark
        pieces = re.split(f"({'|'.join(marks)})", self.chat(marked))
        ids: list[int] = []
        for piece in pieces:
            ids += self._ids(marks.get(piece, piece), special=piece not in marks)
        return self._opened(ids)

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of token ids; bytes that are not (yet) valid UTF-8 become U+FFFD.

        Args:
            ids: of tokens.
            skip_special: leave control tokens out.

        Returns:
            The text.

        Raises:
            MeshError: an id outside the vocabulary.
            MeshTypeError: not a sequence of integers.
        """
        try:
            tokens = list(map(index, ids))
        except TypeError as error:
            raise MeshTypeError(f"token ids must be a sequence of integers: {error}") from None
        if tokens and not 0 <= min(tokens) <= max(tokens) < len(self.tokens):
            wrong = next(i for i in tokens if not 0 <= i < len(self.tokens))
            raise MeshError(f"token id {wrong} is outside the vocabulary of {len(self.tokens)}")
        return self._engine.decode(tokens, skip_special_tokens=skip_special)

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages (``role``, ``content``) in the model's own chat format, ready for its answer.

        Args:
            messages: each with ``role`` and ``content``.

        Returns:
            The prompt.

        Raises:
            WeightsError: if the file carries no chat template, or one that fails or refuses the messages.
            MeshError: a message that is not valid Unicode.
            MeshTypeError: messages that are not dictionaries of texts.
        """
        if self.chat_template is None:
            raise WeightsError(f"{self._file}: this model file carries no chat template")
        if not isinstance(messages, (list, tuple)) or not all(isinstance(message, dict) for message in messages):
            raise MeshTypeError(f"messages must be a list of dictionaries (role, content), not {shown(messages)}")
        try:
            given = json.dumps(messages, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise MeshTypeError(f"messages must hold texts: {error}") from None
        _utf8(given)
        return render(self.chat_template, {
            "messages": messages, "add_generation_prompt": True, "tools": None, "documents": None,
            "bos_token": self._name(self.bos), "eos_token": self._name(self.eos)}, self._file)

    def _name(self, token: int | None) -> str:
        return "" if token is None else self.tokens[token]

    def _bytes(self, token: int) -> bytes:
        """What a token stands for in a text: a special one for its name, any other for a byte each symbol."""
        name = self.tokens[token]
        return name.encode() if token in self._special else bytes(map(_SYMBOLS.__getitem__, name))
