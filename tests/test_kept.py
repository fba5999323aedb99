"""Memory that is kept between calls: bounded, and the bound holds against what the process really occupies."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from meshkernels import kept
from meshkernels.kernels import memory

ROOT = Path(__file__).parent.parent
BYTES = np.dtype(np.uint8)

CHILD = """
import resource
import numpy as np
import meshkernels as mk
from meshkernels import kept
from meshkernels.kernels import memory

MB = 1 << 20
memory.KEPT, kept.REMEMBERED = 64 * MB, 32 * MB

def product(M, K, N, mesh=mk.Mesh(8)):
    mk.gemm(np.ones((M, K), np.float32), np.ones((K, N), np.float32), mesh)

def falling():
    n = 3000
    while n >= 100:
        yield n
        n = n * 91 // 100

def resident():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * resource.getpagesize() // MB

product(600, 600, 600)
before = resident()
{work}
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("work, most", [
    # buffers of all sizes, each a little smaller than the last: what is lent of one shrinks from cycle to cycle
    ("for _ in range(8):\n    for n in falling(): product(n, n, 40)", 64 + 80),
    ("for _ in range(8):\n    for n in falling(): mk.gemm_t(*np.ones((2, n, 512), np.float32), mk.Mesh(8))", 64 + 64),
    ("for i in range(4000): product(1 + i % 59, 1 + i % 67, 1 + i % 71)", 32),  # no shape twice
    # a wafer's vectors and matrices of many widths: 12 and 4 MB of schedule each
    ("for n in range(24): mk.gemv(np.ones(9, np.float32), np.ones((9, 700 + n), np.float32), mk.Mesh(720))", 32 + 32),
    ("for n in range(24): product(9, 9, 700 + n, mk.Mesh(720))", 32 + 32),
], ids=["falling sizes", "falling prompts", "tiny products", "wafer gemv", "wafer gemm"])  # fmt: skip
def test_the_bound_holds_against_the_resident_set(work, most):
    done = subprocess.run([sys.executable, "-c", CHILD.replace("{work}", work)], capture_output=True, text=True,
                          cwd=ROOT, timeout=600, check=True)  # fmt: skip
    assert int(done.stdout) <= most, "MB more than before"


def test_buffers_given_back_are_lent_again_and_bounded(monkeypatch):
    monkeypatch.setattr(memory, "_kept", {})
    monkeypatch.setattr(memory, "KEPT", 18 << 20)
    first, second = (memory.borrow(8 << 20, BYTES) for _ in range(2))
    memory.give_back(first)
    memory.give_back(second)  # only one fits, with what its alignment takes: the older makes room
    assert np.shares_memory(memory.borrow(8 << 20, BYTES), second)
    memory.give_back(memory.borrow(20 << 20, BYTES))
    assert not memory._kept


def test_what_counts_is_the_whole_allocation(monkeypatch):
    monkeypatch.setattr(memory, "_kept", {})
    first = memory.borrow(10 << 20, BYTES)
    whole = first.base
    memory.give_back(first)
    less = memory.borrow(9 << 20, BYTES)
    assert less.base is whole
    memory.give_back(less)
    assert memory.kept_bytes() >= len(whole) >= 10 << 20
    assert memory.borrow(10 << 20, BYTES).base is whole, "lending less of it must not make it smaller"


def test_the_same_size_is_lent_again_wherever_the_allocation_begins(monkeypatch):
    monkeypatch.setattr(memory, "_kept", {})
    for size in range(1 << 20, 9 << 20, 777_777):
        first = memory.borrow(size, BYTES)
        memory.give_back(first)
        assert np.shares_memory(memory.borrow(size, BYTES), first)


def test_small_buffers_are_all_of_one_size(monkeypatch):
    """Whatever the shapes of tiny products, they share buffers."""
    monkeypatch.setattr(memory, "_kept", {})
    for size in range(1, 2 << 20, 99_999):
        memory.give_back(memory.borrow(size, BYTES))
    assert len(memory._kept) == 1


def test_no_buffer_is_lent_twice(monkeypatch):
    monkeypatch.setattr(memory, "_kept", {})

    def use(number):
        lent = memory.borrow(100_000, np.dtype(np.int64))
        lent[:] = number
        alone = (lent == number).all()
        memory.give_back(lent)
        return alone

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(4000)))
    assert len(memory._kept) <= 8


def test_a_small_array_takes_no_huge_page():
    """A thousand small weights must not take 2 MB each."""
    assert memory.aligned(100 << 10, BYTES).base.nbytes < 101 << 10
    assert memory.aligned(3 << 20, BYTES).ctypes.data % (2 << 20) == 0


@pytest.fixture
def remembered(monkeypatch):
    """A function that makes so many kilobytes, the calls it got, and room for 100 kB."""
    monkeypatch.setattr(kept, "_results", {})
    monkeypatch.setattr(kept, "REMEMBERED", 100_000)
    calls = []

    @kept.remember
    def make(kilobytes, name):
        calls.append(name)
        return np.zeros(1000 * kilobytes, np.uint8)

    return make, calls


def test_the_oldest_results_make_room(remembered):
    make, calls = remembered
    for name in "aabab":
        assert make(40, name) is make(40, name)
    assert calls == ["a", "b"]
    make(40, "c")  # three do not fit
    make(40, "b")
    make(40, "a")
    assert calls == ["a", "b", "c", "a"]
    assert kept.size(*(result for result, _ in kept._results.values())) <= 100_000


def test_a_result_without_room_is_not_kept(remembered):
    make, calls = remembered
    make(40, "small")
    for _ in range(2):
        make(101, "large")
    make(40, "small")
    assert calls == ["small", "large", "large"]


def test_the_number_of_results_is_bounded_too(remembered, monkeypatch):
    make, _ = remembered
    monkeypatch.setattr(kept, "RESULTS", 5)
    for name in range(50):
        make(0, name)
    assert len(kept._results) == 5


def test_sizes_count_all_that_is_held_and_each_once():
    array = np.zeros(10_000)
    holder = {"views": [array[3:], array[::2]], "function": lambda: array.sum()}
    assert 80_000 <= kept.size(holder) < 82_000
    assert kept.size(np, np.ndarray, kept.remember) < 2_000, "modules, classes and globals are there anyway"
