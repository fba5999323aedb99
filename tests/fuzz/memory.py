"""What the library keeps between calls: products and prompts whose size falls, many tiny ones, many wide ones."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

import meshkernels as mk
from meshkernels.kernels import memory
from meshkernels.llm import Llama
from tests.fuzz import judge
from tests.fuzz.operands import in_child
from tests.llama_reference import Synthetic, tiny

QUICK = 4
#: What a process may hold after any number of calls, operands and the interpreter included: on a machine with 24 GB.
WHOLE = 1500 << 20
#: Beside what may be kept: schedules, and what the allocator has not given back.
SLACK = 96 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _falling(largest: int, factor: float, cycles: int, kept: int) -> Callable[[], None]:
    """Panels of n x n numbers, n falling: ``kept`` bytes may stay."""

    def call() -> None:
        memory.KEPT = kept
        A, mesh = np.ones((largest, largest), np.float32), mk.Mesh(4)
        small = np.ones((largest, 16), np.float32)
        mk.gemm(A[:64, :64], small[:64], mesh)
        before = resident()
        for cycle in range(cycles):
            n = largest
            while n > largest // 9:
                mk.gemm(A[:n, :n], small[:n], mesh)
                n = int(n * factor)
            grown = resident() - before - kept
            judge.require(grown < SLACK, f"cycle {cycle + 1}: {grown >> 20} MB more than the {kept >> 20} MB allowed")
        judge.require(resident() < WHOLE, f"{resident() >> 20} MB resident")

    return call


def _prompts(cycles: int, kept: int) -> Callable[[], None]:
    def call() -> None:
        memory.KEPT = kept
        model = Llama(Synthetic(tiny(4, 2, 16, dim=256, ffn=512, vocab=300, context=2048)), 4)
        model.prefill(np.zeros(2000, int))
        before = resident()
        for _ in range(cycles):
            n = 2000
            while n > 200:
                model.prefill(np.zeros(n, int))
                n = int(0.91 * n)
            grown = resident() - before
            judge.require(grown < kept + SLACK, f"{grown >> 20} MB more, {kept >> 20} MB may be kept")

    return call


def _tiny(products: int) -> Callable[[], None]:
    def call() -> None:
        mesh = mk.Mesh(2)
        before, random = resident(), np.random.default_rng(0)
        for i in range(products):
            M, K, N = (int(n) for n in random.integers(1, 40, 3))
            mk.gemm(np.ones((M, K), np.float32), np.ones((K, N), np.float32), mesh)
            if i == 300:  # schedules of the last shapes are remembered
                before = resident()
        grown = resident() - before
        judge.require(grown < SLACK, f"{grown >> 20} MB kept of {products} tiny products")

    return call


def _wide(widths: int) -> Callable[[], None]:
    def call() -> None:
        mesh, before = mk.Mesh(720), resident()
        for i in range(widths):
            mk.gemv(np.ones(30, np.float32), np.ones((30, 20 + i), np.float32), mesh)
            mk.gemm(np.ones((3, 30), np.float32), np.ones((30, 20 + i), np.float32), mesh)
        grown = resident() - before
        judge.require(grown < 500 << 20, f"{grown >> 20} MB kept of {widths} widths on 720 x 720 cores")

    return call


def case(number: int, random: np.random.Generator):
    limits = {"seconds": 300, "memory": 12 << 30}
    if number == 0:
        return "panels that fall by 9 %", in_child(_falling(2000, 0.91, 4, 24 << 20), **limits)
    if number == 1:
        return "prompts that fall by 9 %", in_child(_prompts(2, 16 << 20), **limits)
    if number == 2:
        return "2000 tiny products", in_child(_tiny(2000), **limits)
    if number == 3:
        return "40 widths on 720 x 720 cores", in_child(_wide(40), **limits)
    if number == 4:
        return "panels of up to 256 MB that fall by 9 %", in_child(_falling(8000, 0.91, 8, memory.KEPT), **limits)
    if number == 5:
        return "12000 tiny products", in_child(_tiny(12000), **limits)
    if number == 6:
        return "200 widths on 720 x 720 cores", in_child(_wide(200), **limits)
    largest, factor = int(random.integers(500, 2500)), float(random.uniform(0.7, 0.98))
    kept = int(2 ** random.uniform(20, 26))
    name = f"panels of {largest}, x {factor:.2f}, {kept >> 20} MB kept"
    return name, in_child(_falling(largest, factor, 3, kept), **limits)
