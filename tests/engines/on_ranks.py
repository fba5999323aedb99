"""Run on ranks: random products, rank 0 draws them; all ranks compare with the run of one process, bit for bit.

``mpiexec -n N python tests/engines/on_ranks.py EXAMPLES``
"""

from __future__ import annotations

import sys
import traceback
from contextlib import contextmanager
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (makes bfloat16 a dtype)
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import meshkernels as mk
from meshkernels.engines import stores

COMM = MPI.COMM_WORLD
FAMILIES = ("gemm", "gemm_t", "reduce")


class Case(NamedTuple):
    family: str
    algorithm: str
    cores: tuple[int, int]
    grid: tuple[int, int] | None
    sizes: tuple[int, int, int]
    dtype: str
    half: bool
    method: str
    how: str
    axis: int
    large: bool
    seed: int


@st.composite
def cases(draw) -> Case:
    family = draw(st.sampled_from(FAMILIES))
    names = [name for name in mk.algorithms()[family] if name != "cannon25d"]
    algorithm = draw(st.sampled_from([*names, *(["cannon25d"] if family == "gemm" else [])]))
    rows, cols = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    if algorithm == "cannon25d":
        rows = draw(st.integers(1, 4))
        cols = rows * draw(st.sampled_from([c for c in range(1, rows + 1) if rows % c == 0]))
    if rows * cols < COMM.size:
        rows, cols = (rows, cols) if algorithm == "cannon25d" else (max(rows, COMM.size), cols)
    grids = [(n, COMM.size // n) for n in range(1, COMM.size + 1)
             if COMM.size % n == 0 and n <= rows and COMM.size // n <= cols]  # fmt: skip
    return Case(family, algorithm, (rows, cols), draw(st.sampled_from([None, *grids])),
                draw(st.tuples(*[st.integers(0, 19)] * 3)), draw(st.sampled_from(
                    ["float16", "bfloat16", "float32", "float64"])), draw(st.booleans()),
                draw(st.sampled_from(["fused", "lockstep"])), draw(st.sampled_from(["whole", "scattered", "local"])),
                draw(st.integers(0, 1)), draw(st.booleans()), draw(st.integers(0, 2**32 - 1)))  # fmt: skip


def same(found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    assert found.dtype == wanted.dtype and found.shape == wanted.shape, (what, found.dtype, found.shape)
    assert found.tobytes() == wanted.tobytes(), (what, found, wanted)


def distributed(array: np.ndarray, mesh: mk.Mesh, how: str):
    if how == "local" and mesh.distribution.cut.grid is not None:
        return mk.DistMatrix.from_local(array[mk.DistMatrix.slices(array.shape, mesh)], mesh, array.shape)
    if how == "whole":
        return array
    root = COMM.size - 1
    return mk.scatter(array if COMM.rank == root else None, mesh, root)


class Counting:
    """A communicator that adds up what its rank sends, from MPI's own sizes."""

    def __init__(self, comm: MPI.Comm):
        self.comm, self.sent, self.messages = comm, np.zeros(comm.size, np.int64), 0

    def __getattr__(self, name: str):
        return getattr(self.comm, name)

    def Isend(self, buffer, to: int, tag: int):
        self.sent[to] += buffer[0].nbytes
        self.messages += 1
        return self.comm.Isend(buffer, to, tag)


@contextmanager
def counting(mesh: mk.Mesh):
    ranks = mesh.distribution.ranks
    ranks.comm = Counting(ranks.comm)
    try:
        yield ranks.comm
    finally:
        ranks.comm = ranks.comm.comm


def judge(case: Case) -> None:
    """Raise unless this rank finds what one process finds, and sends what the ledger says."""
    stores.LARGE = 1 if case.large else 64 << 10  # whether each block is a message
    one = mk.Mesh(*case.cores)
    if one.cores < COMM.size:
        try:
            mk.Mesh(*case.cores, comm=COMM)
        except mk.MeshError as refusal:
            assert f"{COMM.size} ranks on" in str(refusal)
            return
        raise AssertionError("more ranks than cores were taken")
    mesh = mk.Mesh(*case.cores, comm=COMM, ranks=case.grid)
    rng, (M, K, N) = np.random.default_rng(case.seed), case.sizes
    A, B = (rng.standard_normal(shape).astype(case.dtype) for shape in ((M, K), (K, N)))
    options = {"accumulate": "float16"} if case.half and case.dtype == "float16" else {}
    cut, (sent, layout) = mesh.distribution.cut, mesh.distribution.ranks.sent.values()
    if case.family == "reduce":
        x = rng.standard_normal(K).astype(case.dtype)
        options |= {"reduce": case.algorithm, "axis": case.axis}
        wanted = mk.gemv(x, B, one, **options)
        given, before, laid_out = distributed(B, mesh, case.how), sent.copy(), layout.copy()
        with counting(mesh) as wire:
            found, ledger = mk.gemv(x, given, mesh, method=case.method, ledger=True, **options)
        options = {"reduce": case.algorithm, "axis": case.axis}
        values = rng.standard_normal((*case.cores, N)).astype(case.dtype)
    else:
        verb = getattr(mk, case.family)
        B = B if case.family == "gemm" else np.ascontiguousarray(B.T)
        options["algorithm"] = case.algorithm
        try:
            wanted = verb(A, B, one, **options)
        except mk.MeshError as refusal:  # proportions of the mesh
            try:
                verb(A, B, mesh, **options)
            except mk.MeshError as same_refusal:
                assert str(same_refusal) == str(refusal)
                return
            raise AssertionError("ranks took what one process refuses") from None
        operands = [distributed(array, mesh, case.how) for array in (A, B)]
        before, laid_out = sent.copy(), layout.copy()
        with counting(mesh) as wire:
            found, ledger = verb(*operands, mesh, method=case.method, ledger=True, **options)
        assert isinstance(found, mk.DistMatrix)
    expected = ledger.between(cut)[COMM.rank]
    assert (sent - before == expected).all(), (sent - before, expected)
    assert (wire.sent == expected + layout - laid_out).all(), (wire.sent, expected, layout - laid_out)
    if case.how == "whole" and case.family != "reduce":  # nothing else was sent
        counted = ledger.per_rank(cut)["messages_sent"][COMM.rank]
        assert counted <= wire.messages if case.large else wire.messages == counted
    if isinstance(found, mk.DistMatrix):
        again = mk.transpose(found, mesh)
        same(mk.gather(again, mesh, root=None), np.ascontiguousarray(wanted.T), "transpose")
        rooted = mk.gather(found, mesh, root=0)
        assert (rooted is None) == (COMM.rank > 0)
        found = mk.gather(found, mesh, root=None)
    else:
        same(mk.allreduce(values, mesh, **options), mk.allreduce(values, one, **options), "allreduce")
        if case.algorithm != "ring" and N > 0:
            options |= {"op": "logsumexp"}
            same(mk.allreduce(values, mesh, **options), mk.allreduce(values, one, **options), "softmax states")
        parts = rng.standard_normal((*case.cores, one.length(case.axis), 3)).astype(case.dtype)
        same(mk.alltoall(parts, mesh, axis=case.axis), mk.alltoall(parts, one, axis=case.axis), "alltoall")
    same(found, wanted, "product")
    exact = (x if case.family == "reduce" else A).astype(float) @ (B.T if case.family == "gemm_t" else B).astype(float)
    assert np.allclose(found.astype(float), exact, rtol=0.2, atol=0.3)


def tried(case: Case) -> str:
    try:
        judge(case)
    except Exception:
        return f"rank {COMM.rank}: {traceback.format_exc()}"
    return ""


def main(examples: int) -> None:
    if COMM.rank > 0:
        while (case := COMM.bcast(None)) is not None:
            COMM.gather(tried(case))
        return

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck), report_multiple_bugs=False)  # fmt: skip
    @given(cases())
    def bits_and_bytes(case: Case) -> None:
        COMM.bcast(case)
        failures = [text for text in COMM.gather(tried(case)) if text]
        assert not failures, "\n".join(failures)

    bits_and_bytes()
    COMM.bcast(None)
    print(f"{examples} cases on {COMM.size} ranks")


if __name__ == "__main__":
    main(int(sys.argv[1]))
