"""Real weights: a GGUF of the LLaMA family, checked against its own configuration and read as float32 matrices.

Two architectures are known. ``qwen2`` is ``llama`` with biases on queries, keys and values, and with heads as they were
trained: RoPE turns features i and i + head_dim / 2, which files of ``llama`` have next to each other.

References:
    The GGUF file format and its keys: ggml, ``docs/gguf.md``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meshkernels.errors import MeshError, WeightsError
from meshkernels.files.fetch import cache_dir, smollm2_path
from meshkernels.files.gguf_file import SUPPORTED, GGUFFile, Stored, show

if TYPE_CHECKING:
    from meshkernels.files.tokenizer import Tokenizer

__all__ = ["SUPPORTED", "Checkpoint", "Config", "WeightsError", "cache_dir", "load", "smollm2_path"]

#: Architectures that can be run, by the names that files give them.
ARCHITECTURES = ("llama", "qwen2")


# ------------------------------------------------------------------------------------- dimensions and shapes
_FLOAT32 = np.finfo(np.float32)
#: Field -> least and greatest value, and why.
_RANGES: dict[str, tuple[float, float, str]] = {
    "rope_base": (1.0, float(_FLOAT32.max), "the angle per position shrinks from pair to pair"),
    "rope_scale": (1e-6, 1e6, "positions are divided by it"),
    "norm_eps": (float(_FLOAT32.tiny), 0.1, "it keeps mean squares of order one from 0, in float32"),
}
_COUNTS = (1, 2**31 - 1, "counts are 32-bit integers in every reader of the format")


def _checked(label: str, field: str, value: Any, real: type = Real) -> Any:
    """The value of a field of `Config`, if it is of the right type and within its range."""
    least, greatest, why = _RANGES.get(field, _COUNTS)
    kind, name = (real, "a float") if field in _RANGES else (Integral, "an integer")
    right = isinstance(value, kind) and not isinstance(value, bool)
    if not right or not least <= value <= greatest:
        raise MeshError(f"{label} = {show(value)}; {name} from {least:.7g} to {greatest:.10g} is expected: {why}")
    return float(value) if field in _RANGES else int(value)


@dataclass(frozen=True)
class Config:
    """Dimensions of a model of the LLaMA family.

    ``heads`` query heads of ``head_dim`` share ``kv_heads`` key and value heads (heads == kv_heads: MHA,
    1: MQA, in between: GQA). RoPE turns the neighbouring pairs (2i, 2i+1) of a head as ``llama`` files store it, and
    (i, i + head_dim / 2) as ``qwen2`` files do.

    Raises:
        MeshError: a value of another type, out of its range, or at odds with another one.
    """

    blocks: int
    dim: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_base: float = 10000.0
    rope_scale: float = 1.0
    norm_eps: float = 1e-5
    architecture: str = "llama"

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise MeshError(f"architecture {show(self.architecture)}; known: {', '.join(map(repr, ARCHITECTURES))}")
        for field in fields(self)[:-1]:
            object.__setattr__(self, field.name, _checked(field.name, field.name, getattr(self, field.name)))
        if self.heads % self.kv_heads:
            raise MeshError(f"{self.heads} query heads do not share {self.kv_heads} key/value heads evenly")
        if self.head_dim % 2:
            raise MeshError(f"RoPE turns pairs: head_dim must be even, not {self.head_dim}")

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads

    @property
    def q_dim(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_dim

    @property
    def biased(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.architecture == "qwen2"

    @property
    def split_pairs(self) -> bool:
        """Whether RoPE's pairs are features i and i + head_dim / 2 of a stored head, instead of neighbours."""
        return self.architecture == "qwen2"

    @property
    def pairs(self) -> int:
        """Pairs of features of one head, which RoPE turns."""
        return self.head_dim // 2


#: Every tensor of a model, outside the blocks and (second) in each of them: shape, in properties of `Config`.
_SHAPES = {"token_embd": ("vocab", "dim"), "output_norm": ("dim",), "output": ("vocab", "dim"),
           "rope_freqs": ("pairs",)}
_BLOCK_SHAPES = {
    "attn_norm": ("dim",), "attn_q": ("q_dim", "dim"), "attn_k": ("kv_dim", "dim"), "attn_v": ("kv_dim", "dim"),
    "attn_output": ("dim", "q_dim"), "ffn_norm": ("dim",), "ffn_gate": ("ffn", "dim"), "ffn_up": ("ffn", "dim"),
    "ffn_down": ("dim", "ffn")}
_BIAS_SHAPES = {"attn_q": ("q_dim",), "attn_k": ("kv_dim",), "attn_v": ("kv_dim",)}
#: A model without a head of its own uses the embedding; LLaMA 3.1 and later slow RoPE down pair by pair.
_OPTIONAL = ("output.weight", "rope_freqs.weight")

#: Field of `Config` -> where a file says it, after its architecture.
_KEYS = {"heads": "attention.head_count", "dim": "embedding_length", "blocks": "block_count",
         "ffn": "feed_forward_length", "context": "context_length", "norm_eps": "attention.layer_norm_rms_epsilon",
         "kv_heads": "attention.head_count_kv", "head_dim": "attention.key_length", "rope_base": "rope.freq_base",
         "rope_scale": "rope.scaling.factor"}
_LENGTHS = {"dim": "{0}.embedding_length", "ffn": "{0}.feed_forward_length", "vocab": "rows of token_embd.weight",
            "q_dim": "{0}.attention.head_count * key_length", "kv_dim": "{0}.attention.head_count_kv * key_length",
            "pairs": "{0}.attention.key_length / 2"}
#: Other keys and the only value that they may have: any other would change what the model computes.
_NEUTRAL = {"expert_count": 0, "expert_used_count": 0, "attention.causal": True, "rope.scale_linear": 1.0}
#: Keys that change nothing, or are compared with what they follow from.
_DESCRIPTIVE = ("vocab_size", "tensor_data_layout", "rope.scaling.type", "rope.scaling.finetuned",
                "rope.scaling.original_context_length", "rope.dimension_count", "attention.value_length",
                "attention.layer_norm_epsilon", "attention.sliding_window")


def check_names(config: Config, names: Collection[str]) -> None:
    """Refuse a model that lacks a tensor, or has one that it would not use."""
    names = set(names)  # an inflated number of blocks costs no more than the names that there are
    used, count = set(), f"{config.architecture}.block_count"
    for name in _names(config):
        if name in names:
            used.add(name)
        elif name not in _OPTIONAL:
            raise WeightsError(f"no tensor {name!r}, expected with shape {tensor_shape(config, name)} in a model of "
                               f"{config.blocks} blocks ({count})")
    if extra := sorted(names - used):
        raise WeightsError(f"tensor {show(extra[0])} ({len(extra)} such) is none of a {config.architecture!r} model of "
                           f"{config.blocks} blocks ({count}), which would ignore it: another model is meant")


def _names(config: Config) -> Iterator[str]:
    yield from (f"{name}.weight" for name in _SHAPES if not (name == "rope_freqs" and config.split_pairs))
    for block in range(config.blocks):
        yield from (f"blk.{block}.{name}.weight" for name in _BLOCK_SHAPES)
        yield from (f"blk.{block}.{name}.bias" for name in _BIAS_SHAPES if config.biased)


def tensor_shape(config: Config, name: str) -> tuple[int, ...]:
    """The shape that a tensor must have, ``(out_features, in_features)`` of a matrix."""
    return tuple(getattr(config, length) for length in _lengths(name))


def _lengths(name: str) -> tuple[str, ...]:
    stem, _, role = name.rpartition(".")
    last = stem.rpartition(".")[2]
    if role == "bias":
        return _BIAS_SHAPES[last]
    return _BLOCK_SHAPES[last] if name.startswith("blk.") else _SHAPES[last]


def check_shape(config: Config, name: str, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape than the configuration asks for."""
    expected = tensor_shape(config, name)
    if shape != expected:
        reason = ", ".join(_LENGTHS[length].format(config.architecture) for length in _lengths(name))
        raise WeightsError(f"tensor {name!r} has shape {shape}, expected {expected} = ({reason})")


# -------------------------------------------------------------------------------------------------- reading
class Checkpoint:
    """A GGUF file of the LLaMA family, memory-mapped; matrices are dequantised when asked for.

    Orientation: :meth:`tensor` returns a matrix as ``(out_features, in_features)``, so that ``y = W @ x``;
    GGUF's own shape list is the reverse of it. The embedding is ``(vocab, dim)``. Q and K rows are in the
    file's order: see `Config`.

    Opening checks the whole file but for the matrices' numbers, which may be NaN or infinite.

    Raises:
        WeightsError: if the file is missing, is not a GGUF, is cut off or damaged, has another architecture, stores
            a tensor in a type that is not in :data:`SUPPORTED`, has a value of another type or out of its range,
            a tensor of another shape than its configuration says, one too few or one too many.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._file = GGUFFile(self.path)
        self._metadata, self._tensors = self._file.metadata, self._file.tensors
        try:
            self._check_kind()
            self.config = self._read_config()
            self._check_keys()
            check_names(self.config, self._tensors)
            for name, tensor in self._tensors.items():
                check_shape(self.config, name, tensor.shape)
            self._check_vectors()
        except (MeshError, WeightsError) as error:
            raise WeightsError(f"{self.path.name}: {error}") from error

    def metadata(self, key: str, default: Any = None) -> Any:
        """A metadata value by its GGUF key (number, string or list), or ``default`` where it is absent."""
        value = self._metadata.get(key, default)
        return value.copy() if isinstance(value, list) else value

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in file order."""
        return list(self._tensors)

    @property
    def tied(self) -> bool:
        """Whether the LM head is the embedding."""
        return "output.weight" not in self._tensors

    def storage(self, name: str) -> str:
        """The type a tensor is stored in, e.g. ``"Q4_1"``."""
        return self._find(name).storage.name

    def stored(self, name: str) -> Stored:
        """One tensor as it lies in the file, mapped."""
        return self._find(name)

    def release(self) -> None:
        """Let the memory go that the map takes so far; what is read again comes from the file again."""
        self._file.release()

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as float32, matrices as ``(out_features, in_features)`` (read-only where stored so)."""
        return self._find(name).dequantised()

    def rows(self, name: str, index: np.ndarray) -> np.ndarray:
        """Rows ``index`` of a matrix as float32 without dequantising the others (an embedding look-up).

        Args:
            name: of the matrix.
            index: integers.

        Returns:
            The rows.

        Raises:
            MeshError: an index that is no row.
        """
        stored, index = self._find(name), np.asarray(index)
        if index.dtype.kind not in "iu" or (index.size and not 0 <= index.min() <= index.max() < stored.shape[0]):
            raise MeshError(f"rows {show(index)} of {name}: integers from 0 to {stored.shape[0] - 1} are expected")
        return stored.dequantised(index)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The byte-level BPE tokenizer that the file carries."""
        from meshkernels.files.tokenizer import Tokenizer  # the dot products need no tokenizer

        return Tokenizer.from_metadata(self.metadata, self.config.vocab, self.path.name)

    def _find(self, name: str) -> Stored:
        if name not in self._tensors:
            raise WeightsError(f"{self.path.name}: no tensor {name!r} (it has {len(self._tensors)} others)")
        return self._tensors[name]

    # --------------------------------------------------------------------------- what a file says about itself
    def _check_kind(self) -> None:
        architecture = self.metadata("general.architecture", "none named")
        if architecture not in ARCHITECTURES:
            raise WeightsError(f"architecture {show(architecture)}; only {' and '.join(map(repr, ARCHITECTURES))} "
                               "can be run")
        for name, tensor in self._tensors.items():
            if tensor.storage.name not in SUPPORTED:
                raise WeightsError(f"{show(name)} is stored as {tensor.storage.name}; "
                                   f"supported: {', '.join(SUPPORTED)}")

    def _read_config(self) -> Config:
        of, values = self.metadata("general.architecture"), dict[str, Any]()
        for field, key in _KEYS.items():
            if (value := self.metadata(f"{of}.{key}")) is not None:
                values[field] = _checked(f"{of}.{key}", field, value, float)
            elif field in ("heads", "dim", "blocks", "ffn", "context", "norm_eps"):
                raise WeightsError(f"metadata {of}.{key} is missing")
        values.setdefault("kv_heads", values["heads"])
        if "head_dim" not in values and values["dim"] % values["heads"]:
            raise WeightsError(f"{of}.embedding_length = {values['dim']} is no multiple of {of}.attention.head_count "
                               f"= {values['heads']}, and there is no {of}.attention.key_length")
        values.setdefault("head_dim", values["dim"] // values["heads"])
        scaling = self.metadata(f"{of}.rope.scaling.type", "linear")
        if scaling not in ("none", "linear"):
            raise WeightsError(f"{of}.rope.scaling.type = {show(scaling)}; known: none, linear")
        if scaling == "none" and values.get("rope_scale", 1.0) != 1.0:
            raise WeightsError(f"{of}.rope.scaling.factor = {values['rope_scale']}, but {of}.rope.scaling.type "
                               "= 'none'")
        if "token_embd.weight" not in self._tensors:
            raise WeightsError("no tensor 'token_embd.weight'")
        shape = self._tensors["token_embd.weight"].shape
        if len(shape) != 2 or shape[1] != values["dim"]:
            raise WeightsError(f"tensor 'token_embd.weight' has shape {shape}; it must be (vocabulary, "
                               f"{of}.embedding_length = {values['dim']})")
        try:
            return Config(vocab=shape[0], architecture=of, **values)
        except MeshError as error:
            raise WeightsError(f"{error} ({of}.attention.head_count, head_count_kv, key_length)") from error

    def _check_keys(self) -> None:
        """Refuse what this reader would not heed."""
        c, of = self.config, self.config.architecture
        known = {f"{of}.{key}" for key in (*_KEYS.values(), *_NEUTRAL, *_DESCRIPTIVE)}
        for key in self._metadata:
            if key.startswith(f"{of}.") and key not in known:
                raise WeightsError(f"{show(key)} = {show(self.metadata(key))} is not known: "
                                   "it may ask for another computation")
        only = {f"{of}.{key}": (value, "") for key, value in _NEUTRAL.items()} | {
            f"{of}.attention.value_length": (c.head_dim, f" ({of}.attention.key_length, or the width of a head)"),
            f"{of}.rope.dimension_count": (c.head_dim, f" ({of}.attention.key_length, or the width of a head)"),
            f"{of}.vocab_size": (c.vocab, " (rows of token_embd.weight)"), "general.quantization_version": (2, "")}
        for key, (value, why) in only.items():
            found = self.metadata(key, value)
            if type(found) is not type(value) or found != value:
                raise WeightsError(f"{key} = {show(found)} is not supported; only {value} is{why}")
        window = self.metadata(f"{of}.attention.sliding_window", 0)
        if type(window) is not int or (window != 0 and window < c.context):
            raise WeightsError(f"{of}.attention.sliding_window = {show(window)} is not supported where it is shorter "
                               f"than {of}.context_length = {c.context}: every token attends to the whole text. A file "
                               "that says the window's length for its context would be run as it is meant")
        parts = self.metadata("split.count", 0)
        if type(parts) is not int or parts not in (0, 1):
            raise WeightsError(f"split.count = {show(parts)}: not the one part of a whole model; "
                               "gguf-split --merge puts parts together")
        tokens = self.metadata("tokenizer.ggml.tokens", [""] * c.vocab)
        if not isinstance(tokens, list) or len(tokens) != c.vocab or not isinstance(tokens[0], str):
            length = f" of length {len(tokens)}" if isinstance(tokens, list) else ""
            raise WeightsError(f"tokenizer.ggml.tokens = {show(tokens)}{length}; a list of {c.vocab} strings is "
                               "expected, one for each row of token_embd.weight")

    def _check_vectors(self) -> None:
        """Refuse vectors that would make every number NaN: all numbers pass through the norms and RoPE."""
        for name, tensor in self._tensors.items():
            if len(tensor.shape) == 1:
                numbers = tensor.dequantised()
                positive = name == "rope_freqs.weight"
                good = np.isfinite(numbers) & (numbers > 0 if positive else True)
                if not good.all():
                    i = int(np.argmin(good))
                    raise WeightsError(f"{name}[{i}] = {numbers[i]}; a finite number"
                                       f"{' above 0' if positive else ''} is expected")


def load(path: str | os.PathLike[str] | None = None) -> Checkpoint:
    """Open a GGUF file; without a path, SmolLM2-135M-Instruct (fetched on first use)."""
    return Checkpoint(smollm2_path() if path is None else path)
