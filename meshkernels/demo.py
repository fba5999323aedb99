"""``python -m meshkernels demo``: one block of a real model on a mesh, by every algorithm, checked and counted.

The weights are those of SmolLM2-135M, the input the normalised embeddings of a real prompt. Four projections of the
first block run as matrix products for the whole prompt and as matrix-vector products for its last token; the scores
of one attention head show the product with a transpose.

Started by ``mpiexec -n 4`` the ranks share out the cores, and the table says how many bytes went between them; with
``--jax 8`` each core is a device of JAX.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np

import meshkernels as mk
from meshkernels import files
from meshkernels.algorithms import known
from meshkernels.arguments import grid
from meshkernels.engines import demo as engines
from meshkernels.mesh import require_walkable
from meshkernels.readers.compliance import require_fabric
from perfmodel import console, tables

PROMPT = "A wafer-scale chip is a mesh of hundreds of thousands of small cores, and every word has to travel."

#: Printed columns: key of a row, heading, format.
COLUMNS = (
    ("algorithm", "algorithm", "{}"), ("op", "operation", "{}"), ("max_abs_err", "max error", "{:.1e}"),
    ("steps", "steps", "{:,}"), ("critical_hops", "hops", "{:,}"), ("stages", "stages", "{:,}"),
    ("words", "words sent", "{:,}"), ("word_hops", "words x links", "{:,}"),
    ("peak_bytes_per_core", "bytes/core", "{:,}"), ("colours", "colours", "{:,}"),
    ("verdict", "PLMR", "{}"), ("host_ms", "host ms", "{:.2f}"),
    ("bytes_between_ranks", "bytes between ranks", "{:,}"),
)  # fmt: skip


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("demo", help="one block of a real model by every algorithm", description=__doc__)
    parser.add_argument("--grid", nargs="+", metavar="N", help="cores a side, or rows and columns: 24, 24x16 or 24 16 "
                        "(default: 24; with --jax nearly square)")
    parser.add_argument("--device", default="wse2", help="whose limits the verdict uses (default: wse2)")
    parser.add_argument("--prompt", type=console.utf8, default=PROMPT, help="whose tokens are multiplied")
    parser.add_argument("--model", help="another GGUF file (default: SmolLM2-135M, fetched once)")
    parser.add_argument("--jax", type=int, metavar="N", help="run on N devices of JAX, one for each core")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit code."""
    engine = engines.find(options.jax)
    mesh = engine.mesh(*(engine.grid if options.grid is None else grid("x".join(options.grid)).shape))
    require_fabric(mesh, options.device)  # before anything is fetched
    require_walkable(mesh)
    checkpoint = engine.first(lambda: files.load(options.model))
    rows = list(measure(mesh, checkpoint, options.prompt, options.device, engine))
    if not engine.prints:
        return 0
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(f"block 0 of {checkpoint.path.name} on {mesh.rows} x {mesh.cols} cores{engine.where}, float32, "
          f"{options.prompt!r}")
    print(table(rows))
    print("words sent: a message counts once, a multicast too; words x links: what all links carry.")
    for line in engine.legend:
        print(line)
    for reason in _fitting("gemm", mesh)[1] + _fitting("gemm_t", mesh)[1]:
        print(f"left out: {reason}")
    print(f"PLMR: which of Parallelism, Latency, Memory, Routing fail on {options.device}, by these counts.")
    return 0


def projections(checkpoint: files.Checkpoint, prompt: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Input ``(tokens, in)`` and weight ``(in, out)`` of four projections of block 0, by name."""
    ids = checkpoint.tokenizer.encode(prompt)
    if not ids:
        raise mk.MeshError("--prompt is empty: there is nothing to embed")
    tensor = checkpoint.tensor
    W = {name: tensor(f"blk.0.{name}.weight").T for name in ("attn_q", "attn_k", "ffn_up", "ffn_gate", "ffn_down")}

    def normed(X: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return X / np.sqrt((X**2).mean(axis=1, keepdims=True) + checkpoint.config.norm_eps) * gain

    embedded = checkpoint.rows("token_embd.weight", np.array(ids))
    X = normed(embedded, tensor("blk.0.attn_norm.weight"))
    Y = normed(embedded, tensor("blk.0.ffn_norm.weight"))
    gate = Y @ W["ffn_gate"]
    hidden = gate / (1 + np.exp(-gate)) * (Y @ W["ffn_up"])
    inputs = {"attn_q": X, "attn_k": X, "ffn_up": Y, "ffn_down": hidden}
    return {name: (X.astype(np.float32), W[name]) for name, X in inputs.items()}


def measure(mesh: mk.Mesh, checkpoint: files.Checkpoint, prompt: str, device: str,
            engine: engines.Engine) -> Iterator[dict]:  # fmt: skip
    """One row per algorithm and projection: error against NumPy in float64, counts, verdict, host time."""
    products = projections(checkpoint, prompt)
    gemms, gemm_ts = (_fitting(family, mesh)[0] for family in ("gemm", "gemm_t"))
    for name, (X, W) in products.items():
        exact = X.astype(np.float64) @ W.astype(np.float64)
        for algorithm in gemms:
            def call(algorithm=algorithm, X=X, W=W, **more):
                return engine.gemm(X, W, mesh, algorithm=algorithm, **more)

            yield _row(f"{name} {X.shape[0]}x{W.shape[0]}x{W.shape[1]}", call, exact, device, engine)
        for algorithm in known("reduce"):
            def call(algorithm=algorithm, X=X, W=W, **more):
                return engine.gemv(X[-1], W, mesh, reduce=algorithm, **more)

            yield _row(f"{name} 1x{W.shape[0]}x{W.shape[1]}", call, exact[-1], device, engine)
    Q, K = (X @ W for X, W in (products["attn_q"], products["attn_k"]))
    head = checkpoint.config.head_dim
    Q, K = Q[:, :head], K[:, :head]
    exact = Q.astype(np.float64) @ K.T.astype(np.float64)
    for algorithm in gemm_ts:
        def scores(algorithm=algorithm, **more):
            return engine.gemm_t(Q, K, mesh, algorithm=algorithm, **more)

        yield _row(f"QK^T {len(Q)}x{head}x{len(K)}", scores, exact, device, engine)


def _fitting(family: str, mesh: mk.Mesh) -> tuple[list[str], list[str]]:
    """The algorithms that take a mesh of these proportions, and why the others do not."""
    names, reasons = [], []
    for algorithm in known(family):
        try:
            mk.schedule(algorithm, mesh, 1, 1, 1)
            names.append(algorithm)
        except mk.MeshError as refusal:
            reasons.append(str(refusal))
    return names, reasons


def _row(op: str, call, exact: np.ndarray, device: str, engine: engines.Engine) -> dict:
    result, ledger = call(ledger=True)  # also compiles what is not compiled yet
    result = engine.whole(result)
    sent = engine.sent()
    begin = time.perf_counter()
    call()
    host = time.perf_counter() - begin
    judged = mk.compliance(ledger, device)
    return {
        "algorithm": ledger.schedule.name, "op": op, "max_abs_err": float(np.abs(result - exact).max()),
        **{key: ledger.summary()[key] for key in ("steps", "critical_hops", "hops_per_step", "stages", "words",
                                                  "word_hops", "peak_bytes_per_core", "colours")},
        "compliant": judged.compliant, "verdict": "ok" if judged.compliant else f"fails {judged.fails}",
        "device": device, "host_ms": host * 1e3, **engine.measured(sent),
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """The rows as aligned text, a line between operations."""
    columns = [column for column in COLUMNS if column[0] in rows[0]]
    lines: list[list[str] | None] = []
    for _, members in groupby(rows, itemgetter("op")):
        lines += [None, *([form.format(row[key]) for key, _, form in columns] for row in members)]
    return tables.text(lines, [heading for _, heading, _ in columns])
