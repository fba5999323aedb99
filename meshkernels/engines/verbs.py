"""What a verb does with its schedule where its mesh has ranks: agree, run, hand back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from meshkernels.engines import mpi
from meshkernels.engines.distribution import Call
from meshkernels.engines.matrix import DistMatrix, require_same, whole
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.placed import Placed
from meshkernels.schedules.steps import Schedule


def execute(call: Call, schedule: Schedule, operands: Mapping[str, Any], row: int | slice, sums: np.dtype,
            stored: np.dtype, out: Any, method: str, observe: Any) -> Any:  # fmt: skip
    """Run a verb's schedule on the ranks of ``call``.

    Args:
        call: the verb and its ranks.
        schedule: what to do, verified.
        operands: `DistMatrix`, or whole arrays that are the same on every rank.
        row: picks the result out of its matrix.
        sums: dtype of sums.
        stored: the common dtype of the operands.
        out: refused, as what a rank has of the result is not an array of the caller's.
        method: ``"fused"`` or ``"lockstep"``.
        observe: refused: no rank sees all cores.

    Returns:
        A `DistMatrix`; of verbs whose result is whole on every rank an array.

    Raises:
        MeshError: an option that needs one process, or an operand on another mesh.
        MeshTypeError: an operand that is placed on one process.
        RankError: another rank refuses, or was asked for something else.
    """
    for name, given in (("out", out), ("observe", observe)):
        if given is not None:
            raise MeshError(f"{name}: a mesh with a communicator has its cores in several processes; leave out one "
                            "of the two")
    for name, given in operands.items():
        if isinstance(given, Placed):
            raise MeshTypeError(f"{name} is placed on one process: on ranks scatter takes the place of place")
        if isinstance(given, DistMatrix):
            require_same(given, call.on, name)
    kinds = ", ".join(f"{name} {'distributed ' * isinstance(given, DistMatrix)}{given.dtype} {given.shape}"
                      for name, given in operands.items())  # fmt: skip
    options = schedule.derived("digest of its text", lambda given: hash_of(given.to_json()))
    call.agree(f"{kinds}, {schedule.name} {options}, sums {sums}, {method}, ledger or not")
    with call.on.ranks.fatal():
        given = {name: each if isinstance(each, DistMatrix) else each.astype(stored, copy=False)
                 for name, each in operands.items()}  # fmt: skip
        result = mpi.run(schedule, given, sums, stored, call.on, method == "lockstep")
        if not call.whole:
            return result
        found = whole(result)
        assert found is not None
        return found[row]


def hash_of(text: str) -> str:
    """A short name of a text."""
    from hashlib import blake2b

    return blake2b(text.encode(), digest_size=6).hexdigest()
