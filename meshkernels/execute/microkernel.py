"""The register tile: vectors of accumulators, one explicit fused multiply-add each per step of k, as LLVM IR.

Numba's cache on disk notices edits of the modules that call these intrinsics, not of this one: touch them too.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: What Numba sees of the storage types that it has no arithmetic for.
HALF, BFLOAT = types.uint16, types.int16
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _vector(scalar, n):
    return ir.VectorType(scalar, n) if n else scalar


def _fma(builder, a, b, c):
    """llvm.fma: a * b + c rounded once, whatever the optimiser thinks of contraction."""
    kind, lanes = (c.type.element, f"v{c.type.count}") if isinstance(c.type, ir.VectorType) else (c.type, "")
    name = f"llvm.fma.{lanes}f{32 if kind == ir.FloatType() else 64}"
    return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(c.type, [c.type] * 3), name),
                        [a, b, c])


def _splat(builder, x, n):
    vector = ir.VectorType(x.type, n)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), x, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, n), [0] * n))


def _round_half(builder, x, n=0):
    """float32 -> nearest float16, ties to even -> float32."""
    return builder.fpext(builder.fptrunc(x, _vector(ir.HalfType(), n)), _vector(ir.FloatType(), n))


def _convert(builder, x, storage, target, n=0):
    """Scalar or vector of n from one dtype to another: exact when it widens, to nearest even when it narrows."""
    single, int32, int16 = (_vector(kind, n) for kind in (ir.FloatType(), _I32, ir.IntType(16)))

    def each(value):
        return ir.Constant(int32, [value] * n if n else value)

    if storage == target:
        return x
    if storage == HALF:
        x = builder.fpext(builder.bitcast(x, _vector(ir.HalfType(), n)), single)
    elif storage == BFLOAT:  # the upper half of a float32
        x = builder.bitcast(builder.shl(builder.zext(x, int32), each(16)), single)
    elif storage == types.float64:
        x = builder.fptrunc(x, single)
    if target == types.float64:
        return builder.fpext(x, _vector(ir.DoubleType(), n))
    if target == HALF:
        return builder.bitcast(builder.fptrunc(x, _vector(ir.HalfType(), n)), int16)
    if target == BFLOAT:  # add just below half of what is dropped, plus one if what is kept is odd
        bits = builder.bitcast(x, int32)
        odd = builder.and_(builder.lshr(bits, each(16)), each(1))
        nearest = builder.add(bits, builder.add(odd, each(0x7FFF)))
        kept = builder.select(builder.fcmp_unordered("uno", x, x), builder.or_(bits, each(0x400000)), nearest)
        return builder.trunc(builder.lshr(kept, each(16)), int16)
    return x


def _load(context, builder, place, dtype, n):
    kind = context.get_value_type(dtype)
    place = builder.bitcast(place, _vector(kind, n).as_pointer())
    return builder.load(place, align=context.get_abi_sizeof(kind))


def _store(context, builder, x, place):
    kind = x.type.element if isinstance(x.type, ir.VectorType) else x.type
    builder.store(x, builder.bitcast(place, x.type.as_pointer()), align=context.get_abi_sizeof(kind))


def _mover(past_caches):
    def codegen(context, builder, sig, args):
        n, storage, target = len(sig.args[0]), sig.args[2].dtype, sig.args[3].dtype
        place = builder.inttoptr(args[1], context.get_value_type(storage).as_pointer())
        data = context.make_array(sig.args[3])(context, builder, args[3]).data
        x, home = _load(context, builder, place, storage, n), builder.gep(data, [args[4]])
        x = _convert(builder, x, storage, target, n)
        size = n * context.get_abi_sizeof(x.type.element)
        if past_caches and size % 64 == 0:
            store = builder.store(x, builder.bitcast(home, x.type.as_pointer()), align=64)
            store.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
        else:
            _store(context, builder, x, home)
        return context.get_dummy_value()

    return codegen


@intrinsic
def move(typingctx, lanes, address, like, out, offset):
    """Copy len(lanes) numbers, of the dtype of ``like``, from an address to out[offset:], converted to its dtype."""
    return types.void(lanes, types.intp, like, out, types.intp), _mover(past_caches=False)


@intrinsic
def stream(typingctx, lanes, address, like, out, offset):
    """As `move`, but past the caches if these are whole cache lines: out[offset:] must begin where one begins."""
    return types.void(lanes, types.intp, like, out, types.intp), _mover(past_caches=True)


def _prefetch(builder, address):
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, byte), _I32(0), _I32(3), _I32(1)])  # read, keep, data


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address; harmless where there is none."""

    def codegen(context, builder, sig, args):
        _prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def transpose4(typingctx, addresses, k_step, like, out, offset, width):
    """Copy four lanes x four steps of k from four addresses to out[offset + k width + lane], converted."""

    def codegen(context, builder, sig, args):
        storage, target = sig.args[2].dtype, sig.args[3].dtype
        data = context.make_array(sig.args[3])(context, builder, args[3]).data
        lanes = []
        for l in range(4):
            place = builder.inttoptr(builder.extract_value(args[0], l), context.get_value_type(storage).as_pointer())
            lanes.append(_load(context, builder, place, storage, 4))

        def pick(x, y, *which):
            return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, 4), list(which)))

        low = pick(lanes[0], lanes[1], 0, 4, 1, 5), pick(lanes[2], lanes[3], 0, 4, 1, 5)
        high = pick(lanes[0], lanes[1], 2, 6, 3, 7), pick(lanes[2], lanes[3], 2, 6, 3, 7)
        for k, x in enumerate(pick(*pair, *which) for pair in (low, high) for which in ((0, 1, 4, 5), (2, 3, 6, 7))):
            place = builder.gep(data, [builder.add(args[4], builder.mul(args[5], _I64(k)))])
            _store(context, builder, _convert(builder, x, storage, target, 4), place)
        return context.get_dummy_value()

    return types.void(addresses, types.intp, like, out, types.intp, types.intp), codegen


@intrinsic
def round_half(typingctx, x):
    """float32 -> the nearest float16 (ties to even), returned as float32: the wafer's register width."""
    return x(x), lambda context, builder, sig, args: _round_half(builder, args[0])


def _fence(builder):
    """No instruction, but no load is moved across it.

    LLVM, left alone with all loads before all multiply-adds, unrolled the loop and loaded so far ahead that it spilled
    accumulators: to a stack whose alignment differs from process to process, and so did the speed, from 0.98 down to
    0.68 of the peak. Each load beside its use prevents that; the fence adds another 1 to 5 %.
    """
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)


def _micro_kernel(context, module, tile, left_type, storage, target, kind):
    """The LLVM function of one register tile; see `chain`, `add_chains` and `live_chain` for the three kinds.

    One function, called but never inlined: its loop keeps the registers to itself, and it compiles once.
    """
    rows, vectors, lanes, halves = (len(field) for field in tile.types)
    name = f"{kind}_{rows}x{vectors}x{lanes}_{left_type}_{storage}_{target}_{halves}"
    if name in module.globals:
        return module.globals[name]
    scalar = context.get_value_type(target)
    factor, element = (context.get_value_type(dtype).as_pointer() for dtype in (left_type, storage))
    more = {"chain": [], "ahead": [_I64], "add": [_I64] * 4, "live": [_I32.as_pointer()] * 3 + [_I64]}[kind]
    kinds = [factor, _I64, _I64, element, _I64, scalar.as_pointer(), _I64, _I64, *more]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    a, a_row, a_k, b, b_k, c, c_row, count, *more = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    tiles, vector = [(r, v) for r in range(rows) for v in range(vectors)], ir.VectorType(scalar, lanes)
    homes = [builder.gep(c, [builder.add(builder.mul(c_row, _I64(r)), _I64(v * lanes))]) for r, v in tiles]
    accumulators = [cgutils.alloca_once(builder, vector) for _ in tiles]  # LLVM makes registers of them
    zeros = [ir.Constant(vector, [0.0] * lanes)] * len(tiles)

    def rounded(x):
        return _round_half(builder, x, lanes) if halves else x

    def sums():
        return [_load(context, builder, home, target, lanes) for home in homes]

    def now():
        return [builder.load(x) for x in accumulators]

    def put(values, places):
        for x, place in zip(values, places):
            _store(context, builder, x, place)

    def multiply_add(a, b, begin, end, ahead=None):
        with cgutils.for_range(builder, end, begin, _I64) as loop:
            line, column = (builder.gep(x, [builder.mul(loop.index, step)]) for x, step in ((b, b_k), (a, a_k)))
            places = [builder.gep(line, [_I64(v * lanes)]) for v in range(vectors)]
            right = [_convert(builder, _load(context, builder, place, storage, lanes), storage, target, lanes)
                     for place in places]  # fmt: skip
            if ahead is not None:
                _prefetch(builder, builder.add(ahead, builder.mul(loop.index, _I64(64))))
            for r in range(rows):
                if r and r % 2 == 0:
                    _fence(builder)
                x = builder.load(builder.gep(column, [builder.mul(a_row, _I64(r))]))
                left = _splat(builder, _convert(builder, x, left_type, target), lanes)
                for x, place in zip(right, accumulators[r * vectors :]):
                    builder.store(rounded(_fma(builder, left, x, builder.load(place))), place)

    def since(time):
        """Which elements start at ring time ``time`` or later."""
        ahead = [builder.sub(time, builder.load(builder.gep(more[0], [_I64(r)]))) for r in range(rows)]
        starts = [_load(context, builder, builder.gep(more[1], [_I64(v * lanes)]), types.int32, lanes)
                  for v in range(vectors)]  # fmt: skip
        return [builder.icmp_signed(">=", starts[v], _splat(builder, ahead[r], lanes)) for r, v in tiles]

    if kind in ("chain", "ahead"):
        put(sums(), accumulators)
        multiply_add(a, b, _I64(0), count, *more)
        put(now(), homes)
    elif kind == "add":
        chains, a_step, b_step, ahead = more
        with cgutils.for_range(builder, chains, intp=_I64) as loop:
            put(zeros, accumulators)
            starts = [builder.gep(x, [builder.mul(loop.index, step)]) for x, step in ((a, a_step), (b, b_step))]
            line = builder.mul(builder.mul(loop.index, count), _I64(64))
            multiply_add(*starts, _I64(0), count, builder.add(ahead, line))
            put([rounded(builder.fadd(old, x)) for old, x in zip(sums(), now())], homes)
    else:
        put(sums(), accumulators)
        k = cgutils.alloca_once_value(builder, _I64(0))
        with cgutils.for_range(builder, count, intp=_I64) as loop:
            at = builder.mul(loop.index, _I64(3))
            end, born, kept = (builder.load(builder.gep(more[2], [builder.add(at, _I64(i))])) for i in range(3))
            with builder.if_then(builder.icmp_signed(">=", born, _I32(0))):
                put([builder.select(unborn, zeros[0], x) for unborn, x in zip(since(born), now())], accumulators)
            end = builder.sext(end, _I64)
            multiply_add(a, b, builder.load(k), end, more[3])
            builder.store(end, k)
            with builder.if_then(builder.icmp_signed(">=", kept, _I32(0))):
                put([builder.select(*choice) for choice in zip(since(kept), now(), sums())], homes)
    builder.ret_void()
    return function


def _caller(kind):
    """Lower a call with arrays and offsets to a call of the micro-kernel with pointers."""

    def codegen(context, builder, sig, args):
        def at(array, offset):
            data = context.make_array(sig.args[array])(context, builder, args[array]).data
            return builder.gep(data, [args[offset]])

        dtypes = (sig.args[array].dtype for array in (1, 5, 8))
        kernel = _micro_kernel(context, builder.module, sig.args[0], *dtypes, kind)
        _, _, _, a_row, a_k, _, _, b_k, _, _, c_row, count, *more = args
        if kind == "live":
            more = [at(12, 13), at(14, 15), context.make_array(sig.args[16])(context, builder, args[16]).data, args[17]]
        builder.call(kernel, [at(1, 2), a_row, a_k, at(5, 6), b_k, at(8, 9), c_row, count, *more])
        return context.get_dummy_value()

    return codegen


def _signature(tile, A, B, C, *more):
    i = types.intp
    return types.void(tile, A, i, i, i, B, i, i, C, i, i, i, *more)


@intrinsic
def chain(typingctx, tile, A, a0, a_row, a_k, B, b0, b_k, C, c0, c_row, depth):
    """Continue the chains in a register tile of C by ``depth`` multiply-adds.

    Element (r, j): for k = 0, 1, ...: C[c0 + r c_row + j] = fma(A[a0 + r a_row + k a_k], B[b0 + k b_k + j], same).
    """
    return _signature(tile, A, B, C), _caller("chain")


@intrinsic
def chain_ahead(typingctx, tile, A, a0, a_row, a_k, B, b0, b_k, C, c0, c_row, depth, ahead):
    """As `chain`; on the way, ``depth`` cache lines from the address ``ahead`` on are asked for."""
    return _signature(tile, A, B, C, types.intp), _caller("ahead")


@intrinsic
def add_chains(typingctx, tile, A, a0, a_row, a_k, B, b0, b_k, C, c0, c_row, depth, chains, a_step, b_step, ahead):
    """Add to C the results of so many chains as in `chain_ahead`, each from zero; a0 and b0 go on by their steps."""
    i = types.intp
    return _signature(tile, A, B, C, i, i, i, i), _caller("add")


@intrinsic
def live_chain(typingctx, tile, A, a0, a_row, a_k, B, b0, b_k, C, c0, c_row, spans, row, r0, col, j0, life, ahead):
    """As `chain_ahead`, in spans of time in which elements start and end.

    Element (r, j) starts at u = row[r0 + r] + col[j0 + j].
    life[s] = end, born, kept of span s: elements with u >= born restart from zero if born >= 0, then come the
    multiply-adds up to k = end, then elements with u >= kept are stored if kept >= 0 (the others are complete).
    """
    i = types.intp
    return _signature(tile, A, B, C, row, i, col, i, life, i), _caller("live")
