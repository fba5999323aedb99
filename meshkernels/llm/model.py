"""A LLaMA on a mesh: prefill a prompt, decode token by token, generate; `Llama.batch` for several texts at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from meshkernels import files
from meshkernels.arguments import MeshLike, as_mesh
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.files.tokenizer import Tokenizer
from meshkernels.kernels import memory
from meshkernels.kernels.team import Team
from meshkernels.llm.block import Forward, Hook, Run, decode_plan, known_plan, prefill_plan
from meshkernels.llm.cache import KVCache, Text
from meshkernels.llm.layout import Layout
from meshkernels.llm.part import Part
from meshkernels.llm.ranks import Build, Share, agreed, fatal, same_ranks, same_seed
from meshkernels.llm.regions import Regions
from meshkernels.llm.sampling import Sampler
from meshkernels.llm.weights import Placing, Precision, Source, Weights, storages, whole
from meshkernels.mesh import Mesh

if TYPE_CHECKING:
    from meshkernels.llm.batch import Batch

_Result = TypeVar("_Result")
#: Bytes of a packed weight that the next prompt may find in its place.
_PACKED = 64 << 20


class Llama:
    """A model placed on a mesh of cores; one text at a time, or several in a `Batch`, by one thread at a time.

    `prefill`, `decode` and `reset` take effect as a whole or, whatever exception ends them, not at all: after Ctrl-C,
    or a hook that raises, the text is what it was and can be continued.

    Args:
        source: the weights.
        mesh: the cores of decode. Where it has a communicator, each rank holds the weights of its own cores and its
            part of the cache and of attention (`meshkernels.llm.part`), and all ranks make the same calls.
        prefill_mesh: the cores of prefill; the same where left out. Another grid holds a second copy of the
            blocks' weights in the host's memory.
        dtype: "float32", or "float16" as the wafer stores.
        accumulate: "float32" or "float16" (the wafer's).
        norms: dtype of the norms' sums of squares, if another: see `Precision`.
        cache: "shift" or "concat".
        cache_limit: bytes per core that the KV cache may take; None: no limit.
        threads: of decode; None: as many as Numba uses. While there are hooks, decode keeps to one. On ranks a product
            uses as many as Numba does.
        plan: "paper": the published operations; "fused": attention without chains, six all-reduces a block and token.
        wafer: name of a device whose regions of these grids share the blocks: see `meshkernels.llm.regions`. What its
            cores cannot hold is refused; bits are those of a run without it.
        regions: of the wafer that share the blocks; None: as many as lie on it, at most one a block.

    Attributes:
        config: the model's dimensions.
        tokenizer: of the model's file, where `load` opened it.
        layout, prefill_layout: its layout on either mesh.
        storages: the storage type of each tensor on the cores, by its name in the source.
        cache: the KV cache.
        hooks: called after each operation: ``hook(block, operation, values)``; block -1 outside the blocks.
    """

    def __init__(self, source: Source, mesh: MeshLike = 8, *, prefill_mesh: MeshLike | None = None,
                 dtype: str = "float32", accumulate: str = "float32", norms: str = "",
                 cache: str = "shift", cache_limit: int | None = None, threads: int | None = None,
                 plan: str = "paper", wafer: str | None = None, regions: int | None = None):
        self.config, self.plan, self.wafer, self.regions = source.config, known_plan(plan), wafer, regions
        self.tokenizer: Tokenizer | None = None
        self.precision = Precision(dtype, accumulate, norms)
        meshes = _mesh(mesh), _mesh(mesh if prefill_mesh is None else prefill_mesh)
        self._on = same_ranks(*meshes)
        self.layout, self.prefill_layout = (Layout(self.config, Mesh(*each.shape)) for each in meshes)
        self._part = Part.of(self.layout, self._on)
        self.storages = storages(source, dtype)
        self._cache_limit = cache_limit
        self.cache = self._cache(cache)
        self.hooks: list[Hook] = []
        self._users: dict[str, object] = {}
        self.team = Team(1 if self._on is not None else threads)  # ranks: products have threads of their own
        with agreed(self._on, "Llama", self.config, self.layout.mesh, self.prefill_layout.mesh, self.precision, cache,
                    cache_limit, plan):  # fmt: skip
            decode, prefill = (_placing(*each) for each in zip((self.layout, self.prefill_layout), meshes))
            weights = Weights(source, self.layout, self.precision, place=decode)
            same = self.prefill_layout == self.layout
            self._prefill_weights = weights if same else Weights(
                source, self.prefill_layout, self.precision, weights, prefill)
        self._decode = Forward(decode_plan(self.layout, 1, plan), weights, self.team, self._part)

    def _cache(self, policy: str, texts: int = 1) -> KVCache:
        """An empty cache for one of so many texts; on a wafer, within what the region with least room has left."""
        limit, entry = self._cache_limit, None
        if self.wafer is not None:
            plan = decode_plan(self.layout, 1, self.plan)
            found = Regions(self.wafer, plan, self.storages, texts, self.regions)
            found.check()
            region = found.tightest
            room, entry = found.memory - region.kept_bytes, region.entry_bytes
            limit = room if limit is None else min(room, limit)
        return KVCache(self.layout, policy, None if limit is None else limit // texts, self.precision.itemsize, entry,
                       self._part)

    def warm_up(self) -> float:
        """Compile, or load from the disk, every kernel that a text needs.

        One block of a prompt of two tokens and one of the next token, both thrown away; the text stays as it is.

        Returns:
            The seconds that it took.
        """
        def two_phases() -> tuple[None, Text]:
            with agreed(self._on, "warm_up"):
                plan = prefill_plan(self.prefill_layout, 2, plan=self.plan)
            Forward(plan, self._prefill_weights, part=self._part)(np.zeros(2, np.int64), blocks=1)
            scratch = KVCache(self.layout, self.cache.policy, itemsize=self.precision.itemsize, part=self._part)
            with self.team.awake():
                self._decode(np.zeros(1, np.int64), scratch.extended(), blocks=1)
            return None, self.cache.text

        begin = time.perf_counter()
        self._alone(two_phases, self.cache)
        return time.perf_counter() - begin

    def prefill(self, tokens: Sequence[int], *, every: bool = False) -> np.ndarray:
        """Start a new text with a prompt, and redistribute its keys and values for decode.

        Args:
            tokens: token ids, at least one.
            every: the logits of every position, not only of the last.

        Returns:
            Logits ``(vocab,)``, or ``(L, vocab)`` with ``every``.

        Raises:
            MeshError: an empty prompt, one longer than the model's context, an id outside the vocabulary, or
                another thread is at work on the model.
            MeshTypeError: ids that are not integers.
            CacheOverflow: the prompt's keys and values do not fit on a core.
            DeviceLimitError: the wafer cannot hold prefill of so many tokens.
        """
        def prompt() -> tuple[np.ndarray, Text]:
            run = self._prompted(tokens, every)
            logits = run.values["logits"]
            self._decode.forget()
            memory.forget(_PACKED)  # decoding packs nothing
            return logits if every else logits[0], self.cache.filled(run.kept, len(run.tokens))

        return self._alone(prompt, self.cache)

    def _prompted(self, tokens: Sequence[int], every: bool = False, texts: int = 1) -> Run:
        """Run prefill, for one of so many texts."""
        with agreed(self._on, "prefill", tokens, every):
            ids = self._checked(tokens)
            if len(ids) == 0:
                raise MeshError("the prompt is empty: there is nothing to continue")
            if len(ids) > self.config.context:
                raise MeshError(f"the prompt has {len(ids)} tokens, the model's context {self.config.context}")
            plan = prefill_plan(self.prefill_layout, len(ids), every, self.plan)
            if self.wafer is not None:
                Regions(self.wafer, plan, self.storages, texts, self.regions).check()
        with fatal(self._on):
            return Forward(plan, self._prefill_weights, part=self._part)(ids, hook=self._hook)

    def decode(self, token: int) -> np.ndarray:
        """Append one token to the text.

        Args:
            token: its id.

        Returns:
            Logits ``(vocab,)`` of what follows it.

        Raises:
            MeshError: an id outside the vocabulary, a text that is as long as the context already, or another
                thread is at work on the model.
            MeshTypeError: an id that is no integer.
            CacheOverflow: a core has no room for the token's key and value.
        """
        def one_token() -> tuple[np.ndarray, Text]:
            run, text = self._decoded(self._decode, token, self.cache)
            return run.values["logits"][0].copy(), text

        return self._alone(one_token, self.cache)

    def _decoded(self, forward: Forward, token: int, cache: KVCache) -> tuple[Run, Text]:
        """Run decode for the next token of a cache's text; its next text, not in place yet."""
        with agreed(self._on, "decode", token, len(cache)):
            ids = self._checked([token])
            if len(cache) >= self.config.context:
                raise MeshError(f"the text has {len(cache)} tokens, the model's context {self.config.context}")
            text = cache.extended()
        with fatal(self._on):
            cache.pass_on(text)
            if self.hooks:  # whose time no thread should wait through
                return forward(ids, text, self._hook), text
            with self.team.awake():
                return forward(ids, text), text

    def batch(self, texts: int) -> Batch:
        """Several texts of this model, each with a cache of its own, beside the one that it has itself.

        Args:
            texts: how many.

        Returns:
            The batch, without any text yet.

        Raises:
            MeshError: none, or more than this machine's memory has caches for.
            MeshTypeError: no whole number.
            DeviceLimitError: the wafer cannot hold so many.
        """
        from meshkernels.llm.batch import Batch

        return Batch(self, texts)

    def generate(self, tokens: str | Sequence[int], new: int = 40, *, seed: int | np.random.Generator | None = None,
                 stop: Iterable[int] | None = None, **sampling) -> Iterator[int]:  # fmt: skip
        """Continue a prompt, one token id at a time.

        Args:
            tokens: the prompt: its ids, or a text for the model's tokenizer.
            new: at most so many tokens.
            seed: of the draws; or a generator, whose numbers they go on with.
            stop: ids that end the text, those of the tokenizer where left out; the one that does is yielded too.
            **sampling: other options of `Sampler`: temperature (0 where left out: the likeliest token), top_p, top_k,
                min_p, repeat_penalty, repeat_last.

        Yields:
            The ids of the new tokens.

        Raises:
            MeshError: as `prefill` and `decode`; a text, but no tokenizer.
        """
        sampler = Sampler(seed=same_seed(self._on, seed), **sampling)
        for (token,) in self._continued([tokens], [sampler], new, stop, lambda prompts: [self.prefill(*prompts)],
                                        lambda chosen: [self.decode(*chosen)]):
            yield token

    def _continued(self, given: Sequence[str | Sequence[int]], samplers: Sequence[Sampler], new: int,
                   stop: Iterable[int] | None, prefill: Callable, decode: Callable) -> Iterator[list[Any]]:
        """Continue one text or several, a token of each at a time: the loop of all that generates.

        Args:
            given: the prompt of each text.
            samplers: of each text.
            new: at most so many tokens of each.
            stop: ids that end a text; None: those of the tokenizer.
            prefill: the prompts' ids -> logits ``(texts, vocab)``.
            decode: an id of each text, None of one that has ended -> logits ``(texts, vocab)``.

        Yields:
            The next id of each text; None of one that has ended.

        Raises:
            MeshError: a text, but no tokenizer.
        """
        tokenizer = self.tokenizer
        if tokenizer is None and any(isinstance(each, str) for each in given):
            raise MeshError("a prompt in text needs the model's tokenizer: open the file with load()")
        if stop is None:
            stop = tokenizer.stop if tokenizer else ()
        prompts: list[Any] = [tokenizer.encode(each) if tokenizer and isinstance(each, str) else each for each in given]
        ends, logits, going = frozenset(stop), prefill(prompts), [True] * len(prompts)
        texts = list(map(list, prompts))
        for count in range(new):
            tokens = [sampler(row, text) if on else None
                      for sampler, row, text, on in zip(samplers, logits, texts, going)]
            for text, token in zip(texts, tokens):
                if token is not None:
                    text.append(token)
            yield tokens
            going = [token is not None and token not in ends for token in tokens]
            if not any(going) or count == new - 1:
                return
            logits = decode([token if on else None for token, on in zip(tokens, going)])

    def reset(self) -> None:
        """Forget the text."""
        self._alone(lambda: (None, self.cache.cleared()), self.cache)

    def _alone(self, work: Callable[[], tuple[_Result, Any]], holder: Any) -> _Result:
        """Do ``work`` while nobody else does, then put the text that it returns in place of the old one.

        Python looks for signals at calls and jumps, and there are none from the assignment of the text to the return:
        an interrupt finds the old text, or a caller who has the result.

        Args:
            work: gives a result and the text, or texts, to put in place.
            holder: whose ``text`` that is.

        Returns:
            The result.

        Raises:
            MeshError: somebody else is at work on the model.
        """
        mine = {"at work": object()}
        try:
            if self._users.setdefault("at work", mine["at work"]) is not mine["at work"]:
                raise MeshError("this Llama is at work in another thread or hook: wait for it, or place another")
            result, text = work()
            holder.text, self._users = text, {}; return result  # noqa: E702  (one line: one event for a tracer)
        except BaseException:
            if self._users == mine:
                self._users = {}
            raise

    def _checked(self, tokens: Sequence[int]) -> np.ndarray:
        given = np.asarray(tokens)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise MeshTypeError(f"token ids must be a sequence of integers, not {given.dtype} {given.shape}")
        ids = given.astype(np.int64)
        wrong = ids[(ids < 0) | (ids >= self.config.vocab)]
        if len(wrong):
            raise MeshError(f"token id {wrong[0]} is outside the vocabulary of {self.config.vocab}")
        return ids

    def _hook(self, *event) -> None:
        for hook in self.hooks:
            hook(*event)


def load(path: str | Path | None = None, mesh: MeshLike = 8, **options) -> Llama:
    """A LLaMA from a GGUF file on a mesh; SmolLM2-135M-Instruct (fetched once) where no path is given.

    Args:
        path: the file.
        mesh: the cores of decode: a `Mesh`, the side of a square one, or a pair (rows, cols).
        **options: those of `Llama`.

    Returns:
        The model, with its tokenizer.

    Raises:
        WeightsError: what `Checkpoint` refuses.
    """
    checkpoint = files.load(path)
    model = Llama(checkpoint, mesh, **options)
    model.tokenizer = checkpoint.tokenizer
    return model


def _mesh(mesh: MeshLike) -> Mesh:
    return mesh if isinstance(mesh, Mesh) else as_mesh(mesh)


def _placing(layout: Layout, mesh: Mesh) -> Placing:
    """What becomes of weights: they stay in this process, or each rank keeps what its cores have in decode."""
    if (on := mesh.distribution) is None:
        return whole
    plan = decode_plan(layout, 1)
    products = {plan.matrices(op): op.schedules[-1] for op in (*plan.layer, *plan.after) if plan.matrices(op)}

    def share(names: tuple[str, ...], build: Build) -> Share:
        return Share(build, products[names].schedule, on)  # type: ignore[union-attr]

    return share
