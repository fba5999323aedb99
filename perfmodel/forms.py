"""The forms of GEMV, shift, a layer of prefill and of decode, and a matmul with multicast; those of GEMM have a module.

What a form is, says `perfmodel.terms`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from perfmodel import counts_reduce
from perfmodel.counts import ELEMENT_BYTES, MATRIX_TILE, cdiv, matmul_tiles
from perfmodel.device import Device
from perfmodel.forms_gemm import gemm
from perfmodel.terms import BEAT, Constants, Terms, add, total, words_cycles


def _whole(device: Device, elements: Any) -> Any:
    """Fabric words of a vector in a reduction: an odd last element is dropped, a single one travels alone."""
    return np.maximum(elements // (device.word_bytes // ELEMENT_BYTES), 1)


#: vectors that stream along a line one after the other: a phase each, and the broadcast; ``stream`` is of a K-tree's
STREAMS = {"ktree": 3, "chain": 2, "pipeline": 2}


def gemv(c: Constants, device: Device, reduce: str, M: Any, N: Any, rows: Any, cols: Any, groups: Any) -> Terms:
    """y[N] = x[M] W[M,N]: a vector of the tile's n columns for each of its m rows, then the all-reduce.

    A row costs the longer of issuing its vector (``row``) and running it (``beat`` per 64-bit word). The tree costs
    alpha per hop, beta per stage, ``stream`` for each 32-bit word after the first that streams through it (one cycle
    in each of two adds in two phases makes four; other reductions by their `STREAMS`), and ``die`` for every die
    boundary that its longest arm crosses, there and back.

    Args:
        c: constants of the kernel, by name.
        device: a mesh device.
        reduce: one of `perfmodel.counts_reduce.REDUCES`.
        M: elements of x, rows of W.
        N: elements of y, columns of W.
        rows: rows of cores.
        cols: columns of cores.
        groups: of the two-phase tree.

    Returns:
        Cycles by kind of cost.
    """
    m, n = cdiv(M, rows), cdiv(N, cols)
    hops, stages, root = counts_reduce.path(reduce, rows, groups)
    turns, chunk = (2 * (rows - 1), cdiv(n, rows)) if reduce == "ring" else (STREAMS[reduce], n)
    streamed = turns / STREAMS["ktree"] * (_whole(device, chunk) - 1)
    boundaries = (np.asarray(root) + 1) // device.die_rows  # the program sits one row inside the fabric
    return {
        "compute": m * np.maximum(c["row"], cdiv(n, BEAT) * c["beat"]),
        "transfer": streamed * c["stream"],
        "alpha": hops * c["alpha"] + 2 * boundaries * c["die"],
        "beta": stages * c["beta"],
        "overhead": c["launch"] + 0 * hops,
    }


#: Plans of a layer: as published, or with norms and softmax riding along with products
PLANS = ("paper", "fused")


class Product(NamedTuple):
    """``times`` equal products of one layer, ``aligned`` of which find their left operand aligned already."""

    algorithm: str
    M: Any
    K: Any
    N: Any
    times: int = 1
    aligned: int = 0


def prefill_products(dim: Any, ffn: Any, tokens: Any, plan: str = "paper") -> list[Product]:
    """The nine products of one layer, as the published kernels have them.

    One head of full width and no causal mask. X is aligned for Q, and found so by K and V; gate finds it as up left
    it; scores x V, O and down align their own.

    Args:
        dim: width of the residual stream.
        ffn: width of the hidden layer.
        tokens: length of the prompt.
        plan: one of `PLANS`; "fused" has scores without chains, which it leaves aligned for scores x V, whose other
            operand is aligned with that of the scores.

    Returns:
        The products in the order in which they run, equal ones together.
    """
    fused = plan == "fused"
    return [
        Product("meshgemm", tokens, dim, dim, times=4, aligned=2),  # Q, K, V, O
        Product("meshgemm_t" if fused else "gemm_t", tokens, dim, tokens, aligned=int(fused)),  # scores
        Product("meshgemm", tokens, tokens, dim, aligned=int(fused)),  # scores x V
        Product("meshgemm", tokens, dim, ffn, times=2, aligned=1),  # up, gate
        Product("meshgemm", tokens, ffn, dim),  # down
    ]


def never_less(form: Callable[[Any], Terms], rows: Any, side: Any) -> Terms:
    """Terms of ``form(rows)``, but so that no time falls as rows are added.

    Columns of 4 i + 3 rows lie across 64-bit words (`beats`), and the measured kernels pay for it: by ``form``, tiles
    of 4 i + 4 rows take less time than those. Of such a pair both take the time of the one whose launches were
    published: 4 rows (2048 tokens on 660 cores), as if tiles of 3 were padded; else 4 i + 3 (4096 tokens on 600 and
    660: 7 rows), which for 4 i + 4 is too long rather than too short, by about a tenth.

    Args:
        form: terms of as many rows of the whole operand as it is given.
        rows: rows of the left operand, or tokens.
        side: cores that the rows are shared out to.

    Returns:
        The terms, in cycles.
    """
    terms, tile = form(rows), cdiv(rows, side)
    other = _where(tile == BEAT - 1, BEAT * side, _where((tile % BEAT == 0) & (tile > BEAT), (tile - 1) * side, rows))
    if np.all(other == rows):
        return terms
    found = form(other)
    takes = (total(found) < total(terms)) == (other > rows)
    return {kind: _where(takes, found[kind], value) for kind, value in terms.items()}


def _where(condition: Any, yes: Any, no: Any) -> Any:
    """Elementwise choice; of scalars a scalar."""
    return np.asarray(np.where(condition, yes, no))[()]


def prefill(c: Constants, device: Device, dim: Any, ffn: Any, tokens: Any, grid: Any, plan: str = "paper") -> Terms:
    """One layer of prefill: the nine products on a square grid. Norms, RoPE and softmax are below 1 %."""
    parts = []
    for algorithm, M, K, N, times, aligned in prefill_products(dim, ffn, tokens, plan):
        part = {kind: times * value for kind, value in gemm(c, device, algorithm, M, K, N, grid, grid).items()}
        if aligned:
            words = words_cycles(device, cdiv(M, grid) * cdiv(N if algorithm == "meshgemm_t" else K, grid))
            part["transfer"] = part["transfer"] - aligned * (grid // 2) * words
            part["overhead"] = part["overhead"] - aligned * (grid // 2) * c["startup"]
        parts.append(part)
    return add(*parts)


class Phase(NamedTuple):
    """A phase of decode: vectors of its GEMVs on a core, and its all-reduces of ``words`` elements each."""

    name: str
    rows: Any
    width: Any
    allreduces: int
    words: Any


def decode_phases(dim: Any, ffn: Any, context: Any, grid: Any, plan: str = "paper") -> list[Phase]:
    """One layer and token of decode on tiles d = dim / P, s = context / P, f = ffn / P.

    ``rows`` vector instructions per core, one for each row of a weight or cache tile, run over ``width`` elements.
    The two norms, and maximum and sum of the softmax, have all-reduces of one number.

    Args:
        dim: width of the residual stream.
        ffn: width of the hidden layer.
        context: tokens in the cache.
        grid: P, cores a side.
        plan: one of `PLANS`. "fused": the sum of squares of a norm is one row and one element more of the next
            product, and one all-reduce combines maximum, sum and values.

    Returns:
        The phases in order.
    """
    d, s, f = cdiv(dim, grid), cdiv(context, grid), cdiv(ffn, grid)
    if plan == "fused":
        return [
            Phase("qkv", 3 * d + 1, d, 1, 3 * d + 1), Phase("scores", d, s, 1, s), Phase("values", s, d, 1, d + 2),
            Phase("output", d, d, 1, d), Phase("gate_up", 2 * d + 1, f, 1, 2 * f + 1), Phase("down", f, d, 1, d),
        ]
    return [
        Phase("norm", 0, 0, 2, 1), Phase("qkv", 3 * d, d, 1, 3 * d), Phase("scores", d, s, 1, s),
        Phase("softmax", 0, 0, 2, 1), Phase("values", s, d, 1, d), Phase("output", d, d, 1, d),
        Phase("gate_up", 2 * d, f, 1, 2 * f), Phase("down", f, d, 1, d),
    ]


def allreduces(plan: str = "paper") -> int:
    """All-reduces of one layer in decode: 10 as published, 6 fused."""
    return sum(phase.allreduces for phase in decode_phases(1, 1, 1, 1, plan))


#: all-reduces of one layer in decode, as published
ALLREDUCES = allreduces()


def decode_by_phase(c: Constants, device: Device, dim: Any, ffn: Any, context: Any, grid: Any,
                    groups: Any, plan: str = "paper") -> dict[str, Terms]:
    """Terms of one layer and token of decode, phase by phase.

    A row costs the longer of issuing its vector (``row``) and running it (``beat`` per 64-bit word), as in a GEMV.
    An all-reduce costs what it does in a GEMV but for its launch: ``alpha`` per hop, ``beta`` per stage, ``stream``
    per 32-bit word after the first.

    Args:
        c: constants of the kernel, by name.
        device: a mesh device.
        dim: width of the residual stream.
        ffn: width of the hidden layer.
        context: tokens in the cache.
        grid: cores a side.
        groups: of the two-phase tree.
        plan: one of `PLANS`.

    Returns:
        Cycles by kind of cost, by name of the phase.
    """
    hops, stages, _ = counts_reduce.path("ktree", grid, groups)
    return {
        phase.name: {
            "compute": phase.rows * np.maximum(c["row"], cdiv(phase.width, BEAT) * c["beat"]),
            "transfer": phase.allreduces * (_whole(device, phase.words) - 1) * c["stream"],
            "alpha": phase.allreduces * c["alpha"] * hops,
            "beta": phase.allreduces * c["beta"] * stages,
        }
        for phase in decode_phases(dim, ffn, context, grid, plan)
    }


def decode(c: Constants, device: Device, dim: Any, ffn: Any, context: Any, grid: Any, groups: Any,
           plan: str = "paper") -> Terms:
    """One layer and token of decode: the local GEMVs and ten two-phase all-reduces, or six (`decode_by_phase`)."""
    hops, stages, _ = counts_reduce.path("ktree", grid, groups)
    phases = decode_phases(dim, ffn, context, grid, plan)
    trees = allreduces(plan)
    words = sum(phase.allreduces * (_whole(device, phase.words) - 1) for phase in phases)
    rows = (phase.rows * np.maximum(c["row"], cdiv(phase.width, BEAT) * c["beat"]) for phase in phases
            if phase.allreduces == 1)
    return {
        "compute": sum(rows), "transfer": words * c["stream"], "alpha": trees * c["alpha"] * hops,
        "beta": trees * c["beta"] * stages, "overhead": c["unprofiled"] + 0 * hops,
    }


def shift(c: Constants, device: Device, rows: Any, cols: Any, steps: Any, side: Any) -> Terms:
    """Every core hands its tile of rows x cols elements on by ``steps`` hops, store and forward.

    A step sends and receives one after the other (even columns send first), so each word passes the ramp twice.
    The word that comes back at the end, to synchronise, has a one-way latency. A step beyond the side of the block, in
    which no core still holds a tile of its own, costs one ``setup`` less.

    Args:
        c: constants of the kernel, by name.
        device: a mesh device.
        rows: rows of a tile.
        cols: columns of a tile.
        steps: hops.
        side: cores of the block in the direction of the shift.

    Returns:
        Cycles by kind of cost.
    """
    words, beyond = cdiv(rows * cols * ELEMENT_BYTES, device.word_bytes), np.maximum(steps - side, 0)
    return {
        "compute": 0.0 * words, "transfer": steps * 2 * words * c["word"], "alpha": c["alpha"] + 0 * words, "beta": 0.0,
        "overhead": c["latency"] + steps * c["startup"] - beyond * np.minimum(c["setup"], c["startup"]),
    }


#: passes of a matrix engine over the bits of 16-bit operands
PASSES = {"LoFi": 1, "HiFi2": 2, "HiFi3": 3, "HiFi4": 4}


def tile_cycles(device: Device, fidelity: str) -> float:
    """Cycles of one product of 32 x 32 x 32 elements by a core's matrix engine, which works at its peak in LoFi."""
    return PASSES[fidelity] * MATRIX_TILE**3 / device.macs_per_cycle


def dram_cycles(device: Device, M: Any, K: Any, N: Any) -> Any:
    """Cycles in which A and B are read from DRAM, and C written to it, once."""
    moved = ELEMENT_BYTES * (np.asarray(M, float) * K + np.asarray(K, float) * N + np.asarray(M, float) * N)
    return moved * device.clock_hz / device.dram_bandwidth if device.dram_bandwidth else 0.0 * moved


def matmul(c: Constants, device: Device, M: Any, K: Any, N: Any, rows: Any, cols: Any, fidelity: Any,
           dram: Any) -> Terms:
    """C = A B on a mesh of matrix engines; blocks of A and B are multicast along rows and columns.

    A tile product takes the engine's cycles, at least ``issue``; a tile received its words, ``multicast`` each. The
    longer of both hides all but the share ``exposed`` of the shorter: blocks are double-buffered, but both use the
    core's memory. The whole takes no less than its traffic with DRAM.

    Args:
        c: constants of the kernel, by name.
        device: a mesh device.
        M: rows of A and of C.
        K: columns of A, rows of B.
        N: columns of B and of C.
        rows: rows of cores.
        cols: columns of cores.
        fidelity: passes of the matrix engine, a key of `PASSES`.
        dram: 1 where operands and result lie in DRAM, 0 where in the cores.

    Returns:
        Cycles by kind of cost.
    """
    products, received = matmul_tiles(M, K, N, rows, cols)
    levels = np.unique(fidelity)
    engine = sum((np.asarray(fidelity) == name) * tile_cycles(device, str(name)) for name in levels)
    work = products * np.maximum(engine, c["issue"])
    words = cdiv(ELEMENT_BYTES * MATRIX_TILE**2, device.word_bytes)
    message = received * words * c["multicast"]
    compute = np.where(work >= message, work, c["exposed"] * work)
    transfer = np.where(work >= message, c["exposed"] * message, message)
    waits = np.maximum(dram * dram_cycles(device, M, K, N) - (c["launch"] + compute + transfer), 0.0)
    return {"compute": compute, "transfer": transfer + waits, "alpha": 0.0 * waits, "beta": 0.0 * waits,
            "overhead": c["launch"] + 0.0 * waits}
