"""Counts of one block of a LLaMA on a mesh, operation by operation, for both plans and phases, in closed form.

The layout is derived here once more from its definition: gcd(cols, kv_heads) strips of columns hold the heads, the
features of a head are cut over the columns of its strip in whole pairs, lengths are padded to what the mesh cuts.
The trees have the groups that are best for the hop and the stage of WSE-3, as those of the library do by default.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from perfmodel import checks, counts, counts_reduce, forms
from perfmodel.counts import cdiv
from perfmodel.device import Device, device
from perfmodel.forms import PLANS
from perfmodel.model import Model
from perfmodel.terms import total


class Part(NamedTuple):
    """A schedule of an operation.

    Attributes:
        kind: "gemv", "allreduce", or the name of a GEMM.
        shape: (K, N) of a GEMV, (words,) of a core's part of an all-reduce, (M, K, N) of a GEMM.
        rows: rows of cores; of a GEMV or an all-reduce the cores of the line that is summed.
        cols: columns of cores; else how many such lines there are.
        copies: side by side.
        repeats: one after the other.
        skewed: as of `counts.gemm`.
    """

    kind: str
    shape: tuple[int, ...]
    rows: int
    cols: int
    copies: int = 1
    repeats: int = 1
    skewed: str = ""


class Line(NamedTuple):
    """An operation of a block: its name, and its counts added up over its schedules."""

    name: str
    steps: int
    hops: int
    stages: int
    words: int
    all_reduces: int


@functools.cache
def groups(cores: int) -> int:
    """Groups of the two-level tree of fewest cycles on a line of cores, hops and stages being those of WSE-3.

    Args:
        cores: cores of the line.

    Returns:
        How many groups the first level has.

    >>> groups(24), groups(420)
    (5, 21)
    """
    chip = device("wse3")
    return counts_reduce.default_groups(cores, chip.alpha, chip.beta)


def parts(model: Model, phase: str, tokens: int, rows: int, cols: int,
          plan: str = "paper") -> list[tuple[str, list[Part]]]:
    """The operations of a block that move anything, each with its schedules.

    Args:
        model: dimensions of the transformer.
        phase: "prefill" or "decode".
        tokens: length of the prompt, or entries of the cache, the token's own included.
        rows: rows of cores.
        cols: columns of cores.
        plan: "paper" or "fused".

    Returns:
        (name, schedules) in order.
    """
    checks.choice("phase", phase, ("prefill", "decode"))
    checks.choice("plan", plan, PLANS)
    rows, cols = counts.check_sides(rows=rows, cols=cols)
    (tokens,) = counts.check_sizes(tokens=tokens)
    made = _decode if phase == "decode" else _prefill
    return list(made(_Layout(model, rows, cols), tokens, plan == "fused"))


class _Layout:
    """Lengths on rows x cols cores."""

    def __init__(self, model: Model, rows: int, cols: int) -> None:
        self.model, self.rows, self.cols, lcm = model, rows, cols, math.lcm(rows, cols)
        self.strips = math.gcd(cols, model.kv_heads)
        self.across = cols // self.strips
        self.width = 2 * cdiv(model.head_dim, 2 * self.across)
        self.head = self.width * self.across
        self.heads, self.kv = model.heads // self.strips, model.kv_heads // self.strips
        self.qkv = (self.heads + 2 * self.kv) * self.width
        self.ffn = lcm * cdiv(model.ffn, lcm)
        blocks = lcm // cols
        self.out = cols * blocks * cdiv(self.heads * self.width, blocks)


def _decode(at: _Layout, tokens: int, fused: bool) -> Iterator[tuple[str, list[Part]]]:
    rows, cols, dim, held = at.rows, at.cols, at.model.dim, cdiv(tokens, at.rows)

    def down(words: int) -> Part:
        return Part("allreduce", (words,), rows, cols)

    norm, along = [down(1)], fused * cols
    if not fused:
        yield "attention norm", norm
    yield "QKV", [Part("gemv", (dim, cols * at.qkv + along), rows, cols)]
    # level rows all pass one entry up; of uneven ones, those below the last that is ahead
    passing = tokens - 1 if tokens <= rows else rows - 1 - (tokens - 1) % rows
    yield "append", [Part("shift", (passing * cols * 2 * at.kv * at.width,), rows, cols)]
    yield "score", [Part("allreduce", (at.heads * held,), at.across, rows, copies=at.strips)]
    if fused:
        yield "softmax, mix", [down(at.heads * (2 + at.width))]
    else:
        yield "softmax", [down(at.heads), down(at.heads)]
        yield "mix", [down(at.heads * at.width)]
    yield "attention out", [Part("gemv", (at.out, dim), cols, rows)]
    if not fused:
        yield "ffn norm", norm
    yield "up, gate", [Part("gemv", (dim, 2 * at.ffn + along), rows, cols)]
    yield "down", [Part("gemv", (at.ffn, dim), cols, rows)]


def _prefill(at: _Layout, tokens: int, fused: bool) -> Iterator[tuple[str, list[Part]]]:
    rows, cols, dim, own = at.rows, at.cols, at.model.dim, cdiv(tokens, at.rows)

    def gemm(K: int, N: int) -> list[Part]:
        return [Part("meshgemm", (tokens, K, N), rows, cols)]

    def each(kind: str, K: int, N: int, skewed: str = "") -> Part:
        """Once a query head; skewed operands once a group of them, whose rows lie one below the other."""
        group = at.model.heads // at.model.kv_heads
        high = rows * own * group if skewed and group > 1 else tokens
        return Part(kind, (high, K, N), rows, at.across, at.strips, at.kv if skewed else at.heads, skewed)

    def along(words: int, lines: int = rows) -> Part:
        return Part("allreduce", (words,), cols, lines)

    norm = [along(own)]
    if not fused:
        yield "attention norm", norm
    yield "QKV", gemm(dim, cols * at.qkv)
    if fused:
        mixed = at.across * (at.width + 1)
        yield "score", [each("meshgemm_t", at.head, tokens, "C"), each("riding", tokens, mixed, "B")]
        exponents = each("riding", math.lcm(rows, at.across), 0, "AB")
        yield "softmax, mix", [each("meshgemm", tokens, mixed, "AB"), exponents]
    else:
        yield "score", [each("gemm_t", at.head, tokens)]
        yield "softmax", [Part("allreduce", (at.heads * own,), at.across, rows, at.strips)] * 2
        yield "mix", [each("meshgemm", tokens, at.head)]
    yield "attention out", gemm(at.out, dim)
    if not fused:
        yield "ffn norm", norm
    yield "up, gate", gemm(dim, 2 * at.ffn)
    yield "down", gemm(at.ffn, dim)


def _riding(part: Part) -> int:
    """Words that travel with messages of others: B's while it is aligned, or A's when its tiles are shifted."""
    M, K, N = part.shape
    mt, kb, nt, _, p, q = counts.tiles(M, K, N, part.rows, part.cols)
    if part.skewed == "B":
        b = counts._Axis(part.rows, counts.interleaved(part.cols), q, p, p * kb * nt)
        return 0 if part.rows == 1 else int(b.align.sum()) * b.n * b.tile
    a = counts._Axis(part.cols, counts.interleaved(part.rows), p, q, mt * q * kb)
    return 0 if part.cols == 1 else int(a.shifts.sum()) * a.n * a.tile


def _counted(part: Part) -> np.ndarray:
    """(steps, hops, stages, words, all-reduces) of one part."""
    if part.kind == "shift":
        return np.array([*[int(part.shape[0] > 0)] * 2, 0, part.shape[0], 0])
    if part.kind == "riding":
        return np.array([0, 0, 0, _riding(part) * part.copies * part.repeats, 0])
    if part.kind == "gemv":
        K, N = part.shape
        found = counts_reduce.gemv(K, N, part.rows, part.cols, groups=groups(part.rows))
    elif part.kind == "allreduce":
        line = counts_reduce.allreduce("ktree", part.rows, part.shape[0], groups=groups(part.rows))
        words = part.cols * line.words * part.copies
        return np.array([1 + line.steps, line.hops, line.stages, words, 1]) * part.repeats
    else:
        M, K, N = part.shape
        found = counts.gemm(part.kind, M, K, N, part.rows, part.cols, skewed=part.skewed)
    one = [found.steps, found.hops, found.stages, found.words * part.copies, int(part.kind == "gemv")]
    return np.array(one) * part.repeats


def block(model: Model, phase: str, tokens: int, rows: int, cols: int, plan: str = "paper") -> list[Line]:
    """Counts of every operation of a block that moves anything.

    Args:
        model: dimensions of the transformer.
        phase: "prefill" or "decode".
        tokens: length of the prompt, or entries of the cache, the token's own included.
        rows: rows of cores.
        cols: columns of cores.
        plan: "paper" or "fused".

    Returns:
        A line for each operation: steps, hops, stages, words and all-reduces.

    Raises:
        ModelError: a size, phase or plan that is none.

    >>> import perfmodel as pm
    >>> [sum(line.all_reduces for line in block(pm.model("smollm2-135m"), "decode", 48, 24, 24, plan))
    ...  for plan in ("paper", "fused")]
    [10, 6]
    """
    return [Line(name, *map(int, np.sum([_counted(part) for part in made], axis=0)))
            for name, made in parts(model, phase, tokens, rows, cols, plan)]


def hand_over(model: Model, phase: str, tokens: int, rows: int, cols: int, down: int,
              along: int) -> tuple[int, int, int]:
    """Counts of the activations' way from one region of rows x cols cores to another.

    In decode all cores of a row have the same features: each takes them from the nearest of the other region. In
    prefill every core has a tile of its own, padded to what both sides of the grid cut.

    Args:
        model: dimensions of the transformer.
        phase: "prefill" or "decode".
        tokens: length of the prompt.
        rows: rows of cores of a region.
        cols: columns of cores of a region.
        down: regions from one to the other, along a column of cores.
        along: regions from one to the other, along a row of cores.

    Returns:
        (words, hops, words times hops): elements that change core, the longest way, and all of them.

    >>> import perfmodel as pm
    >>> hand_over(pm.model("llama3-8b"), "decode", 1, 360, 360, 0, 1)
    (1474560, 360, 266158080)
    """
    down, along = abs(down) * rows, abs(along) * cols
    if phase == "prefill":
        lcm = math.lcm(rows, cols)
        words = tokens * lcm * cdiv(model.dim, lcm)
        return words, down + along, words * (down + along)
    ways = cols * down + (along and sum(range(along - cols + 1, along + 1)))
    return model.dim * cols, down + along, model.dim * ways


def way_back(rows: int, cols: int, down: int, along: int) -> tuple[int, int, int]:
    """Counts of a token's id from the last region, all of whose cores have it, to every core of the first.

    Args:
        rows: rows of cores of a region.
        cols: columns of cores of a region.
        down: regions from one to the other, along a column of cores.
        along: regions from one to the other, along a row of cores.

    Returns:
        As of `hand_over`.
    """
    down, along = abs(down) * rows, abs(along) * cols
    ways = (cols * (down and sum(range(down - rows + 1, down + 1)))
            + rows * (along and sum(range(along - cols + 1, along + 1))))
    return rows * cols, down + along, ways


def cycles(chip: Device, constants: dict[str, float], part: Part) -> float:
    """Cycles of a GEMV or an all-reduce of decode, a launch of its own, by the form of a GEMV.

    Args:
        chip: a mesh device.
        constants: of its GEMV, by name.
        part: the schedule.

    Returns:
        Cycles; of anything else 0.
    """
    if part.kind not in ("gemv", "allreduce"):
        return 0.0
    K, N = part.shape if part.kind == "gemv" else (part.rows, part.shape[0] * part.cols)
    c = constants if part.kind == "gemv" else {**constants, "row": 0.0, "beat": 0.0}
    terms = forms.gemv(c, chip, "ktree", K, N, part.rows, part.cols, groups(part.rows))
    return float(total(terms)) * part.repeats
