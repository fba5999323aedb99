"""A model's weights, placed once for a layout, in the precision that they are used in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.kernels.pack import Columns, columns
from meshkernels.kernels.team import Team
from meshkernels.llm import prepared
from meshkernels.llm.layout import Layout
from meshkernels.weights import Config, check_names, check_shape

DTYPES = ("float32", "float16")


class Source(Protocol):
    """Where weights come from: a `meshkernels.weights.Checkpoint`, or anything that looks like one."""

    config: Config

    @property
    def names(self) -> list[str]: ...

    def tensor(self, name: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Precision:
    """How numbers are stored and summed.

    Attributes:
        dtype: "float32", or "float16" as on the wafer (values rounded to float16, kept in float32 arrays).
        accumulate: dtype of sums: "float32", or "float16": rounded after every multiply-add.
        norms: dtype of the norms' sums of squares; "" for that of the others. Squares of a residual stream soon
            exceed 65504, the largest float16, and then the published all-float16 norm gives zero.
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
    def half_norms(self) -> bool:
        """The same for the norms' sums of squares."""
        return (self.norms or self.accumulate) == "float16"

    @property
    def itemsize(self) -> int:
        """Bytes of a stored element on the wafer."""
        return np.dtype(self.dtype).itemsize

    def store(self, array: np.ndarray) -> np.ndarray:
        """Round to what can be stored."""
        return array if self.dtype == "float32" else array.astype(np.float16).astype(np.float32)


class Table:
    """The embedding, which is the LM head too where they are tied: ``(dim, vocab)``, stored once.

    Raises:
        WeightsError: the source lacks a tensor, has one too many, or one of another shape.
    """

    def __init__(self, source: Source, precision: Precision):
        check_names(source.config, source.names)
        self.embedding = _columns(source, "token_embd.weight", precision)
        tied = "output.weight" not in source.names
        self.head = self.embedding if tied else _columns(source, "output.weight", precision)


def _columns(source: Source, name: str, precision: Precision) -> Columns:
    return columns(precision.store(_read(source, name).T))


def _read(source: Source, name: str) -> np.ndarray:
    """A tensor as float32, in the shape that the kernels take for granted: the one way to a source's numbers."""
    tensor = np.asarray(source.tensor(name), np.float32)
    check_shape(source.config, name, tensor.shape)
    return tensor


class Placed:
    """All weights of the blocks, arranged for one layout.

    Args:
        source: the weights.
        layout: where they go.
        table: the embedding and LM head, shared between layouts.
        precision: storage and sums.
        team: the threads of the decode products.
    """

    def __init__(self, source: Source, layout: Layout, table: Table, precision: Precision, team: Team | None = None):
        self.team = team
        self.config, self.layout, self.table, self.precision = source.config, layout, table, precision
        self._gains: dict[tuple[int, str], np.ndarray] = {(-1, "w_out"): self._vector(source, "output_norm.weight")}
        self._weights: dict[tuple[str, int], Columns] = {}
        self._products: dict[tuple[str, str, int], Any] = {}
        for block in range(self.config.blocks):
            self._place(source, block)
        factors = _read(source, "rope_freqs.weight") if "rope_freqs.weight" in source.names else 1.0
        self._frequencies = frequencies(self.config) / factors

    def _place(self, source: Source, block: int) -> None:
        def get(name: str) -> np.ndarray:
            return _read(source, f"blk.{block}.{name}.weight")

        self._gains[block, "w_attn"] = self._vector(source, f"blk.{block}.attn_norm.weight")
        self._gains[block, "w_ffn"] = self._vector(source, f"blk.{block}.ffn_norm.weight")
        arranged = {
            "qkv": self.layout.fuse_qkv(get("attn_q"), get("attn_k"), get("attn_v")),
            "out": self.layout.arrange_out(get("attn_output")),
            "upgate": self.layout.fuse_ffn(get("ffn_up"), get("ffn_gate")),
            "down": self.layout.arrange_down(get("ffn_down")),
        }
        for name, weight in arranged.items():
            self._weights[name, block] = columns(self.precision.store(weight))

    def _vector(self, source: Source, name: str) -> np.ndarray:
        return self.precision.store(_read(source, name).copy())

    def gain(self, block: int, name: str) -> np.ndarray:
        """Weights ``(dim,)`` of a norm; block -1 for the last one."""
        return self._gains[block, name]

    def embedding(self, tokens: np.ndarray) -> np.ndarray:
        """``(L, dim)`` rows of the table."""
        return self.table.embedding.take(tokens)

    def gemv(self, name: str, block: int) -> prepared.Gemv:
        """The decode product with one weight: along x for ``out`` and ``down``, along y for the others."""
        key = ("gemv", name, block)
        if key not in self._products:
            axis = 1 if name in ("out", "down") else 0
            self._products[key] = prepared.Gemv(
                self._weights[name, block], self.layout.mesh, axis, self.precision.accumulate, self.team)
        return self._products[key]

    def gemm(self, name: str, block: int) -> prepared.Gemm:
        """The prefill product with one weight."""
        return prepared.Gemm(self._weights[name, block], self.layout.mesh, self.precision.accumulate)

    def rope(self, position: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines ``(tokens, head / 2)`` from ``position`` on; padding is not turned."""
        angles = np.zeros((tokens, self.layout.head // 2))
        angles[:, : self.config.head_dim // 2] = np.arange(position, position + tokens)[:, None] * self._frequencies
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def frequencies(config: Config) -> np.ndarray:
    """RoPE's angle per position ``base^(-2 i / head_dim) / scale`` for each pair i (radians)."""
    return config.rope_base ** (-2 * np.arange(config.head_dim // 2) / config.head_dim) / config.rope_scale
