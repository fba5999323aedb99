"""Compiled code checks no index and takes addresses: who reaches it, what they check, and that it stays inside."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from meshkernels import Mesh
from meshkernels.algorithms.meshgemm import meshgemm
from meshkernels.errors import MeshError
from meshkernels.kernels import chains, gemv, ring, tiles
from meshkernels.kernels import team as team_module
from meshkernels.kernels.gemv import SIZE
from meshkernels.kernels.pack import columns
from meshkernels.kernels.reduce import combine_in_order
from meshkernels.kernels.team import Team
from meshkernels.llm import Scheduled

PACKAGE = Path(__file__).parents[2] / "meshkernels"
#: What turns an array into an address, or an address into an array.
ADDRESSES = {"ctypes", "__array_interface__", "__array_struct__", "carray", "farray", "inttoptr", "as_strided",
             "from_address", "address_of"}

#: Functions of Python that call compiled code, and where the sizes of what they pass are checked.
CALLERS = {
    **{f"fabric/engine.py Engine.{part}": "mk.simulate: check_program; arrays of the mesh, made for the schedule"
       for part in ("_contend", "_local", "_play", "_reduce", "_shift_waiting", "_step")},
    "fabric/faults.py around": "itself: cores and links of the fault map, on the fabric",
    "kernels/chains.py chain_product": "itself: shapes, roots; over_blocks: a buffer for any block",
    "kernels/resident.py _part": "stored: rows and columns of the matrices; a file's are checked as it is opened",
    "kernels/gemv.py Sums.__call__": "itself: shapes and dtypes",
    "kernels/gemv.py _distances": "a weight of its own",
    "kernels/gemv.py Sums.__init__": "itself: places of the sums",
    "kernels/pack.py Unpacked.whole": "the layout, made for the operand's own shape",
    "kernels/pool.py _Worker.run": "a counter of its own",
    "kernels/pool.py Workers._start": "a counter of its own",
    "kernels/pool.py Workers.__exit__": "a counter of its own",
    "kernels/reduce.py combine_in_order": "itself: places of the sums",
    "kernels/ring.py ring_product": "itself: depths of both operands, shape of C; over_blocks: a buffer for any block",
    "kernels/team.py Team.run": "itself; and Team.product for the weight and its tree of sums",
    "kernels/team.py Team.share": "places and sizes: whoever calls; keeps the arrays of what it posts",
    "kernels/team.py Team._stay": "works on what Team.share has posted",
    "kernels/tiles.py tile_products": "itself: shapes, handles",
    "kernels/program.py Program.run": "made by Program.add, of arrays that it keeps; sizes: whoever adds",
    "llm/block.py argmax": "a row of its own",
    "llm/block.py select": "itself: equal shapes",
    "llm/block.py qkv": "itself: a bias as wide as the product",
    "llm/block.py Run.inverse_rms": "itself: equal shapes",
    "llm/block.py Run.present": "a schedule's own places, arrays of its own",
    "llm/block.py Run.split": "places in a product of the layout's width",
    "llm/block.py Run.stored": "any array",
    **{f"llm/block.py {operation}": "Forward._part: every value that it reads has its shape in Run.shapes"
       for operation in ("add", "append", "attend", "attention_out", "mix", "norm", "norm_along", "prompt_attend",
                         "prompt_softmax", "rope", "scores", "silu", "softmax")},
    "llm/operations.py Scheduled.combine": "itself: as many as cores",
    "llm/operations.py Scheduled.passing_by": "itself: tiles and rows",
}
#: Functions that handle addresses, beside the compiled ones: where what they point to is checked.
HANDLERS = {
    "kernels/resident.py stored": "itself: rows and columns",
    "kernels/decoding.py _at": "compiled",
    "kernels/gemv.py _compiled_kernel": "code of its own, for rows that Stated makes",
    "kernels/gemv.py Stated.__init__": "Sums and Team.product: the tree of sums",
    "engines/ranks.py Ranks.address": "no access; Panel: blocks of its own arrays, in rows and columns that it has",
    "kernels/intrinsics.py prefetched": "compiled; harmless anywhere",
    "kernels/memory.py _begin": "no access: where in memory of our own a page begins",
    "kernels/program.py _stated": "Program keeps the array",
    "kernels/program.py _array": "compiled",
    "kernels/program.py _reader": "code of its own, for rows that Program.add makes",
    "kernels/pack.py Unpacked.__init__": "an operand's own strides, places from a layout of its own shape",
    "kernels/pool.py": "a function of the C library, no arrays",
}


def _decorators(function: ast.AST) -> set[str]:
    return {node.id for decorator in getattr(function, "decorator_list", []) for node in ast.walk(decorator)
            if isinstance(node, ast.Name)}


def _is_compiled(node: ast.AST) -> bool:
    return bool(_decorators(node) & {"compiled", "njit", "jit", "vectorize", "guvectorize", "cfunc", "intrinsic",
                                       "register_jitable"})


def _compiled_names(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Per module the compiled functions that it defines, other names for them too (``load: Any = _atomic_load``)."""
    compiled = {module: {node.name for node in tree.body if _is_compiled(node)} for module, tree in trees.items()}
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Name):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if node.value.id in compiled[module]:
                    compiled[module] |= {target.id for target in targets if isinstance(target, ast.Name)}
    return compiled


def _scan(trees: dict[str, ast.Module]) -> tuple[set[str], set[str]]:
    """Functions of Python that use compiled functions of the package, and those that handle addresses."""
    compiled, callers, handlers = _compiled_names(trees), set(), set()
    for module, tree in trees.items():
        names, aliases = set(compiled[module]), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in node.names:
                    if name.name in compiled.get(node.module, ()):
                        names.add(name.asname or name.name)
                    aliases[name.asname or name.name] = compiled.get(f"{node.module}.{name.name}", set())

        def look(node: ast.AST, place: tuple[str, ...], inside: bool, names=names, aliases=aliases) -> None:
            if _is_compiled(node):
                return
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not inside:  # functions inside belong to it
                place, inside = (*place, node.name), isinstance(node, ast.FunctionDef)
            here = f"{place[0]} {'.'.join(place[1:])}".strip()
            if isinstance(node, ast.Name) and node.id in names and inside:
                callers.add(here)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in aliases.get(
                    node.value.id, ()):
                callers.add(here)
            if {getattr(node, key, None) for key in ("id", "attr")} & ADDRESSES or (
                    isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ADDRESSES):
                handlers.add(here)
            for child in ast.iter_child_nodes(node):
                look(child, place, inside)

        look(tree, (module.removeprefix("meshkernels.").replace(".", "/") + ".py",), False)
    return callers, handlers


def _trees() -> dict[str, ast.Module]:
    return {".".join(("meshkernels", *path.relative_to(PACKAGE).with_suffix("").parts)):
            ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def test_every_way_to_compiled_code_is_known():
    """One that is new needs a check of dtype, sizes, layout and places first, and then a line in the tables above."""
    callers, handlers = _scan(_trees())
    assert callers == set(CALLERS)
    assert handlers == set(HANDLERS)


@pytest.mark.parametrize("code", [
    "from meshkernels.kernels.team import _lead\ndef new(): _lead(1)", "def new(x): return x.ctypes.data",
    "from meshkernels.kernels import attention as k\ndef new(): return k.mix",
    "from numba import carray\nx = carray(1, 2)",
    "from meshkernels.kernels.reduce import combine as t\nclass A:\n def new(self): t()",
    "def new(x): return getattr(x, '__array_interface__')"])
def test_a_new_way_is_found(code):
    known, found = _scan(_trees()), _scan(_trees() | {"meshkernels.new": ast.parse(code)})
    assert sum(len(a - b) for a, b in zip(found, known)) == 1


def test_a_vector_of_another_length_is_refused():
    W = np.ones((40, 48), np.float32)
    product = Scheduled(Mesh(2), W.shape, 0).prepared(columns(W), Team(1))
    with pytest.raises(MeshError, match=r"\(1, 32\).*\(40, 48\).*40 elements"):
        product(np.ones((1, 32), np.float32))
    for shape in ((1, 41), (0, 40), (2, 40), (40, 1), (2, 20)):
        with pytest.raises(MeshError, match="40"):
            product(np.ones(shape, np.float32))
    assert (product(np.ones((1, 40))) == 40).all()


def test_a_product_outlives_what_becomes_of_its_weight():
    W = np.ones((40, 48), np.float32)
    product = Scheduled(Mesh(2), W.shape, 0).prepared(columns(W), Team(1))
    W.shape = (48, 40)
    assert product(np.ones((1, 40), np.float32)).shape == (1, 48)
    del W
    junk = [np.full((40, 48), np.nan, np.float32) for _ in range(50)]
    assert (product(np.ones((1, 40), np.float32)) == 40).all() and len(junk) == 50


GOOD = {"W": columns(np.ones((4, 6), np.float32)), "parts": 3, "dst": np.array([0, 1]), "src": np.array([1, 2]),
        "root": 0}  # fmt: skip


@pytest.mark.parametrize("change", [
    {"parts": 0}, {"parts": -1}, {"parts": 2}, {"parts": 2**31}, {"parts": 2**70}, {"parts": 1.5}, {"root": -1},
    {"root": 3}, {"root": 2**63}, {"root": None}, {"dst": np.array([0, 3])}, {"src": np.array([-1, 0])},
    {"src": np.array([0])}, {"dst": np.array([0.0, 1.0])}, {"dst": np.array([0, 2**62])},
    {"dst": np.zeros((2, 1), np.int64)}, {"W": np.ones((4, 6), np.float32)}, {"W": columns(np.ones((4, 6)))},
    {"W": None}], ids=str)
def test_a_hostile_product_is_refused(change):
    Team(1).product(**GOOD, half=False)
    with pytest.raises((MeshError, TypeError)) as refusal:
        Team(1).product(**(GOOD | change), half=False)
    assert type(refusal.value).__module__ == "meshkernels.errors"


@pytest.mark.parametrize("x, out", [
    (np.ones(4), np.ones(6, np.float32)), (np.ones(4, np.float32), np.ones(5, np.float32)),
    (np.ones(5, np.float32), np.ones(6, np.float32)), (np.ones(8, np.float32)[::2], np.ones(6, np.float32)),
    (np.ones(4, np.float32), np.ones(12, np.float32)[::2]), (np.ones((), np.float32), np.ones(6, np.float32)),
    (np.ones(4, np.float32), np.frombuffer(bytes(24), np.float32)), (np.ones(4, ">f4"), np.ones(6, np.float32)),
    (np.frombuffer(bytes(17), np.float32, 4, 1), np.ones(6, np.float32))])
def test_hostile_vectors_are_refused(x, out):
    team = Team(1)
    with pytest.raises((MeshError, TypeError)) as refusal:
        team.run(team.product(**GOOD, half=False), x, out)
    assert type(refusal.value).__module__ == "meshkernels.errors"


def test_a_product_of_many_panels():
    team, W = Team(10**6), np.zeros((1, 2_000_000), np.float32)
    W[0, ::1000] = 1
    out = np.full((1, 2_000_000), np.nan, np.float32)
    team.run(team.product(columns(W), 1, *np.zeros((2, 0), np.int64), 0, False), np.ones((1, 1), np.float32), out)
    assert np.array_equal(out, W)


def test_no_memory_for_partial_sums_is_said():
    """By whoever computes them; nobody waits for what was not computed."""
    team = Team(1)
    x, out = np.ones((1, 4), np.float32), np.ones((1, 6), np.float32)
    huge, good = (team.product(**GOOD, half=False) for _ in range(2))
    huge.stated.table[:, SIZE] = 2**48
    with pytest.raises(MemoryError, match="partial sums"):
        team.run(huge, x, out)
    team.run(good, x, out)
    assert (out == 4).all()


def test_parts_without_rows_take_no_memory():
    huge = Team(1).product(GOOD["W"], 2**31 - 1, GOOD["dst"], GOOD["src"], 0, False)
    assert (huge.stated.table[:, SIZE] == 3).all()  # as many as the additions name


def test_a_team_leads_one_product_at_a_time():
    team = Team(1)
    good, x, out = team.product(**GOOD, half=False), np.ones((1, 4), np.float32), np.ones((1, 6), np.float32)
    team._board[team_module.LED] = 1
    with pytest.raises(MeshError, match="another thread"):
        team.run(good, x, out)
    team._board[team_module.LED] = 0
    team.run(good, x, out)


def test_operands_that_do_not_match_are_refused_by_the_executor_itself():
    """Its callers have checked them already; compiled code relies on it."""
    def ones(*shape):
        return np.ones(shape, np.float32)

    order = meshgemm(Mesh(2), 5, 8, 7).proof.order
    calls = [
        lambda: ring.ring_product(ones(5, 9), ones(8, 7), order),
        lambda: ring.ring_product(ones(5, 8), ones(9, 7), order),
        lambda: ring.ring_product(ones(5, 8), np.ones((8, 7)), order),
        lambda: chains.chain_product(ones(5, 8), ones(6, 9), np.zeros(6), 2),
        lambda: chains.chain_product(ones(5, 8), ones(6, 8), np.zeros(5), 2),
        lambda: chains.chain_product(ones(5, 8), ones(6, 8), np.full(6, 2), 2),
        lambda: chains.chain_product(ones(5, 8), ones(6, 8), np.full(6, -1), 2),
        lambda: chains.chain_product(ones(5, 8), ones(6, 8), np.zeros(6), 0),
        lambda: gemv.gemv_sums(ones(9), columns(ones(8, 7)), 2, [0], [1], [0]),
        lambda: gemv.gemv_sums(ones(8), columns(ones(8, 7)), 2, [0], [2], [0]),
        lambda: gemv.gemv_sums(ones(8), columns(ones(8, 7)), 2, [0], [1], [-1]),
        lambda: gemv.gemv_sums(ones(8), columns(ones(8, 7)), 2, [0, 1], [1], [0]),
        lambda: gemv.Sums(columns(ones(8, 7)), 2)(ones(8), ones(1, 7)),
        lambda: gemv.Sums(columns(ones(8, 7)), 2)(ones(8), np.ones((2, 7))),
        lambda: gemv.Sums(columns(ones(8, 7)), 2)(ones(8), ones(7, 2).T),
        lambda: combine_in_order(ones(2, 7), [0], [2]),
        lambda: combine_in_order(ones(2, 7), [-1], [0]),
        lambda: combine_in_order(ones(7, 2).T, [0], [1]),
        lambda: tiles.tile_products(ones(2, 3, 4), ones(2, 5, 6), [0, 1], [0, 1], ones(2, 3, 6)),
        lambda: tiles.tile_products(ones(2, 3, 4), ones(2, 4, 6), [0, 2], [0, 1], ones(2, 3, 6)),
        lambda: tiles.tile_products(ones(2, 3, 4), ones(2, 4, 6), [0, 1], [0, -1], ones(2, 3, 6)),
        lambda: tiles.tile_products(ones(2, 3, 4), ones(2, 4, 6), [0], [0], ones(2, 3, 6)),
        lambda: Scheduled(Mesh(2), (5, 8, 7), algorithm="meshgemm").multiply(ones(5, 9), ones(8, 7)),
        lambda: Scheduled(Mesh(4), (7,), 0).combine(ones(3, 7)),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(MeshError):
            call()
            pytest.fail(f"call {number} was accepted")


GUARDED = """
import ctypes, mmap, sys
import numpy as np
import meshkernels as mk

PAGE, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int

def fenced(size, at_end):
    "``size`` bytes between two pages that nobody may touch, right before the second or right behind the first."
    pages = -(-size // PAGE)
    block = mmap.mmap(-1, (pages + 2) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(block))
    for page in (0, pages + 1):
        assert libc.mprotect(start + page * PAGE, PAGE, 0) == 0
    offset = PAGE + (pages * PAGE - size if at_end else 0)
    return np.frombuffer(block, np.uint8, size, offset), block

def shaped(shape, dtype, kind, draw):
    "Random numbers behind fences at both ends, in one of several layouts; and the same in a plain array."
    values = draw.standard_normal(shape).astype(dtype)
    view = {"C": lambda a: a, "F": lambda a: a.T, "negative": lambda a: a[tuple([slice(None, None, -1)] * a.ndim)],
            "strided": lambda a: a[..., ::3], "swapped": lambda a: a}[kind]
    whole = {"F": shape[::-1], "strided": (*shape[:-1], 3 * shape[-1] - 2)}.get(kind, shape)
    stored = np.dtype(dtype).newbyteorder() if kind == "swapped" else np.dtype(dtype)
    for at_end in (False, True):
        raw, block = fenced(int(np.prod(whole)) * stored.itemsize, at_end)
        array = view(raw.view(stored).reshape(whole))
        array[...] = values
        array.flags.writeable = False
        yield array, values, block

def same(a, b, what):
    assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True), what

draw, count = np.random.default_rng(int(sys.argv[1])), 0
for _ in range(int(sys.argv[2])):
    M, K, N = (int(n) for n in draw.integers(1, 70, 3))
    mesh = mk.Mesh(*(int(n) for n in draw.integers(1, 6, 2)))
    kind = str(draw.choice(["C", "F", "negative", "strided", "swapped"]))
    dtype, method = draw.choice([np.float16, np.float32, np.float64]), str(draw.choice(["fused", "lockstep"]))
    what = f"{M} {K} {N} {mesh} {kind} {np.dtype(dtype)} {method}"
    square = mk.Mesh(mesh.rows)
    for (A, a, keep), (B, b, also) in zip(shaped((M, K), dtype, kind, draw), shaped((K, N), dtype, kind, draw)):
        for algorithm in ("meshgemm", "cannon", "summa", "allgather"):
            same(mk.gemm(A, B, square, algorithm=algorithm, method=method),
                 mk.gemm(a, b, square, algorithm=algorithm, method=method), what)
        same(mk.gemm(A, mk.place(B, mesh), mesh), mk.gemm(a, b, mesh), what)
        count += 1
    for (A, a, keep), (B, b, also) in zip(shaped((M, K), dtype, kind, draw), shaped((N, K), dtype, kind, draw)):
        same(mk.gemm_t(A, B, mesh, method=method), mk.gemm_t(a, b, mesh, method=method), what)
        count += 1
    for (x, x2, keep), (W, w, also) in zip(shaped((K,), dtype, kind, draw), shaped((K, N), dtype, kind, draw)):
        for reduce in ("ktree", "chain", "pipeline", "ring"):
            axis = int(draw.integers(2))
            same(mk.gemv(x, W, mesh, reduce=reduce, axis=axis, method=method),
                 mk.gemv(x2, w, mesh, reduce=reduce, axis=axis, method=method), what)
        count += 1
    for V, v, keep in shaped((*mesh.shape, N), dtype, kind, draw):
        same(mk.allreduce(V, mesh), mk.allreduce(v, mesh), what)
        count += 1
print(count)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="fences by mprotect")
def test_nothing_is_read_outside_the_operands():
    done = subprocess.run([sys.executable, "-c", GUARDED, "0", "12"], capture_output=True, text=True, timeout=300,
                          check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
    assert int(done.stdout) == 12 * 8


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_odd_operands(dtype):
    """Repeated rows and columns (strides of zero), single numbers, odd addresses, no numbers at all."""
    import meshkernels as mk

    draw, mesh, size = np.random.default_rng(0), Mesh(3), np.dtype(dtype).itemsize
    row, col = draw.standard_normal(9).astype(dtype), draw.standard_normal((9, 1)).astype(dtype)
    odd = np.frombuffer(b"x" + draw.standard_normal((9, 9)).astype(dtype).tobytes(), np.uint8)[1:]
    odd = np.frombuffer(odd.tobytes().join([b"y", b""]), dtype, 81, 1).reshape(9, 9)
    assert not odd.flags.aligned or size == 1
    for X in (np.broadcast_to(row, (9, 9)), np.broadcast_to(col, (9, 9)), np.broadcast_to(row[0], (9, 9)), odd,
              odd[::-1], odd.T, odd[:, ::-2], np.broadcast_to(row, (9, 9))[::-1, ::-1]):
        plain = np.array(X)
        other = draw.standard_normal((X.shape[1], 5)).astype(dtype)
        assert np.array_equal(mk.gemm(X, other, mesh), mk.gemm(plain, other, mesh))
        assert np.array_equal(mk.gemm_t(other.T, X, mesh), mk.gemm_t(np.array(other.T), plain, mesh))
        assert np.array_equal(mk.gemv(X[0], other, mesh), mk.gemv(plain[0], other, mesh))
        assert np.array_equal(mk.gemv(np.ones(len(X), dtype), X, mesh), mk.gemv(np.ones(len(X), dtype), plain, mesh))
    for M, K, N in ((0, 4, 5), (4, 0, 5), (4, 5, 0), (0, 0, 0)):
        assert not mk.gemm(np.zeros((M, K), dtype), np.zeros((K, N), dtype), mesh).any()
        assert not mk.gemm_t(np.zeros((M, K), dtype), np.zeros((N, K), dtype), mesh).any()
        assert not mk.gemv(np.zeros(K, dtype), np.zeros((K, N), dtype), mesh).any()
