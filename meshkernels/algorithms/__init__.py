"""The algorithms, one short module each; every module of this package registers what it defines.

Five families, by what the schedule builder takes:

* ``"gemm"``: ``f(mesh, M, K, N) -> Schedule`` for C[M, N] = A[M, K] B[K, N];
* ``"gemm_t"``: the same for C[M, N] = A[M, K] B[N, K]^T;
* ``"transpose"``: ``f(mesh, M, N) -> Schedule`` for A[M, N]^T;
* ``"alltoall"``: ``f(mesh, n, *, axis) -> Schedule``, an exchange of ``n`` elements between all cores of a line;
* ``"reduce"``: ``f(mesh, axis, width, *, op, broadcast, **options) -> Reduction``, what combines the buffer
  ``"y"`` of ``width`` elements per core along every line of an axis; `meshkernels.algorithms.gemv` uses them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from meshkernels.errors import MeshError, MeshTypeError, shown

_FAMILIES: dict[str, dict[str, Callable]] = {
    "gemm": {}, "gemm_t": {}, "reduce": {}, "transpose": {}, "alltoall": {},
}  # fmt: skip


def register(family: str, name: str, *, replace: bool = False) -> Callable[[Callable], Callable]:
    """Decorator: make a schedule builder known under ``name`` to the verbs and the demo.

    Args:
        family: ``"gemm"``, ``"gemm_t"``, ``"reduce"``, ``"transpose"`` or ``"alltoall"``.
        name: what users call it.
        replace: take the name from a builder of the same family that has it, as when a notebook's cell is run again.

    Returns:
        The decorator; it leaves the builder as it is.

    Raises:
        MeshError: an unknown family, or a name that is taken.
        MeshTypeError: a name that is no string.
    """
    if not isinstance(family, str) or family not in _FAMILIES:
        raise MeshError(_unknown("family", family, _FAMILIES))
    if not isinstance(name, str):
        raise MeshTypeError(f"the name of an algorithm is a string, not {shown(name)}")
    taken = next((known for known, members in _FAMILIES.items() if name in members), None)
    if taken is not None and not (replace and taken == family):
        remedy = "" if taken != family else "; replace=True takes its place"
        raise MeshError(f"an algorithm called {name!r} is registered already in {taken!r}{remedy}")

    def add(build: Callable) -> Callable:
        _FAMILIES[family][name] = build
        return build

    return add


def algorithms() -> dict[str, tuple[str, ...]]:
    """The names of all algorithms, by family.

    Returns:
        ``{family: names}``, names in order of registration.

    Examples:
        >>> import meshkernels as mk
        >>> mk.algorithms()["gemm_t"]
        ('gemm_t', 'meshgemm_t')
    """
    return {family: tuple(members) for family, members in _FAMILIES.items()}


def known(family: str) -> dict[str, Callable]:
    """Name -> builder of one family, in order of registration."""
    return dict(_FAMILIES[family])


def find(family: str, name: str) -> Callable:
    """The builder called ``name``.

    Args:
        family: one of the five.
        name: what it was registered as.

    Returns:
        The function that builds the schedule or reduction.

    Raises:
        MeshError: unknown; the message lists the known ones.
    """
    try:
        return _FAMILIES[family][name]
    except (KeyError, TypeError):  # unknown, or nothing that could be a name
        raise MeshError(_unknown(f"{family} algorithm", name, _FAMILIES[family])) from None


def family_of(name: str) -> str:
    """The family that the algorithm called ``name`` belongs to.

    Args:
        name: what it was registered as.

    Returns:
        One of the five names.

    Raises:
        MeshError: unknown; the message lists all that are known.
    """
    for family, members in _FAMILIES.items():
        if name in list(members):
            return family
    raise MeshError(_unknown("algorithm", name, (known for members in _FAMILIES.values() for known in members)))


def _unknown(what: str, name: object, names: Iterable[str]) -> str:
    """The refusal of a name, with all that are known and the nearest."""
    known = list(names)
    near = get_close_matches(name[:99], known, n=1) if isinstance(name, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {shown(name)}; known: {', '.join(map(repr, known))}{hint}"


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
