"""Texts as they come: streamed token by token, with what they took and what they made the mesh do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

from meshkernels.files.tokenizer import Tokenizer
from meshkernels.llm.model import Llama
from meshkernels.llm.operations import Operation
from meshkernels.llm.sampling import Sampler
from meshkernels.llm.summary import prediction_lines, region_table, text_table


@dataclass
class Record:
    """What a text has so far; printed even when it is interrupted.

    Attributes:
        shown: the part of its new text whose bytes were whole characters when it was last looked at.
    """

    prompt_ids: list[int]
    new_ids: list[int] = field(default_factory=list)
    ended_by: str = "length"
    shown: str = ""

    def piece(self, tokenizer: Tokenizer) -> str:
        """The text that the last token completes: none while the bytes of a character are not all there."""
        text = tokenizer.decode(self.new_ids, skip_special=True)
        if text.endswith("\ufffd"):
            return ""
        before, self.shown = self.shown, text
        return text[len(before):]


@dataclass
class Generation:
    """All texts of a generation, and what it took."""

    texts: list[Record]
    compile_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    stored_bytes: int = 0
    resident_bytes: int | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Decoded tokens per second, of all texts together."""
        return self.decoded / self.decode_seconds if self.decoded and self.decode_seconds > 0 else None

    @property
    def decoded(self) -> int:
        """Tokens that decode was asked for: the first new one of each text is prefill's."""
        return sum(max(len(text.new_ids) - 1, 0) for text in self.texts)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return any(text.ended_by == "interrupt" for text in self.texts)


def generate(model: Llama, tokenizer: Tokenizer, sampler: Sampler, made: Generation, new: int,
             stream: TextIO | None, json_lines: bool = False) -> None:
    """Fill the record of one text token by token, and print it as soon as its bytes are whole characters.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        sampler: chooses.
        made: with the prompt; filled.
        new: at most so many tokens.
        stream: where text goes; None: nowhere.
        json_lines: a line for each token instead, with its id and the text that it completes.

    Raises:
        KeyboardInterrupt: before the first token; later it ends the text.
    """
    (record,) = made.texts
    try:
        begin = time.perf_counter()
        with progress(model) if stream and not json_lines else nullcontext():
            logits = model.prefill(record.prompt_ids)
        made.prefill_seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        while True:
            record.new_ids.append(sampler(logits, record.prompt_ids + record.new_ids))
            piece = record.piece(tokenizer)
            if stream and json_lines:
                print(json.dumps({"id": record.new_ids[-1], "text": piece}), file=stream, flush=True)
            elif stream:
                print(piece, end="", file=stream, flush=True)
            if record.new_ids[-1] in tokenizer.stop:
                record.ended_by = "end of text"
                break
            if len(record.new_ids) == new:
                break
            logits = model.decode(record.new_ids[-1])
            made.decode_seconds = time.perf_counter() - begin
    except KeyboardInterrupt:
        if not record.new_ids:
            raise
        record.ended_by = "interrupt"


def together(model: Llama, tokenizer: Tokenizer, made: Generation, new: int, stream: TextIO | None, **sampling) -> None:
    """Fill the records of several texts, a token of each at a time.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        made: with the prompts; filled.
        new: at most so many tokens of each.
        stream: where a line of JSON goes for each token, with the number of its text; None: nowhere.
        **sampling: as of `Batch.generate`.

    Raises:
        KeyboardInterrupt: before the first tokens; later it ends the texts.
    """
    prompts = [text.prompt_ids for text in made.texts]
    steps = model.batch(len(prompts)).generate(prompts, new, stop=tokenizer.stop, **sampling)
    hidden = True if stream else None  # a terminal has the lines; None: elsewhere than on a terminal
    begin = time.perf_counter()
    try:
        for count, tokens in enumerate(tqdm(steps, total=new, desc="generate", leave=False, disable=hidden)):
            if count == 0:
                made.prefill_seconds, begin = time.perf_counter() - begin, time.perf_counter()
            else:
                made.decode_seconds = time.perf_counter() - begin
            for number, (text, token) in enumerate(zip(made.texts, tokens)):
                if token is None:
                    continue
                text.new_ids.append(token)
                if token in tokenizer.stop:
                    text.ended_by = "end of text"
                if stream:
                    line = {"number": number, "id": token, "text": text.piece(tokenizer)}
                    print(json.dumps(line), file=stream, flush=True)
    except KeyboardInterrupt:
        if not made.texts[0].new_ids:
            raise
        for text in made.texts:
            text.ended_by = text.ended_by if text.ended_by == "end of text" else "interrupt"


@contextmanager
def progress(model: Llama) -> Iterator[None]:
    """A bar on a terminal, of the blocks that are done in the prefill inside."""
    with tqdm(total=model.config.blocks, desc="prefill", unit="block", leave=False, disable=None) as bar:
        def hook(block: int, op: Operation, values: dict[str, Any]) -> None:
            bar.update(max(block - bar.n, 0))

        model.hooks.append(hook)
        try:
            yield
        finally:
            model.hooks.remove(hook)


def as_json(made: Generation, tokenizer: Tokenizer, summary: dict[str, Any]) -> dict[str, Any]:
    """What ``generate --json`` prints: the first text, ``texts`` where there are several, and the rest."""
    texts = [{"prompt_ids": text.prompt_ids, "new_ids": text.new_ids,
              "text": tokenizer.decode(text.new_ids, skip_special=True), "ended_by": text.ended_by}
             for text in made.texts]
    return texts[0] | ({"texts": texts} if len(texts) > 1 else {}) | {
        "compile_seconds": made.compile_seconds, "prefill_seconds": made.prefill_seconds,
        "decode_seconds": made.decode_seconds, "tokens_per_s": made.tokens_per_s,
        "stored_bytes": made.stored_bytes, "resident_bytes": made.resident_bytes, "mesh": summary}


def report(made: Generation, summary: dict[str, Any]) -> str:
    """The summary that ends a generation."""
    prompts = {tuple(text.prompt_ids) for text in made.texts}  # equal ones are computed once
    prompt = sum(map(len, prompts))
    speed = f", {made.decoded} decoded at {made.tokens_per_s:.1f} tokens/s" if made.tokens_per_s else ""
    resident = (f"\nmemory: {made.resident_bytes / 1e6:.0f} MB resident, of it {made.stored_bytes / 1e6:.0f} MB of "
                "weights as stored" if made.resident_bytes else "")
    host = (f"host: {f'{len(prompts)} prompts with' if len(prompts) > 1 else 'prompt of'} {prompt} tokens in "
            f"{made.prefill_seconds:.2f} s ({prompt / made.prefill_seconds:.1f} tokens/s){speed}; ended by "
            f"{', '.join(dict.fromkeys(text.ended_by for text in made.texts))}; "
            f"kernels ready in {made.compile_seconds:.2f} s before that{resident}")
    mesh = (f"mesh, weights in {', '.join(summary['storages'])}, all else in float16 as on the wafer "
            f"(plan {summary['plan']!r}, {summary['all_reduces_per_block']} all-reduces per block and token):\n"
            + text_table(summary))
    regions = [region_table(summary)] if "wafer" in summary["token"] else []
    return "\n".join((host, mesh, *regions, prediction_lines(summary)))
