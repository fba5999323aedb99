"""How a model's dimensions are laid out on one mesh: placements, strips of heads, fused weights.

Query heads sit with the key/value head they share (head groups). The columns of cores are divided into
``strips = gcd(cols, kv_heads)`` strips; a strip holds ``kv_heads / strips`` key/value heads with their query heads,
and every head's features are cut over the strip's columns in whole RoPE pairs:

    column c = strip * strip_cols + j   holds features [j w, (j+1) w) of each of its strip's heads

so that RoPE stays inside a core and one head's scores are summed inside its strip. Weights that meet the same
input are fused core by core, ``[q | k | v]`` and ``[up | gate]``: one product, one all-reduce. Lengths that do
not divide are padded with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import gcd, prod

import numpy as np

from meshkernels.files.checkpoint import Config
from meshkernels.mesh import Mesh, ceil_div

#: The cuts along one axis, coarse to fine: ``(dimension, parts)``; the dimension None replicates.
Cuts = tuple[tuple[str | None, int], ...]


@dataclass(frozen=True)
class Placement:
    """What one tensor is, and where it lives: which dimension is cut along which axis, and where it is replicated.

    The paper writes ``E_y`` for a dimension E cut along the y axis of cores (down a column) and ``L^x`` for one that
    is replicated along x. An axis can be cut twice, the coarse cut first: ``H_x:3 D_x:8`` cuts 24 columns of
    cores into 3 strips of 8, the heads over the strips and each head's features over a strip's columns.

    Attributes:
        name: the tensor's name.
        dims: its dimensions and their lengths in elements (padding included), in storage order.
        mesh: the cores.
        y, x: the cuts along either axis; empty: replicated along it. The parts multiply to the axis' cores.
        kind: "activation", or what stays on the mesh: "weights", "norms", "biases", "table" or "cache".

    Examples:
        >>> q = Placement("Q", {"H": 9, "D": 64}, Mesh(24), x=(("H", 3), ("D", 8)))
        >>> q.notation, q.tile, q.words
        ('H_x:3 D_x:8 ^y', {'H': 3, 'D': 8}, 24)
        >>> q.block(0, 9)
        {'H': (3, 6), 'D': (8, 16)}
    """

    name: str
    dims: dict[str, int] = field(hash=False)
    mesh: Mesh
    y: Cuts = ()
    x: Cuts = ()
    kind: str = "activation"

    def __post_init__(self) -> None:
        for axis, cuts in enumerate((self.y, self.x)):
            if cuts and prod(parts for _, parts in cuts) != self.mesh.length(axis):
                raise ValueError(f"{self.name}: cuts {cuts} do not multiply to {self.mesh.length(axis)} cores")
        cut = [dim for dim, _ in (*self.y, *self.x) if dim is not None]
        if len(set(cut)) != len(cut) or not set(cut) <= set(self.dims):
            raise ValueError(f"{self.name}: each of {list(self.dims)} can be cut once, not {cut}")

    def parts(self, dim: str) -> int:
        """Into how many parts a dimension is cut (1: not at all)."""
        return dict((*self.y, *self.x)).get(dim, 1)

    @property
    def tile(self) -> dict[str, int]:
        """Length of every dimension on one core: the ceiling of its length over its parts."""
        return {dim: ceil_div(size, self.parts(dim)) for dim, size in self.dims.items()}

    @property
    def words(self) -> int:
        """Elements on one core, padding included."""
        return prod(self.tile.values())

    @property
    def notation(self) -> str:
        """The paper's way to write it, e.g. ``L_y E_x``; ``^x`` marks replication along x."""
        single = {axis for axis, cuts in (("y", self.y), ("x", self.x)) if len(cuts) == 1}
        marks = {dim: f"_{axis}" + ("" if axis in single else f":{parts}")
                 for axis, cuts in (("y", self.y), ("x", self.x)) for dim, parts in cuts if dim is not None}
        copied = [axis for axis, cuts in (("y", self.y), ("x", self.x)) if not cuts or None in dict(cuts)]
        return " ".join([dim + marks.get(dim, "") for dim in self.dims] + [f"^{axis}" for axis in copied])

    def part(self, dim: str) -> np.ndarray:
        """``(rows, cols)`` which part of a dimension each core holds (0 everywhere if it is not cut)."""
        held = np.zeros(self.mesh.shape, np.int64)
        for axis, cuts in enumerate((self.y, self.x)):
            index = np.arange(self.mesh.length(axis))
            for other, parts in reversed(cuts):
                if other == dim:
                    held += (index % parts).reshape((-1, 1) if axis == 0 else (1, -1))
                index = index // parts
        return held

    def block(self, y: int, x: int) -> dict[str, tuple[int, int]]:
        """The half-open range of every dimension on core (y, x), the padding at the end left out."""
        spans = {}
        for dim, length in self.tile.items():
            first = min(int(self.part(dim)[y, x]) * length, self.dims[dim])
            spans[dim] = (first, min(first + length, self.dims[dim]))
        return spans


@dataclass(frozen=True)
class Layout:
    """A model's dimensions on a mesh (all lengths in elements)."""

    config: Config
    mesh: Mesh

    @cached_property
    def strips(self) -> int:
        """Strips of columns; the heads of different strips never meet."""
        return gcd(self.mesh.cols, self.config.kv_heads)

    @cached_property
    def strip(self) -> Mesh:
        """The cores of one strip."""
        return Mesh(self.mesh.rows, self.mesh.cols // self.strips)

    @cached_property
    def strip_kv(self) -> int:
        """Key/value heads in one strip."""
        return self.config.kv_heads // self.strips

    @cached_property
    def strip_heads(self) -> int:
        """Query heads in one strip."""
        return self.config.heads // self.strips

    @cached_property
    def width(self) -> int:
        """Features of one head on one core, in whole pairs."""
        return 2 * ceil_div(self.config.head_dim, 2 * self.strip.cols)

    @cached_property
    def head(self) -> int:
        """Features of one head, padding included."""
        return self.width * self.strip.cols

    @cached_property
    def out_tile(self) -> int:
        """Features of the attention's output on one column, padded so that the lcm grid cuts them evenly."""
        blocks = self.mesh.lcm // self.mesh.cols
        return blocks * ceil_div(self.strip_heads * self.width, blocks)

    @cached_property
    def out(self) -> int:
        """Features of the attention's output, padding included."""
        return self.mesh.cols * self.out_tile

    @cached_property
    def ffn(self) -> int:
        """Features between up and down, padded to a multiple of both sides of the mesh."""
        return self.mesh.lcm * ceil_div(self.config.ffn, self.mesh.lcm)

    @cached_property
    def dim(self) -> int:
        """Features of the residual stream where the lcm grid cuts it."""
        return self.mesh.lcm * ceil_div(self.config.dim, self.mesh.lcm)

    @cached_property
    def qkv(self) -> tuple[int, int, int]:
        """Features of q, k and v on one core."""
        return self.strip_heads * self.width, self.strip_kv * self.width, self.strip_kv * self.width

    # ------------------------------------------------------------------------------------ the order of features
    def _order(self, heads: int) -> np.ndarray:
        """``(cols, heads / strips, width)`` feature that each place on a column holds; ``heads * head_dim``: none."""
        strip, j = np.divmod(np.arange(self.mesh.cols), self.strip.cols)
        per_strip = heads // self.strips
        head = strip[:, None, None] * per_strip + np.arange(per_strip)[:, None]
        feature = j[:, None, None] * self.width + np.arange(self.width)
        nowhere = heads * self.config.head_dim
        return np.where(feature < self.config.head_dim, head * self.config.head_dim + feature, nowhere)

    @cached_property
    def q_order(self) -> np.ndarray:
        """Flat order of the query features along x, ``heads * head_dim`` where there is padding."""
        return self._order(self.config.heads).reshape(self.mesh.cols, -1)

    @cached_property
    def kv_order(self) -> np.ndarray:
        """The same for keys and values."""
        return self._order(self.config.kv_heads).reshape(self.mesh.cols, -1)

    @cached_property
    def out_order(self) -> np.ndarray:
        """``(cols, out_tile)``: the query features once more, padded to the tile of the output projection."""
        nowhere = self.config.q_dim
        extra = self.out_tile - self.q_order.shape[1]
        return np.pad(self.q_order, ((0, 0), (0, extra)), constant_values=nowhere)

    def fuse_qkv(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Weights ``(features, dim)`` of q, k, v -> one ``(dim, cols * sum(qkv))``, column by column of cores."""
        parts = [_pick_rows(q, self.q_order), _pick_rows(k, self.kv_order), _pick_rows(v, self.kv_order)]
        return _across(np.concatenate(parts, axis=1))

    def fuse_ffn(self, up: np.ndarray, gate: np.ndarray) -> np.ndarray:
        """Weights ``(ffn, dim)`` of up and gate -> one ``(dim, 2 * ffn)``, column by column of cores."""
        order = np.minimum(np.arange(self.ffn), self.config.ffn).reshape(self.mesh.cols, -1)
        return _across(np.concatenate([_pick_rows(up, order), _pick_rows(gate, order)], axis=1))

    def arrange_out(self, out: np.ndarray) -> np.ndarray:
        """``W_O (dim, heads * head_dim)`` -> ``(out, dim)``, its rows in the order of the attention's output."""
        return np.ascontiguousarray(_pick_rows(out.T, self.out_order).reshape(self.out, -1))

    def arrange_down(self, down: np.ndarray) -> np.ndarray:
        """``W_down (dim, ffn)`` -> ``(ffn, dim)``, padded."""
        return np.ascontiguousarray(np.pad(down.T, ((0, self.ffn - self.config.ffn), (0, 0))))

    # ------------------------------------------------------------------------------- between columns and heads
    def split_qkv(self, fused: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(..., cols * sum(qkv))`` as it lies on the mesh -> q, k, v: ``(heads or kv_heads, ..., head)``."""
        q, k, _ = self.qkv
        columns = fused.reshape(*fused.shape[:-1], self.mesh.cols, sum(self.qkv))
        return (self.to_heads(columns[..., :q]), self.to_heads(columns[..., q : q + k]),
                self.to_heads(columns[..., q + k :]))

    def to_heads(self, columns: np.ndarray) -> np.ndarray:
        """``(..., cols, n * width)`` -> ``(strips * n, ..., strip_cols * width)``: one head's features together."""
        *lead, _, across = columns.shape
        n = across // self.width
        cut = columns.reshape(*lead, self.strips, self.strip.cols, n, self.width)
        k = len(lead)
        front = cut.transpose(k, k + 2, *range(k), k + 1, k + 3)  # strips, n, ..., strip_cols, width
        return front.reshape(self.strips * n, *lead, self.head)

    def from_heads(self, heads: np.ndarray) -> np.ndarray:
        """The inverse of `to_heads` for all query heads: ``(heads, ..., head)`` -> ``(..., out)``."""
        _, *lead, _ = heads.shape
        cut = heads.reshape(self.strips, self.strip_heads, *lead, self.strip.cols, self.width)
        k = 2 + len(lead)
        back = cut.transpose(*range(2, k), 0, k, 1, k + 1)  # ..., strips, strip_cols, n, width
        columns = back.reshape(*lead, self.mesh.cols, self.strip_heads * self.width)
        if self.out_tile > columns.shape[-1]:
            extra = self.out_tile - columns.shape[-1]
            columns = np.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, extra)])
        return columns.reshape(*lead, self.out)

    def split_ffn(self, fused: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(..., 2 * ffn)`` as it lies on the mesh -> up and gate, ``(..., ffn)`` each (views where possible)."""
        columns = fused.reshape(*fused.shape[:-1], self.mesh.cols, 2, -1)
        flat = (*fused.shape[:-1], self.ffn)
        return columns[..., 0, :].reshape(flat), columns[..., 1, :].reshape(flat)


def _pick_rows(matrix: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows ``order (cols, n)`` of a matrix -> ``(cols, n, width of the matrix)``; the row past the end is zero."""
    return np.concatenate([matrix, np.zeros((1, matrix.shape[1]), matrix.dtype)])[order]


def _across(columns: np.ndarray) -> np.ndarray:
    """``(cols, n, dim)`` -> ``(dim, cols * n)``, contiguous."""
    return np.ascontiguousarray(columns.reshape(-1, columns.shape[-1]).T)
