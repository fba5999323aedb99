"""Calls of kernels, recorded once with their operands and run many times with no Python between them.

A call is a row of integers: the address of compiled code, then the arguments: an array as its address and lengths, a
number as itself or as its bits. The code is the kernel's own, behind a few instructions that read the row, made for the
types of the arguments that were recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from meshkernels.errors import MeshTypeError
from meshkernels.kernels.compiled import address_of, compiled
from meshkernels.kernels.intrinsics import I32, I64, call

#: Letters of what a row may have: elements of arrays, followed by the number of dimensions, and single numbers.
_ARRAYS = {"f": types.float32, "i": types.int64, "j": types.int32, "u": types.uint8}
_NUMBERS = {"n": types.int64, "x": types.float32, "b": types.boolean}


def at_once(kernel: Callable[..., None], *arguments: Any, keep: object = None) -> None:
    """Call a kernel; ``keep``: see `Program.add`."""
    kernel(*arguments)


class Program:
    """A list of calls, in parts.

    Attributes:
        kept: the operands, which the rows have by address only, and what else the calls need.
    """

    def __init__(self) -> None:
        self._fields: list[int] = []
        self._rows: list[int] = []
        self._parts: list[int] = [0]
        self._stated: tuple[np.ndarray, np.ndarray] | None = None
        self.kept: list[object] = []

    def add(self, kernel: Callable[..., None], *arguments: Any, keep: object = None) -> None:
        """Record a call. Whoever does answers for sizes and places, as of a call that is made at once.

        Args:
            kernel: a compiled function that returns nothing.
            *arguments: C-contiguous arrays of float32, int64, int32 or uint8, read and written where they are;
                integers, booleans and float32 numbers, which stay as they are.
            keep: what the arguments name by address.

        Raises:
            MeshTypeError: an argument of another kind.
        """
        row = call_row(kernel, *arguments)
        self._rows.append(len(self._fields))
        self._fields += row
        self.kept += [argument for argument in arguments if isinstance(argument, np.ndarray)]
        self.kept.append(keep)
        self._stated = None

    def end_part(self) -> None:
        """What is recorded from here on is another part."""
        self._parts.append(len(self._rows))

    def run(self) -> None:
        """Make all calls in order. Between parts Python looks for signals."""
        if self._stated is None:
            self._stated = np.array(self._fields, np.int64), np.array(self._rows, np.int64)
        for begin, end in pairwise([*self._parts, len(self._rows)]):
            _run(*self._stated, begin, end)


def call_row(kernel: Callable[..., Any], *arguments: Any, by_items: bool = False) -> list[int]:
    """A call as a row of integers.

    Args:
        kernel: a compiled function.
        *arguments: as of `Program.add`; arrays by address: whoever has the row keeps them.
        by_items: the kernel takes a work item before the arguments, which is not in the row, and may return a number
            other than 0 where it had no memory.

    Returns:
        The address of the code, ``code(row)`` or ``code(item, row)``, which returns 0, or another number if the kernel
        had no memory; then the arguments.

    Raises:
        MeshTypeError: an argument that cannot be recorded.
    """
    stated = [_stated(argument) for argument in arguments]
    code = _reader(kernel, " ".join(kind for kind, _ in stated), by_items)
    return [code, *(field for _, fields in stated for field in fields)]


def _stated(argument: Any) -> tuple[str, list[int]]:
    """The letters of an argument, and its places in a row."""
    if isinstance(argument, np.ndarray):
        kinds = {np.dtype(each.name): letter for letter, each in _ARRAYS.items()}
        if argument.flags.c_contiguous and argument.flags.aligned and argument.dtype in kinds:
            return f"{kinds[argument.dtype]}{argument.ndim}", [argument.ctypes.data, *argument.shape]
    elif isinstance(argument, (bool, np.bool_)):
        return "b", [int(argument)]
    elif isinstance(argument, (int, np.integer)):
        return "n", [int(argument)]
    elif isinstance(argument, np.float32):
        return "x", [int(argument.view(np.int32))]
    raise MeshTypeError(f"{type(argument).__name__} {getattr(argument, 'dtype', '')} cannot be recorded: arrays must "
                        "be float32, int64, int32 or uint8, and C-contiguous; numbers int, bool or float32")


@cache
def _reader(kernel: Any, kinds: str, by_items: bool) -> int:
    """The address of code that calls a kernel with the arguments in a row."""
    @compiled
    def of_row(row):
        if row:
            kernel(*operands(kinds, row))
        return 0

    @compiled
    def called(item, row):
        return _code(kernel(item, *operands(kinds, row)))

    @compiled
    def of_item(item, row):
        if not row:
            return 0
        try:  # C would not hear of an exception: all that a kernel raises is that there is no memory
            return called(item, row)
        except Exception:
            return 1

    return address_of(of_item, 0, 0) if by_items else address_of(of_row, 0)


@compiled
def _code(returned):
    """What a kernel returned, or 0."""
    return 0 if returned is None else returned


@compiled
def _run(fields, rows, begin, end):
    for i in range(begin, end):
        call(fields[rows[i]], (fields.ctypes.data + 8 * rows[i],))


def _kind(letters: str) -> Any:
    """The type of an argument."""
    return _NUMBERS[letters] if letters in _NUMBERS else types.Array(_ARRAYS[letters[0]], int(letters[1:]), "C")


@intrinsic(prefer_literal=True)
def operands(typingctx, kinds, row):
    """The arguments in a row, as a tuple: their letters, and the address of the row."""
    result = types.Tuple([_kind(letters) for letters in kinds.literal_value.split()])

    def codegen(context, builder, signature, args):
        places = builder.inttoptr(args[1], I64.as_pointer())
        found, at = [], 1

        def field():
            nonlocal at
            at += 1
            return builder.load(builder.gep(places, [I64(at - 1)]))

        for kind in result.types:
            if kind == types.float32:
                found.append(builder.bitcast(builder.trunc(field(), I32), ir.FloatType()))
            elif kind == types.boolean:
                found.append(builder.trunc(field(), ir.IntType(1)))
            elif kind == types.int64:
                found.append(field())
            else:
                found.append(_array(context, builder, kind, field(), [field() for _ in range(kind.ndim)]))
        return context.make_tuple(builder, result, found)

    return result(kinds, row), codegen


def _array(context: Any, builder: Any, kind: Any, address: Any, shape: list[Any]) -> Any:
    """A C-contiguous array of somebody's memory."""
    item = context.get_abi_sizeof(context.get_value_type(kind.dtype))
    strides = [I64(item)]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    array = context.make_array(kind)(context, builder)
    pointer = builder.inttoptr(address, context.get_data_type(kind.dtype).as_pointer())
    populate_array(array, pointer, shape=cgutils.pack_array(builder, shape), itemsize=I64(item), meminfo=None,
                   strides=cgutils.pack_array(builder, strides))  # fmt: skip
    return array._getvalue()
