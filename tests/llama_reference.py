"""A straightforward LLaMA forward pass in NumPy: the oracle of the fast tests and the fair peer of the benchmark.

No mesh, no tiles, no padding: whole matrices in the checkpoint's own orientation, ``y = W x``.
"""

from __future__ import annotations

import numpy as np

from meshkernels.files.checkpoint import Config


class Synthetic:
    """A tiny seeded model that looks like a checkpoint; logits of order one, so that errors mean something."""

    def __init__(self, config: Config, seed: int = 0, tied: bool = True, rope_freqs: np.ndarray | None = None):
        self.config = config
        random = np.random.default_rng(seed)
        c = config
        shapes = {"token_embd.weight": (c.vocab, c.dim), "output_norm.weight": (c.dim,)}
        if not tied:
            shapes["output.weight"] = (c.vocab, c.dim)
        for b in range(c.blocks):
            shapes |= {f"blk.{b}.{name}.weight": shape for name, shape in {
                "attn_norm": (c.dim,), "attn_q": (c.q_dim, c.dim), "attn_k": (c.kv_dim, c.dim),
                "attn_v": (c.kv_dim, c.dim), "attn_output": (c.dim, c.q_dim), "ffn_norm": (c.dim,),
                "ffn_up": (c.ffn, c.dim), "ffn_gate": (c.ffn, c.dim), "ffn_down": (c.dim, c.ffn)}.items()}
        self._tensors = {}
        for name, shape in shapes.items():
            draw = random.standard_normal(shape)
            self._tensors[name] = (1 + 0.1 * draw if len(shape) == 1 else draw / np.sqrt(shape[-1])).astype(np.float32)
        if config.architecture == "qwen2":
            for b in range(c.blocks):
                for name, length in (("q", c.q_dim), ("k", c.kv_dim), ("v", c.kv_dim)):
                    self._tensors[f"blk.{b}.attn_{name}.bias"] = random.standard_normal(length).astype(np.float32)
        if rope_freqs is not None:
            self._tensors["rope_freqs.weight"] = rope_freqs.astype(np.float32)

    @property
    def names(self) -> list[str]:
        return list(self._tensors)

    def tensor(self, name: str) -> np.ndarray:
        return self._tensors[name]


def tiny(heads: int = 4, kv_heads: int = 2, head_dim: int = 6, *, dim: int = 22, ffn: int = 37, blocks: int = 2,
         vocab: int = 53, context: int = 64, architecture: str = "llama") -> Config:
    """Dimensions that divide nothing."""
    return Config(blocks=blocks, dim=dim, ffn=ffn, heads=heads, kv_heads=kv_heads, head_dim=head_dim, vocab=vocab,
                  context=context, norm_eps=float(np.float32(1e-5)), architecture=architecture)  # as a file stores it


class NumpyLlama:
    """All weights as arrays of one dtype; keys and values of the text so far.

    Args:
        source: anything with ``config``, ``names`` and ``tensor(name)``.
        dtype: of weights and arithmetic: float64 for an oracle, float32 for a peer.
        fused: stack q, k, v and up, gate, as a sensible implementation does.
    """

    def __init__(self, source, dtype=np.float64):
        self.config = c = source.config

        def get(name: str) -> np.ndarray:
            return np.asarray(source.tensor(name), dtype)

        self.embedding = get("token_embd.weight")
        self.head = get("output.weight") if "output.weight" in source.names else self.embedding
        self.norm_out = get("output_norm.weight")
        self.blocks = [{name: get(f"blk.{b}.{name}.weight") for name in ("attn_norm", "attn_output", "ffn_norm",
                                                                          "ffn_down")}
                       | {"qkv": np.concatenate([get(f"blk.{b}.attn_{n}.weight") for n in "qkv"]),
                          "upgate": np.concatenate([get(f"blk.{b}.ffn_{n}.weight") for n in ("up", "gate")])}
                       for b in range(c.blocks)]
        self.bias = np.zeros((c.blocks, 1))
        if c.architecture == "qwen2":
            self.bias = np.array([np.concatenate([get(f"blk.{b}.attn_{n}.bias") for n in "qkv"])
                                  for b in range(c.blocks)])
        self.angle = c.rope_base ** (-np.arange(0, c.head_dim, 2) / c.head_dim) / c.rope_scale
        if "rope_freqs.weight" in source.names:
            self.angle = self.angle / get("rope_freqs.weight")
        self.reset()

    def reset(self) -> None:
        """Forget the text."""
        c = self.config
        shape = (c.blocks, c.kv_heads, c.context, c.head_dim)
        self.keys, self.values = np.zeros(shape, self.embedding.dtype), np.zeros(shape, self.embedding.dtype)
        self.length = 0

    def forward(self, tokens, every: bool = False) -> np.ndarray:
        """Logits ``(L, vocab)`` of new tokens, or ``(vocab,)`` of the last."""
        c, begin, end = self.config, self.length, self.length + len(tokens)
        x = self.embedding[np.asarray(tokens)]
        turn = np.arange(begin, end)[:, None] * self.angle
        cos, sin = (f(turn).astype(x.dtype)[:, None] for f in (np.cos, np.sin))
        future = np.arange(end) > np.arange(begin, end)[:, None]
        for b, w in enumerate(self.blocks):
            qkv = self._norm(x, w["attn_norm"]) @ w["qkv"].T + self.bias[b].astype(x.dtype)
            q, k, v = np.split(qkv, [c.q_dim, c.q_dim + c.kv_dim], axis=1)
            q = self._rope(q.reshape(-1, c.heads, c.head_dim), cos, sin)
            self.keys[b, :, begin:end] = self._rope(k.reshape(-1, c.kv_heads, c.head_dim), cos, sin).swapaxes(0, 1)
            self.values[b, :, begin:end] = v.reshape(-1, c.kv_heads, c.head_dim).swapaxes(0, 1)
            q = q.reshape(len(tokens), c.kv_heads, c.group, c.head_dim).transpose(1, 2, 0, 3)
            score = q @ self.keys[b, :, None, :end].swapaxes(-1, -2) / np.sqrt(x.dtype.type(c.head_dim))
            if len(tokens) > 1:
                score = np.where(future, -np.inf, score)
            p = np.exp(score - score.max(-1, keepdims=True))
            o = (p / p.sum(-1, keepdims=True)) @ self.values[b, :, None, :end]
            x = x + o.transpose(2, 0, 1, 3).reshape(len(tokens), -1) @ w["attn_output"].T
            up, gate = np.split(self._norm(x, w["ffn_norm"]) @ w["upgate"].T, 2, axis=1)
            x = x + (up * gate / (1 + np.exp(-gate))) @ w["ffn_down"].T
        self.length = end
        x = self._norm(x if every else x[-1:], self.norm_out)
        logits = x @ self.head.T
        return logits if every else logits[0]

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(self.config.norm_eps)) * weight

    def _rope(self, heads: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        if self.config.architecture == "qwen2":  # pairs are halves of a head, not neighbours
            a, b = np.split(heads, 2, axis=-1)
            return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
        even, odd = heads[..., ::2], heads[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(heads.shape)
