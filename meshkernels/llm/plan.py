"""The plan: every operation of a phase, with what it reads, writes and sends. One list, many readings.

The forward pass executes it (`execute`), the ledger counts it (`counts`), a picture draws it, a test checks that
every operand lies where the operation needs it. The rules (He et al., OSDI 2025, section 4):

    prefill  activations L_y E_x; products are MeshGEMM, Q K^T is dist-GEMM-T; rows are normalised along x
    decode   a GEMV sums along the axis that its input is cut along and leaves its output cut along the other;
             W_O and W_down are placed the other way round, so y and x alternate and nothing is transposed
"""

from __future__ import annotations

from dataclasses import dataclass

from meshkernels.llm.layout import Layout
from meshkernels.llm.placement import Cuts, Placement
from meshkernels.mesh import Mesh, ceil_div


@dataclass(frozen=True)
class Collective:
    """One all-reduce along every line of an axis.

    Attributes:
        op: "add" or "max".
        axis: 0 along columns of cores (y), 1 along rows (x).
        words: elements that each core contributes.
        mesh: the cores of one reduction domain: the whole mesh, or one strip of heads.
        copies: domains side by side, all at work at once.
    """

    op: str
    axis: int
    words: int
    mesh: Mesh
    copies: int = 1


@dataclass(frozen=True)
class Product:
    """One distributed product.

    Attributes:
        verb: "gemm", "gemm_t", or "gemv".
        shape: (M, K, N); M = 1 for a GEMV.
        mesh: the cores it runs on: the whole mesh, or one strip of heads.
        axis: for a GEMV, the axis that is summed along.
        copies: products side by side on different strips, all at work at once.
        repeats: products one after the other on the same cores.
    """

    verb: str
    shape: tuple[int, int, int]
    mesh: Mesh
    axis: int = 0
    copies: int = 1
    repeats: int = 1


@dataclass(frozen=True)
class Operation:
    """One line of the plan.

    Attributes:
        name: what is computed, unique within its list.
        kind: which method of the executor does it.
        reads: names of its inputs: activations, weights, the caches.
        writes: names of its outputs.
        products: distributed products. Their reductions are listed in ``collectives`` too, where they are
            all-reduces (a GEMV's); they are counted with the product.
        collectives: all-reduces, in order.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    products: tuple[Product, ...] = ()
    collectives: tuple[Collective, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All operations of one phase.

    Attributes:
        phase: "prefill" or "decode".
        layout: the model's dimensions on the mesh.
        tokens: sequence length that lengths are given for: the prompt's, or the cache's including this token.
        before, layer, after: operations before the blocks (embedding), of each block, and after them.
        placements: where every tensor lives, by name.
    """

    phase: str
    layout: Layout
    tokens: int
    before: tuple[Operation, ...]
    layer: tuple[Operation, ...]
    after: tuple[Operation, ...]
    placements: dict[str, Placement]

    @property
    def all_reduces(self) -> int:
        """All-reduces in one block."""
        return sum(len(op.collectives) for op in self.layer)

    @property
    def weights(self) -> dict[str, Placement]:
        """Placements of one block's weights."""
        return {name: p for name, p in self.placements.items() if name.startswith("W")}


def _place(mesh: Mesh, name: str, dims: dict[str, int], y: Cuts = (), x: Cuts = ()) -> Placement:
    """A placement with the tiles of `Layout`: a dimension cut once takes all cores of its axis."""
    return Placement(name, dims, mesh, y, x)


def decode_plan(layout: Layout, tokens: int) -> Plan:
    """One token with a cache of ``tokens`` entries, the token's own included."""
    c, mesh = layout.config, layout.mesh
    s = ceil_div(tokens, mesh.rows)
    on_y: Cuts = (("E", mesh.rows),)
    on_x: Cuts = (("F", mesh.cols),)
    strips, along = ("H", layout.strips), layout.strip.cols
    by_head: Cuts = (strips, ("D", along))
    by_kv: Cuts = (("G", layout.strips), ("D", along))
    per_token: Cuts = (("S", mesh.rows),)
    heads, kv = {"H": c.heads, "D": layout.head}, {"G": c.kv_heads, "D": layout.head}
    attended = {"H": c.heads, "S": tokens}
    e, f, v = {"E": c.dim}, {"F": layout.ffn}, {"V": c.vocab}
    out_rows = {"C": layout.out}
    p = [_place(mesh, name, e, y=on_y) for name in ("X", "N", "Y", "Z", "M", "R", "w_attn", "w_ffn", "w_out")]
    p += [_place(mesh, "Q", heads, x=by_head), _place(mesh, "O", heads, x=by_head)]
    p += [_place(mesh, name, kv, x=by_kv) for name in ("K", "V")]
    p += [_place(mesh, name, f, x=on_x) for name in ("U", "G", "F")]
    p += [_place(mesh, name, attended, y=per_token, x=(strips, (None, along))) for name in ("S", "P")]
    p += [_place(mesh, "K cache", {**kv, "S": tokens}, y=per_token, x=by_kv),
          _place(mesh, "V cache", {"S": tokens, **kv}, y=per_token, x=by_kv)]
    p += [_place(mesh, "Wq", {**e, **heads}, y=on_y, x=by_head)]
    p += [_place(mesh, name, {**e, **kv}, y=on_y, x=by_kv) for name in ("Wk", "Wv")]
    p += [_place(mesh, name, {**e, **f}, y=on_y, x=on_x) for name in ("Wup", "Wgate")]
    p += [_place(mesh, "Wo", {**out_rows, **e}, y=on_y, x=(("C", mesh.cols),)),
          _place(mesh, "Wdown", {**f, **e}, y=on_y, x=on_x)]
    p += [_place(mesh, "table", {**v, **e}, y=on_y, x=(("V", mesh.cols),)),
          _place(mesh, "token", {"V": c.vocab}, x=(("V", mesh.cols),)),
          _place(mesh, "logits", {"V": c.vocab}, x=(("V", mesh.cols),))]

    def summed(axis: int, words: int, op: str = "add") -> tuple[Collective, ...]:
        return (Collective(op, axis, words, mesh),)

    def gemv(name: str, reads: tuple[str, ...], writes: tuple[str, ...], K: int, N: int, axis: int,
             kind: str = "gemv") -> Operation:
        words = ceil_div(N, mesh.shape[1 - axis])
        return Operation(name, kind, reads, writes, (Product("gemv", (1, K, N), mesh, axis),),
                         summed(axis, words))

    def norm(name: str, reads: str, weight: str, writes: str) -> Operation:
        return Operation(name, "norm", (reads, weight), (writes,), (), summed(0, 1))

    width = mesh.cols * sum(layout.qkv)
    score = Collective("add", 1, layout.strip_heads * s, layout.strip, layout.strips)
    layer = (
        norm("attention norm", "X", "w_attn", "N"),
        gemv("QKV", ("N", "Wq", "Wk", "Wv"), ("Q", "K", "V"), c.dim, width, 0, "qkv"),
        Operation("RoPE", "rope", ("Q", "K"), ("Q", "K")),
        Operation("append", "append", ("K", "V"), ("K cache", "V cache")),
        Operation("score", "score", ("Q", "K cache"), ("S",), (), (score,)),
        Operation("softmax", "softmax", ("S",), ("P",), (),
                  summed(0, layout.strip_heads, "max") + summed(0, layout.strip_heads)),
        Operation("mix", "mix", ("P", "V cache"), ("O",), (), summed(0, layout.qkv[0])),
        gemv("attention out", ("O", "Wo"), ("Y",), layout.out, c.dim, 1),
        Operation("residual 1", "add", ("X", "Y"), ("Z",)),
        norm("ffn norm", "Z", "w_ffn", "M"),
        gemv("up, gate", ("M", "Wup", "Wgate"), ("U", "G"), c.dim, 2 * layout.ffn, 0, "upgate"),
        Operation("SiLU", "silu", ("U", "G"), ("F",)),
        gemv("down", ("F", "Wdown"), ("R",), layout.ffn, c.dim, 1),
        Operation("residual 2", "add", ("Z", "R"), ("X",)),
    )
    # The token is a one-hot vector over V_x: its row of the table is selected locally and summed along x.
    embed = Operation("embedding", "embed", ("token", "table"), ("X",), (), summed(1, ceil_div(c.dim, mesh.rows)))
    after = (
        norm("final norm", "X", "w_out", "N"),
        gemv("LM head", ("N", "table"), ("logits",), c.dim, c.vocab, 0, "head"),
        Operation("argmax", "argmax", ("logits",), ("token",), (), summed(1, 2, "max")),
    )
    return Plan("decode", layout, tokens, (embed,), layer, after, {place.name: place for place in p})


def prefill_plan(layout: Layout, tokens: int) -> Plan:
    """A prompt of ``tokens`` tokens, all at once."""
    c, mesh, strip = layout.config, layout.mesh, layout.strip
    rows, cols, L = mesh.rows, mesh.cols, tokens
    own = ceil_div(L, rows)
    on_y: Cuts = (("L", rows),)
    strips, along = ("H", layout.strips), strip.cols
    by_head: Cuts = (strips, ("D", along))
    by_kv: Cuts = (("G", layout.strips), ("D", along))
    heads, kv = {"H": c.heads, "D": layout.head}, {"G": c.kv_heads, "D": layout.head}
    l, e, f = {"L": L}, {"E": layout.dim}, {"F": layout.ffn}
    by_e: Cuts = (("E", cols),)
    p = [_place(mesh, name, {**l, **e}, on_y, by_e) for name in ("X", "N", "Y", "Z", "M", "R")]
    p += [_place(mesh, name, e, x=by_e) for name in ("w_attn", "w_ffn", "w_out")]
    p += [_place(mesh, name, {**l, **heads}, on_y, by_head) for name in ("Q", "O")]
    p += [_place(mesh, name, {**l, **kv}, on_y, by_kv) for name in ("K", "V")]
    p += [_place(mesh, name, {"S": L, **kv}, (("S", rows),), by_kv) for name in ("K cache", "V cache")]
    p += [_place(mesh, name, {"H": c.heads, **l, "S": L}, on_y, (strips, ("S", along))) for name in ("S", "P")]
    p += [_place(mesh, name, {**l, **f}, on_y, (("F", cols),)) for name in ("U", "G", "F")]
    from_e: Cuts = (("E", rows),)
    p += [_place(mesh, "Wq", {**e, **heads}, from_e, by_head)]
    p += [_place(mesh, name, {**e, **kv}, from_e, by_kv) for name in ("Wk", "Wv")]
    p += [_place(mesh, name, {**e, **f}, from_e, (("F", cols),)) for name in ("Wup", "Wgate")]
    p += [_place(mesh, "Wo", {"C": layout.out, **e}, (("C", rows),), by_e),
          _place(mesh, "Wdown", {**f, **e}, (("F", rows),), by_e),
          _place(mesh, "table", {"V": c.vocab, **e}, (("V", rows),), by_e),
          _place(mesh, "tokens", l), _place(mesh, "last", e, x=by_e),
          _place(mesh, "logits", {"V": c.vocab}, (("V", rows),))]

    def gemm(name: str, reads: tuple[str, ...], writes: tuple[str, ...], K: int, N: int,
             kind: str = "gemm") -> Operation:
        return Operation(name, kind, reads, writes, (Product("gemm", (L, K, N), mesh),))

    def norm(name: str, reads: str, weight: str, writes: str) -> Operation:
        return Operation(name, "norm", (reads, weight), (writes,), (), (Collective("add", 1, own, mesh),))

    def per_head(verb: str, K: int, N: int) -> tuple[Product, ...]:
        return (Product(verb, (L, K, N), strip, copies=layout.strips, repeats=layout.strip_heads),)

    lines = layout.strip_heads * own
    layer = (
        norm("attention norm", "X", "w_attn", "N"),
        gemm("QKV", ("N", "Wq", "Wk", "Wv"), ("Q", "K", "V"), c.dim, cols * sum(layout.qkv), "qkv"),
        Operation("RoPE", "rope", ("Q", "K"), ("Q", "K")),
        Operation("keep", "keep", ("K", "V"), ("K cache", "V cache")),
        Operation("score", "score", ("Q", "K"), ("S",), per_head("gemm_t", layout.head, L)),
        Operation("softmax", "softmax", ("S",), ("P",), (),
                  tuple(Collective(op, 1, lines, strip, layout.strips) for op in ("max", "add"))),
        Operation("mix", "mix", ("P", "V"), ("O",), per_head("gemm", L, layout.head)),
        gemm("attention out", ("O", "Wo"), ("Y",), layout.out, c.dim),
        Operation("residual 1", "add", ("X", "Y"), ("Z",)),
        norm("ffn norm", "Z", "w_ffn", "M"),
        gemm("up, gate", ("M", "Wup", "Wgate"), ("U", "G"), c.dim, 2 * layout.ffn, "upgate"),
        Operation("SiLU", "silu", ("U", "G"), ("F",)),
        gemm("down", ("F", "Wdown"), ("R",), layout.ffn, c.dim),
        Operation("residual 2", "add", ("Z", "R"), ("X",)),
    )
    # Every core selects the rows of the table that it owns; the column adds them up.
    tile = ceil_div(layout.dim, cols)
    embed = Operation("embedding", "embed", ("tokens", "table"), ("X",), (),
                      tuple(Collective("add", 0, own * tile, mesh) for _ in range(rows)))
    # Only the last token's logits are wanted: its row is added up (with zeros) along y, then one GEMV along x.
    after = (
        norm("final norm", "X", "w_out", "N"),
        Operation("last token", "last", ("N",), ("last",), (), (Collective("add", 0, tile, mesh),)),
        Operation("LM head", "head", ("last", "table"), ("logits",),
                  (Product("gemv", (1, c.dim, c.vocab), mesh, 1),),
                  (Collective("add", 1, ceil_div(c.vocab, rows), mesh),)),
        Operation("argmax", "argmax", ("logits",), ("token",), (), (Collective("max", 0, 2, mesh),)),
    )
    return Plan("prefill", layout, tokens, (embed,), layer, after, {place.name: place for place in p})
