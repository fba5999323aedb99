"""What threads tell each other through an array of 64-bit integers, and how one lets others have its core."""

from __future__ import annotations

import os
from typing import Any

from numba import types
from numba.extending import intrinsic

#: Offer the core to whoever waits for one.
give_way = types.ExternalFunction("sched_yield" if os.name == "posix" else "SwitchToThread", types.int32())


def _address(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def _atomic_load(typingctx, board, place):
    """``board[place]``, as other threads see it."""
    def codegen(context, builder, signature, args):
        return builder.load_atomic(_address(context, builder, signature, args), "seq_cst", 8)

    return types.int64(board, place), codegen


@intrinsic
def _atomic_store(typingctx, board, place, value):
    """``board[place] = value``, after everything before it."""
    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], _address(context, builder, signature, args), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(board, place, types.int64), codegen


@intrinsic
def _atomic_add(typingctx, board, place, value):
    """``board[place] += value``; returns what was there."""
    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _address(context, builder, signature, args), args[2], "seq_cst")

    return types.int64(board, place, types.int64), codegen


@intrinsic
def _swap_if(typingctx, board, place, expected, value):
    """``board[place] = value`` if it is ``expected``; returns whether it was."""
    def codegen(context, builder, signature, args):
        place = _address(context, builder, signature, args)
        return builder.extract_value(builder.cmpxchg(place, args[2], args[3], "seq_cst", "seq_cst"), 1)

    return types.boolean(board, place, types.int64, types.int64), codegen


# Intrinsics: their Python signature is not the one that compiled code calls.
load: Any = _atomic_load
store: Any = _atomic_store
add: Any = _atomic_add
swap_if: Any = _swap_if
