"""The ranks of a mesh, and verbs that run on them: agreed on by all, or refused by all.

A verb whose mesh has a communicator is a `Call` while it runs. Before anything moves all ranks say what they were asked
for (`Ranks.agree`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from copy import copy
from functools import wraps
from typing import TYPE_CHECKING, Any

from meshkernels.engines.cut import Cut, as_cut
from meshkernels.engines.ranks import Ranks
from meshkernels.errors import MeshError

if TYPE_CHECKING:
    from meshkernels.mesh import Mesh


class Distribution:
    """The ranks of a mesh, and which cores are whose.

    Attributes:
        ranks: the processes.
        cut: which of them owns each core.
    """

    def __init__(self, comm: Any, check: Callable[[], Mesh], grid: Sequence[int] | None):
        self.ranks = Ranks.of(comm)
        said: list[Any] = []

        def agreed() -> str:
            return f"Mesh({said[0].rows}, {said[0].cols}), ranks {said[1].grid or said[1].ranks}" if said else ""

        try:
            mesh = check()
            self.cut: Cut = as_cut(mesh, self.ranks.size, grid)
            said += [mesh, self.cut]
        except Exception as failure:
            self.ranks.agree("", failure)
            raise
        self.ranks.agree(agreed())

    def over(self, mesh: Mesh) -> Distribution:
        """The same ranks for the cores of ``mesh``: this distribution, or one of the shortest borders."""
        if (self.cut.rows, self.cut.cols) == (mesh.rows, mesh.cols):
            return self
        other = copy(self)
        other.cut = Cut.of(mesh, self.ranks.size)
        return other

    def __str__(self) -> str:
        cut = self.cut
        return f"{cut.rows} x {cut.cols} cores on {'{} x {}'.format(*cut.grid) if cut.grid else cut.ranks} ranks"


class Call:
    """One verb on one distribution: it has been agreed on, or not yet."""

    def __init__(self, distribution: Distribution, verb: str, whole: bool):
        self.on, self.verb, self.whole, self.settled = distribution, verb, whole, False

    def agree(self, said: str) -> None:
        """All ranks go on, or all raise: see `Ranks.agree`."""
        self.settled = True
        self.on.ranks.agree(f"{self.verb}({said}) on {self.on}")


#: The verb that the calling thread is in, if it runs on ranks.
current: ContextVar[Call | None] = ContextVar("current", default=None)


def on_ranks(position: int | None, whole: bool = False) -> Callable[[Callable], Callable]:
    """Decorator of a verb: where its mesh has a communicator, it runs on the ranks of that.

    Args:
        position: of the argument ``mesh``; None: a keyword only.
        whole: the result is whole on every rank, not a `DistMatrix`.

    Returns:
        The decorator.
    """

    def wrap(verb: Callable) -> Callable:
        @wraps(verb)
        def call(*arguments: Any, **options: Any) -> Any:
            named = position is None or len(arguments) <= position
            mesh: Any = options.get("mesh") if named else arguments[position]  # type: ignore[index]
            distribution = getattr(mesh, "distribution", None)
            if distribution is None:
                return verb(*arguments, **options)
            alone = type(mesh)(mesh.rows, mesh.cols)
            if named:
                options["mesh"] = alone
            else:
                arguments = (*arguments[:position], alone, *arguments[position + 1 :])  # type: ignore[operator]
            return _together(Call(distribution, verb.__name__, whole), lambda: verb(*arguments, **options))

        return call

    return wrap


def _together(call: Call, verb: Callable[[], Any]) -> Any:
    before = current.set(call)
    try:
        return verb()
    except Exception as failure:
        if not call.settled:
            call.settled = True
            call.on.ranks.agree(call.verb, failure)
        raise
    finally:
        current.reset(before)


def require_together(distribution: Any, what: str) -> Distribution:
    """``distribution`` of a mesh, where it has one.

    Args:
        distribution: the mesh's, or None.
        what: the function that needs it.

    Returns:
        It.

    Raises:
        MeshError: it has none.
    """
    if distribution is None:
        raise MeshError(f"{what} needs a mesh that knows its ranks: Mesh(rows, cols, comm=MPI.COMM_WORLD)")
    return distribution
