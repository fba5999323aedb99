"""Texts as they come: streamed token by token, with what they took and what they made the mesh do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from meshkernels.files.tokenizer import Tokenizer
from meshkernels.llm.model import Llama
from meshkernels.llm.operations import Operation
from meshkernels.llm.summary import prediction_lines, region_table, text_table


@dataclass
class Record:
    """What a text has so far; printed even when it is interrupted.

    Attributes:
        shown: the part of its new text whose bytes were whole characters when it was last looked at.
    """

    tokenizer: Tokenizer
    prompt_ids: list[int]
    new_ids: list[int] = field(default_factory=list)
    ended_by: str = "length"
    shown: str = ""

    @property
    def text(self) -> str:
        """The new text."""
        return self.tokenizer.decode(self.new_ids, skip_special=True)

    def piece(self) -> str:
        """The text that the last token completes: none while the bytes of a character are not all there."""
        before, text = self.shown, self.text
        if text.endswith("\ufffd"):
            return ""
        self.shown = text
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


def follow(steps: Iterable[Sequence[int | None]], made: Generation, show: str = "") -> None:
    """Fill the records of texts, and print them, as the ids come.

    Args:
        steps: an id of each text, None of one that has ended; the first are there when prefill is done.
        made: with the prompts; filled.
        show: "text" prints a text as soon as its bytes are whole characters; "lines" a line of JSON for each token: its
            id, the text that it completes, and the number of its text where there are several; else nothing.

    Raises:
        KeyboardInterrupt: before the first tokens; later it ends the texts.
    """
    begin = time.perf_counter()
    try:
        for count, tokens in enumerate(steps):
            if count == 0:
                made.prefill_seconds, begin = time.perf_counter() - begin, time.perf_counter()
            else:
                made.decode_seconds = time.perf_counter() - begin
            for number, (text, token) in enumerate(zip(made.texts, tokens)):
                if token is None:
                    continue
                text.new_ids.append(token)
                if token in text.tokenizer.stop:
                    text.ended_by = "end of text"
                if show == "text":
                    print(text.piece(), end="", flush=True)
                elif show == "lines":
                    line = {"number": number} if len(made.texts) > 1 else {}
                    print(json.dumps(line | {"id": token, "text": text.piece()}), flush=True)
    except KeyboardInterrupt:
        if not made.texts[0].new_ids:
            raise
        for text in made.texts:
            text.ended_by = "interrupt" if text.ended_by == "length" else text.ended_by


def progress(model: Llama, steps: Iterator[Any]) -> Iterator[Any]:
    """The same steps; during the first, a bar on a terminal of the blocks of prefill that are done."""
    with tqdm(total=model.config.blocks, desc="prefill", unit="block", leave=False, disable=None) as bar:
        def hook(block: int, op: Operation, values: dict[str, Any]) -> None:
            bar.update(max(block - bar.n, 0))

        model.hooks.append(hook)
        try:
            first = next(steps)
        finally:
            model.hooks.remove(hook)
    yield first
    yield from steps


def as_json(made: Generation, summary: dict[str, Any]) -> dict[str, Any]:
    """What ``generate --json`` prints: the first text, ``texts`` where there are several, and the rest."""
    texts = [{"prompt_ids": text.prompt_ids, "new_ids": text.new_ids, "text": text.text, "ended_by": text.ended_by}
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
