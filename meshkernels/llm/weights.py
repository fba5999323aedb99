"""A model's weights, arranged once for a layout, in the precision that they are used in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.files.checkpoint import Config, check_names, check_shape, tensor_shape
from meshkernels.kernels.resident import Coded, Columns, stored
from meshkernels.kernels.storage import OF_DTYPE
from meshkernels.llm.layout import Layout
from meshkernels.llm.ranks import Build

DTYPES = ("float32", "float16")


class Source(Protocol):
    """Where weights come from: a `Checkpoint`, or anything that looks like one.

    It may have two methods more: ``stored(name)`` returns a `files.gguf_file.Stored`, whose storage type stays, and
    ``release()`` is called when what was read so far is not needed any more.
    """

    config: Config

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        ...

    def tensor(self, name: str) -> np.ndarray:
        """One tensor, matrices as ``(out_features, in_features)``."""
        ...


@dataclass(frozen=True)
class Precision:
    """How numbers are stored and summed.

    Attributes:
        dtype: "float32", or "float16" as on the wafer (values rounded to float16, kept in float32 arrays).
        accumulate: dtype of sums: "float32", or "float16": rounded after every multiply-add.
        norms: dtype of the norms' sums of squares; "" for that of the others. Squares of a residual stream soon
            exceed 65504, the largest float16, and then the published all-float16 norm gives zero.

    Raises:
        MeshError: another dtype, or float16 sums of float32 values.
    """

    dtype: str = "float32"
    accumulate: str = "float32"
    norms: str = ""

    def __post_init__(self) -> None:
        for name, value in (("dtype", self.dtype), ("accumulate", self.accumulate), ("norms", self.norms)):
            if value not in DTYPES and (name, value) != ("norms", ""):
                raise MeshError(f"{name} = {value!r}; known: {', '.join(DTYPES)}")
        if "float16" in (self.accumulate, self.norms) and self.dtype != "float16":
            raise MeshError("sums in float16 need dtype='float16': float32 values are summed in float32")

    @property
    def half(self) -> bool:
        """Whether sums are rounded to float16 after every addition."""
        return self.accumulate == "float16"

    @property
    def stored_half(self) -> bool:
        """Whether values are rounded to float16."""
        return self.dtype == "float16"

    @property
    def half_norms(self) -> bool:
        """The same for the norms' sums of squares."""
        return (self.norms or self.accumulate) == "float16"

    @property
    def itemsize(self) -> int:
        """Bytes of a stored element on the wafer."""
        return np.dtype(self.dtype).itemsize

    def store(self, array: np.ndarray) -> np.ndarray:
        """Round to what can be stored."""
        return array.astype(np.float16).astype(np.float32) if self.stored_half else array


class Arranged(NamedTuple):
    """How an operand ``(K, N)`` of products comes from tensors of a file.

    Attributes:
        names: of it in a plan.
        tensors: of the file, of the same block; one below the other, their rows are its columns.
        columns: ``(N,)`` which of these rows each column is; -1: zeros.
        rows: ``(K,)`` which number of a row each row is; -1: zeros.
        kinds: ``(N,)`` which of the tensors each column is from.
    """

    names: tuple[str, ...]
    tensors: tuple[str, ...]
    columns: np.ndarray
    rows: np.ndarray
    kinds: np.ndarray


def arranged(layout: Layout) -> Iterator[Arranged]:
    """The operands of every block, as a layout arranges them.

    Args:
        layout: the model on the mesh.

    Yields:
        Each operand.
    """
    def shape(tensor: str) -> tuple[int, ...]:
        return tensor_shape(layout.config, f"blk.0.{tensor}.weight")

    def picked(arrange: Callable[..., np.ndarray], *numbers: np.ndarray) -> np.ndarray:
        """What a layout makes of numbered columns ``(n, 1)`` or rows ``(1, n)``; it pads with zeros."""
        return arrange(layout, *(1 + each for each in numbers)).ravel() - 1

    def heads(rows: np.ndarray) -> np.ndarray:
        """Rows of queries or keys ``(heads * head_dim, 1)`` in the order in which RoPE's pairs are neighbours."""
        pairs = rows.reshape(-1, 2, layout.config.pairs)
        return pairs.swapaxes(1, 2).reshape(rows.shape) if layout.config.split_pairs else rows

    columns: tuple[tuple[tuple[str, ...], tuple[str, ...], Callable[..., np.ndarray]], ...] = (
        (("Wq", "Wk", "Wv"), ("attn_q", "attn_k", "attn_v"), Layout.fuse_qkv),
        (("Wup", "Wgate"), ("ffn_up", "ffn_gate"), Layout.fuse_ffn))
    for names, tensors, arrange in columns:
        ends = np.cumsum([shape(tensor)[0] for tensor in tensors])
        numbers = np.split(np.arange(ends[-1])[:, None], ends[:-1])
        order = picked(arrange, *(heads(each) if tensor in ("attn_q", "attn_k") else each
                                  for tensor, each in zip(tensors, numbers)))
        yield Arranged(names, tensors, order, np.arange(layout.config.dim), np.searchsorted(ends, order, "right"))
    rows: tuple[tuple[tuple[str, ...], str, Callable[..., np.ndarray]], ...] = (
        (("Wo",), "attn_output", Layout.arrange_out), (("Wdown",), "ffn_down", Layout.arrange_down))
    for names, tensor, arrange in rows:
        N, K = shape(tensor)
        order = picked(arrange, np.arange(K)[None])
        yield Arranged(names, (tensor,), np.arange(N), order, np.zeros(N, np.int64))


#: What becomes of a weight ``(K, N)``, from its names in a plan and what makes it.
Placing = Callable[[tuple[str, ...], Build], Any]


def whole(names: tuple[str, ...], build: Build) -> Columns:
    """All of it stays in this process."""
    return build(None, None)


class Weights:
    """All weights of a model, arranged for one layout, in the storage types of their source.

    With float16 storage, all are float16.

    Args:
        source: the weights.
        layout: where they go.
        precision: storage.
        tables: of the same model on another layout: embedding and head are shared with it.
        place: what becomes of a weight.

    Attributes:
        in_process: whether all weights are here, none on another rank.
        operands: ``(K, N)`` right operands of products, by block (-1: outside) and names in a plan.
        vectors: gains ``(dim,)`` of the norms, biases of queries, keys and values as their product leaves its results,
            and the embedding ``(dim, vocab)``, by block and name. The embedding is the LM head too where they are tied:
            stored once.

    Raises:
        WeightsError: the source lacks a tensor, has one too many, or one of another shape.
    """

    def __init__(self, source: Source, layout: Layout, precision: Precision, tables: Weights | None = None,
                 place: Placing = whole):
        self.config, self.precision, self.in_process = source.config, precision, place is whole
        self._source = source
        check_names(self.config, source.names)
        if tables is not None:
            table, head = tables.vectors[-1, "table"], tables.operands[-1, ("table",)]
        else:
            table = head = place(("table",), self._placed("token_embd"))
            if "output.weight" in source.names:
                head = place(("table",), self._placed("output"))
        self.vectors: dict[tuple[int, str], Any] = {(-1, "table"): table}
        self.vectors[-1, "w_out"] = precision.store(self._vector("output_norm"))
        self.operands: dict[tuple[int, tuple[str, ...]], Any] = {(-1, ("table",)): head}
        operands = tuple(arranged(layout))
        for block in range(self.config.blocks):
            for name, tensor in (("w_attn", "attn_norm"), ("w_ffn", "ffn_norm")):
                self.vectors[block, name] = precision.store(self._vector(f"blk.{block}.{tensor}"))
            for each in operands:
                tensors = [f"blk.{block}.{tensor}" for tensor in each.tensors]
                self.operands[block, each.names] = place(
                    each.names, self._placed(*tensors, columns=each.columns, rows=each.rows))
                if self.config.biased and "attn_q" in each.tensors:
                    biases = np.concatenate([*(self._vector(tensor, "bias") for tensor in tensors), np.zeros(1)])
                    self.vectors[block, "biases"] = precision.store(biases[each.columns].astype(np.float32))
        pairs = self.config.head_dim // 2
        self._turns = np.zeros(layout.head // 2)  # angle per position of each pair (radians); padding is not turned
        factors = self._vector("rope_freqs") if "rope_freqs.weight" in source.names else 1.0
        self._turns[:pairs] = frequencies(self.config) / factors
        del self._source

    def _shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor of the model."""
        return tensor_shape(self.config, f"{name}.weight")

    def _vector(self, name: str, role: str = "weight") -> np.ndarray:
        """A tensor as float32 numbers of its own."""
        tensor = np.array(self._source.tensor(f"{name}.{role}"), np.float32)
        check_shape(self.config, f"{name}.{role}", tensor.shape)
        return tensor

    def _placed(self, *names: str, columns: np.ndarray | None = None, rows: np.ndarray | None = None) -> Build:
        """Matrices of the source, one below the other; arguments as of `resident.stored`, or all in their order.

        Returns:
            What makes the weight, or a part of it.
        """
        blocks = [self._blocks(f"{name}.weight") for name in names]
        N, K = sum(len(each.data) for each in blocks), self._shape(names[0])[1]
        every = np.arange(K) if rows is None else rows, np.arange(N) if columns is None else columns
        release = getattr(self._source, "release", None)

        def build(*chosen: np.ndarray | None) -> Columns:
            some = [numbers if few is None else np.where(few >= 0, numbers[few], -1)
                    for numbers, few in zip(every, chosen)]  # fmt: skip
            placed = stored(blocks, some[1], some[0])
            if release:
                release()
            return placed

        return build

    def _blocks(self, name: str) -> Coded:
        """A matrix as it is stored, or shall be."""
        find, dtype = getattr(self._source, "stored", None), self.precision.dtype
        if find is not None and dtype == "float32":
            found = find(name)
            storage, shape, data = found.storage.name, found.shape, found.data
        else:
            tensor = np.ascontiguousarray(self._source.tensor(name), dtype)
            storage, shape, data = OF_DTYPE[dtype], tensor.shape, tensor.view(np.uint8)
        check_shape(self.config, name, shape)
        return Coded(storage, data)

    def rope(self, position: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines ``(tokens, head / 2)`` of RoPE from ``position`` on."""
        angles = np.arange(position, position + tokens)[:, None] * self._turns
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def storages(source: Source, dtype: str = "float32") -> dict[str, str]:
    """The storage types in which tensors are placed: matrices in those of the source, unless all shall be float16.

    Args:
        source: the weights.
        dtype: as of `Precision`.

    Returns:
        The type of each tensor, by its name.

    Raises:
        WeightsError: the source lacks a tensor, or has one too many.
    """
    check_names(source.config, source.names)
    types, find = dict.fromkeys(source.names, OF_DTYPE[dtype]), getattr(source, "stored", None)
    if find is not None and dtype == "float32":
        types |= {name: find(name).storage.name for name in types if len(tensor_shape(source.config, name)) == 2}
    return types


def frequencies(config: Config) -> np.ndarray:
    """RoPE's angle per position ``base^(-2 i / head_dim) / scale`` for each pair i (radians)."""
    return config.rope_base ** (-2 * np.arange(config.head_dim // 2) / config.head_dim) / config.rope_scale
