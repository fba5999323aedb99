"""The ledger of a plan: what every operation of a prompt or of a token makes the mesh do.

Each product and each all-reduce has a schedule; its `Ledger` is counted once per shape. Products on different
strips of heads run side by side (their words add up, their hops do not); repeats run one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt

import numpy as np

from meshkernels.algorithms import gemv as vector
from meshkernels.errors import DeviceLimitError
from meshkernels.llm.cache import KVCache, balanced
from meshkernels.llm.layout import Layout
from meshkernels.llm.plan import Collective, Operation, Plan, Product, decode_plan, prefill_plan
from meshkernels.mesh import MOST_CORES, Mesh
from meshkernels.readers.ledger import count
from meshkernels.api import schedule


@dataclass(frozen=True)
class Work:
    """Counts of one operation, or of several one after the other.

    Attributes:
        steps: steps of all schedules.
        hops, stages: links and software-handled stages on the critical path.
        words: elements sent (padding included).
        macs: multiply-adds of all cores together.
        buffers: bytes per core that the operation needs besides what is resident.
        all_reduces: collectives, a GEMV's own included.
    """

    steps: int = 0
    hops: int = 0
    stages: int = 0
    words: int = 0
    macs: int = 0
    buffers: int = 0
    all_reduces: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.steps + other.steps, self.hops + other.hops, self.stages + other.stages,
                    self.words + other.words, self.macs + other.macs, max(self.buffers, other.buffers),
                    self.all_reduces + other.all_reduces)

    def times(self, repeats: int) -> Work:
        """The same, ``repeats`` times over."""
        return Work(self.steps * repeats, self.hops * repeats, self.stages * repeats, self.words * repeats,
                    self.macs * repeats, self.buffers, self.all_reduces * repeats)


@dataclass(frozen=True)
class Line:
    """One operation's line in the ledger of a block.

    Attributes:
        name: the operation.
        work: its counts.
        collectives: ``(op, axis, words)`` of each all-reduce: axis "y" or "x", elements per core.
    """

    name: str
    work: Work
    collectives: tuple[tuple[str, str, int], ...]


def lines(plan: Plan, operations: tuple[Operation, ...], itemsize: int, accumulator: int) -> Iterator[Line]:
    """The ledger of some of a plan's operations, line by line."""
    for op in operations:
        work = sum((_product(p, itemsize, accumulator).times(p.repeats) for p in op.products), Work())
        if op.products:  # a GEMV's schedule holds its all-reduce; count it as one
            work = replace(work, buffers=work.buffers - _weights(plan, op) * itemsize, all_reduces=len(op.collectives))
        else:
            work = sum((_collective(c, accumulator) for c in op.collectives), work)
        if op.kind == "append":
            work = work + _append(plan)
        yield Line(op.name, work, tuple((c.op, "yx"[c.axis], c.words) for c in op.collectives))


def block(plan: Plan, itemsize: int = 2, accumulator: int = 2) -> tuple[Line, ...]:
    """The ledger of one block: every operation with its collectives."""
    return tuple(lines(plan, plan.layer, itemsize, accumulator))


def total(plan: Plan, itemsize: int = 2, accumulator: int = 2) -> Work:
    """Counts of the whole phase: embedding, all blocks, head."""
    def together(operations: tuple[Operation, ...]) -> Work:
        return sum((line.work for line in lines(plan, operations, itemsize, accumulator)), Work())

    return together(plan.before) + together(plan.layer).times(plan.layout.config.blocks) + together(plan.after)


def resident(plan: Plan, itemsize: int = 2) -> dict[str, int]:
    """Bytes per core of what stays: the weights of all blocks, the table, and the keys and values."""
    blocks = plan.layout.config.blocks
    words = {"weights": blocks * sum(p.words for p in plan.weights.values()),
             "norms": (2 * blocks + 1) * plan.placements["w_out"].words,
             "table": plan.placements["table"].words,
             "cache": blocks * sum(plan.placements[name].words for name in ("K cache", "V cache"))}
    return {name: n * itemsize for name, n in words.items()}


def peak_bytes(plan: Plan, itemsize: int = 2, accumulator: int = 2) -> int:
    """Bytes on the fullest core: what is resident, and the most that any operation needs and others keep alive."""
    return sum(resident(plan, itemsize).values()) + _working(plan, itemsize, accumulator)


def _working(plan: Plan, itemsize: int, accumulator: int) -> int:
    """Bytes per core of activations and buffers during the neediest operation.

    An operation's own operands are part of its schedule's buffers where it has one product; where it has a
    product per head, those of all heads are there besides the one at work.
    """
    kept = {name: p.words * itemsize for name, p in plan.placements.items() if _is_activation(name)}
    needs = []
    for operations, carried in ((plan.before, set()), (plan.layer, {"X"}), (plan.after, {"X"})):
        for i, (op, line) in enumerate(zip(operations, lines(plan, operations, itemsize, accumulator))):
            alive = carried & {name for later in operations[i + 1 :] for name in later.reads}
            own = {*op.reads, *op.writes}
            whole = bool(op.products) and all(p.repeats == 1 for p in op.products)
            there = (alive - own) if whole else (alive | own)
            needs.append(line.work.buffers + sum(kept.get(name, 0) for name in there))
            carried = alive | set(op.writes)
    return max(needs)


def _is_activation(name: str) -> bool:
    return name[0] not in "Ww" and name not in ("table", "K cache", "V cache")


def cache_budget(plan: Plan, limit: int, itemsize: int = 2) -> int:
    """Bytes per core left for keys and values under a memory limit, besides a phase's weights and buffers.

    Raises:
        DeviceLimitError: those alone exceed the limit.
    """
    kept = _kept(plan, itemsize)
    if kept >= limit:
        mesh = plan.layout.mesh
        raise DeviceLimitError(
            f"{plan.phase} of {plan.tokens} tokens: core (0, 0) of {mesh.rows} x {mesh.cols} would hold {kept} bytes "
            f"of weights and buffers, the limit is {limit} bytes{_advice(plan, kept / limit, limit, itemsize)}")
    return limit - kept


def _kept(plan: Plan, itemsize: int) -> int:
    """Bytes per core of everything but the cache."""
    return peak_bytes(plan, itemsize, itemsize) - resident(plan, itemsize)["cache"]


def _advice(plan: Plan, excess: float, limit: int, itemsize: int) -> str:
    """The smallest square grid that would do, if one near the obvious size does."""
    build = prefill_plan if plan.phase == "prefill" else decode_plan
    start = int(np.ceil(np.sqrt(plan.layout.mesh.cores * excess)))
    for side in range(start, min(start + start // 4 + 1, isqrt(MOST_CORES)) + 1):
        larger = build(Layout(plan.layout.config, Mesh(side)), plan.tokens)
        weights = resident(larger, itemsize)["weights"]  # at hand at once; counting the buffers takes seconds
        if weights < limit and _kept(larger, itemsize) < limit:
            return f"; {side} x {side} cores would do"
    return ""


def _weights(plan: Plan, op: Operation) -> int:
    """Elements of the weight tiles that an operation's product finds resident (0: it multiplies activations)."""
    return sum(plan.placements[name].words for name in op.reads if name.startswith("W") or name == "table")


def _product(product: Product, itemsize: int, accumulator: int) -> Work:
    work = _counted(product.verb, product.mesh, product.shape, product.axis, itemsize, accumulator)
    return replace(work, words=work.words * product.copies, macs=work.macs * product.copies)


def _collective(collective: Collective, accumulator: int) -> Work:
    c = collective
    work = _reduced(c.mesh, c.axis, c.words, c.op, accumulator)
    return replace(work, words=work.words * c.copies, all_reduces=1)


@lru_cache(maxsize=512)
def _counted(verb: str, mesh: Mesh, shape: tuple[int, int, int], axis: int, itemsize: int, accumulator: int) -> Work:
    M, K, N = shape
    if verb == "gemv":
        plan = schedule("ktree", mesh, K, N, axis=axis)
    else:
        plan = schedule({"gemm": "meshgemm"}.get(verb, verb), mesh, M, K, N)
    ledger = count(plan, f"float{8 * itemsize}", f"float{8 * accumulator}")
    return Work(ledger.steps, ledger.critical_hops, ledger.stages, ledger.words, int(ledger.macs.sum()),
                ledger.peak_bytes_per_core)


@lru_cache(maxsize=512)
def _reduced(mesh: Mesh, axis: int, words: int, op: str, accumulator: int) -> Work:
    ledger = count(vector.allreduce(mesh, words, axis=axis, op=op), f"float{8 * accumulator}")
    return Work(ledger.steps, ledger.critical_hops, ledger.stages, ledger.words, 0, ledger.peak_bytes_per_core)


def _append(plan: Plan) -> Work:
    """The upward shift before the ``tokens``-th entry joins: one hop, all passing rows at once."""
    cache = KVCache(plan.layout)
    cache.occupancy = balanced(plan.tokens - 1, plan.layout.mesh.rows)
    cache.advance()
    words = cache.entry_words // plan.layout.config.blocks * plan.layout.mesh.cols
    moved = cache.shifts > 0
    return Work(int(moved), int(moved), 0, cache.shifts * words)
