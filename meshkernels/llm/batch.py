"""Several texts of one model, decoded in lockstep: they share its weights, and each has a KV cache of its own.

Every text is computed by itself, in the order of additions that it has alone: its logits are, bit for bit, those of a
run without the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from meshkernels.arguments import as_count
from meshkernels.errors import MeshError, MeshTypeError, shown
from meshkernels.kernels import memory
from meshkernels.llm.block import Forward
from meshkernels.llm.cache import Text, fit_caches
from meshkernels.llm.model import _PACKED, Llama
from meshkernels.llm.ranks import agreed, same_seed
from meshkernels.llm.sampling import Sampler


class Batch:
    """Texts of a `Llama`, which it makes by `Llama.batch`; they are prefilled and decoded together.

    `prefill`, `decode` and `reset` take effect on all texts or, whatever exception ends them, on none.

    Args:
        model: whose texts they are; its own text stays as it is.
        texts: how many.

    Attributes:
        text: what the caches hold: a tuple that is replaced as a whole.

    Raises:
        MeshError: no text, or more than this machine's memory has caches for.
        MeshTypeError: no whole number.
        DeviceLimitError: the model's wafer cannot hold so many.
    """

    def __init__(self, model: Llama, texts: int):
        self.model = model
        with agreed(model._on, "batch", texts):
            if (texts := as_count("texts", texts)) < 1:
                raise MeshError(f"texts = {texts}: a batch has at least one")
            fit_caches(model.layout, texts, 1)
            self._caches = [model._cache(model.cache.policy, texts) for _ in range(texts)]
        self._forwards = [Forward(model._decode.plan, model._decode.weights, model.team, model.cache.part)
                          for _ in range(texts)]
        self.text: tuple[Text, ...] = tuple(cache.text for cache in self._caches)

    def __len__(self) -> int:
        return len(self._caches)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each text."""
        return tuple(map(len, self.text))

    def prefill(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Start every text with a prompt. Equal prompts are computed once.

        Args:
            prompts: token ids of each.

        Returns:
            Logits ``(texts, vocab)`` of what follows the prompts.

        Raises:
            MeshError: as `Llama.prefill`, another number of prompts than of texts, or more keys and values than this
                machine's memory holds.
            MeshTypeError: ids that are not integers, or one text for all.
            CacheOverflow: the keys and values of a prompt do not fit on a core.
            DeviceLimitError: the wafer cannot hold prefill of so many tokens.
        """
        def work() -> tuple[np.ndarray, tuple[Text, ...]]:
            with agreed(self.model._on, "batch.prefill", prompts):
                self._counted("prompts", prompts)
                keys = [self.model._checked(prompt).tobytes() for prompt in prompts]
                fit_caches(self.model.layout, len(self), max(map(len, prompts)))
            found: dict[bytes, tuple[np.ndarray, list]] = {}
            logits, texts = [], []
            for key, prompt, cache in zip(keys, prompts, self._now()):
                if key not in found:
                    run = self.model._prompted(prompt, texts=len(self))
                    found[key] = run.values["logits"][0].copy(), run.kept
                logits.append(found[key][0])
                texts.append(cache.filled(found[key][1], len(prompt)))
            memory.forget(_PACKED)  # decoding packs nothing
            return np.array(logits), tuple(texts)

        return self.model._alone(work, self)

    def decode(self, tokens: Sequence[int | None]) -> np.ndarray:
        """Append a token to every text.

        Args:
            tokens: the id for each text; None leaves it as it is.

        Returns:
            Logits ``(texts, vocab)`` of what follows; NaN of a text that was left as it is.

        Raises:
            MeshError: as `Llama.decode`, or another number of tokens than of texts.
            MeshTypeError: an id that is no integer.
            CacheOverflow: a core has no room for a token's key and value.
        """
        def work() -> tuple[np.ndarray, tuple[Text, ...]]:
            with agreed(self.model._on, "batch.decode", tokens):
                self._counted("tokens", tokens)
            logits = np.full((len(self), self.model.config.vocab), np.nan, np.float32)
            texts = list(self.text)
            for i, (token, cache, forward) in enumerate(zip(tokens, self._now(), self._forwards)):
                if token is not None:
                    run, texts[i] = self.model._decoded(forward, token, cache)
                    logits[i] = run.values["logits"][0]
            return logits, tuple(texts)

        return self.model._alone(work, self)

    def generate(self, prompts: Sequence[str | Sequence[int]], new: int = 40, *, seed: int | None = None,
                 stop: Iterable[int] | None = None, **sampling) -> Iterator[list[int | None]]:  # fmt: skip
        """Continue prompts together, a token of each at a time.

        Args:
            prompts: of each text, its ids or a text for the model's tokenizer.
            new: at most so many tokens of each.
            seed: of the first text's draws; each other has the next number.
            stop: ids that end a text, as of `Llama.generate`.
            **sampling: see there.

        Yields:
            The next id of each text; None of one that has ended.

        Raises:
            MeshError: as `Llama.generate`, or another number of prompts than of texts.
            MeshTypeError: prompts that are one text for all, or a seed that is no whole number.
        """
        self._counted("prompts", prompts)
        seeds = [None if seed is None else as_count("seed", seed) + i for i in range(len(self))]
        samplers = [Sampler(seed=same_seed(self.model._on, each), **sampling) for each in seeds]
        yield from self.model._continued(prompts, samplers, new, stop, self.prefill, self.decode)

    def reset(self) -> None:
        """Forget all texts."""
        self.model._alone(lambda: (None, tuple(cache.cleared() for cache in self._now())), self)

    def _now(self) -> list:
        """The caches, holding what is in place."""
        for cache, text in zip(self._caches, self.text):
            cache.text = text
        return self._caches

    def _counted(self, what: str, given: Sequence) -> None:
        if isinstance(given, str) or not hasattr(given, "__len__"):
            raise MeshTypeError(f"{what} must be a sequence, one for each of {len(self)} texts, not {shown(given)}")
        if len(given) != len(self):
            raise MeshError(f"{len(given)} {what} for a batch of {len(self)} texts")
