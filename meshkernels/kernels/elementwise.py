"""What a core does to its own numbers between products: norms, RoPE, SiLU, exponentials, features by heads.

Every result is rounded to float32 after each operation that NumPy would round after. A kernel does one of several work
items, ``item`` of ``items``: its share of the L tokens, see `own`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.intrinsics import I32, fused, round_half

_ONE = np.float32(1)
#: Of the exponential: coefficients of P and Q, the lowest first; log2(e); -ln(2) in two parts; where it overflows, and
#: where it is 0; a number that leaves no digits behind the point when it is added and subtracted again.
_P = (9.999999999980870924916e-01, 7.257664613233124478488e-01, 2.473615434895520810817e-01,
      5.114512081637298353406e-02, 6.757896990527504603057e-03, 5.082762527590693718096e-04)  # fmt: skip
_Q = (1.0, -2.742335390411667452936e-01, 2.159509375685829852307e-02)
_LOG2_E, _LN2 = 1.4426950408889634, (-6.93145752e-1, -1.42860677e-6)
_OVERFLOW, _ZERO, _WHOLE = 88.72283935546875, -103.97208404541015625, float(3 << 22)


def _exp(builder: Any, x: Any) -> Any:
    """``exp`` of a vector of float32 numbers, with the bits of NumPy's for AVX-512: within 2.5 units in the last place.

    ``2^n P(r) / Q(r)`` with ``r = x - n ln 2``, as ``numpy/_core/src/umath/loops_exponent_log.dispatch.c.src`` has it.

    Returns:
        The vector.
    """
    whole = ir.VectorType(I32, x.type.count)

    def every(kind: Any, number: float) -> Any:
        return ir.Constant(kind, [float(np.float32(number)) if kind is x.type else number] * x.type.count)

    def polynomial(coefficients: tuple[float, ...]) -> Any:
        *rest, found = (every(x.type, c) for c in coefficients)
        for c in reversed(rest):
            found = fused(builder, found, r, c)
        return found

    def power(n: Any) -> Any:
        shifted = builder.shl(builder.add(n, every(whole, 127)), every(whole, 23))
        return builder.bitcast(shifted, x.type)

    over = builder.fcmp_ordered(">=", x, every(x.type, _OVERFLOW))
    under = builder.fcmp_ordered("<=", x, every(x.type, _ZERO))
    inside = builder.select(builder.or_(over, under), every(x.type, 0.0), x)
    n = builder.fadd(builder.fmul(inside, every(x.type, _LOG2_E)), every(x.type, _WHOLE))
    n, r = builder.fsub(n, every(x.type, _WHOLE)), inside
    for part in _LN2:
        r = fused(builder, n, every(x.type, part), r)
    y, n = builder.fdiv(polynomial(_P), polynomial(_Q)), builder.fptosi(n, whole)
    first = builder.ashr(n, every(whole, 1))  # two factors: the first leaves a number that is not denormal
    y = builder.fmul(builder.fmul(y, power(first)), power(builder.sub(n, first)))
    y = builder.select(over, every(x.type, np.inf), builder.select(under, every(x.type, 0.0), y))
    return builder.select(builder.fcmp_unordered("uno", x, x), x, y)


@intrinsic(prefer_literal=True)
def _exp_at(typingctx, lanes, x, place):
    """``x[place + i] = exp(x[place + i])`` for as many numbers of a flat array as there are lanes."""
    def codegen(context, builder, signature, args):
        numbers = context.make_array(signature.args[1])(context, builder, args[1]).data
        vector = ir.VectorType(ir.FloatType(), lanes.literal_value)
        home = builder.bitcast(builder.gep(numbers, [args[2]]), vector.as_pointer())
        builder.store(_exp(builder, builder.load(home, align=4)), home, align=4)
        return context.get_dummy_value()

    return types.void(lanes, x, types.int64), codegen


@compiled
def own(item, items, L):
    """The tokens of one of several work items: a run of 0 to L - 1."""
    return range(L * item // items, L * (item + 1) // items)


@compiled
def round_halves(X):
    """Every number of an array to the nearest float16, in place."""
    flat = X.reshape(X.size)
    for i in range(len(flat)):
        flat[i] = round_half(flat[i])


@compiled
def exponentials(x, stored):
    """``exp`` of the numbers ``x (n,)``, in place; rounded to float16 if they are ``stored`` as such."""
    begin, end = 0, len(x)
    while begin + 16 <= end:
        _exp_at(16, x, begin)
        begin += 16
    while begin < end:
        _exp_at(1, x, begin)
        begin += 1
    if stored:
        round_halves(x)


@compiled
def silu(item, items, U, G, out):
    """``U G sigmoid(G)``, all (L, n); where ``exp(-G)`` overflows, the sigmoid is 0, as it should be."""
    for i in own(item, items, len(out)):
        for j in range(U.shape[1]):
            out[i, j] = -G[i, j]
        exponentials(out[i], False)
        for j in range(U.shape[1]):
            out[i, j] = U[i, j] * (G[i, j] / (_ONE + out[i, j]))


@compiled
def add(item, items, X, Y, out):
    """``X + Y``: X and out (L, n), Y too, or one row (1, n) for all."""
    for i in own(item, items, len(out)):
        row = i if len(Y) > 1 else 0
        for j in range(X.shape[1]):
            out[i, j] = X[i, j] + Y[row, j]


@compiled
def inverse_rms(item, items, squares, length, eps, scale, out):
    """``scale / sqrt(squares / length + eps)``, all float32; squares and out (L, n)."""
    for i in own(item, items, len(out)):
        for j in range(squares.shape[1]):
            out[i, j] = _ONE / np.sqrt(squares[i, j] / length + eps) * scale


@compiled
def scale_columns(item, items, X, gain, out):
    """``X[i, j] gain[j]``: X and out (L, n)."""
    for i in own(item, items, len(out)):
        for j in range(X.shape[1]):
            out[i, j] = X[i, j] * gain[j]


@compiled
def scale_rows(item, items, X, scales, out):
    """``X[i, j] scales[i, g]``: every row has factors for as many groups of columns, the last of which may be short."""
    n = X.shape[1]
    width = -(-n // scales.shape[1])
    for i in own(item, items, len(out)):
        for g in range(scales.shape[1]):
            scale, numbers, into = scales[i, g], X[i, g * width : (g + 1) * width], out[i, g * width : (g + 1) * width]
            for j in range(len(numbers)):
                into[j] = numbers[j] * scale


@compiled
def rope(item, items, X, cos, sin, out):
    """Turn the pairs (2i, 2i + 1) of ``X (heads, L, head)``; cosines and sines ``(L, head / 2)``."""
    heads, L, head = X.shape
    for h in range(heads):
        for t in own(item, items, L):
            for i in range(head // 2):
                even, odd = X[h, t, 2 * i], X[h, t, 2 * i + 1]
                out[h, t, 2 * i] = even * cos[t, i] - odd * sin[t, i]
                out[h, t, 2 * i + 1] = even * sin[t, i] + odd * cos[t, i]


@compiled
def gather(item, items, X, first, out):
    """Columns of ``X (L, n)`` as heads: run p of head h ``(heads, L, head)`` comes from column ``first[h, p]`` on."""
    heads, L, head = out.shape
    width = head // first.shape[1]
    for h in range(heads):
        for t in own(item, items, L):
            for p in range(first.shape[1]):
                numbers, into = X[t, first[h, p] : first[h, p] + width], out[h, t, p * width : (p + 1) * width]
                for j in range(width):
                    into[j] = numbers[j]


@compiled
def scatter(item, items, X, first, out):
    """The inverse of `gather`, ``X (heads, L, head)`` to ``out (L, n)``; 0 where nothing goes."""
    heads, L, head = X.shape
    width = head // first.shape[1]
    for t in own(item, items, L):
        out[t] = 0
        for h in range(heads):
            for p in range(first.shape[1]):
                numbers, into = X[h, t, p * width : (p + 1) * width], out[t, first[h, p] : first[h, p] + width]
                for j in range(width):
                    into[j] = numbers[j]


@compiled
def append(K, V, keys, values, ends):
    """One token's key and value ``(kv_heads, 1, head)`` to their place, the last of ``ends[-1]`` entries; no items.

    Keys are ``(kv_heads, head, room)``, values ``(kv_heads, room, head)``.
    """
    place = ends[-1] - 1
    for h in range(len(K)):
        for j in range(K.shape[2]):
            keys[h, j, place] = K[h, 0, j]
            values[h, place, j] = V[h, 0, j]


@compiled
def argmax(X, out):
    """The place of the largest of the numbers ``X (n,)``, the lowest of equals, to ``out[0]``; no items."""
    out[0] = X.argmax()
