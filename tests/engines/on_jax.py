"""Schedules as jitted functions on 8 emulated devices; run by test_jax.py in a process of its own."""

from __future__ import annotations

import math
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import meshkernels as mk
from meshkernels.algorithms import gemv

DEVICES = 8
#: Unit roundoff of an element as it is stored, and of the sums.
STORED = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
SUMS = {"float16": 2.0**-24, "bfloat16": 2.0**-24, "float32": 2.0**-24, "float64": 2.0**-53}
GRIDS = [(rows, cols) for rows in range(1, 9) for cols in range(1, 9) if rows * cols <= DEVICES]


def near(found, A: np.ndarray, B: np.ndarray) -> None:
    """The bound of a dot product of K terms, summed in any order, then rounded to the storage."""
    A, B, found = A.astype(np.float64), B.astype(np.float64), np.asarray(found)
    K, u = A.shape[-1], SUMS[found.dtype.name]
    bound = (K + 1) * u / (1 - (K + 1) * u) * (np.abs(A) @ np.abs(B)) + STORED[found.dtype.name] * np.abs(A @ B) * 1.01
    smallest = 2.0**-24 if found.dtype == np.float16 else 0
    assert (np.abs(found.astype(np.float64) - A @ B) <= bound + smallest).all()


def permutes(text: str) -> tuple[int, int, int]:
    """Of a compiled module: the collective-permutes that a ppermute asked for, their messages, and those's bytes.

    What XLA adds of its own to pad operands, or to lay them out on the devices, is not ours.
    """
    widths = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8}
    count = pairs = nbytes = 0
    for line in text.splitlines():
        found = re.search(r"= \(?(\w+)\[([\d,]*)\].* collective-permute(?:-start)?\(", line)
        if found and "ppermute" in line:
            sent = len(re.findall(r"\{\d+,\d+\}", re.search(r"source_target_pairs=\{(.*?)\}\}", line).group(0)))
            count, pairs = count + 1, pairs + sent
            nbytes += sent * math.prod(int(n) for n in found[2].split(",") if n) * widths[found[1]]
    return count, pairs, nbytes


@st.composite
def products(draw):
    family = draw(st.sampled_from(["gemm", "gemm_t", "reduce"]))
    return (family, draw(st.sampled_from(mk.algorithms()[family])), draw(st.sampled_from(GRIDS)),
            draw(st.tuples(*[st.integers(1, 20)] * 3)), draw(st.sampled_from(list(STORED))), draw(st.integers(0, 1)),
            draw(st.integers(0, 2**32 - 1)))  # fmt: skip


@settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(products())
def test_products_within_the_bound_of_a_dot_product(case):
    family, algorithm, grid, (M, K, N), dtype, axis, seed = case
    rng = np.random.default_rng(seed)
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    A, B = (rng.standard_normal(shape).astype(dtype) for shape in ((M, K), (K, N)))
    sizes, options = ((K, N), {"axis": axis}) if family == "reduce" else ((M, K, N), {})
    try:
        schedule = mk.schedule(algorithm, mk.Mesh(*grid), *sizes, **options)
    except mk.MeshError:
        return  # proportions of the mesh
    f = mk.to_jax(schedule)
    C = f(A[0] if family == "reduce" else A, np.ascontiguousarray(B.T) if family == "gemm_t" else B)
    assert C.shape == ((N,) if family == "reduce" else (M, N)) and C.dtype == A.dtype
    near(C, A[0] if family == "reduce" else A, B)


@pytest.mark.parametrize("grid", [(4, 2), (2, 4), (2, 2), (8, 1), (1, 5)])
@pytest.mark.parametrize(("family", "algorithm"), [
    ("gemm", "meshgemm"), ("gemm", "cannon"), ("gemm_t", "meshgemm_t"), ("gemm", "cannon25d"), ("reduce", "ring"),
])  # fmt: skip
def test_permutes_in_the_compiled_module_are_those_of_the_ledger(family, algorithm, grid):
    M, K, N = 13, 22, 17
    sizes = (K, N) if family == "reduce" else (M, K, N)
    try:
        schedule = mk.schedule(algorithm, mk.Mesh(*grid), *sizes)
    except mk.MeshError:
        pytest.skip("not for a mesh of these proportions")
    shapes = [jax.ShapeDtypeStruct(tiling.shape, np.float32) for tiling in schedule.operands.values()]
    count, pairs, nbytes = permutes(mk.to_jax(schedule).lower(*shapes).compile().as_text())
    ledger = mk.count(schedule, "float32")
    if algorithm == "cannon25d":  # what it broadcasts and reduces are collectives of other kinds
        kept = {"align", "shift", "reduce"}
        moves = [move for step in schedule.steps if step.label in kept for move in step.moves]
        moves = [move for move in moves if isinstance(move.route, mk.schedules.Shift)]
        assert count == len(moves)
        return
    assert (pairs, nbytes) == (ledger.messages, ledger.bytes)
    moving = [move for step in schedule.steps for move in step.moves]
    assert count <= len(moving)


def test_a_step_of_meshgemm_is_two_permutes_along_the_interleaved_ring():
    square = mk.schedule("meshgemm", mk.Mesh(2), 16, 16, 16)
    text = mk.to_jax(square).lower(*[jax.ShapeDtypeStruct((16, 16), np.float32)] * 2).compile().as_text()
    assert permutes(text)[0] == 2 + 2  # one round that aligns, one step that shifts
    ring = mk.schedule("meshgemm", mk.Mesh(8, 1), 16, 16, 16)
    text = mk.to_jax(ring).lower(*[jax.ShapeDtypeStruct((16, 16), np.float32)] * 2).compile().as_text()
    pairs = {tuple(map(int, pair)) for pair in re.findall(r"\{(\d+),(\d+)\}", re.search(
        r"collective-permute.*source_target_pairs=\{(.*?)\}\}", text).group(0))}  # fmt: skip
    order = [0, 2, 4, 6, 7, 5, 3, 1]  # even cores upwards, odd ones downwards
    assert pairs == set(zip(order, order[1:] + order[:1])) or pairs == set(zip(order[1:] + order[:1], order))


@pytest.mark.parametrize(("family", "algorithm"), [
    (family, name) for family in ("gemm", "gemm_t", "reduce") for name in mk.algorithms()[family]])  # fmt: skip
def test_gradients(family, algorithm):
    M, K, N = 5, 7, 6
    mesh = mk.Mesh(2, 4) if algorithm == "cannon25d" else mk.Mesh(4, 2)
    f = mk.to_jax(mk.schedule(algorithm, mesh, *((K, N) if family == "reduce" else (M, K, N))))
    rng = np.random.default_rng(0)
    A, B, G = (rng.standard_normal(shape) for shape in ((M, K), (K, N), (M, N)))
    if family == "reduce":
        A, G = A[0], G[0]
    B = B.T if family == "gemm_t" else B
    found = jax.grad(lambda A, B: (G * f(A, B)).sum(), argnums=(0, 1))(A, B)
    right = B.T if family == "gemm_t" else B
    wanted = [G @ right.T, (np.outer(A, G) if family == "reduce" else A.T @ G)]
    if family == "gemm_t":
        wanted[1] = wanted[1].T
    for one, other in zip(found, wanted):
        assert np.allclose(one, other, rtol=1e-12, atol=1e-12)


def test_other_tasks():
    rng = np.random.default_rng(1)
    A = rng.standard_normal((7, 9))
    for grid in [(2, 4), (3, 2), (1, 1)]:
        assert (mk.to_jax(mk.schedule("transpose", mk.Mesh(*grid), 7, 9))(A) == A.T).all()
    states = gemv.allreduce(mk.Mesh(3, 2), 5, op="logsumexp", height=2, levels=2, groups=2)
    x = rng.standard_normal(states.operands["x"].shape) * 20
    x[4:, ::5] = -np.inf  # core (2, 0) and (2, 1) have masked scores only
    assert np.allclose(mk.to_jax(states)(x), mk.run(states, {"x": x}), rtol=1e-12, atol=0)
    values = rng.standard_normal((2, 3, 3, 4))
    schedule = mk.schedule("alltoall", mk.Mesh(2, 3), 4)
    got = np.asarray(mk.to_jax(schedule)(values.reshape(schedule.operands["A"].shape))).reshape(2, 3, 3, 4)
    assert (got == values.swapaxes(1, 2)).all()


def test_a_schedule_of_ones_own():
    """Operands may be sharded already, and the function may be a part of another."""
    mesh = mk.Mesh(2, 4)
    devices = jax.sharding.Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("rows", "cols"))
    f = mk.to_jax(mk.Schedule.from_json(mk.schedule("summa", mesh, 8, 8, 8).to_json()), devices)
    rng = np.random.default_rng(2)
    A, B = rng.standard_normal((2, 8, 8))
    sharding = jax.NamedSharding(devices, jax.sharding.PartitionSpec("rows", "cols"))
    sharded = [jax.device_put(X, sharding) for X in (A, B)]
    near(jax.jit(lambda A, B: f(A, B) * 2)(*sharded) / 2, A, B)


@pytest.mark.parametrize(("devices", "says"), [
    (lambda: jax.devices()[:7], "(7,)"),
    (lambda: np.array(jax.devices()[:8]).reshape(2, 4), "(2, 4)"),
    (lambda: jax.sharding.Mesh(np.array(jax.devices()[:8]).reshape(8, 1), ("a", "b")), "of a mesh (8, 1)"),
    (lambda: jax.sharding.Mesh(np.array(jax.devices()[:8]), ("a",)), "of a mesh (8,)"),
])
def test_devices_of_another_shape(devices, says):
    with pytest.raises(mk.MeshError, match=re.escape(says)):
        mk.to_jax(mk.schedule("meshgemm", mk.Mesh(4, 2), 8, 8, 8), devices())


def test_refusals():
    f = mk.to_jax(mk.schedule("meshgemm", mk.Mesh(2), 8, 8, 8))
    with pytest.raises(mk.MeshError, match="9 x 9 cores need 81 devices; JAX has 8"):
        mk.to_jax(mk.schedule("meshgemm", mk.Mesh(9), 8, 8, 8))
    with pytest.raises(TypeError, match="takes a Schedule, not str"):
        mk.to_jax("meshgemm")
    with pytest.raises(mk.MeshError, match=r"B is \(7, 8\); meshgemm takes \(8, 8\)"):
        f(np.ones((8, 8)), np.ones((7, 8)))
    with pytest.raises(mk.MeshError, match="operands A, B, not 1"):
        f(np.ones((8, 8)))
    with pytest.raises(TypeError, match="A has dtype int"):
        f(np.ones((8, 8), int), np.ones((8, 8), int))


def test_demo(capsys):
    from meshkernels.__main__ import main

    for arguments, says in [(["--jax", "0"], "at least 1 device"), (["--jax", "4", "--grid", "3"], "9 cores"),
                            (["--jax", "9"], "8 devices")]:  # fmt: skip
        assert main(["demo", *arguments]) == 2
        assert says in capsys.readouterr().err
