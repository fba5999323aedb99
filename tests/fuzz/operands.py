"""Operands and results between two pages that nobody may touch, of any shape, dtype and strides, against NumPy."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

import numpy as np

import meshkernels as mk
from meshkernels.algorithms import known
from meshkernels.kernels.pack import columns
from meshkernels.kernels.team import Team
from meshkernels.llm import Scheduled
from tests import oracle
from tests.fuzz import child, judge
from tests.fuzz.ready import DTYPES, dtype
from tests.handmade import fitting

QUICK = 12
#: Products of a case: they share a child.
PRODUCTS = 60
REDUCES = list(known("reduce"))

_libc = ctypes.CDLL(None, use_errno=True)
_held: list[mmap.mmap] = []


def guarded(size: int, at_end: bool) -> np.ndarray:
    """``(size,)`` bytes that end (or begin) at a page that cannot be touched."""
    page = mmap.PAGESIZE
    pages = -(-size // page)
    block = mmap.mmap(-1, (pages + 2) * page)
    _held.append(block)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    for edge in (address, address + (pages + 1) * page):
        judge.require(_libc.mprotect(ctypes.c_void_p(edge), page, 0) == 0, "mprotect")
    begin = page + (pages * page - size if at_end else 0)
    return np.frombuffer(block, np.uint8, size, begin)


def place(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The same numbers in guarded memory: in either order, with strides, reversed, at an odd address."""
    how = random.integers(5)
    if how == 0:
        wide = np.zeros([2 * n for n in values.shape], values.dtype)
        window = tuple(slice(random.integers(2), None, 2) for _ in values.shape)
        shape, order = wide.shape, "C"
    else:
        shape, order = values.shape, "F" if how == 1 else "C"
    raw = guarded(int(np.prod(shape)) * values.itemsize, bool(random.integers(2)))
    array = raw.view(values.dtype).reshape(shape, order=order)
    view = array[window] if how == 0 else array[tuple(slice(None, None, -1) for _ in shape)] if how == 2 else array
    view[...] = values
    return view


def _bound(A: np.ndarray, B: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error that a product may have."""
    if A.dtype == np.float64:
        return 1e-13 * (abs(A) @ abs(B)) * max(1, A.shape[1]) + 1e-300
    return oracle.product_bound(A, B, exact)


def _product(random: np.random.Generator) -> str:
    kind, name = random.integers(5), DTYPES[random.integers(4)]
    mesh = mk.Mesh(*(int(random.integers(1, 9)) for _ in range(2)))
    M, K, N = (int(2 ** random.uniform(0, 7)) for _ in range(3))
    if random.random() < 0.05:
        M, K, N = (n * int(random.integers(2)) for n in (M, K, N))
    scale = 10.0 ** random.integers(-6, 4) if name == "float64" else 1.0
    A, B = ((random.standard_normal(shape) * scale).astype(dtype(name)) for shape in ((M, K), (K, N)))
    what = f"{('gemm', 'gemm_t', 'gemv', 'allreduce', 'Gemv')[kind]} {M} x {K} x {N} of {name} on {mesh}"
    exact = A.astype(np.float64) @ B.astype(np.float64)
    bound = _bound(A, B, exact)
    if kind == 0:
        A_, B_ = place(A, random), place(B, random)
        out = place(np.zeros((M, N), A.dtype), random)
        algorithm = random.choice(fitting("gemm", mesh))
        found = mk.gemm(A_, B_, mesh, algorithm=algorithm, out=out if random.integers(2) else None)
    elif kind == 1:
        A_, B_ = place(A, random), place(np.ascontiguousarray(B.T), random)
        found = mk.gemm_t(A_, B_, mesh)
    elif kind == 2:
        x = place(A[0], random) if M else np.zeros(K, A.dtype)
        exact = x.astype(np.float64)[None] @ B.astype(np.float64)
        bound = _bound(x[None], B, exact)
        W = place(B, random)
        weights = mk.place(W, mesh) if random.random() < 0.3 else W
        reduce = REDUCES[random.integers(len(REDUCES))]
        found = mk.gemv(x, weights, mesh, reduce=reduce, axis=int(random.integers(2)))[None]
    elif kind == 3:
        values = random.integers(-50, 50, (*mesh.shape, N)).astype(dtype(name))
        axis, op = int(random.integers(2)), ("add", "max")[random.integers(2)]
        exact = getattr(values.astype(np.float64), "sum" if op == "add" else "max")(axis)
        bound = np.full(exact.shape, 0.0 if name != "bfloat16" else 8.0)
        found = mk.allreduce(place(values, random), mesh, axis=axis, op=op)
    else:  # prepared for decode: float32, and a vector of the right length
        W = place(np.ones((max(K, 1), max(N, 1)), np.float32), random)
        given = max(K, 1) + int(random.integers(-1, 2))
        x = place(np.ones((1, given), np.float32), random)
        try:
            found = Scheduled(mesh, W.shape, int(random.integers(2))).prepared(columns(W), Team(1))(x)
        except (mk.MeshError, TypeError):
            judge.require(given != len(W), f"{what}: refused")
            return "refused"
        judge.require(given == len(W), f"{what}: a vector of {given} for a weight of {W.shape} is accepted")
        exact, bound = np.full((1, W.shape[1]), float(len(W))), np.zeros((1, W.shape[1]))
    with np.errstate(all="ignore"):
        error = abs(found.astype(np.float64) - exact)
    judge.require(found.shape == exact.shape, f"{what}: shape {found.shape}")
    judge.require((error <= bound).all(), f"{what}: off by {error.max() if error.size else 0}")
    return "accepted"


def case(number: int, random: np.random.Generator):
    def call() -> None:
        for _ in range(PRODUCTS):
            _product(random)
            _held.clear()

    return f"{PRODUCTS} products", in_child(call, seconds=200)  # kernels may have to be compiled


def in_child(call: Callable[[], object], **limits) -> Callable[[], str]:
    """A check that passes if ``call`` returns; what it raises is what was found."""

    def check() -> str:
        outcome = child.run(call, **limits)
        if outcome.code != 0 and b"judge.Failure" in outcome.err:
            raise judge.Failure(outcome.err.decode(errors="replace").strip().split("judge.Failure: ")[-1])
        judge.end(outcome)
        judge.require(outcome.code == 0, f"exit code {outcome.code}: {outcome.err[-500:]!r}")
        return "accepted"

    return check
