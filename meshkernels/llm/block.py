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

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from meshkernels.errors import MeshError
from meshkernels.files.checkpoint import Config
from meshkernels.kernels import attention
from meshkernels.kernels.pack import Columns
from meshkernels.kernels.team import Team
from meshkernels.llm.cache import Text, balanced, passing
from meshkernels.llm.layout import Cuts, Layout, Placement
from meshkernels.llm.operations import Operation, Passing, Plan, Riding, Scheduled, shaped
from meshkernels.llm.weights import Weights
from meshkernels.mesh import Mesh, ceil_div

#: Called after each operation with the block (-1: before or after the blocks), the operation, and all values.
Hook = Callable[[int, Operation, dict[str, Any]], object]
#: The plans that there are: the published one, and the one with fewer all-reduces.
PLANS = ("paper", "fused")
#: Sums that are not normalised yet reach 56,930 in SmolLM2-135M (up and gate of block 28), and float16 ends at 65,504:
#: where sums are float16, they are kept this much smaller. A power of 2, so that no digit changes.
HEADROOM = np.float32(16)
#: A product with one weight: ``(L, K) -> (L, N)``.
Product = Callable[[np.ndarray], np.ndarray]


# --------------------------------------------------------------------------- local functions, in the order of a block
def select(run: Run, tokens: np.ndarray, table: Columns, total: Scheduled) -> np.ndarray:
    """Tokens ``(L,)``, table ``(dim, vocab)`` -> X ``(L, dim)``: the core that owns a row selects it, others add zeros.

    Executed as a look-up: of the terms of each sum one is the row, and a sum with zeros has no negative zero.

    Returns:
        X.
    """
    return table.take(tokens) + np.float32(0)


def norm(run: Run, X: np.ndarray, gain: np.ndarray, total: Scheduled, tile: int) -> np.ndarray:
    """``X gain / sqrt(mean(X^2) + eps)``: X ``(L, dim)``, of which a core holds ``tile`` features; gain ``(dim,)``."""
    c, half = run.config, run.precision.half_norms
    shaped("X", X, len(run.tokens), c.dim)
    squares = total.combine(attention.square_sums(X, tile, total.cores, half), half)  # (cores, L) -> (L,)
    inverse = 1 / np.sqrt(squares / c.dim + np.float32(c.norm_eps))
    return X * inverse[:, None] * gain


def norm_along(run: Run, X: np.ndarray, gain: np.ndarray, product: Product, used: Scheduled, *more: np.ndarray,
               then: Callable[..., Any]) -> Any:  # fmt: skip
    """RMSNorm scales whole tokens, so a product may come first: ``(X gain / rms) W = (X gain W) / rms``.

    The sum of squares rides along with the product ``used``, whose result is divided before ``then`` goes on with it.
    What is summed is as large as the residual stream: float32 sums take it as it is, for float16 it is scaled down.

    Returns:
        What ``then`` makes of it.
    """
    c, half = run.config, run.precision.half_norms
    shaped("X", X, len(X), c.dim)
    squares = used.passing_by(attention.square_sums(X, *used.tiles, half), half)  # (L, 1 or cols)
    inverse = 1 / np.sqrt(squares / c.dim + np.float32(c.norm_eps))
    if run.precision.half:
        gain, inverse = gain / HEADROOM, inverse * HEADROOM

    def divided(N: np.ndarray) -> np.ndarray:
        Y = product(N)
        if used.axis is not None:
            return np.multiply(Y, inverse, out=Y)
        width = ceil_div(Y.shape[1], len(inverse.T))  # of a column of cores, which has sums of its own
        for x, scale in enumerate(inverse.T):
            Y[:, x * width : x * width + width] *= scale[:, None]
        return Y

    return then(run, run.precision.store(X * gain), divided, *more)


def qkv(run: Run, N: np.ndarray, product: Product, *bias: np.ndarray) -> tuple[np.ndarray, ...]:
    """N ``(L, dim)`` -> Q ``(heads, L, head)``, K and V ``(kv_heads, L, head)``: one fused product, split by heads.

    Where there are biases, every core adds those of its features to what the product left there.

    Returns:
        Q, K and V.
    """
    return run.layout.split_qkv(sum(bias, product(N)))


def rope(run: Run, Q: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, ...]:
    """Turn the pairs ``(2i, 2i+1)`` of every head by the angles of their positions."""
    cos, sin = run.turns  # (L, head / 2)
    results = []
    for heads in (Q, K):
        even, odd = heads[..., 0::2], heads[..., 1::2]
        turned = np.empty_like(heads)
        turned[..., 0::2] = even * cos - odd * sin
        turned[..., 1::2] = even * sin + odd * cos
        results.append(turned)
    return tuple(results)


def keep(run: Run, K: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keys and values ``(kv_heads, L, head)`` stay where they are until decode takes them over."""
    run.kept.append((K, V))
    return K, V


def append(run: Run, K: np.ndarray, V: np.ndarray, shift: Passing) -> tuple[np.ndarray, ...]:
    """One token's key and value join the text -> keys ``(kv_heads, head, room)``, values ``(kv_heads, room, head)``."""
    run.text.store(run.block, run.position, K[:, 0], V[:, 0])
    return run.text.keys[run.block], run.text.values[run.block]


def prompt_scores(run: Run, Q: np.ndarray, K: np.ndarray, product: Scheduled, *along: Riding) -> np.ndarray:
    """``Q K^T`` of every query head with its group's keys, a group at a time: ``(heads, L, L)``."""
    groups = Q.reshape(len(K), -1, run.layout.head)  # (kv_heads, group * L, head)
    S = [product.multiply(q, k, run.precision.accumulate) for q, k in zip(groups, K)]
    return np.array(S).reshape(run.config.heads, *[len(run.tokens)] * 2)


def prompt_softmax(run: Run, S: np.ndarray, largest: Scheduled, total: Scheduled) -> np.ndarray:
    """Causal softmax of the rows of S ``(heads, L, L)``, scaled by ``1 / sqrt(head_dim)``; columns are cut along x.

    A maximum is the same in any order; sums are added in that of ``total``.

    Returns:
        P ``(heads, L, L)``.
    """
    L, half = len(run.tokens), run.precision.half
    shaped("S", S, run.config.heads, L, L)
    attention.mask_scores(S, run.scale, half)
    P = run.precision.store(np.exp(S, out=S))
    attention.normalise_rows(P, ceil_div(L, total.cores), *total.order, half)
    return P


def prompt_mix(run: Run, P: np.ndarray, V: np.ndarray, product: Scheduled) -> np.ndarray:
    """``P V`` of every query head with its group's values: ``(heads, L, head)``."""
    O = np.empty((len(P), P.shape[1], V.shape[2]), np.float32)
    for h, p in enumerate(P):
        O[h] = product.multiply(p, V[h // run.config.group], run.precision.accumulate)
    return O


def prompt_attend(run: Run, S: np.ndarray, V: np.ndarray, product: Scheduled, exponents: Riding) -> np.ndarray:
    """Causal softmax of the rows of S ``(heads, L, L)``, times the values of their group: ``(heads, L, head)``.

    A tile of S holds powers of 2 relative to the next whole number above its rows' maxima, which travel with it; S V
    adds up with rescaling, and the sums of rows are one more column of V. All rescaling is by powers of 2, so that
    the bits are those of one exponent a row (but for what underflows), which is what is computed here.

    Returns:
        O.
    """
    c, (kv_heads, L, _) = run.config, V.shape
    shaped("S", S, c.heads, L, L)
    attention.mask_scores(S, np.float32(c.head_dim**-0.5 * np.log2(np.e)), run.precision.half, True)
    P = run.precision.store(np.exp2(S, out=S)).reshape(kv_heads, -1, L)
    columns = V.reshape(kv_heads, L, -1, run.layout.width)
    V = np.concatenate([columns, np.ones_like(columns[..., :1])], axis=-1).reshape(kv_heads, L, -1)
    O = np.array([product.multiply(p, v, run.precision.accumulate) for p, v in zip(P, V)])
    O = O.reshape(c.heads, L, *columns.shape[2:3], -1)
    return (O[..., :-1] / O[..., -1:]).reshape(c.heads, L, -1)


def scores(run: Run, Q: np.ndarray, keys: np.ndarray, total: Scheduled) -> np.ndarray:
    """``Q K^T / sqrt(head_dim)`` with all entries: ``(heads, tokens)``, summed along x inside each strip."""
    c, layout, tokens = run.config, run.layout, run.position + 1
    shaped("Q", Q, c.heads, 1, layout.head)
    shaped("K cache", keys, c.kv_heads, layout.head, run.text.room)
    S = np.empty((c.heads, tokens), np.float32)
    attention.scores(Q[:, 0], keys, tokens, layout.width, *total.order, run.scale, run.precision.half, S)
    return S


def softmax(run: Run, S: np.ndarray, largest: Scheduled, total: Scheduled) -> np.ndarray:
    """Softmax of the rows of S ``(heads, tokens)``, whose columns lie on the rows of cores."""
    shaped("S", S, run.config.heads, run.position + 1)
    attention.subtract_max(S, run.ends, *largest.order)
    P = run.precision.store(np.exp(S, out=S))
    attention.normalise(P, run.ends, *total.order, run.precision.half)
    return P


def mix(run: Run, P: np.ndarray, values: np.ndarray, total: Scheduled) -> np.ndarray:
    """``P V`` of every query head with its group's values: ``(heads, 1, head)``, summed along y."""
    c, head = run.config, run.layout.head
    shaped("P", P, c.heads, run.position + 1)
    shaped("V cache", values, c.kv_heads, run.text.room, head)
    O = np.empty((c.heads, 1, head), np.float32)
    attention.mix(P, values, run.ends, *total.order, run.precision.half, O[:, 0])
    return O


def attend(run: Run, S: np.ndarray, values: np.ndarray, total: Scheduled) -> np.ndarray:
    """Softmax of the rows of S ``(heads, tokens)`` times the values of their group: ``(heads, 1, head)``.

    Every row of cores has maximum, sum and weighted values of its own entries; ``total`` combines these along y.

    Returns:
        O.
    """
    c, head = run.config, run.layout.head
    shaped("S", S, c.heads, run.position + 1)
    shaped("V cache", values, c.kv_heads, run.text.room, head)
    largest = attention.subtract_own_max(S, run.ends)
    P, O = run.precision.store(np.exp(S, out=S)), np.empty((c.heads, 1, head), np.float32)
    attention.attend(P, largest, values, run.ends, *total.order, run.precision.half, O[:, 0])
    return O


def attention_out(run: Run, O: np.ndarray, product: Product) -> np.ndarray:
    """O ``(heads, L, head)`` times ``W_O``: ``(L, dim)``."""
    return product(run.layout.from_heads(O))


def add(run: Run, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """The residual ``(L, dim)``."""
    return X + Y


def up_gate(run: Run, M: np.ndarray, product: Product) -> tuple[np.ndarray, ...]:
    """M ``(L, dim)`` -> U and G ``(L, ffn)``: one fused product."""
    return run.layout.split_ffn(product(M))


def silu(run: Run, U: np.ndarray, G: np.ndarray) -> np.ndarray:
    """``U G sigmoid(G)``; where ``exp(-G)`` overflows, the sigmoid is 0, as it should be."""
    return U * (G / (1 + np.exp(-G)))


def project(run: Run, F: np.ndarray, product: Product) -> np.ndarray:
    """The product with one weight: ``(L, K)`` -> ``(L, N)``."""
    return product(F)


def last(run: Run, N: np.ndarray, total: Scheduled) -> np.ndarray:
    """The last token's row ``(1, dim)``: the row of cores that has it selects it, others add zeros."""
    return N[-1:] + np.float32(0)


def argmax(run: Run, logits: np.ndarray, largest: Scheduled) -> int:
    """The place of the largest logit of the last row, the lowest of equals."""
    return int(logits[-1].argmax())


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

    Attributes:
        tokens: ``(L,)`` ids.
        position: of the first of them in the text.
        text: in decode, the cache's next text, the token's place included.
        ends: in decode, ``(rows,)`` one past the last entry of each row of cores.
        kept: in prefill, keys and values of each block, ``(kv_heads, L, head)``.
        turns: cosines and sines ``(L, head / 2)`` of RoPE.
        block: the block that is at work.
        values: the last values by name.
    """

    text: Text
    ends: np.ndarray

    def __init__(self, forward: Forward, tokens: np.ndarray, text: Text | None):
        self.layout, self.config = forward.plan.layout, forward.plan.layout.config
        self.precision, self.scale = forward.weights.precision, np.float32(self.config.head_dim ** -0.5)
        self.tokens, self.position, self.block = tokens, 0, -1
        if text is not None:
            self.text, self.ends, self.position = text, text.ends, len(text) - 1
        self.turns = forward.weights.rope(self.position, len(tokens))
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []
        self.values: dict[str, Any] = dict.fromkeys(forward.plan.entering(forward.plan.before), tokens)


class Forward:
    """The forward pass: a plan, its operations bound to a model's weights.

    Args:
        plan: what to do.
        weights: of the model, arranged for the plan's layout.
        team: the threads of the GEMVs; None: the caller's alone.
    """

    def __init__(self, plan: Plan, weights: Weights, team: Team | None = None):
        self.plan, self.weights, self.team = plan, weights, team or Team(1)
        self._names = {op: (tuple(name for name in op.reads if name not in plan.weights(op)), plan.weights(op))
                       for op in (*plan.before, *plan.layer, *plan.after)}
        self._bound: dict[tuple[int, str], list[tuple[Operation, tuple[str, ...], tuple[Any, ...]]]] = {}

    def __call__(self, tokens: np.ndarray, text: Text | None = None, hook: Hook | None = None,
                 blocks: int | None = None) -> Run:
        """Run the list.

        Args:
            tokens: ``(L,)`` ids; in decode one.
            text: in decode, the cache's next text: what it holds of the token is written, the rest is read.
            hook: called after each operation.
            blocks: run only so many; None: all.

        Returns:
            The run, with its last values by name.
        """
        run = Run(self, tokens, text)
        numbers = range(run.config.blocks if blocks is None else blocks)
        with np.errstate(all="ignore"):  # huge weights overflow as on the wafer; the sampler refuses what is not finite
            for part, where in (("before", (-1,)), ("layer", numbers), ("after", (-1,))):
                for run.block in where:
                    self._part(part, run, hook)
        return run

    def _part(self, part: str, run: Run, hook: Hook | None) -> None:
        values, rounds = run.values, run.precision.dtype == "float16"
        if (bound := self._bound.get((run.block, part))) is None:
            bound = self._bound[run.block, part] = [self._bind(op, run.block) for op in getattr(self.plan, part)]
        for op, names, arguments in bound:
            results = op.do(run, *[values[name] for name in names], *arguments)
            if len(op.writes) == 1:
                results = (results,)
            for name, result in zip(op.writes, results):
                values[name] = self._rounded(name, result) if rounds else result
            if hook is not None:
                hook(run.block, op, values)

    def _rounded(self, name: str, result: Any) -> Any:
        """A result as it is stored; what the cache holds is rounded already."""
        plain = self.plan.placements[name].kind == "cache" or not isinstance(result, np.ndarray)
        return result if plain else self.weights.precision.store(result)

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
