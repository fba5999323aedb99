"""Choosing the next token from logits."""

from __future__ import annotations

import numpy as np

from meshkernels.errors import MeshError


class Sampler:
    """Greedy, or a draw from the softmax at a temperature, cut to the nucleus that holds ``top_p``.

    Raises:
        MeshError: a negative temperature, or top_p outside (0, 1].

    Examples:
        >>> Sampler()(np.array([0.1, 2.0, 1.0], np.float32))
        1
    """

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None):
        if not temperature >= 0:
            raise MeshError(f"temperature = {temperature}: it must be 0 (greedy) or larger")
        if not 0 < top_p <= 1:
            raise MeshError(f"top_p = {top_p}: it must be above 0 and at most 1")
        self.temperature, self.top_p = temperature, top_p
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray) -> int:
        """Token id from logits ``(vocab,)``."""
        if self.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")
        p = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / self.temperature)
        p /= p.sum()
        if self.top_p < 1:
            p = p[: int(np.searchsorted(p.cumsum(), self.top_p)) + 1]
        return int(self._random.choice(order[: len(p)], p=p / p.sum()))
