"""The tokenizer a GGUF file carries: byte-level BPE, run by the ``tokenizers`` library.

GGUF stores vocabulary, merges and token types, and names the rule that cuts text into words before the
merges (``tokenizer.ggml.pre``). Each rule below is the published one of that model family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, pre_tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split

from meshkernels.weights import WeightsError

#: Token types of GGUF that stand for themselves in the text: control and user-defined.
_CONTROL, _USER_DEFINED = 3, 4

_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> PreTokenizer:
    return pre_tokenizers.Sequence([Digits(individual_digits=True), _gpt2()])


def _llama3() -> PreTokenizer:
    return pre_tokenizers.Sequence([Split(Regex(_LLAMA3), "isolated"), ByteLevel(False, use_regex=False)])


#: ``tokenizer.ggml.pre`` -> how text is cut into words.
PRE_TOKENIZERS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": _gpt2, "smollm": _smollm, "llama-bpe": _llama3, "llama3": _llama3,
}


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        bos, eos: ids that open a text (or None) and that end generation.
        stop: every id that ends generation: ``eos``, and the vocabulary's end-of-turn and end-of-text.
        chat_template: the model's own Jinja template, or None.
    """

    def __init__(self, vocab: Sequence[str], merges: Sequence[tuple[str, str]], special: Sequence[str],
                 pre: str, bos: int | None = None, eos: int | None = None, add_bos: bool = False,
                 chat_template: str | None = None):
        if pre not in PRE_TOKENIZERS:
            known = ", ".join(sorted(PRE_TOKENIZERS))
            raise WeightsError(f"pre-tokenizer {pre!r} is not known; known: {known}")
        ids = {token: i for i, token in enumerate(vocab)}
        self._engine = tokenizers.Tokenizer(BPE(ids, list(merges)))
        self._engine.pre_tokenizer = PRE_TOKENIZERS[pre]()
        self._engine.decoder = ByteLevelDecoder()
        self._engine.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
        self.bos, self.eos, self.add_bos = bos, eos, add_bos
        self.chat_template = chat_template
        self.tokens = list(vocab)
        ends = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>")
        self.stop = frozenset(ids[t] for t in ends if t in ids) | ({eos} if eos is not None else set())

    @classmethod
    def from_metadata(cls, metadata: Callable[..., Any]) -> Tokenizer:
        """Build it from a file's metadata (``metadata(key, default)``).

        Raises:
            WeightsError: if the file carries no byte-level BPE, or cuts words by an unknown rule.
        """
        kind = metadata("tokenizer.ggml.model", "none")
        if kind != "gpt2":
            raise WeightsError(f"tokenizer {kind!r} is not supported; supported: gpt2 (byte-level BPE)")
        vocab = metadata("tokenizer.ggml.tokens")
        types = metadata("tokenizer.ggml.token_type", [1] * len(vocab))
        bos = metadata("tokenizer.ggml.bos_token_id")
        return cls(
            vocab=vocab, merges=[tuple(merge.split(" ", 1)) for merge in metadata("tokenizer.ggml.merges")],
            special=[t for t, kind in zip(vocab, types) if kind in (_CONTROL, _USER_DEFINED)],
            pre=metadata("tokenizer.ggml.pre", "gpt-2"), bos=bos, eos=metadata("tokenizer.ggml.eos_token_id"),
            add_bos=bool(metadata("tokenizer.ggml.add_bos_token", False)),
            chat_template=metadata("tokenizer.chat_template"))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; control tokens written out in it are recognised."""
        ids = self._engine.encode(text, add_special_tokens=False).ids
        return [self.bos, *ids] if self.add_bos and self.bos is not None else ids

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of token ids; bytes that are not (yet) valid UTF-8 become U+FFFD."""
        return self._engine.decode(list(ids), skip_special_tokens=skip_special)

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages (``role``, ``content``) in the model's own chat format, ready for its answer.

        Raises:
            WeightsError: if the file carries no chat template.
        """
        if self.chat_template is None:
            raise WeightsError("this model file carries no chat template")
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # a template is a program from a file

        jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return jinja.from_string(self.chat_template).render(
            messages=list(messages), add_generation_prompt=True,
            bos_token=self._name(self.bos), eos_token=self._name(self.eos))

    def _name(self, token: int | None) -> str:
        return "" if token is None else self.tokens[token]
