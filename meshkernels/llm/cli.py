"""``python -m meshkernels generate``: stream text from a LLaMA that runs on a mesh of cores."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

from meshkernels import files
from meshkernels.arguments import grid
from meshkernels.errors import MeshError
from meshkernels.files.tokenizer import Tokenizer
from meshkernels.kept import resident_memory
from meshkernels.llm.block import decode_plan, known_plan, prefill_plan
from meshkernels.llm.layout import Layout
from meshkernels.llm.model import Llama
from meshkernels.llm.operations import Operation
from meshkernels.llm.regions import Regions
from meshkernels.llm.sampling import Sampler
from meshkernels.llm.summary import (
    WAFERS,
    block_table,
    fit_fabric,
    fit_host,
    fit_to,
    mesh_summary,
    prediction_lines,
    region_table,
    text_table,
)
from meshkernels.llm.weights import Precision, storages
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
    parser.add_argument("-m", "--model", metavar="PATH", help="a GGUF of LLaMA or Qwen2 (SmolLM2-135M-Instruct)")
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
    parser.add_argument("--wafer", metavar="NAME", help="share the blocks out over regions of this device, each of the "
                        "grid's size, e.g. wse2; refused if its cores cannot hold them")
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
    stored_bytes: int = 0
    resident_bytes: int | None = None
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
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("interrupted before the first token", file=sys.stderr)
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    sampler = Sampler(options.temperature, options.top_p, options.seed, top_k=options.top_k, min_p=options.min_p,
                      repeat_penalty=options.repeat_penalty, repeat_last=options.repeat_last_n)  # before anything slow
    Precision(options.dtype, options.accumulate, options.norms)
    if options.prompt is None and not options.chat:
        raise MeshError("no prompt: give a text, - for stdin, or --chat for a conversation")
    if options.prompt is None and (options.json or options.json_stream):
        raise MeshError("--json and --json-stream need a prompt: a conversation is for people")
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    decode_mesh = options.decode_grid or options.grid
    prefill_mesh = options.prefill_grid or options.grid
    known_plan(options.plan)
    if options.wafer and options.device:
        raise MeshError(f"--wafer {options.wafer} and --device {options.device}: one of them, --wafer for regions that "
                        "share the blocks, --device for one grid that holds all")
    if options.device != "none":
        fit_fabric(options.wafer or options.device or WAFERS[-1], decode_mesh, prefill_mesh)
    checkpoint = files.load(options.model)
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
        limit = fit_to(options.device, *layouts, len(record.prompt_ids), options.plan,
                       storages=storages(checkpoint, options.dtype))
    if options.wafer:
        held = storages(checkpoint, options.dtype)
        tokens = len(record.prompt_ids) + (options.new - 1 if prompt is not None else 0)  # the last is not decoded
        for plan in (prefill_plan(layouts[1], len(record.prompt_ids), plan=options.plan),
                     decode_plan(layouts[0], tokens, options.plan)):
            Regions(options.wafer, plan, held).check()
    if stored >= _WORTH_SAYING and not options.json and not options.json_stream:
        print(f"{stored / 1e9:.1f} GB of weights are placed on {decode_mesh.rows} x {decode_mesh.cols} cores",
              file=sys.stderr, flush=True)
    model = Llama(checkpoint, decode_mesh, prefill_mesh=prefill_mesh, dtype=options.dtype,
                  accumulate=options.accumulate, norms=options.norms, cache=options.cache, cache_limit=limit,
                  plan=options.plan, wafer=options.wafer)
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
    record.stored_bytes, record.resident_bytes = stored, resident_memory()
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
    shown = ""
    try:
        begin = time.perf_counter()
        with progress(model) if stream and not as_json else nullcontext():
            logits = model.prefill(record.prompt_ids)
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


def _as_json(record: Record, tokenizer: Tokenizer, summary: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_ids": record.prompt_ids, "new_ids": record.new_ids,
            "text": tokenizer.decode(record.new_ids, skip_special=True), "ended_by": record.ended_by,
            "compile_seconds": record.compile_seconds, "prefill_seconds": record.prefill_seconds,
            "decode_seconds": record.decode_seconds, "tokens_per_s": record.tokens_per_s,
            "stored_bytes": record.stored_bytes, "resident_bytes": record.resident_bytes, "mesh": summary}


def report(record: Record, summary: dict[str, Any]) -> str:
    """The summary that ends a generation."""
    prompt, decoded = len(record.prompt_ids), max(len(record.new_ids) - 1, 0)
    speed = f", {decoded} decoded at {record.tokens_per_s:.1f} tokens/s" if record.tokens_per_s else ""
    resident = (f"\nmemory: {record.resident_bytes / 1e6:.0f} MB resident, of it {record.stored_bytes / 1e6:.0f} MB of "
                "weights as stored" if record.resident_bytes else "")
    host = (f"host: prompt of {prompt} tokens in {record.prefill_seconds:.2f} s "
            f"({prompt / record.prefill_seconds:.1f} tokens/s){speed}; ended by {record.ended_by}; "
            f"kernels ready in {record.compile_seconds:.2f} s before that"
            f"{resident}")
    mesh = (f"mesh, weights in {', '.join(summary['storages'])}, all else in float16 as on the wafer "
            f"(plan {summary['plan']!r}, {summary['all_reduces_per_block']} all-reduces per block and token):\n"
            + text_table(summary))
    regions = [region_table(summary)] if "wafer" in summary["token"] else []
    return "\n".join((host, mesh, *regions, prediction_lines(summary)))
