"""What a GGUF file says about its tokenizer, believed only where it has the type and range that is needed.

The engine that merges tokens takes a vocabulary as it is: it stops the process for some, and gives wrong ids in
silence for others. So every value under ``tokenizer.`` is checked here first; a refusal names file, key and value.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from meshkernels.errors import WeightsError, shown

#: Token types of GGUF: 0 undefined, 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
TOKEN_TYPES = range(7)

_KINDS = {str: "text", int: "whole number", bool: "truth value"}


class Fields:
    """The ``tokenizer.*`` values of one file.

    Args:
        metadata: ``metadata(key)``, the value of a key or None.
        file: its name, for the messages.
    """

    def __init__(self, metadata: Callable[[str], Any], file: str):
        self._metadata, self._file = metadata, file

    def refused(self, key: str, value: Any, wanted: str) -> WeightsError:
        """The error of a value; None stands for one that is missing."""
        found = "is missing" if value is None else f"= {shown(value)}"
        return WeightsError(f"{self._file}: tokenizer.{key} {found}; it must be {wanted}")

    def one(self, key: str, kind: type, default: Any) -> Any:
        """A value of a type, or the default where there is none."""
        value = self._value(key)
        if value is None:
            return default
        if not _is(kind, value):
            raise self.refused(key, value, f"a {_KINDS[kind]}")
        return value

    def many(self, key: str, kind: type, default: list | None = None) -> list:
        """A list of values of a type; without a default it may not be missing."""
        value = self._value(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, (list, tuple)):
            raise self.refused(key, value, f"a list of {_KINDS[kind]}s")
        for i, item in enumerate(value):
            if not _is(kind, item):
                raise WeightsError(f"{self._file}: tokenizer.{key}[{i}] = {shown(item)}; it must be a {_KINDS[kind]}")
        return list(value)

    def tokens(self, rows: int | None) -> list[str]:
        """The vocabulary: distinct tokens, one for each of ``rows`` of the embedding."""
        vocab = self.many("ggml.tokens", str)
        if rows is not None and len(vocab) != rows:
            raise WeightsError(f"{self._file}: tokenizer.ggml.tokens has {len(vocab)} entries, the embedding "
                               f"{rows} rows; it must have one for each row")
        if len(set(vocab)) != len(vocab):
            first: dict[str, int] = {}
            i = next(i for i, token in enumerate(vocab) if first.setdefault(token, i) != i)
            raise self.refused(f"ggml.tokens[{i}]", vocab[i], f"new; tokens[{first[vocab[i]]}] is the same")
        return vocab

    def types(self, count: int) -> list[int]:
        """The type of each of ``count`` tokens."""
        types = self.many("ggml.token_type", int, [1] * count)
        if len(types) != count:
            raise WeightsError(f"{self._file}: tokenizer.ggml.token_type has {len(types)} entries for {count} tokens; "
                               "it must have one for each")
        if not set(types) <= set(TOKEN_TYPES):
            i = next(i for i, kind in enumerate(types) if kind not in TOKEN_TYPES)
            raise self.refused(f"ggml.token_type[{i}]", types[i], f"0 to {TOKEN_TYPES[-1]}")
        return types

    def token(self, key: str, count: int) -> int | None:
        """A token id of ``count``, or None where the file names none."""
        value = self.one(key, int, None)
        if value is not None and not 0 <= value < count:
            raise self.refused(key, value, f"a token id, 0 to {count - 1}")
        return value

    def merges(self, vocab: Set[str]) -> list[tuple[str, str]]:
        """The pairs of tokens that become one, in the order in which they do."""
        pairs: dict[tuple[str, str], int] = {}
        for i, merge in enumerate(self.many("ggml.merges", str)):
            left, _, right = merge.partition(" ")
            if not left or not right or " " in right:
                raise self.refused(f"ggml.merges[{i}]", merge, "two tokens with one blank between")
            for token in (left, right, left + right):
                if token not in vocab:
                    raise self.refused(f"ggml.merges[{i}]", merge,
                                       f"about tokens; {shown(token)} is not in tokenizer.ggml.tokens")
            if pairs.setdefault((left, right), i) != i:
                raise self.refused(f"ggml.merges[{i}]", merge, f"new; merges[{pairs[left, right]}] is the same")
        return list(pairs)

    def _value(self, key: str) -> Any:
        try:
            return self._metadata(f"tokenizer.{key}")
        except UnicodeDecodeError as error:
            raise self.refused(key, error.object, f"UTF-8 ({error.reason} at byte {error.start})") from None


def _is(kind: type, value: Any) -> bool:
    """Whether a value has a type (a truth value is no number), and if it is text, can be written as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # a lone surrogate
            return False
    return type(value) is kind
