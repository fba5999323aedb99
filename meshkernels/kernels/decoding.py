"""Numbers decoded in registers from what is stored: the loops under GEMV, and under packing for GEMM, as LLVM IR.

A panel holds 64 columns of a matrix. Row after row, bits are laid so that a vector register of 32-bit lanes has them
with one shift: bit ``b`` of column ``16 v + i`` in row ``place`` of a plane of ``bits`` is bit ``p % 32 + b`` of the
32-bit word ``16 (p // 32) + i``, with ``p = bits * (4 place + v)``. Planes of 8 bits and more have a row's numbers side
by side, as scales, minima, factors and others have those of a group's columns. `OFFSETS` say where each begins.

What is read is a table of *spans*, ``(spans, 5)`` int32 ``at, depth, place, group, end``: ``depth`` rows from ``place``
on that share the scales in row ``group``, and are the rows ``at`` on of what is computed. They are met in the order of
the table; what ``end`` is for, each intrinsic says. Spans of whole turns are fast: see `turn`.

With AVX-512 codes become float32 through a table in a register, which needs the lowest four bits of a lane and ignores
the others: with the shift and two multiply-adds, four instructions for 16 numbers. Codes of five and six bits are the
sum of two tables. Other widths mask and convert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from meshkernels.kernels import host
from meshkernels.kernels.intrinsics import (
    BFLOAT,
    HALF,
    I32,
    I64,
    converted,
    fused,
    half_rounded,
    prefetched,
    splat,
)
from meshkernels.kernels.prefetch import Distances
from meshkernels.kernels.storage import STORAGES, Storage

#: Columns of a panel.
WIDTH = 64
#: Where a panel has its parts, in bytes: two planes of codes, scales, minima, factors, others.
OFFSETS = 6
#: Bytes from what is decoded to what is prefetched, where nothing is measured (`prefetch`), as for a weight in cache.
AHEAD = Distances(24 << 10, 0)
#: Groups from that in use to that whose scales are prefetched.
NEXT = 8
I8, BYTES = ir.IntType(8), ir.IntType(8).as_pointer()
#: What is done at the end of a chain: see `chains`.
PLAIN, PADDED, GOES_ON = 0, 1, 2


def turn(storage: Storage) -> int:
    """Rows after which the bits lie as before in a panel: so many are unrolled."""
    return max([8 // plane.bits for plane in storage.codes if plane.bits < 8], default=1)


class _Panel:
    """Code that reads one row after the other of a panel, each as vectors of the width in use.

    Args:
        context: Numba's.
        builder: where code is added.
        name: of the storage type.
        bytes_: in a vector.
        data: pointer to the panel's first byte.
        offsets: pointer to `OFFSETS` integers.
        next_: bytes to the next panel, if its scales, and no more than it, shall be prefetched.
        ahead: bytes from what is decoded to what is prefetched into L1, and into L2 if there are two; at most
            ``next_``: the same place of the next panel.
    """

    def __init__(self, context: Any, builder: Any, name: str, bytes_: int, data: Any, offsets: Any, next_: Any = None,
                 ahead: tuple[Any, ...] = (I64(AHEAD.near),)):  # fmt: skip
        self.context, self.builder, self.storage, self.next = context, builder, STORAGES[name], next_
        self.ahead = ahead
        if next_ is not None:
            self.ahead = tuple(builder.select(builder.icmp_signed("<", next_, each), next_, each) for each in ahead)
        self.kind = ir.DoubleType() if name == "F64" else ir.FloatType()
        self.lanes = bytes_ // self.storage.wide.itemsize
        self.firsts = range(0, WIDTH, self.lanes)
        self.tabled = bytes_ == 64 and host.host_simd() == "avx512"
        self.parts = [builder.gep(data, [builder.load(builder.gep(offsets, [I64(i)]))]) for i in range(OFFSETS)]
        self.turn = turn(self.storage)
        if self.storage.group:
            self.scales = self._registers()
            self.minima = self._registers() if self.storage.minimum >= 0 else []
            self._group = cgutils.alloca_once_value(builder, I32(-1))
            for group in range(NEXT):
                self._prefetch_scales(I64(group), I64(0))

    def _registers(self) -> list[Any]:
        return [cgutils.alloca_once_value(self.builder, self.constant(0.0)) for _ in self.firsts]

    def constant(self, *numbers: float) -> Any:
        """A vector of one number, or of these."""
        return ir.Constant(ir.VectorType(self.kind, self.lanes), list(numbers if len(numbers) > 1 else
                                                                       numbers * self.lanes))

    def _load(self, part: Any, byte: Any, kind: Any) -> Any:
        place = self.builder.bitcast(self.builder.gep(part, [byte]), ir.VectorType(kind, self.lanes).as_pointer())
        return self.builder.load(place, align=1)

    # ------------------------------------------------------------------------------------------- a group's scales
    def use_group(self, group: Any) -> None:
        """Load the scales of a group (int32), if they are not those in use."""
        if not self.storage.group:
            return
        builder = self.builder
        with builder.if_then(builder.icmp_signed("!=", group, builder.load(self._group))):
            builder.store(group, self._group)
            row = builder.zext(group, I64)
            self._prefetch_scales(builder.add(row, I64(NEXT)), I64(0))
            if self.next is not None:
                self._prefetch_scales(row, self.next)
            for i, first in enumerate(self.firsts):
                builder.store(self._scale(2, 4, row, first), self.scales[i])
                if self.minima:
                    minimum = self._scale(3, 5, row, first)
                    builder.store(builder.fneg(minimum) if self.storage.factors else minimum, self.minima[i])

    def _prefetch_scales(self, row: Any, beyond: Any) -> None:
        """Ask for scales, minima, factors and others of a group so many bytes beyond, in this panel or the next."""
        builder, storage = self.builder, self.storage
        block = builder.udiv(row, I64(storage.groups)) if storage.groups else row
        for part, there, index, bytes_ in ((2, True, block, 2), (3, storage.minimum >= 0, block, 2),
                                           (4, storage.factors, row, 1), (5, storage.others, row, 1)):
            for line in range(0, bytes_ * WIDTH if there else 0, 64):
                at = builder.add(builder.add(builder.mul(index, I64(bytes_ * WIDTH)), I64(line)), beyond)
                prefetched(builder, builder.ptrtoint(builder.gep(self.parts[part], [at]), I64))

    def _scale(self, part: int, factor: int, row: Any, first: int) -> Any:
        """Scales or minima of one vector of columns, times their factors."""
        builder, groups = self.builder, self.storage.groups
        block = builder.udiv(row, I64(groups)) if groups else row
        at = builder.add(builder.mul(block, I64(2 * WIDTH)), I64(2 * first))
        half = self._load(self.parts[part], at, ir.HalfType())
        scale = builder.fpext(half, ir.VectorType(self.kind, self.lanes))
        if groups:
            at = builder.add(builder.mul(row, I64(WIDTH)), I64(first))
            scale = builder.fmul(scale, self._signed(self._load(self.parts[factor], at, I8)))
        return scale

    def _signed(self, bytes_: Any) -> Any:
        """Signed bytes as numbers."""
        whole = self.builder.sext(bytes_, ir.VectorType(I32, self.lanes))
        return self.builder.sitofp(whole, ir.VectorType(self.kind, self.lanes))

    # ------------------------------------------------------------------------------------------------------- rows
    def row(self, place: Any, phase: int | None = None) -> list[Any]:
        """The 64 numbers of row ``place``; of row ``place + phase`` where ``place`` is a multiple of the turn."""
        numbers = []
        for i, first in enumerate(self.firsts):
            number = self._codes(place, phase, first)
            if self.storage.group:
                scale = self.builder.load(self.scales[i])
                number = (fused(self.builder, number, scale, self.builder.load(self.minima[i])) if self.minima else
                          self.builder.fmul(number, scale))
            numbers.append(number)
        return numbers

    def _codes(self, place: Any, phase: int | None, first: int) -> Any:
        """Numbers before they are scaled: codes, less the code of 0."""
        builder, planes = self.builder, self.storage.codes
        if planes[0].bits >= 8:
            return self._whole(builder.add(place, I64(phase or 0)), first, planes[0].bits)
        found, below = None, 0
        for part, plane in zip(self.parts, planes):
            shifted = self._shifted(part, place, phase, first, plane.bits)
            zero = 0 if below else self.storage.zero
            if self.tabled:
                table = self.constant(*(float((i % 2**plane.bits << below) - zero) for i in range(16)))
                shifted = self._looked_up(table, shifted)
                found = shifted if found is None else builder.fadd(found, shifted)
            else:
                code = builder.and_(shifted, splat(builder, I32(2**plane.bits - 1), self.lanes))
                code = builder.shl(code, splat(builder, I32(below), self.lanes))
                code = builder.sub(code, splat(builder, I32(zero), self.lanes))
                found = code if found is None else builder.add(found, code)
            below += plane.bits
        return found if self.tabled else builder.sitofp(found, ir.VectorType(self.kind, self.lanes))

    def _whole(self, place: Any, first: int, bits: int) -> Any:
        """Numbers of 8 bits and more."""
        builder, name = self.builder, self.storage.name
        at = builder.mul(builder.add(builder.mul(place, I64(WIDTH)), I64(first)), I64(bits // 8))
        if bits == 8:
            return self._signed(self._load(self.parts[0], at, I8))
        if bits == 16:
            found = self._load(self.parts[0], at, ir.IntType(16))
            return converted(builder, found, HALF if name == "F16" else BFLOAT, types.float32, self.lanes)
        return self._load(self.parts[0], at, self.kind)

    def _shifted(self, part: Any, place: Any, phase: int | None, first: int, bits: int) -> Any:
        """32-bit lanes whose lowest bits are those of a plane; others are above them."""
        builder, (v, i) = self.builder, divmod(first, 16)
        p = builder.mul(place, I64(4 * bits))
        at = builder.mul(builder.lshr(p, I64(5)), I64(64))
        if phase is None:
            shift = builder.add(builder.trunc(builder.and_(p, I64(31)), I32), I32(bits * v))
            return builder.lshr(self._load(part, builder.add(at, I64(4 * i)), I32), splat(builder, shift, self.lanes))
        words, shift = divmod(bits * (4 * phase + v), 32)
        at = builder.add(at, I64(64 * words + 4 * i + shift // 8))  # a load shifts by whole bytes
        found = self._load(part, at, I32)
        return builder.lshr(found, splat(builder, I32(shift % 8), self.lanes)) if shift % 8 else found

    def _looked_up(self, table: Any, index: Any) -> Any:
        """``table[index % 16]`` by AVX-512."""
        kind = ir.FunctionType(table.type, [table.type, index.type])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.x86.avx512.permvar.sf.512")
        return self.builder.call(function, [table, index])

    # ------------------------------------------------------------------------------------------------------ spans
    def walk(self, spans: Any, count: Any, use: Callable[[Any, list[Any]], None],
             end: Callable[[Any], None] | None = None) -> None:  # fmt: skip
        """Code for every row of all spans.

        Args:
            spans: pointer to the table.
            count: of its rows.
            use: adds code for the row of numbers at a place (the first argument) in the order of reading.
            end: adds code for the end of a span, whose last column it is given.
        """
        builder = self.builder
        with cgutils.for_range(builder, count, intp=I64) as loop:
            place = builder.mul(loop.index, I64(5))
            fields = [builder.load(builder.gep(spans, [builder.add(place, I64(i))])) for i in range(5)]
            at, depth, row = (builder.sext(each, I64) for each in fields[:3])
            self.use_group(fields[3])
            apart = builder.and_(builder.or_(row, depth), I64(self.turn - 1))
            with builder.if_else(builder.icmp_signed("==", apart, I64(0))) as (in_turns, one_by_one):
                with in_turns, cgutils.for_range(builder, builder.udiv(depth, I64(self.turn)), intp=I64) as turn:
                    k = builder.mul(turn.index, I64(self.turn))
                    self._prefetch(builder.add(row, k))
                    for phase in range(self.turn):
                        use(builder.add(builder.add(at, k), I64(phase)), self.row(builder.add(row, k), phase))
                with one_by_one, cgutils.for_range(builder, depth, intp=I64) as single:
                    use(builder.add(at, single.index), self.row(builder.add(row, single.index)))
            if end:
                end(fields[4])

    def _prefetch(self, place: Any) -> None:
        """Ask for what a turn will need so many bytes later: hardware prefetchers end at each 4 KiB page."""
        builder = self.builder
        for part, plane in zip(self.parts, self.storage.codes):
            bytes_ = plane.bits * WIDTH // 8
            for level, ahead in enumerate(self.ahead, 1):
                first = builder.gep(part, [builder.add(builder.mul(place, I64(bytes_)), ahead)])
                for byte in range(0, bytes_ * self.turn, 64):
                    prefetched(builder, builder.ptrtoint(builder.gep(first, [I64(byte)]), I64), level)


def _function(name: str, body: Callable[..., None]) -> Callable:
    """Lower a call of an intrinsic to one of an LLVM function of its own, so that its loops keep the registers."""
    def codegen(context, builder, signature, args):
        literal = [kind.literal_value for kind in signature.args if isinstance(kind, types.Literal)]
        values = [x for kind, x in zip(signature.args, args) if not isinstance(kind, types.Literal)]
        label = "_".join(map(str, (name, *literal)))
        function = builder.module.globals.get(label)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [x.type for x in values]), label)
            function.linkage = "internal"
            function.attributes.add("noinline")
            function.attributes.add("optsize")  # unrolls no loop: spans are short
            inside = ir.IRBuilder(function.append_basic_block("entry"))
            body(context, inside, *literal, *function.args)
            inside.ret_void()
        builder.call(function, values)
        return context.get_dummy_value()

    return codegen


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _chains(context, builder, name, bytes_, half, x, data, offsets, stride, near, far, spans, count, places, sums):
    panel = _Panel(context, builder, name, bytes_, _at(builder, data, I8), _at(builder, offsets, I64), stride,
                   (near, far))  # fmt: skip
    kind, lanes = panel.kind, panel.lanes
    vector = ir.VectorType(kind, lanes)
    x, sums = _at(builder, x, kind), _at(builder, sums, kind)
    zero = panel.constant(0.0)
    totals = [cgutils.alloca_once_value(builder, zero) for _ in panel.firsts]
    place = cgutils.alloca_once_value(builder, _at(builder, places, I64))

    def use(k, numbers):
        factor = splat(builder, builder.load(builder.gep(x, [k])), lanes)
        for chain, number in zip(totals, numbers):
            total = fused(builder, factor, number, builder.load(chain))
            builder.store(half_rounded(builder, total, lanes) if half else total, chain)

    def next_place():
        """Addresses of the sums at the next of the places, a vector each."""
        pointer = builder.load(place)
        builder.store(builder.gep(pointer, [I64(1)]), place)
        row = builder.gep(sums, [builder.mul(builder.load(pointer), I64(WIDTH))])
        return [builder.bitcast(builder.gep(row, [I64(first)]), vector.as_pointer()) for first in panel.firsts]

    def end(field):
        with builder.if_then(builder.icmp_signed(">=", field, I32(0))):
            home, starts = next_place(), builder.and_(field, I32(3))
            with builder.if_then(builder.icmp_signed("==", starts, I32(PADDED))):
                for chain in totals:
                    builder.store(builder.fadd(builder.load(chain), zero), chain)
            with builder.if_then(builder.icmp_signed("==", starts, I32(GOES_ON))):
                for chain, address in zip(totals, home):
                    builder.store(builder.load(address, align=4), chain)
            with cgutils.for_range(builder, builder.lshr(field, I32(2)), intp=I32):
                for chain, address in zip(totals, next_place()):
                    total = builder.fadd(builder.load(chain), builder.load(address, align=4))
                    builder.store(half_rounded(builder, total, lanes) if half else total, chain)
            for chain, address in zip(totals, home):
                builder.store(builder.load(chain), address, align=4)
                builder.store(zero, chain)

    panel.walk(_at(builder, spans, I32), count, use, end)


def _decode(context, builder, name, bytes_, data, offsets, spans, count, out):
    panel = _Panel(context, builder, name, bytes_, _at(builder, data, I8), _at(builder, offsets, I64))
    vector, out = ir.VectorType(panel.kind, panel.lanes), _at(builder, out, panel.kind)

    def use(k, numbers):
        for number, first in zip(numbers, panel.firsts):
            place = builder.gep(out, [builder.add(builder.mul(k, I64(WIDTH)), I64(first))])
            builder.store(number, builder.bitcast(place, vector.as_pointer()), align=4)

    panel.walk(_at(builder, spans, I32), count, use)


@intrinsic(prefer_literal=True)
def chains(typingctx, name, bytes_, half, x, data, offsets, stride, near, far, spans, count, places, sums):
    """Chains of multiply-adds ``x[at] * number``, from zero, of the 64 columns of a panel; their sums, added up.

    A span whose ``end`` is ``4 additions + kind`` ends a chain. The next of the places is the home of its sum, the
    sums at as many places after that are added to it, one after the other, and it goes there. PADDED adds 0 first,
    which makes +0.0 of -0.0 as the zeros of padding do; GOES_ON starts from what is at home, after a chain without
    rows. A negative ``end`` goes on with the chain.

    Args:
        typingctx: Numba's.
        name: of the storage type.
        bytes_: in a vector.
        half: round every sum to float16.
        x: address of the left operand.
        data: address of the panel.
        offsets: address of its `OFFSETS`.
        stride: bytes from it to the next one.
        near: bytes from what is read to what is prefetched into L1.
        far: the same of L2.
        spans: address of the table.
        count: its rows.
        places: address of the places, int64.
        sums: address of ``(places, 64)`` sums.

    Returns:
        Nothing.
    """
    return types.void(name, bytes_, half, *[types.int64] * 10), _function("chains", _chains)


@intrinsic(prefer_literal=True)
def decode(typingctx, name, bytes_, data, offsets, spans, count, out):
    """Rows of all spans to ``out[64 at:]``, as float32 (float64 of F64); addresses, and a count."""
    return types.void(name, bytes_, *[types.int64] * 5), _function("decode", _decode)


@intrinsic(prefer_literal=True)
def copy_number(typingctx, name, source, target):
    """Copy one sum from an address to another."""
    def codegen(context, builder, signature, args):
        kind = ir.DoubleType() if name.literal_value == "F64" else ir.FloatType()
        builder.store(builder.load(_at(builder, args[1], kind)), _at(builder, args[2], kind))
        return context.get_dummy_value()

    return types.void(name, types.int64, types.int64), codegen
