"""Schedules on ranks: the bits of one process, the bytes of the ledger, and no hang whatever goes wrong."""

from __future__ import annotations

import ast
import json
import sys

import numpy as np
import pytest

import meshkernels as mk
from meshkernels.engines.cut import Cut
from tests.engines.launch import HERE, needs_mpi, on_ranks

HEAD = """
import os, sys, signal
import numpy as np
from mpi4py import MPI
import meshkernels as mk
comm = MPI.COMM_WORLD
rank = comm.rank
mesh = mk.Mesh(4, 4, comm=comm)
A = np.ones((8, 8), np.float32)
"""


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
def test_bits_and_bytes(ranks):
    done = on_ranks(ranks, str(HERE / "on_ranks.py"), "40")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"40 cases on {ranks} ranks" in done.stdout


@needs_mpi
@pytest.mark.parametrize("ranks", [3, 4])
def test_tiles_that_travel_from_memory_to_memory(ranks):
    """Large tiles: those of a matrix stay in it, others arrive beside it; operands are not touched."""
    done = on_ranks(ranks, """
import ml_dtypes
import numpy as np
from mpi4py import MPI
import meshkernels as mk
comm = MPI.COMM_WORLD
rng = np.random.default_rng(5)
for cores, dtype in (((4, 4), "float32"), ((5, 3), "bfloat16")):
    mesh, one = mk.Mesh(*cores, comm=comm), mk.Mesh(*cores)
    A, B = (rng.standard_normal((750, 730)).astype(dtype) for _ in range(2))
    dA, dB = (mk.scatter(X if comm.rank == 0 else None, mesh) for X in (A, B))
    for name in mk.algorithms()["gemm_t"]:
        found = mk.gather(mk.gemm_t(dA, dB, mesh, algorithm=name), mesh, root=None)
        assert found.tobytes() == mk.gemm_t(A, B, one, algorithm=name).tobytes(), (name, cores)
    A, B = A[:730], B[:730]
    dA, dB = (mk.scatter(X if comm.rank == 0 else None, mesh) for X in (A, B))
    for name in mk.algorithms()["gemm"]:
        try:
            wanted = mk.gemm(A, B, one, algorithm=name).tobytes()
        except mk.MeshError:
            continue
        for a, b in ((dA, dB), (A, dB)):
            assert mk.gather(mk.gemm(a, b, mesh, algorithm=name), mesh, root=None).tobytes() == wanted, (name, cores)
    again = mk.scatter(A if comm.rank == 0 else None, mesh)
    assert dA.blocks.tobytes() == again.blocks.tobytes()
""")
    assert done.returncode == 0, done.stderr


#: What a rank may get wrong, and what the refusal says.
REFUSED = [
    ("mk.gemm(A, A[:, : 8 - rank] if rank == 1 else A, mesh)", "asked for different things"),
    ("mk.gemm(A.astype('float64') if rank == 2 else A, A, mesh)", "asked for different things"),
    ("mk.gemm(A, A, mesh, algorithm='summa' if rank == 2 else 'cannon')", "asked for different things"),
    ("mk.gemm(A, A, mesh) if rank else mk.gemv(A[0], A, mesh)", "asked for different things"),
    ("mk.gemm(A, A[: 8 - rank], mesh)", "do not match"),
    ("mk.gemm(A.astype('int32') if rank == 1 else A, A, mesh)", "dtype int32"),
    ("mk.gemm(A, A, mesh, out=A.copy())", "out: a mesh with a communicator"),
    ("mk.gemm(A, mk.place(A, mesh), mesh)", "placed on one process"),
    ("mk.Mesh(1, 2, comm=comm)", "3 ranks on 1 x 2 cores"),
    ("mk.Mesh(4 + rank, 4, comm=comm)", "asked for different things"),
    ("mk.Mesh(4, 4, comm=comm, ranks=(2, 2))", "that is 4 ranks"),
    ("mk.Mesh(rank, 4, comm=comm)", "rows = 0"),
    ("mk.gemm(mk.scatter(A, mesh), A, mk.Mesh(5, 4, comm=comm))", "A lies on 4 x 4 cores"),
    ("mk.gather(mk.scatter(A, mesh), mk.Mesh(4, 5, comm=comm))", "C lies on 4 x 4 cores"),
    ("mk.gather(A, mesh)", "gather takes a DistMatrix"),
    ("mk.scatter(None, mesh)", "A is None on rank 0"),
    ("mk.scatter(A, mesh, root=7)", "root = 7"),
    ("mk.scatter(A, mesh, root=rank)", "asked for different things"),
    ("mk.DistMatrix.from_local(A, mesh, (8, 8))", "local is (8, 8)"),
    ("mk.DistMatrix.from_local(A[mk.DistMatrix.slices(A.shape, mesh)].astype('f8' if rank else 'f4'), mesh, (8, 8))",
     "asked for different things"),
    ("mk.run(mk.schedule('summa', mk.Mesh(4), 8, 8, 8), {'A': A, 'B': A}, mesh=mk.Mesh(4, 5, comm=comm))", "not for"),
]  # fmt: skip


@needs_mpi
def test_bad_input_is_refused_on_every_rank_and_they_go_on_together():
    done = on_ranks(3, HEAD + f"""
for what in {[what for what, _ in REFUSED]}:
    try:
        exec(what)
        text = "nothing"
    except (mk.MeshError, TypeError) as refusal:
        text = str(refusal)
    texts = comm.gather(text)
    if rank == 0:
        print(repr(texts))
assert (mk.gather(mk.gemm(A, A, mesh), mesh, root=None) == 8).all()
""", limit=100)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [ast.literal_eval(line) for line in done.stdout.splitlines() if line.startswith("[")]
    for (what, says), texts in zip(REFUSED, found, strict=True):
        assert "nothing" not in texts and any(says in text for text in texts), (what, texts)
        assert all(says in text or "traceback" in text or "different things" in text for text in texts), (what, texts)


@needs_mpi
@pytest.mark.parametrize(("what", "says"), [
    ("if rank == 1: raise ZeroDivisionError('between verbs')\nmk.gemm(A, A, mesh)", "between verbs"),
    ("from meshkernels.kernels import ring\ndef broken(*_, **__): raise MemoryError('in a product')\n"
     "if rank == 1: ring.ring_product = broken\nmk.gemm(A, A, mesh)", "in a product"),
    ("from meshkernels.readers import lockstep\ndef broken(*_, **__): raise MemoryError('in a product')\n"
     "if rank == 1: lockstep.tile_products = broken\nmk.gemm(A, A, mesh, method='lockstep')", "in a product"),
    ("if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nmk.gemm(A, A, mesh)", ""),
    ("if rank != 1: mk.gemm(A, A, mesh)", "the end of the program"),
    ("if rank == 1: sys.exit(3)\nmk.gemm(A, A, mesh)", "the end of the program"),
    ("if rank == 1: os.kill(os.getpid(), signal.SIGINT)\nmk.gemm(A, A, mesh)", "KeyboardInterrupt"),
    ("from meshkernels.kernels import ring\ndef broken(*_, **__): os.kill(os.getpid(), signal.SIGINT)\n"
     "if rank == 1: ring.ring_product = broken\nmk.gemm(A, A, mesh)\nmk.gemm(A, A, mesh)", "KeyboardInterrupt"),
    ("from meshkernels.kernels import ring\ndef broken(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
     "if rank == 1: ring.ring_product = broken\nmk.gemm(A, A, mesh)\nmk.gemm(A, A, mesh)", ""),
    ("if rank == 1:\n    try: mk.gemm(A, A[:3], mesh)\n    except mk.MeshError: raise\n"
     "else: mk.gemm(A, A, mesh)", "do not match"),
], ids=["raises between verbs", "raises in a product", "raises in a step", "is killed", "ends", "exits", "Ctrl-C",
        "Ctrl-C in a product", "is killed in a product", "refuses alone"])  # fmt: skip
def test_a_rank_that_fails_stops_all(what, says):
    done = on_ranks(3, HEAD + "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + what
                    + "\nmk.gemm(A, A, mesh)\n", limit=60)  # fmt: skip
    assert done.returncode != 0
    assert says in done.stderr and (not says or "rank 1" in done.stderr), done.stderr


@needs_mpi
def test_a_rank_holds_its_share_only():
    done = on_ranks(4, HEAD + """
B = mk.scatter(np.ones((512, 512), np.float32) if rank == 2 else None, mesh, root=2)
assert B.nbytes == 512 * 512 * 4 // 4, B.nbytes
C = mk.gemm(B, B, mesh, method="lockstep")
assert C.nbytes == B.nbytes
""")
    assert done.returncode == 0, done.stderr


@needs_mpi
def test_other_messages_of_the_program_do_not_mix_with_ours():
    done = on_ranks(2, HEAD + """
mine, other = np.full(64, rank, np.uint8), np.empty(64, np.uint8)
request = comm.Irecv(other, 1 - rank, MPI.ANY_TAG)
for method in ("fused", "lockstep"):
    assert (mk.gather(mk.gemm(A, A, mesh, method=method), mesh, root=None) == 8).all()
comm.Send(mine, 1 - rank, 1)
request.Wait()
assert (other == 1 - rank).all()
""")
    assert done.returncode == 0, done.stderr


@needs_mpi
def test_the_demo_on_ranks_is_that_of_one_process(tmp_path):
    def rows(text):
        return [{key: value for key, value in row.items() if key != "host_ms"} for row in json.loads(text)]

    command = ["demo", "--grid", "4", "3", "--prompt", "Wafers.", "--json"]
    module = "import sys\nfrom meshkernels.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    alone, shared = (on_ranks(count, module, *command) for count in (1, 3))
    assert alone.returncode == shared.returncode == 0, alone.stderr + shared.stderr
    one, three = rows(alone.stdout), rows(shared.stdout)
    sent = [row.pop("bytes_between_ranks") for row in three]
    assert one == three and min(sent) > 0


def test_cut_covers_the_mesh():
    for rows, cols in [(1, 1), (7, 5), (8, 8), (2, 3), (5, 1)]:
        for ranks in range(1, rows * cols + 1):
            cut = Cut.of(mk.Mesh(rows, cols), ranks)
            sizes = np.bincount(cut.owner, minlength=ranks)
            assert sizes.min() >= 1 and sizes.sum() == rows * cols and len(sizes) == ranks
            assert (np.sort(np.concatenate([cut.cores(rank) for rank in range(ranks)])) == np.arange(rows * cols)).all()
            if cut.grid is None:  # runs differ by one core at most
                assert sizes.max() - sizes.min() <= 1


def test_without_mpi4py_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(TypeError, match=r"pip install 'meshkernels\[mpi\]'"):
        mk.Mesh(4, comm=object())


@needs_mpi
def test_what_is_no_communicator_is_refused():
    done = on_ranks(1, """
from mpi4py import MPI
import meshkernels as mk
for comm in (3, MPI, MPI.COMM_NULL):
    try:
        mk.Mesh(4, comm=comm)
    except TypeError as refusal:
        print(refusal)
""")
    assert done.stdout.count("must be an intracommunicator of mpi4py") == 3, done.stderr


@pytest.mark.parametrize(("arguments", "says"), [
    ({"ranks": (2, 2)}, "give comm too"),
])  # fmt: skip
def test_ranks_without_comm(arguments, says):
    with pytest.raises(mk.MeshError, match=says):
        mk.Mesh(4, 4, **arguments)


def test_scatter_and_gather_need_ranks():
    for call in (lambda: mk.scatter(np.ones((2, 2)), mk.Mesh(2)), lambda: mk.gather(None, mk.Mesh(2)),
                 lambda: mk.DistMatrix.slices((2, 2), mk.Mesh(2))):  # fmt: skip
        with pytest.raises(mk.MeshError, match=r"comm=MPI\.COMM_WORLD"):
            call()
