"""A model's weights, arranged once for a layout, in the precision that they are used in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.files.checkpoint import Config, check_names, check_shape
from meshkernels.kernels.memory import on_lines
from meshkernels.kernels.pack import Columns, columns
from meshkernels.llm.layout import Layout

DTYPES = ("float32", "float16")


class Source(Protocol):
    """Where weights come from: a `Checkpoint`, or anything that looks like one."""

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


#: Weights of a block: names in a plan, which are one operand -> tensors of a file, and how they become the operand.
_OPERANDS: dict[tuple[str, ...], tuple[tuple[str, ...], Callable[..., np.ndarray]]] = {
    ("Wq", "Wk", "Wv"): (("attn_q", "attn_k", "attn_v"), Layout.fuse_qkv),
    ("Wo",): (("attn_output",), Layout.arrange_out),
    ("Wup", "Wgate"): (("ffn_up", "ffn_gate"), Layout.fuse_ffn),
    ("Wdown",): (("ffn_down",), Layout.arrange_down),
}


def in_columns(names: tuple[str, ...], W: np.ndarray) -> Columns:
    """A weight ``(K, N)`` as the kernels of this process read it."""
    return columns(W, allocate=on_lines)


class Weights:
    """All weights of a model, arranged for one layout.

    Args:
        source: the weights.
        layout: where they go.
        precision: storage.
        tables: of the same model on another layout: embedding and head are shared with it.
        place: what becomes of a right operand, from its names in a plan and the array ``(K, N)``.

    Attributes:
        operands: ``(K, N)`` right operands of products, by block (-1: outside) and names in a plan.
        vectors: gains ``(dim,)`` of the norms and the embedding ``(dim, vocab)``, by block and name. The embedding is
            the LM head too where they are tied: stored once.

    Raises:
        WeightsError: the source lacks a tensor, has one too many, or one of another shape.
    """

    def __init__(self, source: Source, layout: Layout, precision: Precision, tables: Weights | None = None,
                 place: Callable[[tuple[str, ...], np.ndarray], Any] = in_columns):  # fmt: skip
        self.config, self.precision = source.config, precision
        check_names(self.config, source.names)

        def read(name: str) -> np.ndarray:
            """A tensor as float32, in the shape that kernels take for granted: the one way to a source's numbers."""
            tensor = np.asarray(source.tensor(f"{name}.weight"), np.float32)
            check_shape(self.config, f"{name}.weight", tensor.shape)
            return tensor

        def transposed(name: str) -> Any:
            return place(("table",), precision.store(read(name).T))

        table = transposed("token_embd") if tables is None else tables.vectors[-1, "table"]
        if tables is not None:
            head = tables.operands[-1, ("table",)]
        else:
            head = transposed("output") if "output.weight" in source.names else table
        self.vectors: dict[tuple[int, str], Any] = {(-1, "table"): table}
        self.vectors[-1, "w_out"] = precision.store(read("output_norm").copy())
        self.operands: dict[tuple[int, tuple[str, ...]], Any] = {(-1, ("table",)): head}
        for block in range(self.config.blocks):
            for name, tensor in (("w_attn", "attn_norm"), ("w_ffn", "ffn_norm")):
                self.vectors[block, name] = precision.store(read(f"blk.{block}.{tensor}").copy())
            for names, (tensors, arrange) in _OPERANDS.items():
                arranged = arrange(layout, *(read(f"blk.{block}.{tensor}") for tensor in tensors))
                self.operands[block, names] = place(names, precision.store(arranged))
        pairs = self.config.head_dim // 2
        self._turns = np.zeros(layout.head // 2)  # angle per position of each pair (radians); padding is not turned
        factors = read("rope_freqs") if "rope_freqs.weight" in source.names else 1.0
        self._turns[:pairs] = frequencies(self.config) / factors

    def rope(self, position: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines ``(tokens, head / 2)`` of RoPE from ``position`` on."""
        angles = np.arange(position, position + tokens)[:, None] * self._turns
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def frequencies(config: Config) -> np.ndarray:
    """RoPE's angle per position ``base^(-2 i / head_dim) / scale`` for each pair i (radians)."""
    return config.rope_base ** (-2 * np.arange(config.head_dim // 2) / config.head_dim) / config.rope_scale
