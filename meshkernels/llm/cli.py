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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import numpy as np
from tqdm import tqdm

from meshkernels import files
from meshkernels.arguments import grid
from meshkernels.engines import demo as engines
from meshkernels.errors import MeshError
from meshkernels.files.tokenizer import Tokenizer
from meshkernels.kept import resident_memory
from meshkernels.llm.block import decode_plan, known_plan, prefill_plan
from meshkernels.llm.cache import fit_caches
from meshkernels.llm.footprint import Storages
from meshkernels.llm.layout import Layout
from meshkernels.llm.model import Llama
from meshkernels.llm.regions import Regions
from meshkernels.llm.sampling import Sampler
from meshkernels.llm.streaming import Generation, Record, as_json, follow, progress, report
from meshkernels.llm.summary import WAFERS, block_table, fit_fabric, fit_host, fit_to, fullest_row, mesh_summary
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
    parser.add_argument("prompt", type=console.utf8, nargs="*", help="the text to continue, taken as it is unless "
                        "--chat; - reads it from stdin; with --chat it may be left out: a conversation; several are "
                        "continued at once")
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
    parser.add_argument("--repeat-last-n", type=int, default=64, metavar="N", help="how far back (64; -1: all)")
    parser.add_argument("--seed", type=int, help="of the draws")
    parser.add_argument("--batch", type=int, metavar="N", help="continue N texts at once, samples of one prompt (each "
                        "with the next seed) or one of each prompt, every one with a KV cache of its own")
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
    parser.add_argument("--regions", type=int, metavar="N", help="of the --wafer that share the blocks (default: as "
                        "many as lie on it, at most one a block)")
    parser.add_argument("--ledger", action="store_true", help="print the ledger of one block too")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--json-stream", action="store_true",
                        help="print a line of JSON for each token, and at last the object of --json")
    parser.set_defaults(run=run)


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
    sampling = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k,
                "min_p": options.min_p, "repeat_penalty": options.repeat_penalty, "repeat_last": options.repeat_last_n,
                "seed": seed}
    Sampler(**sampling)  # refused before anything slow
    precision = Precision(options.dtype, options.accumulate, options.norms)
    prompts, texts = _prompts(options, engine)
    decode_mesh = options.decode_grid or options.grid
    prefill_mesh = options.prefill_grid or options.grid
    known_plan(options.plan)
    if options.wafer and options.device:
        raise MeshError(f"--wafer {options.wafer} and --device {options.device}: one of them, --wafer for regions that "
                        "share the blocks, --device for one grid that holds all")
    if options.regions is not None and not options.wafer:
        raise MeshError(f"--regions {options.regions} are of a --wafer: name one")
    if options.device != "none":
        fit_fabric(options.wafer or options.device or WAFERS[-1], decode_mesh, prefill_mesh)
    own = [engine.mesh(*mesh.shape) for mesh in (decode_mesh, prefill_mesh)]
    checkpoint = engine.first(lambda: files.load(options.model))
    tokenizer = checkpoint.tokenizer

    def encoded(messages: list[dict[str, str]]) -> list[int]:
        if not options.chat:
            return tokenizer.encode(messages[-1]["content"], special=options.special)
        return tokenizer.encode(tokenizer.chat(messages)) if options.special else tokenizer.encode_chat(messages)

    # of a conversation: is there a template?
    ids = [encoded([{"role": "user", "content": prompt}]) for prompt in prompts or ["?"]]
    longest = max(map(len, ids))
    for number, each in enumerate(ids):
        name = f"prompt [{number}]" if len(ids) > 1 else "the prompt"
        _check_length(name, len(each), options.new, checkpoint.config.context)
    layouts = Layout(checkpoint.config, decode_mesh), Layout(checkpoint.config, prefill_mesh)
    fit_caches(layouts[0], texts, longest + options.new)
    copies = texts // len(ids)
    made, prompts = Generation([Record(tokenizer, list(each)) for each in ids * copies]), prompts * copies
    made.stored_bytes = _stored_bytes(checkpoint, options.dtype) * len({layout.mesh for layout in layouts})
    fit_host(made.stored_bytes, *layouts)
    limit = _cache_limit(options, *layouts, storages(checkpoint, options.dtype), longest, texts)
    if made.stored_bytes >= _WORTH_SAYING and not options.json and not options.json_stream:
        print(f"{made.stored_bytes / 1e9:.1f} GB of weights are placed on {decode_mesh.rows} x {decode_mesh.cols} "
              "cores", file=sys.stderr, flush=True)
    model = Llama(checkpoint, own[0], prefill_mesh=own[1], dtype=options.dtype,
                  accumulate=options.accumulate, norms=options.norms, cache=options.cache,
                  cache_limit=None if limit is None else limit * precision.itemsize // 2,  # of its own elements
                  plan=options.plan, wafer=options.wafer, regions=options.regions)
    model.tokenizer = tokenizer
    del checkpoint  # everything is placed: let the file go
    made.compile_seconds = model.warm_up()
    if not prompts:
        return _converse(model, tokenizer, encoded, options.new, sampling)
    _fill(model, made, prompts, options, sampling)
    if engine.prints:
        made.resident_bytes = resident_memory()
        decoded = max(max(len(text.new_ids) - 1, 1) for text in made.texts)  # the first new token is prefill's
        _summarise(made, mesh_summary(model, longest, longest + decoded, texts), options)
    return INTERRUPTED if made.interrupted else 0


def _cache_limit(options: argparse.Namespace, layout: Layout, prefill_layout: Layout, held: Storages, longest: int,
                 texts: int) -> int | None:  # fmt: skip
    """Refuse texts for which the device, or the wafer, has no room; bytes per core for keys and values on a device."""
    new, cache, plan = options.new if options.prompt else 1, options.cache, options.plan
    if options.wafer:
        last = layout.mesh.rows * fullest_row(layout.mesh.rows, longest, new, cache)  # as if all rows were so full
        for each in (prefill_plan(prefill_layout, longest, plan=plan), decode_plan(layout, last, plan)):
            Regions(options.wafer, each, held, texts, options.regions).check()
    if options.device in (None, "none"):
        return None
    return fit_to(options.device, layout, prefill_layout, longest, new, plan, held, texts, cache)


def _summarise(made: Generation, summary: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json or options.json_stream:
        print(json.dumps(as_json(made, summary)))
        return
    print("\n\n" + report(made, summary))
    for phase in ("prefill", "token") if options.ledger else ():
        print(f"\none block of {phase}:\n{block_table(summary[phase])}")


def _prompts(options: argparse.Namespace, engine: engines.Engine) -> tuple[list[str], int]:
    """The prompts, none of a conversation; and how many texts they are for: one each, or all one."""
    given, texts = options.prompt, options.batch
    if texts is not None and texts < 1:
        raise MeshError(f"--batch {texts}: at least 1 text")
    if not given and not options.chat:
        raise MeshError("no prompt: give a text, - for stdin, or --chat for a conversation")
    if not given and (options.json or options.json_stream or texts is not None):
        raise MeshError("--json, --json-stream and --batch need a prompt: a conversation is for people")
    if not given and engine.where:
        raise MeshError("a conversation runs in one process; ranks take a prompt")
    if len(given) > 1 and texts not in (None, len(given)):
        raise MeshError(f"--batch {texts} and {len(given)} prompts: one prompt for all texts, or one for each")
    if given.count("-") > 1:
        raise MeshError("stdin (-) can be read once")
    return [engine.told(sys.stdin.read) if prompt == "-" else prompt for prompt in given], texts or max(len(given), 1)


def _fill(model: Llama, made: Generation, prompts: list[str], options: argparse.Namespace,
          sampling: dict[str, Any]) -> None:  # fmt: skip
    """Generate, and print the texts: one as it comes, several when all are there."""
    ids, several, gap = [text.prompt_ids for text in made.texts], len(prompts) > 1, "\n\n" if options.chat else ""
    show = "" if options.json else "lines" if options.json_stream else "texts" if several else "text"
    steps: Iterator[Sequence[int | None]]
    if several:
        steps = model.batch(len(ids)).generate(ids, options.new, **sampling)
        if show != "lines":  # which say themselves how far it is
            steps = iter(tqdm(steps, total=options.new, desc="generate", leave=False, disable=None))
    else:
        steps = zip(model.generate(ids[0], options.new, **sampling))  # each id as a tuple: those of one text
    if show == "text":
        print(prompts[0], end=gap, flush=True)
        steps = progress(model, steps)
    try:
        follow(steps, made, show)
    except MeshError:
        if show == "text":
            print()  # the refusal gets a line of its own
        raise
    finally:  # a refusal after the first tokens, as of a full cache, takes no text away
        if show == "texts" and made.texts[0].new_ids:
            print("\n\n".join(f"[{number}] {prompt}{gap}{text.text}"
                              for number, (prompt, text) in enumerate(zip(prompts, made.texts))))


def _converse(model: Llama, tokenizer: Tokenizer, encoded: Callable[[list[dict[str, str]]], list[int]], new: int,
              sampling: dict[str, Any]) -> int:  # fmt: skip
    """Read a line, answer it, until there is none; Ctrl-C ends an answer, or the conversation where none is given."""
    messages: list[dict[str, str]] = []
    sampling = sampling | {"seed": np.random.default_rng(sampling["seed"])}  # whose numbers all answers share
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line})
        record = Record(tokenizer, encoded(messages))
        room = model.config.context - len(record.prompt_ids)
        with suppress(KeyboardInterrupt):
            _check_length("the prompt", len(record.prompt_ids), 1, model.config.context)
            ids = model.generate(record.prompt_ids, min(new, room), **sampling)
            follow(progress(model, zip(ids)), Generation([record]), "text")
        print("\n")
        messages.append({"role": "assistant", "content": record.text})


def _stored_bytes(checkpoint: files.Checkpoint, dtype: str) -> int:
    """What the weights take on the cores, all together."""
    tensors = [checkpoint.stored(name) for name in checkpoint.names]
    return sum(2 * math.prod(tensor.shape) if dtype == "float16" else tensor.data.nbytes for tensor in tensors)


def _check_length(name: str, prompt: int, new: int, context: int) -> None:
    if prompt == 0:
        raise MeshError(f"{name} is empty: there is nothing to continue")
    if prompt + new > context:
        room = context - prompt
        raise MeshError(f"{name} has {prompt} tokens and {new} are to follow, the model's context is {context}: "
                        + (f"--new {room} at most" if room > 0 else "a shorter one, please"))


