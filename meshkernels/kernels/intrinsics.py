"""What Numba lacks, as LLVM IR: atomics, explicit vectors, exact multiply-adds, 16-bit storage, prefetches, addresses.

First the parts that `ukernel` builds its loops from; they take an LLVM builder and its values. Then the intrinsics
that compiled code calls. Their Python signatures begin with a typing context that callers do not pass.
"""

from __future__ import annotations

import os

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: What Numba sees of the storage types that it has no arithmetic for: float16 and bfloat16.
HALF, BFLOAT = types.uint16, types.int16
I32, I64 = ir.IntType(32), ir.IntType(64)

# ------------------------------------------------------------------------------------------------- parts of kernels


def vector_type(scalar, n):
    """The type of n numbers; n = 0: of one."""
    return ir.VectorType(scalar, n) if n else scalar


def data(context, builder, kind, array):
    """The address of an array's first number."""
    return context.make_array(kind)(context, builder, array).data


def fused(builder, a, b, c):
    """llvm.fma: a * b + c rounded once, so that no compiler setting can change a bit."""
    kind, lanes = (c.type.element, f"v{c.type.count}") if isinstance(c.type, ir.VectorType) else (c.type, "")
    name = f"llvm.fma.{lanes}f{32 if kind == ir.FloatType() else 64}"
    function = ir.FunctionType(c.type, [c.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [a, b, c])


def splat(builder, x, n):
    """A vector of n times x."""
    vector = ir.VectorType(x.type, n)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), x, I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, n), [0] * n))


def half_rounded(builder, x, n=0):
    """float32 -> nearest float16, ties to even -> float32."""
    return builder.fpext(builder.fptrunc(x, vector_type(ir.HalfType(), n)), vector_type(ir.FloatType(), n))


def converted(builder, x, storage, target, n=0):
    """A scalar or vector of n from one dtype to another: exact when it widens, to nearest even when it narrows."""
    single, int32, int16 = (vector_type(kind, n) for kind in (ir.FloatType(), I32, ir.IntType(16)))

    def each(value):
        return ir.Constant(int32, [value] * n if n else value)

    if storage == target:
        return x
    if storage == HALF:
        x = builder.fpext(builder.bitcast(x, vector_type(ir.HalfType(), n)), single)
    elif storage == BFLOAT:  # the upper half of a float32
        x = builder.bitcast(builder.shl(builder.zext(x, int32), each(16)), single)
    elif storage == types.float64:
        x = builder.fptrunc(x, single)
    if target == types.float64:
        return builder.fpext(x, vector_type(ir.DoubleType(), n))
    if target == HALF:
        return builder.bitcast(builder.fptrunc(x, vector_type(ir.HalfType(), n)), int16)
    if target == BFLOAT:  # add just below half of what is dropped, plus one if what is kept is odd
        bits = builder.bitcast(x, int32)
        odd = builder.and_(builder.lshr(bits, each(16)), each(1))
        nearest = builder.add(bits, builder.add(odd, each(0x7FFF)))
        kept = builder.select(builder.fcmp_unordered("uno", x, x), builder.or_(bits, each(0x400000)), nearest)
        return builder.trunc(builder.lshr(kept, each(16)), int16)
    return x


def loaded(context, builder, place, dtype, n):
    """Load n numbers of a dtype from a pointer, aligned as a single one is."""
    kind = context.get_value_type(dtype)
    place = builder.bitcast(place, vector_type(kind, n).as_pointer())
    return builder.load(place, align=context.get_abi_sizeof(kind))


def stored(context, builder, x, place):
    """A scalar or vector to a pointer, aligned as a single number is."""
    kind = x.type.element if isinstance(x.type, ir.VectorType) else x.type
    builder.store(x, builder.bitcast(place, x.type.as_pointer()), align=context.get_abi_sizeof(kind))


def prefetched(builder, address, level=2):
    """Prefetch the cache line at an integer address into L2, where L1 holds what is being read now, or into L1."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, byte), I32(0), I32(4 - level), I32(1)])


# ---------------------------------------------------------------------------------------------------------- numbers


@intrinsic
def fma(typingctx, a, b, c):
    """``a * b + c``, rounded once."""
    return c(c, c, c), lambda context, builder, signature, args: fused(builder, *args)


@intrinsic
def round_half(typingctx, x):
    """float32 -> the nearest float16 (ties to even), returned as float32: the wafer's register width."""
    return x(x), lambda context, builder, signature, args: half_rounded(builder, args[0])


# ----------------------------------------------------------------------------------------------------------- copies


@intrinsic
def copy_line(typingctx, address, count, like, out, offset, non_temporal):
    """Copy numbers that lie side by side, of the dtype of ``like``, from an address; converted to the dtype of ``out``.

    As an intrinsic, it has no arrays as arguments at run time: Numba counts references at every call of a function.

    Args:
        typingctx: Numba's.
        address: of the first.
        count: how many.
        like: an array of their dtype.
        out: where to.
        offset: of the first in ``out``.
        non_temporal: past the caches, where whole cache lines are written.

    Returns:
        A signature and how to generate code, for Numba.
    """
    def codegen(context, builder, sig, args):
        storage, target = sig.args[2].dtype, sig.args[3].dtype
        source = builder.inttoptr(args[0], context.get_value_type(storage).as_pointer())
        home, count = builder.gep(data(context, builder, sig.args[3], args[3]), [args[4]]), args[1]
        lines = 64 // context.get_abi_sizeof(context.get_value_type(target))
        begins = builder.icmp_unsigned("==", builder.and_(builder.ptrtoint(home, I64), I64(63)), I64(0))
        non_temporal = builder.and_(args[5], begins)

        def copied(n, at):
            """The n numbers from ``at`` on."""
            place, to = (builder.gep(x, [at]) for x in (source, home))
            x = converted(builder, loaded(context, builder, place, storage, n), storage, target, n)
            if n % lines:
                stored(context, builder, x, to)
                return
            with builder.if_else(non_temporal) as (past, through):
                with past:
                    written = builder.store(x, builder.bitcast(to, x.type.as_pointer()), align=64)
                    written.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))
                with through:
                    stored(context, builder, x, to)

        with cgutils.for_range(builder, builder.lshr(count, I64(5)), intp=I64) as loop:
            copied(32, builder.shl(loop.index, I64(5)))
        with builder.if_then(builder.icmp_signed("!=", builder.and_(count, I64(31)), I64(0))):
            for n in (16, 8, 4, 2, 1):  # the rest, digit by digit
                with builder.if_then(builder.icmp_signed("!=", builder.and_(count, I64(n)), I64(0))):
                    copied(n, builder.and_(count, I64(-2 * n)))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, like, out, types.intp, types.boolean), codegen


@intrinsic
def prefetch(typingctx, address):
    """Prefetch the cache line at an address; harmless where there is none."""
    def codegen(context, builder, sig, args):
        prefetched(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def transpose4(typingctx, addresses, k_step, like, out, offset, width):
    """Copy four lanes x four steps of k from four addresses to out[offset + k width + lane], converted."""
    def codegen(context, builder, sig, args):
        storage, target = sig.args[2].dtype, sig.args[3].dtype
        home = data(context, builder, sig.args[3], args[3])
        lanes = []
        for l in range(4):
            place = builder.inttoptr(builder.extract_value(args[0], l), context.get_value_type(storage).as_pointer())
            lanes.append(loaded(context, builder, place, storage, 4))

        def pick(x, y, *which):
            return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, 4), list(which)))

        low = pick(lanes[0], lanes[1], 0, 4, 1, 5), pick(lanes[2], lanes[3], 0, 4, 1, 5)
        high = pick(lanes[0], lanes[1], 2, 6, 3, 7), pick(lanes[2], lanes[3], 2, 6, 3, 7)
        for k, x in enumerate(pick(*pair, *which) for pair in (low, high) for which in ((0, 1, 4, 5), (2, 3, 6, 7))):
            place = builder.gep(home, [builder.add(args[4], builder.mul(args[5], I64(k)))])
            stored(context, builder, converted(builder, x, storage, target, 4), place)
        return context.get_dummy_value()

    return types.void(addresses, types.intp, like, out, types.intp, types.intp), codegen


# ---------------------------------------------------------------------------------------------- addresses as arrays


@intrinsic
def pointer(typingctx, address, like):
    """An address as a pointer to numbers of the type of ``like``, for ``numba.carray``."""
    kind = types.CPointer(like)
    return kind(types.int64, like), lambda context, builder, signature, args: builder.inttoptr(
        args[0], context.get_value_type(kind))


@intrinsic
def numbers_of(typingctx, array):
    """A pointer to an array's first number, for inner loops: the caller keeps the array.

    Numba counts references to an array at every call that has it, and in every structure that is made of it, with
    atomic operations; to a pointer it does not.

    Returns:
        A signature and how to generate code, for Numba.
    """
    return types.CPointer(array.dtype)(array), lambda context, builder, signature, args: data(
        context, builder, signature.args[0], args[0])


@intrinsic
def address_in(typingctx, numbers, at):
    """Of number ``at``, from the pointer to the first."""
    return types.int64(numbers, at), lambda context, builder, signature, args: builder.ptrtoint(
        builder.gep(args[0], [args[1]]), I64)


@intrinsic
def call(typingctx, address, integers):
    """Call compiled code at an address with a tuple of integers; returns its integer."""
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(I64, [I64] * len(integers))
        values = [builder.extract_value(args[1], i) for i in range(len(integers))]
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)

    return types.int64(types.int64, types.UniTuple(types.int64, len(integers))), codegen


# ---------------------------------------------------------------------------------------------------------- chains


@intrinsic(prefer_literal=True)
def chains_of(typingctx, half, x, first, depth, matrix, place, stride, n, out, home):
    """``out[home + j] = fma chain over k < depth of x[first + k] * matrix[place + stride * k + j]``, j < n, from zero.

    Places in C-contiguous float32 arrays; the sums of up to 64 columns stay in registers. With ``half``, a literal,
    each is rounded to float16.

    Returns:
        Nothing.
    """
    def columns(builder, lanes, x, depth, matrix, stride, out):
        vector = ir.VectorType(ir.FloatType(), lanes)
        total = cgutils.alloca_once(builder, vector)
        builder.store(ir.Constant(vector, [0.0] * lanes), total)
        with cgutils.for_range(builder, depth, intp=I64) as loop:
            factor = splat(builder, builder.load(builder.gep(x, [loop.index])), lanes)
            row = builder.bitcast(builder.gep(matrix, [builder.mul(stride, loop.index)]), vector.as_pointer())
            found = fused(builder, factor, builder.load(row, align=4), builder.load(total))
            builder.store(half_rounded(builder, found, lanes) if half.literal_value else found, total)
        builder.store(builder.load(total), builder.bitcast(out, vector.as_pointer()), align=4)

    def codegen(context, builder, signature, args):
        x, matrix, out = (builder.gep(data(context, builder, signature.args[i], args[i]), [args[i + 1]])
                          for i in (1, 4, 8))  # fmt: skip
        done, n = I64(0), args[7]
        for lanes in (64, 16, 4, 1):
            runs = builder.udiv(builder.sub(n, done), I64(lanes))
            with cgutils.for_range(builder, runs, intp=I64) as loop:
                j = builder.add(done, builder.mul(loop.index, I64(lanes)))
                columns(builder, lanes, x, args[3], builder.gep(matrix, [j]), args[6], builder.gep(out, [j]))
            done = builder.add(done, builder.mul(runs, I64(lanes)))
        return context.get_dummy_value()

    i = types.int64
    return types.void(half, x, i, i, matrix, i, i, i, out, i), codegen


# ------------------------------------------------------------------------------------------------- between threads


def _address(context, builder, signature, args):
    return builder.gep(data(context, builder, signature.args[0], args[0]), [args[1]])


@intrinsic
def load(typingctx, board, place):
    """``board[place]`` (int64), as other threads see it."""
    def codegen(context, builder, signature, args):
        return builder.load_atomic(_address(context, builder, signature, args), "seq_cst", 8)

    return types.int64(board, place), codegen


@intrinsic
def store(typingctx, board, place, value):
    """``board[place] = value``, after everything before it."""
    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], _address(context, builder, signature, args), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(board, place, types.int64), codegen


@intrinsic
def add(typingctx, board, place, value):
    """``board[place] += value``; returns what was there."""
    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _address(context, builder, signature, args), args[2], "seq_cst")

    return types.int64(board, place, types.int64), codegen


@intrinsic
def swap_if(typingctx, board, place, expected, value):
    """``board[place] = value`` if it is ``expected``; returns whether it was."""
    def codegen(context, builder, signature, args):
        place = _address(context, builder, signature, args)
        return builder.extract_value(builder.cmpxchg(place, args[2], args[3], "seq_cst", "seq_cst"), 1)

    return types.boolean(board, place, types.int64, types.int64), codegen


#: Yield the core to a thread that waits for one.
yield_core = types.ExternalFunction("sched_yield" if os.name == "posix" else "SwitchToThread", types.int32())
