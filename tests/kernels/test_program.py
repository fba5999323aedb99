"""Recorded calls of kernels: what they do is what the same calls do at once, as often as they are run."""

import weakref

import numpy as np
import pytest

from meshkernels.errors import MeshError
from meshkernels.kernels import elementwise
from meshkernels.kernels.compiled import compiled
from meshkernels.kernels.pack import columns
from meshkernels.kernels.program import Program
from meshkernels.kernels.team import Team


def maker(step):
    @compiled
    def kernel(x, out):
        """``out = x + step``."""
        for i in range(len(x)):
            out[i] = x[i] + step

    return kernel


@compiled
def fill(X, whole, single, flag, places, out):
    """Every kind of argument that there is."""
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            for k in range(X.shape[2]):
                out[places[i], j, k] = -X[i, j, k] if flag else X[i, j, k] * single + whole


def test_arguments_of_every_kind():
    X, out = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32), np.zeros((3, 2, 5), np.float32)
    for flag in (False, True):
        program, places = Program(), np.array([2, 0, 1])
        program.add(fill, X, -7, np.float32(0.1), flag, places, out)
        assert not out.any() or flag, "recorded, not called"
        program.run()
        assert np.array_equal(out[[2, 0, 1]], -X if flag else X * np.float32(0.1) + np.float32(-7))


def test_calls_follow_each_other_and_read_what_arrays_hold_then():
    program, x, y = Program(), np.zeros(4, np.float32), np.zeros(4, np.float32)
    for step in (1.0, 100.0):  # kernels that one function makes are different ones
        program.add(maker(step), x, x)
        program.end_part()
    program.add(maker(0.5), x, y)
    for times in (1, 2):
        program.run()
        assert (x == 101 * times).all() and (y == x + 0.5).all()
    x[:] = -101
    program.run()
    assert (y == 0.5).all()


def test_a_program_keeps_its_operands():
    program, out = Program(), np.zeros(1000, np.float32)
    program.add(elementwise.add, 0, 1, np.full((1, 1000), 3, np.float32), np.full((1, 1000), 4, np.float32), out[None])
    junk = [np.full((1, 1000), np.nan, np.float32) for _ in range(50)]
    program.run()
    assert (out == 7).all() and len(junk) == 50


def test_a_program_keeps_the_weight_of_a_product():
    """Its table names the panels of the weight, and the places of sums, by address."""
    program, team, x, out = Program(), Team(1), np.ones((1, 4), np.float32), np.empty((1, 6), np.float32)
    none = np.zeros(0, np.int64)
    product = team.product(columns(np.ones((4, 6), np.float32)), 1, none, none, 0, False)
    team.run(product, x, out, program.add)
    named = [weakref.ref(array) for array in product.stated.arrays]
    del product
    assert all(array() is not None for array in named)
    program.run()
    assert (out == 4).all()


@pytest.mark.parametrize("argument", [np.zeros((4, 4), np.float32).T[1:], np.zeros(3), 1.5, "x", None,
                                      np.frombuffer(bytes(17), np.float32, 4, 1)], ids=repr)  # fmt: skip
def test_what_cannot_be_recorded_is_refused(argument):
    program = Program()
    with pytest.raises((MeshError, TypeError), match="cannot be recorded"):
        program.add(fill, argument)
    program.run()


def test_exponentials_have_the_bits_of_numpys_and_are_right_elsewhere():
    x = np.concatenate([np.linspace(-110, 95, 40_003), [np.inf, -np.inf, np.nan, 0.0, -0.0]]).astype(np.float32)
    found = x.copy()
    elementwise.exponentials(found, False)
    with np.errstate(all="ignore"):
        exact = np.exp(x.astype(np.float64))
        np.testing.assert_allclose(found, exact.astype(np.float32), rtol=2e-7, atol=2e-45)
        simd = getattr(np._core._multiarray_umath, "__cpu_features__", {})
        if simd.get("AVX512F"):
            assert np.array_equal(found, np.exp(x), equal_nan=True)
    short = x.copy()
    elementwise.exponentials(short[:21], True)
    assert np.array_equal(short[:21], found[:21].astype(np.float16))
    assert np.array_equal(short[21:], x[21:], equal_nan=True)


@pytest.mark.parametrize("L", [1, 3])
def test_norms_rope_and_silu_are_numpys(L):
    """Operation by operation in float32: the same bits."""
    draw, f = np.random.default_rng(L).standard_normal, np.float32
    X, Y, gain, squares = (draw(shape).astype(f) for shape in ((L, 22), (L, 22), 22, (L, 3)))
    squares **= 2
    out, inverse = np.empty_like(X), np.empty_like(squares)
    elementwise.inverse_rms(0, 1, squares, f(22), f(1e-5), f(16), inverse)
    assert np.array_equal(inverse, 1 / np.sqrt(squares / f(22) + f(1e-5)) * f(16))
    elementwise.scale_rows(0, 1, X, inverse, out)  # 22 columns for 3: 8, 8, 6
    assert np.array_equal(out, X * inverse[:, np.repeat([0, 1, 2], [8, 8, 6])])
    elementwise.scale_columns(0, 1, X, gain, out)
    assert np.array_equal(out, X * gain)
    elementwise.silu(0, 1, X, Y, out)
    e = np.ascontiguousarray(-Y)
    elementwise.exponentials(e.reshape(-1), False)
    assert np.array_equal(out, X * (Y / (1 + e)))
    for other in (Y, gain[None]):
        elementwise.add(0, 1, X, other, out)
        assert np.array_equal(out, X + other)
    heads, cos, sin = draw((5, L, 6)).astype(f), draw((L, 3)).astype(f), draw((L, 3)).astype(f)
    turned = np.empty_like(heads)
    elementwise.rope(0, 1, heads, cos, sin, turned)
    even, odd = heads[..., ::2], heads[..., 1::2]
    assert np.array_equal(turned[..., ::2], even * cos - odd * sin)
    assert np.array_equal(turned[..., 1::2], even * sin + odd * cos)


@compiled
def without_memory(item, items, out):
    """``out[item] = 1``, with more scratch than any machine has."""
    scratch = np.empty(items << 55, np.float32)
    scratch[item] = 1
    out[item] = scratch[item]


def test_a_work_item_without_memory_is_a_memory_error():
    """C, which calls the kernel, takes no exceptions: the job must say so itself, when recorded too."""
    program, team, out = Program(), Team(1), np.zeros(2, np.float32)
    with pytest.raises(MemoryError, match="no memory"):
        team.share(without_memory, 2, 2, out)
    team.share(without_memory, 2, 2, out, do=program.add)
    for _ in range(2):
        program.run()
        with pytest.raises(MemoryError, match="no memory"):
            team.check()
    team.check()  # said once
