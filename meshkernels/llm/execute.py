"""Run the operations of a plan, block by block.

An `Operation` names its kind, its inputs and its outputs; a method of the same name does it. Activations are
``(L, features)`` (L = 1 in decode), or ``(heads, L, head)`` between QKV and the output projection. They are kept
in float32; with float16 storage every operation's result is rounded to float16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.kernels import attention as kernels
from meshkernels.llm import prepared
from meshkernels.llm.cache import KVCache, Text
from meshkernels.llm.placed import Placed
from meshkernels.llm.plan import Operation, Plan

#: Called after each operation with the block (-1: before or after the blocks), the operation, and all values.
Hook = Callable[[int, Operation, dict[str, Any]], object]


def _shaped(name: str, array: np.ndarray, *shape: int) -> np.ndarray:
    """``array``, if it is as compiled code expects it, which checks no index; a hook may have put another there."""
    if array.shape != shape or array.dtype != np.float32:
        raise MeshError(f"{name} is {array.dtype} {array.shape}; it must be float32 {shape}")
    return array


class Phase(ABC):
    """What prefill and decode have in common."""

    def __init__(self, plan: Plan, placed: Placed, table: Any, axis: int):
        self.plan, self.placed, self.layout = plan, placed, plan.layout
        self.head_weight, self.axis = table, axis
        self.config, self.precision = plan.layout.config, placed.precision
        self.half = placed.precision.half
        self.norm_sum = prepared.AllReduce(self.layout.mesh, axis, self.precision.half_norms)
        stream = plan.placements["X"]
        self.norm_cut = stream.tile["E"], stream.parts("E")
        self.tokens = np.zeros(0, np.int64)
        self.position = 0
        self._run = {part: [(op, getattr(self, op.kind)) for op in getattr(plan, part)]
                     for part in ("before", "layer", "after")}

    def run(self, hook: Hook | None = None, blocks: int | None = None) -> dict[str, Any]:
        """All operations, in order, through the first ``blocks`` blocks (None: all); the last values by name."""
        values: dict[str, Any] = {}
        with np.errstate(all="ignore"):  # huge weights overflow as on the wafer; the sampler refuses what is not finite
            self._part("before", -1, values, hook)
            self.turns = self.placed.rope(self.position, len(self.tokens))
            for block in range(self.config.blocks if blocks is None else blocks):
                self._part("layer", block, values, hook)
            self._part("after", -1, values, hook)
        return values

    def _part(self, part: str, block: int, values: dict[str, Any], hook: Hook | None) -> None:
        for op, do in self._run[part]:
            results = do(op, block, *[values.get(name) for name in op.reads])
            values.update(zip(op.writes, results))
            if hook is not None:
                hook(block, op, values)

    def _gain(self, block: int, op: Operation) -> np.ndarray:
        return self.placed.gain(block, op.reads[1])

    # ------------------------------------------------------------------------- operations, named by their kind
    def embed(self, op: Operation, block: int, *_: Any) -> tuple[np.ndarray]:
        """Rows of the table: adding zeros to them, as the all-reduce does, changes nothing."""
        return (self.placed.embedding(self.tokens),)

    def norm(self, op: Operation, block: int, X: np.ndarray, _: Any) -> tuple[np.ndarray]:
        """``X w / sqrt(mean(X^2) + eps)``."""
        X = _shaped("X", X, len(self.tokens), self.config.dim)
        total = self.norm_sum(kernels.square_sums(X, *self.norm_cut, self.precision.half_norms))
        inverse = 1 / np.sqrt(total / self.config.dim + np.float32(self.config.norm_eps))
        return (self.precision.store(X * inverse[:, None] * self._gain(block, op)),)

    def qkv(self, op: Operation, block: int, N: np.ndarray, *_: Any) -> tuple[np.ndarray, ...]:
        """One fused product, split by heads."""
        return self.layout.split_qkv(self.precision.store(self.product("qkv", block, N)))

    def rope(self, op: Operation, block: int, Q: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, ...]:
        """Turn the pairs ``(2i, 2i+1)`` of every head by the angles of their positions."""
        return self._turn(Q), self._turn(K)

    def _turn(self, heads: np.ndarray) -> np.ndarray:
        cos, sin = self.turns
        even, odd = heads[..., 0::2], heads[..., 1::2]
        turned = np.empty_like(heads)
        turned[..., 0::2] = even * cos - odd * sin
        turned[..., 1::2] = even * sin + odd * cos
        return self.precision.store(turned)

    def gemv(self, op: Operation, block: int, X: np.ndarray, *_: Any) -> tuple[np.ndarray]:
        """The products that end a branch: ``W_O`` of the attention's output, ``W_down``."""
        if op.reads[1] == "Wo":
            X = self.layout.from_heads(X)
            return (self.precision.store(self.product("out", block, X)),)
        return (self.precision.store(self.product("down", block, X)),)

    gemm = gemv

    def add(self, op: Operation, block: int, X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray]:
        """The residual."""
        return (self.precision.store(X + Y),)

    def upgate(self, op: Operation, block: int, M: np.ndarray, *_: Any) -> tuple[np.ndarray, ...]:
        """One fused product, split into up and gate."""
        return self.layout.split_ffn(self.precision.store(self.product("upgate", block, M)))

    def silu(self, op: Operation, block: int, U: np.ndarray, G: np.ndarray) -> tuple[np.ndarray]:
        """``up * gate * sigmoid(gate)``."""
        with np.errstate(over="ignore"):  # exp(-gate) = inf: the sigmoid is 0, as it should be
            return (self.precision.store(U * (G / (1 + np.exp(-G)))),)

    def head(self, op: Operation, block: int, N: np.ndarray, *_: Any) -> tuple[np.ndarray]:
        """Logits ``(1, vocab)``."""
        return (self.precision.store(self.head_weight(N)),)

    def argmax(self, op: Operation, block: int, logits: np.ndarray) -> tuple[int]:
        """The largest logit's place, the lowest of equals."""
        return (int(logits[0].argmax()),)

    @abstractmethod
    def product(self, name: str, block: int, X: np.ndarray) -> np.ndarray:
        """``X W`` by this phase's distributed product."""


class Prefill(Phase):
    """A whole prompt: MeshGEMM and dist-GEMM-T."""

    def __init__(self, plan: Plan, placed: Placed, table: Any):
        super().__init__(plan, placed, table, axis=1)
        self.keys: list[np.ndarray] = []
        self.kept: list[np.ndarray] = []
        self.row_sum = prepared.tree(self.layout.strip, 1)
        self.scale = np.float32(self.config.head_dim ** -0.5)

    def start(self, tokens: np.ndarray) -> None:
        """Take a prompt."""
        self.tokens, self.keys, self.kept = tokens, [], []

    def product(self, name: str, block: int, X: np.ndarray) -> np.ndarray:
        return self.placed.gemm(name, block)(X)

    def keep(self, op: Operation, block: int, K: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, ...]:
        """Keys and values stay where they are until decode takes them over."""
        self.keys.append(K)
        self.kept.append(V)
        return K, V

    def score(self, op: Operation, block: int, Q: np.ndarray, K: np.ndarray) -> tuple[np.ndarray]:
        """``Q K^T`` for every query head with its group's keys; the order of a sum is that of its key's column."""
        heads, L, head = Q.shape
        groups = Q.reshape(len(K), -1, head)
        S = [prepared.gemm_t(q, k, self.layout.strip, self.precision.accumulate) for q, k in zip(groups, K)]
        return (self.precision.store(np.array(S).reshape(heads, L, L)),)

    def softmax(self, op: Operation, block: int, S: np.ndarray) -> tuple[np.ndarray]:
        """Causal softmax of the rows, scaled by ``1 / sqrt(head_dim)``."""
        _shaped("S", S, self.config.heads, len(self.tokens), len(self.tokens))
        kernels.mask_scores(S, self.scale, self.half)
        np.exp(S, out=S)
        S = self.precision.store(S)
        kernels.normalise_rows(S, self.plan.placements["S"].tile["S"], *self.row_sum, self.half)
        return (self.precision.store(S),)

    def mix(self, op: Operation, block: int, P: np.ndarray, V: np.ndarray) -> tuple[np.ndarray]:
        """``P V`` for every query head with its group's values."""
        group, accumulate = self.config.group, self.precision.accumulate
        O = np.empty((len(P), P.shape[1], V.shape[2]), np.float32)
        for h in range(len(P)):
            O[h] = prepared.gemm(P[h], V[h // group], self.layout.strip, accumulate)
        return (self.precision.store(O),)

    def last(self, op: Operation, block: int, N: np.ndarray) -> tuple[np.ndarray]:
        """The last token's row."""
        return (N[-1:],)


class Decode(Phase):
    """One token against the cache, which stays as it is until it is given the text that `finish` returns: MeshGEMV
    with alternating axes."""

    text: Text

    def __init__(self, plan: Plan, placed: Placed, table: Any, cache: KVCache):
        super().__init__(plan, placed, table, axis=0)
        self.cache, self.place = cache, 0
        self.along_x = prepared.tree(self.layout.strip, 1)
        self.along_y = prepared.tree(self.layout.mesh, 0)
        self.scale = np.float32(self.config.head_dim ** -0.5)

    def start(self, token: int) -> None:
        """Take a token: the cache has room (or refuses), and stays as it is."""
        self.text = self.cache.extended()
        self.position = self.place = len(self.text) - 1
        self.tokens = np.array([token])
        self.ends = self.text.ends

    def finish(self) -> Text:
        """The text with the token; nothing of it is kept here."""
        text = self.text
        del self.text
        return text

    def product(self, name: str, block: int, X: np.ndarray) -> np.ndarray:
        return self.placed.gemv(name, block)(X)

    def append(self, op: Operation, block: int, K: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, ...]:
        """The new entry joins the text."""
        self.text.store(block, self.place, K[:, 0], V[:, 0])
        return self.text.keys[block], self.text.values[block]

    def score(self, op: Operation, block: int, Q: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray]:
        """Scaled scores of all entries ``(heads, tokens)``, summed along x inside each strip."""
        tokens, c, head = self.place + 1, self.config, self.layout.head
        _shaped("Q", Q, c.heads, 1, head)
        _shaped("K cache", keys, c.kv_heads, head, self.text.room)
        S = np.empty((c.heads, tokens), np.float32)
        kernels.scores(Q[:, 0], keys, tokens, self.layout.width, *self.along_x, self.scale, self.half, S)
        return (self.precision.store(S),)

    def softmax(self, op: Operation, block: int, S: np.ndarray) -> tuple[np.ndarray]:
        """Exponentials over the maximum (exact in any order); their sum divides in `mix`."""
        S -= S.max(axis=1, keepdims=True)
        np.exp(S, out=S)
        return (self.precision.store(S),)

    def mix(self, op: Operation, block: int, P: np.ndarray, values: np.ndarray) -> tuple[np.ndarray]:
        """The weighted sum of the values, along y."""
        c, head = self.config, self.layout.head
        _shaped("S", P, c.heads, self.place + 1)
        _shaped("V cache", values, c.kv_heads, self.text.room, head)
        O = np.empty((c.heads, 1, head), np.float32)
        kernels.mix(P, values, self.ends, *self.along_y, self.half, O[:, 0])
        return (self.precision.store(O),)
