"""Bad input: a clear error that names the value and what would do; inputs unchanged."""

import numpy as np
import pytest

import meshkernels as mk

A, B, x = np.ones((4, 6), np.float32), np.ones((6, 5), np.float32), np.ones(6, np.float32)
mesh = mk.Mesh(3, 2)
summa = mk.schedule("summa", mesh, 4, 6, 5)


def cannon(on=mesh, N=5):
    return mk.schedule("cannon", on, 4, 6, N)


def _read_only(shape):
    out = np.zeros(shape, np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: mk.gemm(A, A, mesh), mk.MeshError, r"\(4, 6\).*\(4, 6\).*6 columns against 4 rows"),
        (lambda: mk.gemm_t(A, B, mesh), mk.MeshError, "6 columns against 5"),
        (lambda: mk.gemv(x[:5], B, mesh), mk.MeshError, "5 elements against 6 rows"),
        (lambda: mk.gemm(x, B, mesh), mk.MeshError, r"A has 1 dimensions, \(6,\); it must have 2"),
        (lambda: mk.gemm(A.astype(int), B, mesh), TypeError, "A has dtype int64; accepted: float16, .*float64"),
        (lambda: mk.gemm(A, B.astype(complex), mesh), TypeError, "B has dtype complex128"),
        (lambda: mk.gemv(x.astype(object), B, mesh), TypeError, "x has dtype object"),
        (lambda: mk.gemm(A, B, mesh, algorithm="strassen"), mk.MeshError, "'strassen'; known: .*'meshgemm'"),
        (lambda: mk.gemm(A, B, mesh, algorithm="ktree"), mk.MeshError, "ktree.*known"),
        (lambda: mk.gemv(x, B, mesh, reduce="meshgemm"), mk.MeshError, "meshgemm.*known: .*'ktree'"),
        (lambda: mk.gemv(x, B, mesh, reduce=summa), TypeError, "name of a reduction, not the schedule 'summa'"),
        (lambda: mk.run(summa, {"A": mk.place(A, mesh), "B": B}), TypeError, "A is placed: summa takes a matrix"),
        (lambda: mk.run(summa, {"A": A, "B": mk.place(B, mk.Mesh(2))}), mk.MeshError, "placed on .*rows=2.* runs on"),
        (lambda: mk.run(mk.schedule("meshgemm_t", mk.Mesh(2), 4, 6, 4), {"A": A, "B": mk.place(A, mk.Mesh(2))}),
         TypeError, "B is placed: meshgemm_t takes a matrix"),
        (lambda: mk.gemv(x, B, mesh, groups=4), mk.MeshError, "groups = 4: 3 cores .* 1 to 3"),
        (lambda: mk.gemv(x, B, mesh, groups=0), mk.MeshError, "groups = 0"),
        (lambda: mk.gemv(x, B, mesh, levels=100_000), mk.MeshError, "levels = 100000: .* at most 64"),
        (lambda: mk.schedule("ktree", mesh, 4, 4, alpha="x"), TypeError, "alpha must be a number of cycles, not 'x'"),
        (lambda: mk.schedule("ktree", mesh, 4, 4, beta=-1.0), mk.MeshError, "beta = -1.0: cycles are finite"),
        (lambda: mk.schedule("cannon25d", mk.Mesh(2), 4, 4, 4, ring=x), mk.MeshError, "ring = array.*; known: 'inter"),
        (lambda: mk.gemm(A, B, mesh, accumulate="(99999999999999999999,)f4"), mk.MeshError, "accumulate = .*float32"),
        (lambda: mk.gemm(A, B, mesh, method="lockstep", observe=3), TypeError, "observe .* 3 cannot be called"),
        (lambda: mk.allreduce(np.ones((3, 2, 1)), mesh, reduce=[]), mk.MeshError, r"unknown reduce algorithm \[\]"),
        (lambda: mk.register("gemm", [5]), TypeError, r"name of an algorithm is a string, not \[5\]"),
        (lambda: mk.register([], "y"), mk.MeshError, r"unknown family \[\]"),
        (lambda: mk.gemv(x, B, mesh, levels=0), mk.MeshError, "levels = 0"),
        (lambda: mk.gemv(x, B, mesh, levels=3, groups=2), mk.MeshError, "3 levels need 2 group counts, not 1"),
        (lambda: mk.gemv(x, B, mesh, levels=3, groups=(2, 3)), mk.MeshError, "groups = 3: 2 cores"),
        (lambda: mk.gemv(x, B, mesh, reduce="chain", levels=2), mk.MeshError, "'chain' takes no option levels"),
        (lambda: mk.gemv(x, B, mesh, reduce="ring", broadcast=False), mk.MeshError, "ring .* no root"),
        (lambda: mk.gemv(x, B, mesh, axis=2), mk.MeshError, "axis = 2"),
        (lambda: mk.gemm(A, B, mesh, accumulate="float16"), mk.MeshError, "accumulate = 'float16': float32"),
        (lambda: mk.gemm(A, B, mesh, accumulate="float64"), mk.MeshError, "accumulate = 'float64'"),
        (lambda: mk.gemm(A, B, mesh, method="magic"), mk.MeshError, "method = 'magic'; known"),
        (lambda: mk.gemm(A, B, mesh, observe=print), mk.MeshError, "observe needs method='lockstep'"),
        (lambda: mk.gemm(A, B, mesh, out=np.ones((4, 4), "f4")), mk.MeshError, r"out is float32 \(4, 4\)"),
        (lambda: mk.gemm(A, B, mesh, out=np.ones((4, 5), "f8")), mk.MeshError, "out is float64"),
        (lambda: mk.gemm(A, B, "3x2"), TypeError, r"mesh must be a Mesh, .*a pair \(rows, cols\), not '3x2'"),
        (lambda: mk.allreduce(np.ones((2, 2, 1)), mesh), mk.MeshError, r"\(3, 2\)"),
        (lambda: mk.allreduce(np.ones((3, 2, 1)), mesh, op="mean"), mk.MeshError, "op = 'mean'; known"),
        (lambda: mk.schedule("meshgemm", mesh, 4, 4), mk.MeshError, "takes the sizes M, K, N"),
        (lambda: mk.schedule("ktree", mesh, 4, -4), mk.MeshError, "none negative"),
        (lambda: mk.Mesh(0, 3), mk.MeshError, "rows = 0"),
        (lambda: mk.Mesh(3, -1), mk.MeshError, "cols = -1"),
        (lambda: mk.Mesh(2.5), TypeError, "rows must be an integer, not 2.5"),
        (lambda: mk.gemm(A, B, mesh, device="wse9"), ValueError, "wse9.*wse2"),
        (lambda: mk.gemm(np.ma.masked_array(A, mask=A > 0), B, mesh), TypeError, "A is a masked array"),
        (lambda: mk.allreduce(np.ones((3, 2, 1)), (3, 2, 1)), TypeError, r"mesh must be a Mesh, .*not \(3, 2, 1\)"),
        (lambda: mk.gemv(x, B, mesh, groups=2.5), TypeError, "groups must be an integer, not 2.5"),
        (lambda: mk.gemv(x, B, mesh, groups="2"), TypeError, "groups must be an integer, not '2'"),
        (lambda: mk.gemv(x, B, mesh, levels=2.5), TypeError, "levels must be an integer, not 2.5"),
        (lambda: mk.gemv(x, B, mesh, axis=0.0), mk.MeshError, "axis = 0.0"),
        (lambda: mk.schedule("ktree", mesh, 4, 2, axis=-1), mk.MeshError, "axis = -1"),
        (lambda: mk.schedule("ktree", mesh, 4, 2, op="mean"), mk.MeshError, "op = 'mean'"),
        (lambda: mk.schedule("ktree", mesh, 4, 2, width=3), mk.MeshError, "takes no option width"),
        (lambda: mk.schedule("meshgemm", mesh, 4.0, 2, 3), TypeError, "a size must be an integer, not 4.0"),
        (lambda: mk.schedule([], mesh, 4, 2, 3), mk.MeshError, r"unknown algorithm \[\]; known"),
        (lambda: mk.gemm(A, B, mesh, out=[[0]]), TypeError, "out must be an array, not list"),
        (lambda: mk.gemm(A, B, mesh, out=_read_only((4, 5))), mk.MeshError, "out is read-only"),
        (lambda: mk.compliance(3, "wse2"), TypeError, "a Ledger or a Schedule, not int"),
        (lambda: mk.count(3), TypeError, "a Schedule, not int"),
        (lambda: mk.gemm_t(A, mk.place(A, mesh), mesh), TypeError, "B is placed: gemm_t takes"),
        (lambda: mk.gemm(A, B, mesh, accumulate="foo"), mk.MeshError, "accumulate = 'foo': float32"),
        (lambda: mk.gemm(A.astype("f8"), B.astype("f8"), mesh, accumulate="no such dtype"), mk.MeshError,
         "accumulate = 'no such dtype': float64 operands are summed in float64"),
        (lambda: mk.gemm(A, B, mesh, ring="natural"), mk.MeshError, "'meshgemm' takes no option ring"),
        (lambda: mk.gemm(A, B, mesh, algorithm="hsumma", groups=2), mk.MeshError,
         "groups = 2: 3 x 2 cores can be cut into 1"),
        (lambda: mk.gemm(A, B, mesh, algorithm="cannon25d"), mk.MeshError, "P x c P cores .* not 3 x 2"),
        (lambda: mk.gemm(A, B, mk.Mesh(2), algorithm="cannon25d", ring="square"), mk.MeshError,
         "ring = 'square'; known"),
        (lambda: mk.gemm(A, B, mesh, algorithm=cannon(mk.Mesh(2))), mk.MeshError, "wanted is a product on"),
        (lambda: mk.gemm(A, B, mesh, algorithm=cannon(N=6)), mk.MeshError, "M, K, N = .4, 6, 6."),
        (lambda: mk.gemm(A, B, mesh, algorithm=cannon(), ring=1), mk.MeshError, "takes no options"),
        (lambda: mk.run("summa", {"A": A, "B": B}), TypeError, "run takes a Schedule, not str"),
        (lambda: mk.run(summa, {"A": A}), mk.MeshError, "takes the operands A, B; given: A"),
        (lambda: mk.run(summa, {"A": A, "B": A}), mk.MeshError, r"B is \(4, 6\); summa takes \(6, 5\)"),
        (lambda: mk.run(summa, {"A": A, "B": B}, method="x"), mk.MeshError, "method = 'x'"),
        (lambda: mk.run(summa, [A, B]), mk.MeshError, "given: list"),
        (lambda: mk.verify(3), mk.ScheduleError, "verify takes a Schedule, not int"),
        (lambda: mk.transpose(x, mesh), mk.MeshError, "A has 1 dimensions"),
        (lambda: mk.alltoall(np.ones((3, 2, 3, 1)), mesh), mk.MeshError, r"\(3, 2, 2\)"),
        (lambda: mk.Ring.through([0.5, 1.2]), mk.MeshError, "visits each core"),
    ],
)  # fmt: skip
def test_refused(call, error, says):
    before = A.copy(), B.copy(), x.copy()
    with pytest.raises(error, match=f"(?s){says}"):
        call()
    assert all(np.array_equal(now, then) for now, then in zip((A, B, x), before))


def test_overlapping_output_is_refused():
    S = np.arange(16.0).reshape(4, 4)
    before = S.copy()
    with pytest.raises(mk.MeshError, match="out overlaps A"):
        mk.gemm(S, np.eye(4), mk.Mesh(2), out=S)
    with pytest.raises(mk.MeshError, match="out overlaps B"):
        mk.gemm(np.eye(4), S, mk.Mesh(2), out=S[::-1])
    assert np.array_equal(S, before)


def test_broken_schedule_is_caught():
    """A core told to multiply tiles that it does not hold is an error, not a wrong number."""
    from dataclasses import replace

    good = mk.schedule("meshgemm", mk.Mesh(4), 8, 8, 8)
    align, shift, last = good.program
    mk.verify(good)
    for program, says in (((shift, last), r"step 0 \(shift\): core \(\d, \d\) does not hold tiles of 'A' and 'B'"),
                          ((align, shift), "does not hold all contributions"), ((align, last), "does not hold all"),
                          ((align, shift, last, last), "adds more contributions .* than there are")):  # fmt: skip
        broken = replace(good, program=program)
        for call in (mk.verify, mk.count, lambda s: mk.run(s, {"A": np.eye(8), "B": np.eye(8)}),
                     lambda s: mk.gemm(np.eye(8), np.eye(8), mk.Mesh(4), algorithm=s, method="lockstep")):  # fmt: skip
            with pytest.raises(mk.ScheduleError, match=says):
                call(broken)
