"""``python -m meshkernels generate``: stream text from a LLaMA that runs on a mesh of cores.

Started by ``mpiexec -n 4`` the ranks share out the cores, each with its part of the weights, and the first one prints.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, TextIO

from meshkernels import files
from meshkernels.arguments import grid
from meshkernels.engines import demo as engines
from meshkernels.errors import MeshError
from meshkernels.files.tokenizer import Tokenizer
from meshkernels.llm.block import known_plan
from meshkernels.llm.layout import Layout
from meshkernels.llm.model import Llama
from meshkernels.llm.sampling import Sampler
from meshkernels.llm.summary import (
    WAFERS,
    block_table,
    fit_fabric,
    fit_host,
    fit_to,
    mesh_summary,
    prediction_lines,
    text_table,
)
from meshkernels.llm.weights import Precision
from meshkernels.mesh import Mesh
from perfmodel import console

#: Bytes of weights that take long enough to be placed to say so.
_WORTH_SAYING = 1 << 28
#: Exit code of a generation that Ctrl-C ended, as shells have it: 128 + SIGINT.
INTERRUPTED = 130


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("generate", help="text from a real LLaMA on the mesh", description=__doc__)
    parser.add_argument("prompt", type=console.utf8, nargs="?", help="the text to continue, taken as it is unless "
                        "--chat; - reads it from stdin; with --chat it may be left out: a conversation")
    parser.add_argument("-n", "--new", type=int, default=40, metavar="N", help="at most N new tokens (default: 40)")
    parser.add_argument("--grid", type=grid, default=Mesh(24), metavar="R[xC]", help="cores of both phases (24)")
    parser.add_argument("--prefill-grid", type=grid, metavar="R[xC]", help="cores of prefill, if others")
    parser.add_argument("--decode-grid", type=grid, metavar="R[xC]", help="cores of decode, if others")
    parser.add_argument("-m", "--model", metavar="PATH", help="a LLaMA-architecture GGUF (SmolLM2-135M-Instruct)")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's own chat template")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token (default)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest that sum to P")
    parser.add_argument("--top-k", type=int, default=0, metavar="N", help="draw from the N likeliest (0: all)")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P",
                        help="leave out what is less likely than P times the likeliest")
    parser.add_argument("--repeat-penalty", type=float, default=1.0, metavar="X",
                        help="make tokens of the last --repeat-last-n less likely (1: not)")
    parser.add_argument("--repeat-last-n", type=int, default=64, metavar="N", help="how far back (64)")
    parser.add_argument("--seed", type=int, help="of the draws")
    parser.add_argument("--special", action="store_true", help="control tokens spelled in the prompt are such tokens")
    parser.add_argument("--plan", default="paper", help="paper (default): the published operations; fused: attention "
                        "without chains, six all-reduces a block and token instead of ten")
    parser.add_argument("--cache", default="shift", help="KV cache: shift (default) or concat")
    parser.add_argument("--dtype", default="float32", help="float32 (default), or float16 as the wafer stores")
    parser.add_argument("--accumulate", default="float32", help="float32 (default), or float16 as the wafer sums")
    parser.add_argument("--norms", default="", help="sums of squares in the norms, if others: float32 or float16")
    parser.add_argument("--device", metavar="NAME", help="refuse what this device cannot hold, e.g. wse2 (default: "
                        f"only grids beyond {WAFERS[-1]}'s fabric; none: nothing, but large grids count for minutes)")
    parser.add_argument("--ledger", action="store_true", help="print the ledger of one block too")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--json-stream", action="store_true",
                        help="print a line of JSON for each token, and at last the object of --json")
    parser.set_defaults(run=run)


@dataclass
class Record:
    """What a generation has so far; printed even when it is interrupted."""

    prompt_ids: list[int]
    new_ids: list[int] = field(default_factory=list)
    compile_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    ended_by: str = "length"

    @property
    def tokens_per_s(self) -> float | None:
        """Decoded tokens per second; the first new token is prefill's."""
        decoded = len(self.new_ids) - 1
        return decoded / self.decode_seconds if decoded > 0 and self.decode_seconds > 0 else None


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit code."""
    if options.new < 1:
        raise MeshError(f"--new {options.new}: at least 1 token")
    if options.seed is not None and options.seed < 0:
        raise MeshError(f"--seed {options.seed}: a seed is 0 or larger")
    if not math.isfinite(options.temperature):
        raise MeshError(f"--temperature {options.temperature}: it must be a finite number, 0 (greedy) or larger")
    engine = engines.find(None)
    try:
        with _heard(engine):
            return _run(options, engine)
    except KeyboardInterrupt:
        print("interrupted before the first token", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _heard(engine: engines.Engine) -> Iterator[None]:
    """Of several ranks one prints; what ends them is said afterwards."""
    if engine.prints:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _run(options: argparse.Namespace, engine: engines.Engine) -> int:
    seed = engine.told(lambda: secrets.randbits(32) if options.seed is None else options.seed)
    sampler = Sampler(options.temperature, options.top_p, seed, top_k=options.top_k, min_p=options.min_p,
                      repeat_penalty=options.repeat_penalty, repeat_last=options.repeat_last_n)  # before anything slow
    Precision(options.dtype, options.accumulate, options.norms)
    if options.prompt is None and not options.chat:
        raise MeshError("no prompt: give a text, - for stdin, or --chat for a conversation")
    if options.prompt is None and (options.json or options.json_stream):
        raise MeshError("--json and --json-stream need a prompt: a conversation is for people")
    if options.prompt is None and engine.where:
        raise MeshError("a conversation runs in one process; ranks take a prompt")
    prompt = engine.told(sys.stdin.read) if options.prompt == "-" else options.prompt
    decode_mesh = options.decode_grid or options.grid
    prefill_mesh = options.prefill_grid or options.grid
    known_plan(options.plan)
    if options.device != "none":
        fit_fabric(options.device or WAFERS[-1], decode_mesh, prefill_mesh)
    own = [engine.mesh(*mesh.shape) for mesh in (decode_mesh, prefill_mesh)]
    checkpoint = engine.first(lambda: files.load(options.model))
    tokenizer = checkpoint.tokenizer

    def encoded(messages: list[dict[str, str]]) -> list[int]:
        if not options.chat:
            return tokenizer.encode(messages[-1]["content"], special=options.special)
        return tokenizer.encode(tokenizer.chat(messages)) if options.special else tokenizer.encode_chat(messages)

    first = "?" if prompt is None else prompt  # of a conversation: is there a template?
    record = Record(encoded([{"role": "user", "content": first}]))
    _check_length(len(record.prompt_ids), options.new, checkpoint.config.context)
    layouts = Layout(checkpoint.config, decode_mesh), Layout(checkpoint.config, prefill_mesh)
    stored = _stored_bytes(checkpoint, options.dtype) * len({layout.mesh for layout in layouts})
    fit_host(stored, *layouts)
    limit = None
    if options.device not in (None, "none"):
        limit = fit_to(options.device, *layouts, len(record.prompt_ids), options.plan)
    if stored >= _WORTH_SAYING and not options.json and not options.json_stream:
        print(f"{stored / 1e9:.1f} GB of weights are placed on {decode_mesh.rows} x {decode_mesh.cols} cores",
              file=sys.stderr, flush=True)
    model = Llama(checkpoint, own[0], prefill_mesh=own[1], dtype=options.dtype,
                  accumulate=options.accumulate, norms=options.norms, cache=options.cache, cache_limit=limit,
                  plan=options.plan)
    del checkpoint  # everything is placed: let the file go
    record.compile_seconds = model.warm_up()
    if prompt is None:
        return _converse(model, tokenizer, sampler, encoded, options.new)
    stream = None if options.json else sys.stdout
    if stream and not options.json_stream:
        print(prompt, end="\n\n" if options.chat else "", file=stream, flush=True)
    try:
        generate(model, tokenizer, sampler, record, options.new, stream, as_json=options.json_stream)
    except MeshError:
        if stream and not options.json_stream:
            print(file=stream)  # the refusal gets a line of its own
        raise
    if not engine.prints:
        return INTERRUPTED if record.ended_by == "interrupt" else 0
    length, decoded = len(record.prompt_ids), max(len(record.new_ids) - 1, 1)  # the first new token is prefill's
    summary = mesh_summary(model, length, length + decoded)
    if options.json or options.json_stream:
        print(json.dumps(_as_json(record, tokenizer, summary)))
    else:
        print("\n\n" + report(record, summary))
        if options.ledger:
            for phase in ("prefill", "token"):
                print(f"\none block of {phase}:\n{block_table(summary[phase])}")
    return INTERRUPTED if record.ended_by == "interrupt" else 0


def _converse(model: Llama, tokenizer: Tokenizer, sampler: Sampler,
              encoded: Callable[[list[dict[str, str]]], list[int]], new: int) -> int:  # fmt: skip
    """Read a line, answer it, until there is none; Ctrl-C ends an answer, or the conversation where none is given."""
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line})
        record = Record(encoded(messages))
        room = model.config.context - len(record.prompt_ids)
        try:
            _check_length(len(record.prompt_ids), 1, model.config.context)
            generate(model, tokenizer, sampler, record, min(new, room), sys.stdout)
        except KeyboardInterrupt:
            record.ended_by = "interrupt"
        print("\n")
        messages.append({"role": "assistant", "content": tokenizer.decode(record.new_ids, skip_special=True)})


def _stored_bytes(checkpoint: files.Checkpoint, dtype: str) -> int:
    """What the weights take on the cores, all together."""
    tensors = [checkpoint.stored(name) for name in checkpoint.names]
    return sum(2 * math.prod(tensor.shape) if dtype == "float16" else tensor.data.nbytes for tensor in tensors)


def _check_length(prompt: int, new: int, context: int) -> None:
    if prompt == 0:
        raise MeshError("the prompt is empty: there is nothing to continue")
    if prompt + new > context:
        raise MeshError(f"the prompt has {prompt} tokens and {new} are to follow, the model's context is {context}")


def generate(model: Llama, tokenizer: Tokenizer, sampler: Sampler, record: Record, new: int,
             stream: TextIO | None, as_json: bool = False) -> None:
    """Fill the record token by token, and print text as soon as its bytes are whole characters.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        sampler: chooses.
        record: with the prompt; filled.
        new: at most so many tokens.
        stream: where text goes; None: nowhere.
        as_json: a line for each token instead, with its id and the text that it completes.

    Raises:
        KeyboardInterrupt: before the first token; later it ends the text.
    """
    progress = Progress(model.config.blocks) if stream and not as_json else None
    shown = ""
    try:
        begin = time.perf_counter()
        if progress:
            model.hooks.append(progress)
        logits = model.prefill(record.prompt_ids)
        if progress:
            model.hooks.remove(progress)
            progress.clear()
        record.prefill_seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        while True:
            record.new_ids.append(sampler(logits, record.prompt_ids + record.new_ids))
            text = tokenizer.decode(record.new_ids, skip_special=True)
            whole = not text.endswith("\ufffd")
            if stream and as_json:
                piece = text[len(shown):] if whole else ""
                print(json.dumps({"id": record.new_ids[-1], "text": piece}), file=stream, flush=True)
            elif stream and whole:
                print(text[len(shown):], end="", file=stream, flush=True)
            shown = text if whole else shown
            if record.new_ids[-1] in tokenizer.stop:
                record.ended_by = "end of text"
                break
            if len(record.new_ids) == new:
                break
            logits = model.decode(record.new_ids[-1])
            record.decode_seconds = time.perf_counter() - begin
    except KeyboardInterrupt:
        if not record.new_ids:
            raise
        record.ended_by = "interrupt"


class Progress:
    """A hook that shows how far prefill is: a bar on one line of a terminal, else a line every few seconds."""

    #: Seconds between two lines where stderr is no terminal.
    PAUSE = 5.0

    def __init__(self, blocks: int):
        self.blocks, self.terminal = blocks, sys.stderr.isatty()
        self._last, self._shown = time.monotonic(), -1

    def __call__(self, block: int, op: Any, values: dict[str, Any]) -> None:
        """Show where the prompt is, if it is time."""
        if not self.terminal:
            if time.monotonic() - self._last >= self.PAUSE:
                self._last = time.monotonic()
                print(f"prefill: block {block + 1}/{self.blocks}, {op.name} done", file=sys.stderr, flush=True)
        elif block >= 0 and block != self._shown:
            self._shown = block
            done = block * 30 // self.blocks
            print(f"\r\033[Kprefill [{'#' * done}{' ' * (30 - done)}] block {block + 1}/{self.blocks}",
                  end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave no trace on a terminal."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _as_json(record: Record, tokenizer: Tokenizer, summary: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_ids": record.prompt_ids, "new_ids": record.new_ids,
            "text": tokenizer.decode(record.new_ids, skip_special=True), "ended_by": record.ended_by,
            "compile_seconds": record.compile_seconds, "prefill_seconds": record.prefill_seconds,
            "decode_seconds": record.decode_seconds, "tokens_per_s": record.tokens_per_s, "mesh": summary}


def report(record: Record, summary: dict[str, Any]) -> str:
    """The summary that ends a generation."""
    prompt, decoded = len(record.prompt_ids), max(len(record.new_ids) - 1, 0)
    speed = f", {decoded} decoded at {record.tokens_per_s:.1f} tokens/s" if record.tokens_per_s else ""
    host = (f"host: prompt of {prompt} tokens in {record.prefill_seconds:.2f} s "
            f"({prompt / record.prefill_seconds:.1f} tokens/s){speed}; ended by {record.ended_by}; "
            f"kernels ready in {record.compile_seconds:.2f} s before that")
    mesh = (f"mesh, as float16 on the wafer (plan {summary['plan']!r}, {summary['all_reduces_per_block']} all-reduces "
            f"per block and token):\n"
            + text_table(summary))
    return "\n".join((host, mesh, prediction_lines(summary)))
