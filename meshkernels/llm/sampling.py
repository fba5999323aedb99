"""Choosing the next token from logits."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

from meshkernels.errors import MeshError, shown


class Sampler:
    """Greedy, or a draw from the softmax at a temperature, cut to the likeliest tokens.

    What llama.cpp's options of these names do, in its order: repeat_penalty, top_k, top_p, min_p, and the temperature
    of what they left. Its random numbers are others.

    Args:
        temperature: 0 takes the most likely token; larger values draw from a flatter distribution.
        top_p: draw from the fewest tokens whose probabilities reach this sum.
        seed: of the draws; or a generator, whose numbers they go on with.
        top_k: draw from so many of the likeliest; 0: from all.
        min_p: leave out what is less likely than this share of the likeliest.
        repeat_penalty: logits of tokens in the text are divided by it, or multiplied where they are negative.
        repeat_last: of so many tokens at the end of the text; -1: of all.

    Raises:
        MeshError: a temperature below 0, top_p outside (0, 1], min_p outside [0, 1], a penalty outside
            [1e-6, 1e6], or a seed or count that is no whole number from 0 up (of repeat_last, from -1).

    Examples:
        >>> Sampler()(np.array([0.1, 2.0, 1.0], np.float32))
        1
    """

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int | np.random.Generator | None = None, *,
                 top_k: int = 0, min_p: float = 0.0, repeat_penalty: float = 1.0, repeat_last: int = 64):  # fmt: skip
        for name, value, fits, wanted in (
                ("temperature", temperature, lambda t: t >= 0, "0 (greedy) or larger"),
                ("top_p", top_p, lambda p: 0 < p <= 1, "above 0 and at most 1"),
                ("min_p", min_p, lambda p: 0 <= p <= 1, "from 0 to 1"),
                ("repeat_penalty", repeat_penalty, lambda x: 1e-6 <= x <= 1e6, "from 1e-6 to 1e6 (1: no penalty)")):
            if not isinstance(value, Real) or isinstance(value, bool) or not fits(value):
                raise MeshError(f"{name} = {shown(value)}: it must be {wanted}")
        for name, count, least in (("top_k", top_k, 0), ("repeat_last", repeat_last, -1)):
            if not isinstance(count, Integral) or isinstance(count, bool) or count < least:
                raise MeshError(f"{name} = {shown(count)}: it must be a whole number, {least} or larger")
        self.temperature, self.top_p = float(temperature), float(top_p)
        self.top_k, self.min_p = int(top_k), float(min_p)
        self.repeat_penalty, self.repeat_last = float(repeat_penalty), int(repeat_last)
        try:
            self._random = np.random.default_rng(seed)
        except (TypeError, ValueError):
            raise MeshError(f"seed = {shown(seed)}: it must be a whole number, 0 or larger") from None

    def __call__(self, logits: np.ndarray, text: Sequence[int] = ()) -> int:
        """Choose a token.

        Args:
            logits: ``(vocab,)``.
            text: ids of the tokens before it, for ``repeat_penalty``.

        Returns:
            Its id.

        Raises:
            MeshError: no logits, or some that are not finite: nothing is likelier than a NaN, or less likely; with a
                penalty, a token of the text that has no logit.
        """
        logits = np.asarray(logits)
        if logits.ndim != 1 or not logits.size:
            raise MeshError(f"logits of shape {logits.shape}: a token is chosen from one for each of the vocabulary")
        if not np.isfinite(logits).all():
            nan = np.count_nonzero(np.isnan(logits))
            infinite = logits.size - nan - np.count_nonzero(np.isfinite(logits))
            raise MeshError(f"of {logits.size} logits {nan} are NaN and {infinite} infinite: no token can be chosen. "
                            "The weights hold such numbers, or the sums are too large for their dtype")
        ids, p = self.distribution(logits, text)
        return int(ids[0] if self.temperature == 0 else self._random.choice(ids, p=p))

    def distribution(self, logits: np.ndarray, text: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """What a token is drawn from; at a temperature of 0, the likeliest alone.

        Args:
            logits: ``(vocab,)``, finite.
            text: ids of the tokens before it, for ``repeat_penalty``.

        Returns:
            Ids ``(n,)``, the likeliest first, and their probabilities ``(n,)``.

        Raises:
            MeshError: with a penalty, a token of the text that has no logit.
        """
        logits = self._penalised(np.asarray(logits), text)
        if self.temperature == 0:
            return np.array([logits.argmax()]), np.ones(1)
        ids = np.argsort(-logits, kind="stable")[: self.top_k or None]
        ranked = logits[ids].astype(np.float64)
        p = _softmax(ranked)
        n = int(np.searchsorted(p.cumsum(), self.top_p)) + 1 if self.top_p < 1 else len(p)
        n = int(np.count_nonzero(p[:n] >= self.min_p * p[0]))  # they descend
        return ids[:n], _softmax(ranked[:n], self.temperature)

    def _penalised(self, logits: np.ndarray, text: Sequence[int]) -> np.ndarray:
        last = text if self.repeat_last < 0 else text[max(len(text) - self.repeat_last, 0) :]
        if self.repeat_penalty == 1 or not len(last):
            return logits
        logits, seen = logits.astype(np.float64), np.unique(np.asarray(last, np.int64))
        if len(wrong := seen[(seen < 0) | (seen >= len(logits))]):
            raise MeshError(f"the text has token {wrong[0]}, there are {len(logits)} logits")
        found = logits[seen]
        logits[seen] = np.where(found > 0, found / self.repeat_penalty, found * self.repeat_penalty)
        return logits


def _softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Of descending logits."""
    with np.errstate(over="ignore"):  # at a temperature of next to nothing: the likeliest alone is left
        p = np.exp((logits - logits[0]) / temperature)
    return p / p.sum()
