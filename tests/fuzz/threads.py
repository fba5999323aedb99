"""Several threads in the library at once, a vector width that another thread forces, a fork in the middle."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable

import numpy as np

import meshkernels as mk
from meshkernels.kernels import host
from tests.fuzz import judge
from tests.fuzz.operands import in_child

QUICK = 8


def _products(random: np.random.Generator) -> list[tuple[str, Callable[[], np.ndarray], bytes]]:
    """Products large enough for helpers, and what each gives alone."""
    found = []
    for i in range(6):
        M, K, N = (int(n) for n in random.integers(30, 220, 3))
        A, B = random.standard_normal((M, K)).astype("f4"), random.standard_normal((K, N)).astype("f4")
        mesh = mk.Mesh(*(int(n) for n in random.integers(1, 9, 2)))
        call = [lambda A=A, B=B, mesh=mesh: mk.gemm(A, B, mesh), lambda A=A, B=B, mesh=mesh: mk.gemv(A[0], B, mesh),
                lambda A=A, B=B, mesh=mesh: mk.gemm_t(A, np.ascontiguousarray(B.T), mesh)][i % 3]  # fmt: skip
        found.append((f"{('gemm', 'gemv', 'gemm_t')[i % 3]} {M} x {K} x {N} on {mesh}", call, call().tobytes()))
    return found


def _at_once(random: np.random.Generator, forced: bool, fork: bool, rounds: int) -> Callable[[], None]:
    def call() -> None:
        products, failures, ended = _products(random), [], threading.Event()

        def work(first: int) -> None:
            try:
                for i in range(first, first + rounds):
                    name, product, alone = products[i % len(products)]
                    if product().tobytes() != alone:
                        failures.append(f"{name}: other bits than alone")
            except BaseException as error:
                failures.append(repr(error))

        def toggle() -> None:
            names = list(host.SIMD)
            while not ended.is_set():
                for name in names:
                    with host.force_simd(name):
                        ended.wait(0.0005)

        if forced:  # compiled before: it would take minutes of the case's time otherwise
            for name in host.SIMD:
                with host.force_simd(name):
                    for what, product, alone in products:
                        judge.require(product().tobytes() == alone, f"{what}: other bits with {name}")
        workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        others = [threading.Thread(target=toggle)] if forced else []
        for thread in (*workers, *others):
            thread.start()
        if fork:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a fork among threads: that is what is tried
                for _ in range(6):
                    pid = os.fork()
                    if pid == 0:
                        right = all(product().tobytes() == alone for _, product, alone in products)
                        os._exit(0 if right else 3)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    judge.require(code == 0, f"a forked child: exit code {code}")
        for thread in workers:
            thread.join()
        ended.set()
        for thread in others:
            thread.join()
        judge.require(not failures, f"{len(failures)} of {3 * rounds}: {failures[:1]}")

    return call


def case(number: int, random: np.random.Generator):
    forced, fork = number % 2 == 0, number % 4 == 1
    name = "three threads" + ", a fourth forces widths" * forced + ", forks between" * fork
    return name, in_child(_at_once(random, forced, fork, 60), seconds=60)
