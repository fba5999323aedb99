"""KeyboardInterrupt at any moment: the object works on, bit for bit, or says what it needs; the process ends."""

from __future__ import annotations

import signal
from collections.abc import Callable

import numpy as np

import meshkernels as mk
from meshkernels.llm import Llama
from tests.fuzz import child, generate, judge, ready
from tests.fuzz.operands import in_child
from tests.llama_reference import Synthetic, tiny

QUICK = 12


class _Alarm:
    """KeyboardInterrupt in this thread after so many seconds, as from Ctrl-C; none after the block."""

    def __init__(self, seconds: float):
        self.seconds, self.armed = max(seconds, 1e-6), False

    def _ring(self, *_: object) -> None:
        if self.armed:  # the system may deliver it to another thread, and late
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._ring)
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, kind: type | None, *_: object) -> bool:
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        return kind is not None and issubclass(kind, KeyboardInterrupt)


def _interrupted(call: Callable[[], object], seconds: float) -> None:
    """Call, and interrupt it."""
    try:
        with _Alarm(seconds):
            call()
    except KeyboardInterrupt:  # between the end of the call and that of the alarm
        signal.setitimer(signal.ITIMER_REAL, 0)


def _says_reset(refusal: mk.MeshError) -> None:
    """An object that was interrupted may refuse, if it says what it needs."""
    says = str(refusal)
    judge.require("reset" in says or "prefill" in says, f"refused after an interrupt: {says}")


def _model() -> Llama:
    return Llama(Synthetic(tiny(4, 2, 16, dim=64, ffn=96, vocab=300, context=200)), 4, threads=2)


def _decode(random: np.random.Generator, rounds: int) -> Callable[[], None]:
    """Each token is interrupted, and repeated."""

    def call() -> None:
        model, whole = _model(), _model()
        prompt = [1, 2, 3]
        model.prefill(prompt), whole.prefill(prompt)
        for i in range(rounds):
            if i % 60 == 0:  # the context is short
                model.prefill(prompt), whole.prefill(prompt)
            token, length = int(random.integers(300)), len(model.cache)
            _interrupted(lambda token=token: model.decode(token), 10 ** random.uniform(-5, -2.3))
            expected = whole.decode(token)
            if len(model.cache) == length:
                try:
                    found = model.decode(token)
                except mk.MeshError as refusal:
                    _says_reset(refusal)
                    model.prefill(prompt), whole.prefill(prompt)
                    continue
                off = abs(found - expected).max()
                judge.require(np.array_equal(found, expected), f"token {i}: repeated, its logits are off by {off}")
            else:
                # it went through, or its entry stayed: the next token tells
                token = int(random.integers(300))
                try:
                    found = model.decode(token)
                except mk.MeshError as refusal:
                    _says_reset(refusal)
                    model.prefill(prompt), whole.prefill(prompt)
                    continue
                expected = whole.decode(token)
                off = abs(found - expected).max()
                judge.require(np.array_equal(found, expected), f"token {i}: interrupted, its entry stays in the cache, "
                              f"and the next logits are off by {off}")

    return call


def _hook() -> None:
    """A hook that raises."""
    model, whole = _model(), _model()
    model.prefill([1, 2, 3]), whole.prefill([1, 2, 3])

    def hook(block: int, *_: object) -> None:
        if block == 1:
            raise KeyboardInterrupt

    model.hooks.append(hook)
    try:
        model.decode(5)
    except KeyboardInterrupt:
        model.hooks.clear()
    judge.require(len(model.cache) == 3, f"the cache went from 3 to {len(model.cache)} entries")
    judge.require(np.array_equal(model.decode(5), whole.decode(5)), "the repeated token has other logits")


def _prefill(random: np.random.Generator, rounds: int) -> Callable[[], None]:
    def call() -> None:
        model, whole = _model(), _model()
        for _ in range(rounds):
            prompt = [int(i) for i in random.integers(300, size=random.integers(1, 60))]
            _interrupted(lambda prompt=prompt: model.prefill(prompt), 10 ** random.uniform(-5, -2))
            found = model.prefill(prompt)
            judge.require(np.array_equal(found, whole.prefill(prompt)), "the repeated prompt has other logits")
            judge.require(np.array_equal(model.decode(7), whole.decode(7)), "the token after it has other logits")

    return call


def _gemm(random: np.random.Generator, rounds: int) -> Callable[[], None]:
    def call() -> None:
        A, B = (random.standard_normal((600, 600)).astype("f4") for _ in range(2))
        out, mesh = np.zeros((600, 600), "f4"), mk.Mesh(4)
        alone = mk.gemm(A, B, mesh).tobytes()
        for _ in range(rounds):
            _interrupted(lambda: mk.gemm(A, B, mesh, out=out), 10 ** random.uniform(-5, -2))
            judge.require(mk.gemm(A, B, mesh).tobytes() == alone, "the repeated product has other bits")

    return call


def _command(words: list, moments: list[float]) -> Callable[[], str]:
    def check() -> str:
        return judge.interrupted(child.command("meshkernels", words, interrupts=moments))

    return check


def _large() -> str:
    """Ctrl-C in a long product."""
    def call() -> None:
        A, mesh = np.ones((5000, 5000), np.float32), mk.Mesh(4)
        while True:
            mk.gemm(A, A, mesh)

    outcome = child.run(call, interrupts=[1.5], seconds=30)
    judge.require(outcome.code == -signal.SIGINT, f"exit code {outcome.code}")
    judge.require(outcome.seconds < 2, f"ended {outcome.seconds:.1f} s after the signal")
    return "accepted"


def case(number: int, random: np.random.Generator):
    if number == 0:
        return "a hook that raises in block 1", in_child(_hook)
    if number == 1:
        return "a long product", _large
    kind = number % 6
    if kind in (2, 3):
        return "120 interrupted tokens", in_child(_decode(random, 120), seconds=40)
    if kind == 4:
        return "50 interrupted prompts", in_child(_prefill(random, 50), seconds=40)
    if kind == 5:
        return "60 interrupted products", in_child(_gemm(random, 60), seconds=40)
    demo = random.random() < 0.5
    words = ["demo", "--model", str(ready.model()), "--grid", "3"] if demo else generate.arguments(ready.model())
    moment = float(random.uniform(0.0, 0.6 if demo else 0.15))
    moments = [moment, moment + 0.01] if random.random() < 0.2 else [moment]
    return f"{words[0]} interrupted after {moments} s", _command(words, moments)
