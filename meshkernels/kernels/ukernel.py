"""The micro-kernel: rows x (vectors * lanes) chains of multiply-adds in registers. Its contract, on this page.

For each element (r, j) of the register tile, in order of k = 0 .. depth - 1, it computes

    C[r, j] = fma(A[r, k], B[k, j], C[r, j])

with one rounding per step (float32 or float64), or a second one to float16 if ``len(tile.halves) == 1``. This order is
all that the bits of a result depend on: every tile size, blocking, prefetch and vector width gives the same.

Three kernels share this loop and differ in how a chain begins and ends:

* `chain` continues the chains in C;
* `add_chains` adds to C the results of chains that begin with zero, one after the other;
* `live_chain` continues chains of which some begin or end on the way: see `Life`.

Operands are flat, C-contiguous arrays with the index of their first number and strides in numbers:

* A (`Left`): element (r, k) at ``at + r * row + k * step``; each is loaded as a scalar and broadcast. Packed panels
  have row = 1 and step = rows; a row-major tile has row = its width and step = 1.
* B (`Right`): element (k, j) at ``at + k * step + j``: the columns of a row lie side by side.
* C (`Sums`): element (r, j) at ``at + r * row + j``.
* ``numbers`` is an array or a pointer to its first number (`intrinsics.numbers_of`): in a loop, a pointer.
* A and B may each be of another dtype than C: 16-bit storage (float16 as uint16, bfloat16 as int16) is widened as it is
  loaded. C is of the dtype of the accumulators. C must not overlap A or B.

What the caller guarantees: all rows and all columns of the tile exist in all three operands. There are no masks at the
edges: operands are padded (`pack`), or another tile is used (`tiles`). Nothing is checked. ``depth`` may be 0.

What the kernel may assume: nothing about alignment. Vectors are loaded and stored as aligned as a single number; panels
that begin on a cache line (`memory.aligned`) avoid loads that straddle two.

Registers: the accumulators and one row of B stay in registers (24 + 2 of 32 with AVX-512, 12 + 2 of 16 with AVX2), A's
scalars are broadcast by the multiply-add itself. `tests/kernels/test_products.py` looks for spills in the machine code.

Prefetch: ``ahead`` is an `Ahead`, or None. Each step of k prefetches one cache line: by convention of what the next
calls need and no hardware prefetcher foresees. Any address is harmless.

Each kernel is one LLVM function per tile and dtypes, called but never inlined: its loop keeps the registers to itself
(0.66 of this speed where it was inlined), and it compiles once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from meshkernels.kernels.intrinsics import (
    I32,
    I64,
    converted,
    data,
    fused,
    half_rounded,
    loaded,
    prefetched,
    splat,
    stored,
)


class Left(NamedTuple):
    """A: element (r, k) is ``numbers[at + r * row + k * step]``."""

    numbers: np.ndarray
    at: int
    row: int
    step: int


class Right(NamedTuple):
    """B: element (k, j) is ``numbers[at + k * step + j]``."""

    numbers: np.ndarray
    at: int
    step: int


class Sums(NamedTuple):
    """C: element (r, j) is ``numbers[at + r * row + j]``."""

    numbers: np.ndarray
    at: int
    row: int


class Repeat(NamedTuple):
    """So many chains for `add_chains`; from one to the next, A and B go on by these steps (in numbers)."""

    chains: int
    a_step: int
    b_step: int


class Ahead(NamedTuple):
    """What is prefetched: step k asks for the cache line at ``address + k * step``, in bytes.

    Steps shorter than a line ask for it several times, which costs nothing: there is one prefetch per k anyway. A line
    per k, until all is asked for, was 0.91 of this speed on a Zen 3: L3 does not deliver that much in so short a time.
    """

    address: int
    step: int


#: A register tile has so many bands of rows, of equal height: see `Life`.
BANDS = 3


class Life(NamedTuple):
    """When the chains of a register tile begin and end, for `live_chain`.

    Element (r, j) begins at ring time u = row[r0 + r] + col[j0 + j]. A part of the tile is one of its `BANDS`, one
    vector wide; bit p of a set stands for part p, vector by vector. The multiply-adds are cut into spans; span s is
    ``spans[s] = end, born, kept, begins, alive, ends``: in the parts of ``begins``, elements with u >= born restart
    from zero; then come the multiply-adds up to k = end, which parts outside ``alive`` may skip; then, in the parts of
    ``ends``, elements with u >= kept are stored (the others are complete).

    Attributes:
        used: number of spans.
        spans: ``(>= used, 6)`` int32.
        row, col: int32, the two shares of the time at which an element begins.
        r0, j0: where the tile's rows and columns begin in them.
    """

    used: int
    spans: np.ndarray
    row: np.ndarray
    r0: int
    col: np.ndarray
    j0: int


class _Code:
    """What the kernels share: an LLVM function with a register tile of accumulators, to which code is added."""

    def __init__(self, context: Any, function: Any, tile: Any, dtypes: Any):
        self.context, self.dtypes = context, dtypes
        self.rows, self.vectors, self.lanes, self.half = (len(field) for field in tile)
        self.builder = builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.a, self.a_row, self.a_step, self.b, self.b_step, c, c_row, *self.more = function.args
        self.tile = [(r, v) for r in range(self.rows) for v in range(self.vectors)]
        self.homes = [builder.gep(c, [builder.add(builder.mul(c_row, I64(r)), I64(v * self.lanes))])
                      for r, v in self.tile]  # fmt: skip
        vector = ir.VectorType(c.type.pointee, self.lanes)
        self.accumulators = [cgutils.alloca_once(builder, vector) for _ in self.tile]  # LLVM makes registers of them
        self.zeros = [ir.Constant(vector, [0.0] * self.lanes)] * len(self.tile)

    def load_sums(self) -> list[Any]:
        """C, in vectors."""
        return [loaded(self.context, self.builder, home, self.dtypes[2], self.lanes) for home in self.homes]

    def store_sums(self, values: list[Any]) -> None:
        """Write vectors to C."""
        for x, home in zip(values, self.homes):
            stored(self.context, self.builder, x, home)

    def current(self) -> list[Any]:
        """The accumulators' values."""
        return [self.builder.load(place) for place in self.accumulators]

    def set(self, values: list[Any]) -> None:
        """Give the accumulators values."""
        for x, place in zip(values, self.accumulators):
            self.builder.store(x, place)

    def rounded(self, x: Any) -> Any:
        """To float16 and back, if that is how the tile accumulates."""
        return half_rounded(self.builder, x, self.lanes) if self.half else x

    def parts(self, chosen: Any) -> Iterator[tuple[int, range]]:
        """The code that is added for a vector and some rows is executed if they are among the ``chosen`` parts."""
        builder, step = self.builder, self.rows // BANDS
        for part in range(self.vectors * BANDS):
            v, p = divmod(part, BANDS)
            with builder.if_then(builder.icmp_unsigned("!=", builder.and_(chosen, I32(1 << part)), I32(0))):
                yield v, range(p * step, p * step + step)

    def multiply_add(self, a: Any, b: Any, begin: Any, end: Any, ahead: Any = (), alive: Any = None) -> None:
        """The loop over k from begin to end, A and B beginning at pointers a and b; in ``alive`` parts or in all.

        ``ahead``: the two numbers of an `Ahead`, or none.
        """
        builder, (left, storage, target) = self.builder, self.dtypes
        with cgutils.for_range(builder, end, begin, I64) as loop:
            line, column = (builder.gep(x, [builder.mul(loop.index, step)])
                            for x, step in ((b, self.b_step), (a, self.a_step)))  # fmt: skip
            right = []
            for v in range(self.vectors):
                x = loaded(self.context, builder, builder.gep(line, [I64(v * self.lanes)]), storage, self.lanes)
                right.append(converted(builder, x, storage, target, self.lanes))
            if ahead:
                prefetched(builder, builder.add(ahead[0], builder.mul(loop.index, ahead[1])))

            def add(r: int, vectors: Iterable[int]) -> None:
                x = builder.load(builder.gep(column, [builder.mul(self.a_row, I64(r))]))
                x = splat(builder, converted(builder, x, left, target), self.lanes)
                for v in vectors:
                    place = self.accumulators[r * self.vectors + v]
                    builder.store(self.rounded(fused(builder, x, right[v], builder.load(place))), place)

            if alive is not None:  # LLVM must not make a loop for each set of parts
                same = builder.asm(ir.FunctionType(I32, [I32]), "", "=r,0", [alive], True)
                for v, rows in self.parts(same):
                    for r in rows:
                        add(r, [v])
                return
            for r in range(self.rows):
                if r and r % 2 == 0:
                    self._fence()
                add(r, range(self.vectors))

    def _fence(self) -> None:
        """No instruction, but no load is moved across it.

        LLVM, left alone with all loads before all multiply-adds, unrolled the loop and loaded so far ahead that it
        spilled accumulators: to a stack whose alignment differs from process to process, and so did the speed, from
        0.98 down to 0.68 of the peak. Each load beside its use prevents that; the fence adds another 1 to 5 %.
        """
        self.builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)


def _lowering(body: Callable[..., None]) -> Callable:
    """Lower a call of a micro-kernel to one of an LLVM function, whose code is ``body(code, *further arguments)``."""

    def codegen(context, builder, sig, args):
        tile, *kinds = sig.args
        dtypes = [kind[0].dtype for kind in kinds[:3]]
        values = [x for kind, arg in zip(kinds, args[1:]) for x in _flat(context, builder, kind, arg)]
        sizes = "x".join(str(len(field)) for field in tuple(tile)[:3])
        name = f"{body.__name__}_{sizes}_{'_'.join(map(str, dtypes))}_{len(tile[3])}_{len(values)}"
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [x.type for x in values])
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            code = _Code(context, function, tile, dtypes)
            body(code, *code.more)
            code.builder.ret_void()
        builder.call(function, values)
        return context.get_dummy_value()

    return codegen


def _flat(context, builder, kind, value) -> Iterator[Any]:
    """What a micro-kernel gets of an argument.

    Yields:
        Pointers and integers: `Left`, `Right` and `Sums` begin with a pointer to their first number; of other
        structures, arrays become pointers and integers remain; nothing is left of None.
    """
    if isinstance(kind, types.NamedTuple | types.NamedUniTuple):
        parts = cgutils.unpack_tuple(builder, value, len(kind))
        if kind.fields[:2] == ("numbers", "at"):
            yield builder.gep(next(_flat(context, builder, kind[0], parts[0])), [parts[1]])
            yield from parts[2:]
        else:
            for part, x in zip(kind, parts):
                yield from _flat(context, builder, part, x)
    elif isinstance(kind, types.Array):
        yield data(context, builder, kind, value)
    elif kind is not types.none:
        yield value


def _chain(code: _Code, depth: Any, *ahead: Any) -> None:
    code.set(code.load_sums())
    code.multiply_add(code.a, code.b, I64(0), depth, ahead)
    code.store_sums(code.current())


def _add_chains(code: _Code, depth: Any, ahead: Any, line: Any, chains: Any, a_step: Any, b_step: Any) -> None:
    builder = code.builder
    with cgutils.for_range(builder, chains, intp=I64) as loop:
        code.set(code.zeros)
        a, b = (builder.gep(x, [builder.mul(loop.index, step)]) for x, step in ((code.a, a_step), (code.b, b_step)))
        done = builder.mul(builder.mul(loop.index, depth), line)
        code.multiply_add(a, b, I64(0), depth, (builder.add(ahead, done), line))
        # C is loaded after the loop: loaded before it, it would take as many registers again
        code.store_sums([code.rounded(builder.fadd(old, x)) for old, x in zip(code.load_sums(), code.current())])


def _live_chain(code: _Code, address: Any, step: Any, used: Any, spans: Any, row: Any, r0: Any, col: Any,
                j0: Any) -> None:  # fmt: skip
    builder, ahead = code.builder, (address, step)
    if code.rows % BANDS:
        raise ValueError(f"a tile of {code.rows} rows has no {BANDS} bands of equal height")

    def since(time, v, r):
        """Which elements of a vector begin at ring time ``time`` or later."""
        left = builder.sub(time, builder.load(builder.gep(row, [builder.add(r0, I64(r))])))
        begins = builder.gep(col, [builder.add(j0, I64(v * code.lanes))])
        begins = loaded(code.context, builder, begins, types.int32, code.lanes)
        return builder.icmp_signed(">=", begins, splat(builder, left, code.lanes))

    every = I32((1 << BANDS * code.vectors) - 1)
    code.set(code.load_sums())
    k = cgutils.alloca_once_value(builder, I64(0))
    with cgutils.for_range(builder, used, intp=I64) as loop:
        at = builder.mul(loop.index, I64(6))
        end, born, kept, begins, alive, ends = (
            builder.load(builder.gep(spans, [builder.add(at, I64(i))])) for i in range(6))
        for v, rows in code.parts(begins):
            for r in rows:
                place = code.accumulators[r * code.vectors + v]
                builder.store(builder.select(since(born, v, r), code.zeros[0], builder.load(place)), place)
        end = builder.sext(end, I64)
        with builder.if_else(builder.icmp_signed("==", alive, every)) as (all_of_them, some):
            with all_of_them:
                code.multiply_add(code.a, code.b, builder.load(k), end, ahead)
            with some:
                code.multiply_add(code.a, code.b, builder.load(k), end, ahead, alive)
        builder.store(end, k)
        for v, rows in code.parts(ends):
            for r in rows:
                i = r * code.vectors + v
                old = loaded(code.context, builder, code.homes[i], code.dtypes[2], code.lanes)
                new = builder.load(code.accumulators[i])
                stored(code.context, builder, builder.select(since(kept, v, r), new, old), code.homes[i])


@intrinsic
def chain(typingctx, tile, A, B, C, depth, ahead):
    """Continue the chains in C by ``depth`` multiply-adds."""
    return types.void(tile, A, B, C, types.intp, ahead), _lowering(_chain)


@intrinsic
def add_chains(typingctx, tile, A, B, C, depth, ahead, repeat):
    """Add to C the results of ``repeat.chains`` chains of ``depth`` multiply-adds, each from zero."""
    return types.void(tile, A, B, C, types.intp, ahead, repeat), _lowering(_add_chains)


@intrinsic
def live_chain(typingctx, tile, A, B, C, ahead, life):
    """Continue the chains in C in spans, between which some begin and some end."""
    return types.void(tile, A, B, C, ahead, life), _lowering(_live_chain)
