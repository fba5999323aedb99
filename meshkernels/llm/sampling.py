"""Choosing the next token from logits."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from meshkernels.errors import MeshError, shown


class Sampler:
    """Greedy, or a draw from the softmax at a temperature, cut to the nucleus that holds ``top_p``.

    Raises:
        MeshError: a temperature below 0, top_p outside (0, 1], a seed that is no whole number from 0 up.

    Examples:
        >>> Sampler()(np.array([0.1, 2.0, 1.0], np.float32))
        1
    """

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None):
        if not _is_number(temperature) or not temperature >= 0:
            raise MeshError(f"temperature = {shown(temperature)}: it must be 0 (greedy) or larger")
        if not _is_number(top_p) or not 0 < top_p <= 1:
            raise MeshError(f"top_p = {shown(top_p)}: it must be above 0 and at most 1")
        self.temperature, self.top_p = float(temperature), float(top_p)
        try:
            self._random = np.random.default_rng(seed)
        except (TypeError, ValueError):
            raise MeshError(f"seed = {shown(seed)}: it must be a whole number, 0 or larger") from None

    def __call__(self, logits: np.ndarray) -> int:
        """Choose a token.

        Args:
            logits: ``(vocab,)``.

        Returns:
            Its id.

        Raises:
            MeshError: no logits, or some that are not finite: nothing is likelier than a NaN, or less likely.
        """
        logits = np.asarray(logits)
        if logits.ndim != 1 or not logits.size:
            raise MeshError(f"logits of shape {logits.shape}: a token is chosen from one for each of the vocabulary")
        if not np.isfinite(logits).all():
            nan = np.count_nonzero(np.isnan(logits))
            infinite = logits.size - nan - np.count_nonzero(np.isfinite(logits))
            raise MeshError(f"of {logits.size} logits {nan} are NaN and {infinite} infinite: no token can be chosen. "
                            "The weights hold such numbers, or the sums are too large for their dtype")
        if self.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")
        with np.errstate(over="ignore"):  # at a temperature of next to nothing: the likeliest alone is left
            p = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / self.temperature)
        p /= p.sum()
        if self.top_p < 1:
            p = p[: int(np.searchsorted(p.cumsum(), self.top_p)) + 1]
        return int(self._random.choice(order[: len(p)], p=p / p.sum()))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
