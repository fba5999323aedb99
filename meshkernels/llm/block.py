"""A LLaMA block on the mesh: two lists of operations, prefill's and decode's, and what runs them.

Each line of a list is a local function of this module with the schedules that it runs: the paper's table (He et al.,
OSDI 2025, section 4). `Forward` executes the list, `Plan.ledger` counts it, pictures draw it.

    prefill  activations L_y E_x; products are MeshGEMM, Q K^T is dist-GEMM-T; rows are normalised along x
    decode   a GEMV sums along the axis that its input is cut along and leaves its output cut along the other;
             W_O and W_down are placed the other way round, so y and x alternate and nothing is transposed

Arrays on the host hold a tensor whole, in float32: ``(L, features)`` (L = 1 in decode), or ``(heads, L, head)``
between QKV and the output projection. With float16 storage every operation's result is rounded to float16. A sum over
a dimension that is cut over cores is one partial sum per core, combined in the order of the all-reduce's schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from math import gcd
from typing import Any

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.files.checkpoint import Config
from meshkernels.kernels import attention, elementwise, memory, pool
from meshkernels.kernels.program import Program, at_once
from meshkernels.kernels.resident import Columns
from meshkernels.kernels.team import Team
from meshkernels.llm.cache import Text, balanced, passing
from meshkernels.llm.layout import Cuts, Layout, Placement
from meshkernels.llm.operations import Operation, Passing, Plan, Riding, Scheduled, shaped
from meshkernels.llm.part import Part
from meshkernels.llm.weights import Weights
from meshkernels.mesh import Mesh, ceil_div

#: Called after each operation with the block (-1: before or after the blocks), the operation, and all values.
Hook = Callable[[int, Operation, dict[str, Any]], object]
#: The plans that there are: the published one, and the one with fewer all-reduces.
PLANS = ("paper", "fused")
#: Sums that are not normalised yet reach 56,930 in SmolLM2-135M (up and gate of block 28), and float16 ends at 65,504:
#: where sums are float16, they are kept this much smaller. A power of 2, so that no digit changes.
HEADROOM, ONE = np.float32(16), np.float32(1)
#: A product with one weight, ``(L, K) -> (L, N)``, and by whom its kernels are called.
Product = Callable[..., np.ndarray]


# --------------------------------------------------------------------------- local functions, in the order of a block
def select(run: Run, tokens: np.ndarray, table: Columns, total: Scheduled) -> np.ndarray:
    """Tokens ``(L,)``, table ``(dim, vocab)`` -> X ``(L, dim)``: the core that owns a row selects it, others add zeros.

    Executed as a look-up: of the terms of each sum one is the row, and a sum with zeros has no negative zero.

    Returns:
        X.
    """
    rows = table.take(tokens, run.do)
    return run.made(elementwise.add, rows, np.zeros_like(rows), shape=rows.shape)


def norm(run: Run, X: np.ndarray, gain: np.ndarray, total: Scheduled, tile: int) -> np.ndarray:
    """``X gain / sqrt(mean(X^2) + eps)``: X ``(L, dim)``, of which a core holds ``tile`` features; gain ``(dim,)``."""
    half = run.precision.half_norms
    squares = run.made(attention.square_sums, X, tile, half, shape=(total.cores, len(X)))
    inverse = run.inverse_rms(total.combine(squares, half, run.do)[:, None])
    X = run.made(elementwise.scale_rows, X, inverse, shape=X.shape)
    return run.made(elementwise.scale_columns, X, gain, shape=X.shape)


def norm_along(run: Run, X: np.ndarray, gain: np.ndarray, product: Product, used: Scheduled, *more: np.ndarray,
               then: Callable[..., Any]) -> Any:  # fmt: skip
    """RMSNorm scales whole tokens, so a product may come first: ``(X gain / rms) W = (X gain W) / rms``.

    The sum of squares rides along with the product ``used``, whose result is divided before ``then`` goes on with it.
    What is summed is as large as the residual stream: float32 sums take it as it is, for float16 it is scaled down.

    Returns:
        What ``then`` makes of it.
    """
    half, headroom = run.precision.half_norms, HEADROOM if run.precision.half else ONE
    tile, blocks = used.tiles
    squares = run.made(attention.square_sums, X, tile, half, shape=(blocks, len(X)))
    inverse = run.inverse_rms(used.passing_by(squares, half, run.do), headroom)  # (L, 1), or (L, cols): a sum for each
    N = run.stored(run.made(elementwise.scale_columns, X, gain / headroom, shape=X.shape))

    def divided(N: np.ndarray, do: Callable[..., None]) -> np.ndarray:
        Y = product(N, do)
        run.by_tokens(elementwise.scale_rows, Y, inverse, Y)
        return Y

    return then(run, N, divided, *more)


def qkv(run: Run, N: np.ndarray, product: Product, *bias: np.ndarray) -> tuple[np.ndarray, ...]:
    """N ``(L, dim)`` -> Q ``(heads, L, head)``, K and V ``(kv_heads, L, head)``: one fused product, split by heads.

    Where there are biases, every core adds those of its features to what the product left there.

    Returns:
        Q, K and V.
    """
    Y = product(N, run.do)
    for each in bias:
        Y = run.made(elementwise.add, Y, shaped("bias", each, Y.shape[1])[None], shape=Y.shape)
    return run.split(Y, Layout.split_qkv)


def rope(run: Run, Q: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, ...]:
    """Turn the pairs ``(2i, 2i+1)`` of every head by the angles of their positions."""
    return tuple(run.made(elementwise.rope, heads, *run.turns, shape=heads.shape) for heads in (Q, K))


def keep(run: Run, K: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keys and values ``(kv_heads, L, head)`` stay where they are until decode takes them over."""
    run.keep(K, V)
    return K, V


def append(run: Run, K: np.ndarray, V: np.ndarray, shift: Passing) -> tuple[np.ndarray, ...]:
    """One token's key and value join the text -> keys ``(kv_heads, head, room)``, values ``(kv_heads, room, head)``."""
    keys, values = run.text.keys[run.block], run.text.values[run.block]
    if run.part.appends:
        run.do(elementwise.append, run.part.own(K), run.part.own(V), keys, values, run.bounds)
    return keys, values


def prompt_scores(run: Run, Q: np.ndarray, K: np.ndarray, product: Scheduled, *along: Riding) -> np.ndarray:
    """``Q K^T`` of every query head with its group's keys, a group at a time: ``(heads, L, L)``, on ranks a part."""
    return run.groups(product, run.part.prompt(Q), run.part.prompt(K), len(run.tokens))


def prompt_softmax(run: Run, S: np.ndarray, largest: Scheduled, total: Scheduled) -> np.ndarray:
    """Causal softmax of the rows of S ``(heads, L, L)``, scaled by ``1 / sqrt(head_dim)``; columns are cut along x.

    A maximum is the same in any order; sums are added in that of ``total``.

    Returns:
        P ``(heads, L, L)``.
    """
    L, precision = len(run.tokens), run.precision
    run.by_tokens(attention.causal_softmax, S, run.scale, ceil_div(L, total.cores), *total.order, precision.stored_half,
                  precision.half)  # fmt: skip
    return S


def prompt_mix(run: Run, P: np.ndarray, V: np.ndarray, product: Scheduled) -> np.ndarray:
    """``P V`` of every query head with its group's values: ``(heads, L, head)``."""
    return run.part.whole_prompt(run.groups(product, P, run.part.prompt(V), run.layout.head), run.config.group)


def prompt_attend(run: Run, S: np.ndarray, V: np.ndarray, product: Scheduled, exponents: Riding) -> np.ndarray:
    """Causal softmax of the rows of S ``(heads, L, L)``, times the values of their group: ``(heads, L, head)``.

    A tile of S holds powers of 2 relative to the next whole number above its rows' maxima, which travel with it; S V
    adds up with rescaling, and the sums of rows are one more column of V. All rescaling is by powers of 2, so that
    the bits are those of one exponent a row (but for what underflows), which is what is computed here.

    Returns:
        O.
    """
    c, V = run.config, run.part.prompt(V)
    kv_heads, L, head = V.shape
    run.by_tokens(attention.mask_scores, S, np.float32(c.head_dim**-0.5 * np.log2(np.e)), run.precision.half)
    P = run.stored(np.exp2(S, out=S))
    cols, width = run.layout.strip.cols, run.layout.width
    columns = V.reshape(kv_heads, L, cols, width)
    V = np.concatenate([columns, np.ones_like(columns[..., :1])], axis=-1).reshape(kv_heads, L, cols * (width + 1))
    sums = run.groups(product, P, V, V.shape[2]).reshape(len(S), L, cols, width + 1)
    return run.part.whole_prompt((sums[..., :-1] / sums[..., -1:]).reshape(len(S), L, head), c.group)


def scores(run: Run, Q: np.ndarray, keys: np.ndarray, total: Scheduled) -> np.ndarray:
    """``Q K^T / sqrt(head_dim)`` with all entries that are here: ``(heads, tokens)``, summed along x in each strip."""
    Q = run.part.own(Q)
    return run.made_by_heads(attention.scores, Q[:, 0], keys, run.bounds, run.layout.width, *total.order, run.scale,
                             run.precision.half, shape=(len(Q), run.entries))  # fmt: skip


def softmax(run: Run, S: np.ndarray, largest: Scheduled, total: Scheduled) -> np.ndarray:
    """Softmax of the rows of S ``(heads, tokens)``, whose columns lie on the rows of cores.

    A maximum is the same in any order; sums are added in that of ``total``.
    Where other ranks have other entries, each computes it of all of them, and goes on with its own.

    Returns:
        P, of the entries that are here.
    """
    P, bounds, part = S, run.bounds, run.part
    if part.cut_by_rows:
        S = part.across_rows(np.ascontiguousarray(S[:, run.bounds[0] :]), part.counts(run.text.occupancy))
        bounds = run.text.every_bound
    run.by_heads(attention.softmax, len(S), S, bounds, *run.present(bounds, total), run.precision.stored_half,
                 run.precision.half)  # fmt: skip
    if part.cut_by_rows:
        P[:, run.bounds[0] :] = S[:, slice(*part.entries(run.text.occupancy))]
    return P


def mix(run: Run, P: np.ndarray, values: np.ndarray, total: Scheduled) -> np.ndarray:
    """``P V`` of every query head with its group's values: ``(heads, 1, head)``, summed along y."""
    half, shape = run.precision.half, (len(P), run.layout.head)
    if run.part.cut_by_rows:
        rows = run.made_by_heads(attention.mix_rows, P, values, run.bounds, half,
                                 shape=(len(P), len(run.bounds) - 1, shape[1]))  # fmt: skip
        to, of, (n, root, every) = run.present(run.text.every_bound, total)
        O = run.part.combined(rows, (to[:n], of[:n], int(root)),
                              lambda *some: run.by_heads(attention.add_rows, len(P), *some, half))  # fmt: skip
        O = O + np.float32(-0.0 if every else 0.0)
    else:
        O = run.made_by_heads(attention.mix, P, values, run.bounds, *run.present(run.bounds, total), half, shape=shape)
    return run.part.among_all(O, run.config.heads)[:, None]


def attend(run: Run, S: np.ndarray, values: np.ndarray, total: Scheduled) -> np.ndarray:
    """Softmax of the rows of S ``(heads, tokens)`` times the values of their group: ``(heads, 1, head)``.

    Every row of cores has maximum, sum and weighted values of its own entries; ``total`` combines these along y.

    Returns:
        O.
    """
    half, rows, shape = run.precision.half, len(run.bounds) - 1, (len(S), run.layout.head)
    largest = run.made_by_heads(attention.own_exponentials, S, run.bounds, run.precision.stored_half,
                                shape=(len(S), rows))  # fmt: skip
    if run.part.cut_by_rows:
        states = run.made_by_heads(attention.row_states, S, largest, values, run.bounds, half,
                                   shape=(len(S), rows, 1, 2 + shape[1]))  # fmt: skip
        states = run.part.combined(states, total.order,
                                   lambda *some: run.by_heads(attention.merge_rows, len(S), *some, half))  # fmt: skip
        O = run.made_by_heads(attention.divide, np.ascontiguousarray(states), half, shape=shape)
    else:
        O = run.made_by_heads(attention.attend, S, largest, values, run.bounds, *total.order, half, shape=shape)
    return run.part.among_all(O, run.config.heads)[:, None]


def attention_out(run: Run, O: np.ndarray, product: Product) -> np.ndarray:
    """O ``(heads, L, head)`` times ``W_O``: ``(L, dim)``."""
    ((_, first),) = _places(run.layout, Layout.from_heads, O.shape[::2])
    across = run.made(elementwise.scatter, O, first, shape=(O.shape[1], run.layout.out))
    return product(across, run.do)


def add(run: Run, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """The residual ``(L, dim)``."""
    return run.made(elementwise.add, X, Y, shape=X.shape)


def up_gate(run: Run, M: np.ndarray, product: Product) -> tuple[np.ndarray, ...]:
    """M ``(L, dim)`` -> U and G ``(L, ffn)``: one fused product."""
    return tuple(half[0] for half in run.split(product(M, run.do), Layout.split_ffn))


def silu(run: Run, U: np.ndarray, G: np.ndarray) -> np.ndarray:
    """``U G sigmoid(G)``; where ``exp(-G)`` overflows, the sigmoid is 0, as it should be."""
    return run.made(elementwise.silu, U, G, shape=U.shape)


def project(run: Run, F: np.ndarray, product: Product) -> np.ndarray:
    """The product with one weight: ``(L, K)`` -> ``(L, N)``."""
    return product(F, run.do)


def last(run: Run, N: np.ndarray, total: Scheduled) -> np.ndarray:
    """The last token's row ``(1, dim)``: the row of cores that has it selects it, others add zeros."""
    return N[-1:] + np.float32(0)


def argmax(run: Run, logits: np.ndarray, largest: Scheduled) -> np.ndarray:
    """The place ``(1,)`` of the largest logit of the last row, the lowest of equals."""
    found = np.zeros(1, np.int64)
    run.do(elementwise.argmax, logits[-1], found)
    return found


@lru_cache(maxsize=64)
def _places(layout: Layout, move: Callable[..., Any], shape: tuple[int, ...]) -> tuple[tuple[int, np.ndarray], ...]:
    """Where numbers of the results of a `Layout`'s method come from; of `Layout.from_heads`, where they go to.

    Returns:
        Of each result the length of a row, and ``(rows, runs)`` where each run of a row begins: all equally long.
    """
    numbers = np.arange(1, 1 + np.prod(shape)).reshape(shape)  # 0: padding
    moved = move(layout, numbers)
    if isinstance(moved, tuple):
        return tuple(_runs(np.atleast_2d(part) - 1) for part in moved)
    goes = np.zeros(numbers.size, np.int64)
    goes[moved[moved > 0] - 1] = np.flatnonzero(moved)
    return (_runs(goes.reshape(shape)),)


def _runs(places: np.ndarray) -> tuple[int, np.ndarray]:
    breaks = np.flatnonzero((np.diff(places) != 1).any(axis=0)) + 1
    length = places.shape[1]
    return length, np.ascontiguousarray(places[:, :: gcd(length, *breaks.tolist())])


# -------------------------------------------------------------------------------------------------------- the lists
def _declared(mesh: Mesh, *rows: tuple[str, str, dict[str, int], Cuts, Cuts]) -> dict[str, Placement]:
    """Placements by name, from rows of names, kind, dimensions, cuts along y, cuts along x."""
    return {name: Placement(name, dims, mesh, y, x, kind)
            for names, kind, dims, y, x in rows for name in names.split(", ")}


def known_plan(plan: str) -> str:
    """The name of a plan, if there is such a one."""
    if plan not in PLANS:
        raise MeshError(f"plan = {plan!r}; known: {', '.join(map(repr, PLANS))}")
    return plan


def _read_by_qkv(config: Config) -> tuple[str, ...]:
    """What the fused product of queries, keys and values reads."""
    return ("N", "Wq", "Wk", "Wv", *(("bq", "bk", "bv") if config.biased else ()))


def _product_of_norm(plan: str, norm: Operation, product: Operation) -> tuple[Operation, ...]:
    """RMSNorm, then a product; fused, one operation, with the sum of squares as one more column of a GEMV."""
    if plan == "paper":
        return norm, product
    (used,) = product.schedules
    assert isinstance(used, Scheduled)
    if used.axis is not None:
        used = replace(used, shape=(used.shape[0], used.shape[1] + used.mesh.lines(used.axis)))
    reads = (*norm.reads, *product.reads[1:])
    return (Operation(product.name, partial(norm_along, then=product.do), reads, product.writes, (used,)),)


def decode_plan(layout: Layout, tokens: int, plan: str = "paper") -> Plan:
    """One token with a cache of ``tokens`` entries, the token's own included.

    Args:
        layout: the model on the mesh.
        tokens: entries of the cache.
        plan: "paper": the published one, with ten all-reduces a block; "fused": norms and softmax ride along, six.

    Returns:
        The operations, which read top-down as the published table does.

    Raises:
        MeshError: no such plan.
    """
    normed_product = partial(_product_of_norm, known_plan(plan))
    c, mesh, strip = layout.config, layout.mesh, layout.strip
    Y, X, across = 0, 1, ("H", layout.strips)
    by_e, by_f, by_v = (("E", mesh.rows),), (("F", mesh.cols),), (("V", mesh.cols),)
    by_head, by_kv = (across, ("D", strip.cols)), (("G", layout.strips), ("D", strip.cols))
    by_entry, in_strip = (("S", mesh.rows),), (across, (None, strip.cols))
    e, f, v = {"E": c.dim}, {"F": layout.ffn}, {"V": c.vocab}
    heads, kv, entries = {"H": c.heads, "D": layout.head}, {"G": c.kv_heads, "D": layout.head}, {"S": tokens}
    held = ceil_div(tokens, mesh.rows)  # entries on a core
    tile = ceil_div(c.dim, mesh.rows)
    passed = int(passing(balanced(tokens - 1, mesh.rows)).sum()) * mesh.cols * sum(layout.qkv[1:])

    placements = _declared(
        mesh,
        ("token", "activation", v, (), by_v),
        ("X, N, Y, Z, M, R", "activation", e, by_e, ()),
        ("Q, O", "activation", heads, (), by_head),
        ("K, V", "activation", kv, (), by_kv),
        ("S, P", "activation", {"H": c.heads, **entries}, by_entry, in_strip),
        ("U, G, F", "activation", f, (), by_f),
        ("logits", "activation", v, (), by_v),
        ("w_attn, w_ffn, w_out", "norms", e, by_e, ()),
        *((("bq", "biases", heads, (), by_head), ("bk, bv", "biases", kv, (), by_kv)) if c.biased else ()),
        ("Wq", "weights", {**e, **heads}, by_e, by_head),
        ("Wk, Wv", "weights", {**e, **kv}, by_e, by_kv),
        ("Wo", "weights", {"C": layout.out, **e}, by_e, (("C", mesh.cols),)),
        ("Wup, Wgate", "weights", {**e, **f}, by_e, by_f),
        ("Wdown", "weights", {**f, **e}, by_e, by_f),
        ("table", "table", {**v, **e}, by_e, by_v),
        ("K cache", "cache", {**kv, **entries}, by_entry, by_kv),
        ("V cache", "cache", {**entries, **kv}, by_entry, by_kv))

    of_qkv = _read_by_qkv(c)

    def total(axis: int, words: int, op: str = "add") -> Scheduled:
        return Scheduled(mesh, (words,), axis, op=op)

    def gemv(axis: int, K: int, N: int) -> Scheduled:
        return Scheduled(mesh, (K, N), axis)

    normed, op = partial(norm, tile=tile), Operation
    in_heads = Scheduled(strip, (layout.strip_heads * held,), X, copies=layout.strips)
    states = Scheduled(mesh, (2 + layout.width,), Y, op="logsumexp", stacked=layout.strip_heads)
    weighted = {
        "paper": (
            op("softmax", softmax, ("S",), ("P",), (total(Y, layout.strip_heads, "max"), total(Y, layout.strip_heads))),
            op("mix", mix, ("P", "V cache"), ("O",), (total(Y, layout.qkv[0]),))),
        "fused": (op("softmax, mix", attend, ("S", "V cache"), ("O",), (states,)),)}
    before = (op("embedding", select, ("token", "table"), ("X",), (total(X, tile),)),)
    layer = (
        *normed_product(
            op("attention norm", normed, ("X", "w_attn"), ("N",), (total(Y, 1),)),
            op("QKV", qkv, of_qkv, ("Q", "K", "V"), (gemv(Y, c.dim, mesh.cols * sum(layout.qkv)),))),
        op("RoPE", rope, ("Q", "K"), ("Q", "K")),
        op("append", append, ("K", "V"), ("K cache", "V cache"), (Passing(passed),)),
        op("score", scores, ("Q", "K cache"), ("S",), (in_heads,)),
        *weighted[plan],
        op("attention out", attention_out, ("O", "Wo"), ("Y",), (gemv(X, layout.out, c.dim),)),
        op("residual 1", add, ("X", "Y"), ("Z",)),
        *normed_product(
            op("ffn norm", normed, ("Z", "w_ffn"), ("M",), (total(Y, 1),)),
            op("up, gate", up_gate, ("M", "Wup", "Wgate"), ("U", "G"), (gemv(Y, c.dim, 2 * layout.ffn),))),
        op("SiLU", silu, ("U", "G"), ("F",)),
        op("down", project, ("F", "Wdown"), ("R",), (gemv(X, layout.ffn, c.dim),)),
        op("residual 2", add, ("Z", "R"), ("X",)),
    )
    after = (
        *normed_product(
            op("final norm", normed, ("X", "w_out"), ("N",), (total(Y, 1),)),
            op("LM head", project, ("N", "table"), ("logits",), (gemv(Y, c.dim, c.vocab),))),
        op("argmax", argmax, ("logits",), ("token",), (total(X, 2, "max"),)),
    )
    return Plan("decode", layout, tokens, before, layer, after, placements, plan)


def prefill_plan(layout: Layout, tokens: int, every: bool = False, plan: str = "paper") -> Plan:
    """A prompt of ``tokens`` tokens, all at once.

    Args:
        layout: the model on the mesh.
        tokens: L, of the prompt.
        every: the logits of every position by one MeshGEMM, instead of the last one's by a GEMV.
        plan: "paper": the published one; "fused": attention without chains, no all-reduce in a block.

    Returns:
        The operations, in order.

    Raises:
        MeshError: no such plan.
    """
    normed_product = partial(_product_of_norm, known_plan(plan))
    c, mesh, strip, L = layout.config, layout.mesh, layout.strip, tokens
    Y, X, own, tile = 0, 1, ceil_div(tokens, mesh.rows), ceil_div(layout.dim, mesh.cols)
    by_l, by_e, by_f, from_e = (("L", mesh.rows),), (("E", mesh.cols),), (("F", mesh.cols),), (("E", mesh.rows),)
    across = ("H", layout.strips)
    by_head, by_kv = (across, ("D", strip.cols)), (("G", layout.strips), ("D", strip.cols))
    l, e, f, v = {"L": L}, {"E": layout.dim}, {"F": layout.ffn}, {"V": c.vocab}
    heads, kv = {"H": c.heads, "D": layout.head}, {"G": c.kv_heads, "D": layout.head}
    by_v, on_e = ((), (("V", mesh.cols),)) if every else ((("V", mesh.rows),), ())
    placements = _declared(
        mesh,
        ("token", "activation", l, (), ()),
        ("X, N, Y, Z, M, R", "activation", {**l, **e}, by_l, by_e),
        ("Q, O", "activation", {**l, **heads}, by_l, by_head),
        ("K, V", "activation", {**l, **kv}, by_l, by_kv),
        ("S, P", "activation", {"H": c.heads, **l, "S": L}, by_l, (across, ("S", strip.cols))),
        ("U, G, F", "activation", {**l, **f}, by_l, by_f),
        ("last", "activation", e, (), by_e),
        ("logits", "activation", {**l, **v} if every else v, by_l if every else by_v, on_e),
        ("w_attn, w_ffn, w_out", "norms", e, (), by_e),
        *((("bq", "biases", heads, (), by_head), ("bk, bv", "biases", kv, (), by_kv)) if c.biased else ()),
        ("Wq", "weights", {**e, **heads}, from_e, by_head),
        ("Wk, Wv", "weights", {**e, **kv}, from_e, by_kv),
        ("Wo", "weights", {"C": layout.out, **e}, (("C", mesh.rows),), by_e),
        ("Wup, Wgate", "weights", {**e, **f}, from_e, by_f),
        ("Wdown", "weights", {**f, **e}, (("F", mesh.rows),), by_e),
        ("table", "table", {**v, **e}, from_e if every else by_v, on_e or by_e),
        ("K cache, V cache", "cache", {"S": L, **kv}, (("S", mesh.rows),), by_kv))

    of_qkv = _read_by_qkv(c)

    def total(axis: int, words: int, op: str = "add", repeats: int = 1) -> Scheduled:
        return Scheduled(mesh, (words,), axis, op=op, repeats=repeats)

    def gemm(K: int, N: int) -> Scheduled:
        return Scheduled(mesh, (L, K, N), algorithm="meshgemm")

    def per_head(algorithm: str, K: int, N: int) -> Scheduled:
        return Scheduled(strip, (L, K, N), None, algorithm, copies=layout.strips, repeats=layout.strip_heads)

    def per_group(algorithm: str, K: int, N: int, skewed: str) -> Scheduled:
        """The query heads of a group lie one below the other: keys and values pass by once for all of them."""
        return replace(per_head(algorithm, K, N), repeats=layout.strip_kv, stacked=c.group, skewed=skewed)

    def in_rows(op: str) -> Scheduled:
        return Scheduled(strip, (layout.strip_heads * own,), X, op=op, copies=layout.strips)

    normed, op = partial(norm, tile=tile), Operation
    # Every core selects the rows of the table that it owns; for each row of cores the columns add up its tokens.
    before = (op("embedding", select, ("token", "table"), ("X",), (total(Y, own * tile, repeats=mesh.rows),)),)
    # Fused, S stays skewed, V is skewed with K, and columns of V that are 1 add up the rows of exponentials.
    mixed = strip.cols * (layout.width + 1)
    v_skew = Riding(per_group("meshgemm", L, mixed, "A"), per_group("meshgemm", L, mixed, "AB"))
    exponents = Riding(per_group("meshgemm", strip.lcm, 0, "AB"))
    attended = {
        "paper": (
            op("score", prompt_scores, ("Q", "K"), ("S",), (per_head("gemm_t", layout.head, L),)),
            op("softmax", prompt_softmax, ("S",), ("P",), (in_rows("max"), in_rows("add"))),
            op("mix", prompt_mix, ("P", "V"), ("O",), (per_head("meshgemm", L, layout.head),))),
        "fused": (
            op("score", prompt_scores, ("Q", "K"), ("S",), (per_group("meshgemm_t", layout.head, L, "C"), v_skew)),
            op("softmax, mix", prompt_attend, ("S", "V"), ("O",), (per_group("meshgemm", L, mixed, "AB"), exponents)))}
    layer = (
        *normed_product(
            op("attention norm", normed, ("X", "w_attn"), ("N",), (total(X, own),)),
            op("QKV", qkv, of_qkv, ("Q", "K", "V"), (gemm(c.dim, mesh.cols * sum(layout.qkv)),))),
        op("RoPE", rope, ("Q", "K"), ("Q", "K")),
        op("keep", keep, ("K", "V"), ("K cache", "V cache")),
        *attended[plan],
        op("attention out", attention_out, ("O", "Wo"), ("Y",), (gemm(layout.out, c.dim),)),
        op("residual 1", add, ("X", "Y"), ("Z",)),
        *normed_product(
            op("ffn norm", normed, ("Z", "w_ffn"), ("M",), (total(X, own),)),
            op("up, gate", up_gate, ("M", "Wup", "Wgate"), ("U", "G"), (gemm(c.dim, 2 * layout.ffn),))),
        op("SiLU", silu, ("U", "G"), ("F",)),
        op("down", project, ("F", "Wdown"), ("R",), (gemm(layout.ffn, c.dim),)),
        op("residual 2", add, ("Z", "R"), ("X",)),
    )
    # Of a prompt only the last token's logits are wanted: its row is selected along y, then one GEMV along x.
    final = op("final norm", normed, ("X", "w_out"), ("N",), (total(X, own),))
    head = Scheduled(mesh, (c.dim, c.vocab), X)
    of_all = normed_product(final, op("LM head", project, ("N", "table"), ("logits",), (gemm(c.dim, c.vocab),)))
    of_one = {
        "paper": (final, op("last token", last, ("N",), ("last",), (total(Y, tile),)),
                  op("LM head", project, ("last", "table"), ("logits",), (head,))),
        "fused": (op("last token", last, ("X",), ("last",), (total(Y, tile),)), *normed_product(
            replace(final, reads=("last", "w_out")), op("LM head", project, ("N", "table"), ("logits",), (head,))))}
    after = (*(of_all if every else of_one[plan]),
             op("argmax", argmax, ("logits",), ("token",), (total(Y, 2, "max"),)))
    return Plan("prefill", layout, tokens, before, layer, after, placements, plan)


# ---------------------------------------------------------------------------------------------------- the executor
class Run:
    """One prompt, or one token, on its way through a list.

    Args:
        forward: whose plan and weights these are.
        tokens: ``(L,)`` ids.
        text: in decode, the cache's next text, the token's place included.
        program: records the kernels instead of calling them, for this token and, after `place`, for others.

    Attributes:
        do: ``do(kernel, *arguments)``, of arrays that it reads and writes: calls it, or records the call.
        tokens, text: see above.
        part: what this process has of attention.
        team: the threads of decode.
        bounds: in decode, ``(rows + 1,)`` where the entries of each row of cores begin, of those that are here.
        entries: in decode, columns of an array with one for each entry that is here, perhaps more.
        kept: in prefill, keys and values of each block that stay here, ``(kv_heads, L, head)``.
        turns: cosines and sines ``(L, head / 2)`` of RoPE.
        block: the block that is at work.
        values: the last values by name.
        shapes: of values that kernels rely on, by name.
    """

    text: Text
    bounds: np.ndarray
    entries: int

    def __init__(self, forward: Forward, tokens: np.ndarray, text: Text | None = None, program: Program | None = None):
        self.layout, self.config, self.weights = forward.plan.layout, forward.plan.layout.config, forward.weights
        self.precision, self.scale = forward.weights.precision, np.float32(self.config.head_dim ** -0.5)
        self.tokens, self.block, self.program, self.part = tokens, -1, program, forward.part
        self.team = forward.team
        c, L, head = self.config, len(tokens), self.layout.head
        self.do: Callable[..., None] = at_once if program is None else program.add
        if text is not None:
            self.text, self.bounds = text, text.bounds
            self.entries = int(self.bounds[-1]) if program is None else text.room
        self.turns = self.weights.rope(len(text) - 1 if text else 0, L)
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []
        self.values: dict[str, Any] = dict.fromkeys(forward.plan.entering(forward.plan.before), tokens)
        by_names: dict[str, tuple[int, ...]] = {
            "X N Y Z M R": (L, c.dim), "last": (1, c.dim), "U G F": (L, self.layout.ffn), "Q O": (c.heads, L, head),
            "K V": (c.kv_heads, L, head)}
        self.shapes = {name: shape for names, shape in by_names.items() for name in names.split()}
        here, columns = (self.part.prompt, (L, L)) if text is None else (self.part.own, (self.entries,))
        self.shapes["S"] = self.shapes["P"] = (len(here(np.empty(c.heads))), *columns)
        if text is not None:
            self.shapes |= {"K cache": text.keys.shape[1:], "V cache": text.values.shape[1:]}

    def place(self, tokens: np.ndarray, text: Text) -> None:
        """Go on with another token of a text in the same memory: what is recorded finds it in the same arrays."""
        self.tokens[:], self.bounds[:] = tokens, text.bounds
        for mine, now in zip(self.turns, self.weights.rope(len(text) - 1, 1)):
            mine[:] = now

    def keep(self, K: np.ndarray, V: np.ndarray) -> None:
        """What stays here of a prompt's keys and values."""
        occupancy = balanced(len(self.tokens), self.part.mesh_rows)
        self.kept.append((self.part.kept(K, occupancy), self.part.kept(V, occupancy)))

    def by_heads(self, kernel: Callable[..., None], heads: int, *arguments: Any) -> None:
        """Call ``kernel(h, *arguments)`` for every head, in decode."""
        self.team.share(kernel, heads, *arguments, do=self.do)

    def by_tokens(self, kernel: Callable[..., None], *arguments: Any) -> None:
        """Call ``kernel(item, items, *arguments)`` for work items that share out the tokens."""
        threads = 1 if len(self.tokens) == 1 else pool.threads_for(
            max(each.size for each in arguments if isinstance(each, np.ndarray)))
        if threads == 1:
            self.do(kernel, 0, 1, *arguments)
            return
        items = 4 * threads  # not all take equally long

        def work(mine: Iterator[int]) -> None:
            for item in mine:
                kernel(item, items, *arguments)

        pool.parallel(work, items, threads)

    def made(self, kernel: Callable[..., None], *arguments: Any, shape: tuple[int, ...]) -> np.ndarray:
        """What a kernel writes to its last argument, a new float32 array, by tokens."""
        out = np.empty(shape, np.float32)
        self.by_tokens(kernel, *arguments, out)
        return out

    def made_by_heads(self, kernel: Callable[..., None], *arguments: Any, shape: tuple[int, ...]) -> np.ndarray:
        """The same by heads, of which the array has a row each."""
        out = np.empty(shape, np.float32)
        self.by_heads(kernel, len(out), *arguments, out)
        return out

    def present(self, bounds: np.ndarray, total: Scheduled) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The additions of an all-reduce along y between rows of cores with entries: see `attention.present`."""
        dst, src, root = total.order
        to, of, found = np.empty_like(dst), np.empty_like(src), np.empty(3, np.int64)
        self.do(attention.present, bounds, dst, src, root, to, of, found)
        return to, of, found

    def groups(self, product: Scheduled, left: np.ndarray, right: np.ndarray, N: int) -> np.ndarray:
        """Heads ``(heads, L, K)`` times the operand that their group shares ``(kv_heads, ..)``: ``(heads, L, N)``."""
        heads, L, K = left.shape
        rows = self.config.group * L
        out = np.empty((len(right), rows, N), np.float32)
        for group, A, B in zip(out, left.reshape(len(right), rows, K), right):
            group[:] = product.multiply(A, B, self.precision.accumulate)
        return out.reshape(heads, L, N)

    def stored(self, array: np.ndarray) -> np.ndarray:
        """An array, rounded in place to what can be stored."""
        if self.precision.stored_half:
            self.do(elementwise.round_halves, array)
        return array

    def inverse_rms(self, squares: np.ndarray, scale: np.float32 = ONE) -> np.ndarray:
        """``scale / sqrt(mean(X^2) + eps)`` from sums of squares ``(L, n)``."""
        c = self.config
        return self.made(elementwise.inverse_rms, squares, np.float32(c.dim), np.float32(c.norm_eps), scale,
                         shape=squares.shape)  # fmt: skip

    def split(self, fused: np.ndarray, how: Callable[..., Any]) -> tuple[np.ndarray, ...]:
        """Columns of a fused product ``(L, n)`` as `Layout.split_qkv` or `Layout.split_ffn` splits them by heads."""
        L, n = fused.shape
        return tuple(self.made(elementwise.gather, fused, first, shape=(len(first), L, length))
                     for length, first in _places(self.layout, how, (n,)))


class Forward:
    """The forward pass: a plan, its operations bound to a model's weights.

    Args:
        plan: what to do.
        weights: of the model, arranged for the plan's layout.
        team: the threads of the GEMVs; None: the caller's alone.
        part: what this process has of attention; None: all.
    """

    def __init__(self, plan: Plan, weights: Weights, team: Team | None = None, part: Part | None = None):
        self.plan, self.weights, self.team, self.part = plan, weights, team or Team(1), part or Part.of(plan.layout)
        self._names = {op: (tuple(name for name in op.reads if name not in plan.weights(op)), plan.weights(op))
                       for op in (*plan.before, *plan.layer, *plan.after)}
        self._bound: dict[tuple[int, str], list[tuple[Operation, tuple[str, ...], tuple[Any, ...]]]] = {}
        self._recorded: tuple[Run, int | None] | None = None

    def __call__(self, tokens: np.ndarray, text: Text | None = None, hook: Hook | None = None,
                 blocks: int | None = None) -> Run:
        """Run the list.

        Tokens of a text are decoded by kernels that were recorded at the first of them, in arrays that the next token
        overwrites; with a hook, operation by operation, in arrays of their own.

        Args:
            tokens: ``(L,)`` ids; in decode one.
            text: in decode, the cache's next text: what it holds of the token is written, the rest is read.
            hook: called after each operation.
            blocks: run only so many; None: all.

        Returns:
            The run, with its last values by name.
        """
        with np.errstate(all="ignore"):  # huge weights overflow as on the wafer; the sampler refuses what is not finite
            if text is None or hook is not None or not self.weights.in_process:
                return self._through(Run(self, tokens, text), blocks, hook)
            run, recorded = self._recorded or (None, None)
            if run is None or run.text.keys is not text.keys or recorded != blocks:
                memory.forget()  # what the prompt packed: decoding packs nothing
                run = self._through(Run(self, tokens.copy(), text, Program()), blocks)
                self._recorded = run, blocks
            assert run.program is not None
            run.place(tokens, text)
            run.program.run()
            self.team.check()
        return run

    def forget(self) -> None:
        """Let go of what was recorded, and with it of the memory of its text."""
        self._recorded = None

    def _through(self, run: Run, blocks: int | None, hook: Hook | None = None) -> Run:
        numbers = range(run.config.blocks if blocks is None else blocks)
        for part, where in (("before", (-1,)), ("layer", numbers), ("after", (-1,))):
            for run.block in where:
                self._part(part, run, hook)
                if run.program is not None:
                    run.program.end_part()
        return run

    def _part(self, part: str, run: Run, hook: Hook | None) -> None:
        values, shapes = run.values, run.shapes
        if (bound := self._bound.get((run.block, part))) is None:
            bound = self._bound[run.block, part] = [self._bind(op, run.block) for op in getattr(self.plan, part)]
        for op, names, arguments in bound:
            given = [shaped(name, values[name], *shapes[name]) if name in shapes else values[name] for name in names]
            results = op.do(run, *given, *arguments)
            for name, result in zip(op.writes, (results,) if len(op.writes) == 1 else results):
                rounds = result.dtype == np.float32 and self.plan.placements[name].kind != "cache"  # whose are rounded
                values[name] = run.stored(result) if rounds else result
            if hook is not None:
                hook(run.block, op, values)

    def _bind(self, op: Operation, block: int) -> tuple[Operation, tuple[str, ...], tuple[Any, ...]]:
        """An operation with the names of the values that it takes and the rest of its arguments."""
        names, weights = self._names[op]
        if not weights:
            return op, names, op.schedules
        held = self.weights.vectors
        if not op.schedules[0].multiplies:
            return op, names, (*(held[block, name] for name in weights), *op.schedules)
        (scheduled,) = op.schedules
        assert isinstance(scheduled, Scheduled)
        norms = [held[block, name] for name in weights if self.plan.placements[name].kind == "norms"]
        biases = [held[block, "biases"]] if "bq" in weights else []
        W, accumulate = self.weights.operands[block, self.plan.matrices(op)], self.weights.precision.accumulate
        product = scheduled.prepared(W, self.team, accumulate)
        return op, names, (*norms, product, *((scheduled,) if norms else ()), *biases)
