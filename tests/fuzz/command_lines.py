"""Command lines by a grammar with extremes, and outputs that are closed, full, broken or of another encoding."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from tests.fuzz import child, judge, ready

QUICK = 75

WHOLE = ("0", "-1", "1", "2", "7", "64", "1000", "65536", "2147483647", "2147483648", "17179869184",
         "9223372036854775807", "18446744073709551615", "10000000000000000000", "1" + "0" * 400, "9" * 5000, "1e3",
         "1.5", "inf", "nan", "", "x", "0x10", "٣", " 4", "1_000", "--", "\udcff")  # fmt: skip
REAL = ("0", "-1", "1", "0.5", "1e-320", "1e308", "1e999", "inf", "-inf", "nan", "", "x", "1" * 400)
#: A host takes seconds for grids of a thousand cores a side: small, or far too large.
GRID = ("1", "2", "3x4", "1x9", "5", "0", "-3", "2x", "x2", "2x2x2", "100000", "2147483648", "1x1000000",
        "18446744073709551615", "1" + "0" * 400, "", "inf", "٣", "2X3", "a")  # fmt: skip
PROMPT = ("abc é", "a", "", " ", "\x00", "\n", "<|end|>", "<|5|>", "\udcff\udcfe", "a\udc80b", "日本語", "🦙" * 15,
          "a" * 70, "a" * 100000, "--", "-x", "\x1b[2J", "\ud800")  # fmt: skip
DEVICES = ("wse2", "wse3", "none", "a100", "host", "dojo", "", "wse", "no.toml", "/", "/dev/null", "\udcff",
           "/dev/zero.toml", "x" * 5000, "a\nb", "../perfmodel/devices/wse2.toml")  # fmt: skip
MODELS = ("llama3-8b", "smollm2-135m", "qwen2-72b", "", "x", "no.json", "/dev/null", "/", "x.toml", "\udcff.json",
          "y" * 5000)  # fmt: skip
FILES = ("/", "", "no.gguf", "/dev/null", "/dev/zero", "\udcff.gguf", "z" * 5000, "a\nb.gguf", "/proc/self/mem")

#: Of findings: each was a hang, a killed process, a traceback or a wrong number once. "MODEL" is the tiny file.
KNOWN: tuple[tuple[str, str, str], ...] = (
    ("meshkernels", "generate abc --model MODEL --grid 100000 --device none", "utf-8"),
    ("meshkernels", "generate abc --model MODEL --grid 1x100000000 --device none", "utf-8"),
    ("perfmodel", "predict generate --model llama3-8b --prefill-grid 660 --decode-grid 360 --prompt 9 --new 2147483648",
     "utf-8"),
    ("perfmodel", "predict gemm --grid 4 --shape 17179869184 17179869184 17179869184 --json", "utf-8"),
    ("perfmodel", "predict gemm --grid 18446744073709551615 --shape 8 8 8 --json", "utf-8"),
    ("perfmodel", "predict gemm --grid 720 --shape 10000000000000000000 8 8 --json", "utf-8"),
    ("perfmodel", "fit wse3_meshgemm --device a100", "utf-8"),
    ("meshkernels", "generate abc --model MODEL --grid 2 --seed -1", "utf-8"),
    ("meshkernels", "generate a\udcffb --model MODEL --grid 2", "utf-8"),
    ("meshkernels", "generate é🦙 --model MODEL --grid 2", "ascii"),
    ("meshkernels", "generate é🦙 --model MODEL --grid 2", "latin-1"),
    ("meshkernels", "demo --model MODEL --grid 2", "broken"), ("meshkernels", "demo --model MODEL --grid 2", "full"),
    ("meshkernels", "generate abc --model MODEL --grid 2", "full"),
    ("meshkernels", "generate abc --model MODEL --grid 2", "closed"),
    ("perfmodel", "devices", "full"), ("perfmodel", "report", "closed"), ("plots", "rings --out /dev/null/x", "utf-8"),
    ("perfmodel", "fit wse3_meshgemv --device-out /nowhere/x.toml", "utf-8"),
)

Option = tuple[str, tuple[str, ...]]


def pick(random: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[random.integers(len(values))]


def options(random: np.random.Generator, known: list[Option], most: int) -> list[str]:
    """Some of the options, each with one of its values."""
    words: list[str] = []
    for i in random.permutation(len(known))[: random.integers(most + 1)]:
        name, values = known[i]
        words += [name, pick(random, values)] if values else [name]
    return words


def _generate(random: np.random.Generator) -> list[str]:
    model = str(ready.model()) if random.random() < 0.9 else pick(random, FILES)
    grid = pick(random, GRID[:5] if random.random() < 0.8 else GRID)
    known: list[Option] = [
        ("--new", WHOLE), ("--prefill-grid", GRID), ("--decode-grid", GRID), ("--chat", ()), ("--temperature", REAL),
        ("--top-p", REAL), ("--seed", WHOLE), ("--cache", ("shift", "concat", "", "x")), ("--device", DEVICES),
        ("--dtype", ("float32", "float16", "int8", "")), ("--accumulate", ("float32", "float16", "bfloat16")),
        ("--norms", ("float32", "float16", "x")), ("--ledger", ()), ("--json", ()),
        ("--wafer", DEVICES), ("--batch", ("0", "-1", "2", "3", "x", "", "9223372036854775807"))]  # fmt: skip
    return ["generate", pick(random, PROMPT), "--model", model, "--grid", grid, *options(random, known, 5)]


def _demo(random: np.random.Generator) -> list[str]:
    grids = [pick(random, ("1", "2", "3", "5")) if random.random() < 0.8 else pick(random, (*WHOLE, *GRID))
             for _ in range(random.integers(1, 4))]
    model = str(ready.model()) if random.random() < 0.9 else pick(random, FILES)
    return ["demo", "--model", model, "--grid", *grids,
            *options(random, [("--device", DEVICES), ("--prompt", PROMPT), ("--json", ())], 3)]


def _predict(random: np.random.Generator) -> list[str]:
    def whole() -> str:
        return pick(random, WHOLE)

    grid = pick(random, (*GRID, "720", "720x360", "480")) if random.random() < 0.5 else whole()
    what = random.integers(8)
    llm = ["--model", pick(random, MODELS[:3] if random.random() < 0.8 else MODELS)]
    system = options(random, [("--system", ("waferllm", "t10", "ladder", "a100x1", "a100x8", "a100x16", "", "x"))], 1)
    words = [
        ["gemm", "--grid", grid, "--shape", whole(), whole(), whole(),
         *options(random, [("--algorithm", ("meshgemm", "cannon", "summa", "allgather", "gemm_t", "", "x"))], 1)],
        ["gemv", "--grid", grid, "--shape", whole(), whole(),
         *options(random, [("--groups", WHOLE), ("--reduce", ("ktree", "chain", "pipeline", "ring", "x"))], 2)],
        ["prefill", *llm, "--grid", grid, "--tokens", whole(), *system],
        ["decode", *llm, "--grid", grid, "--context", whole(), *system, *options(random, [("--groups", WHOLE)], 1)],
        ["generate", *llm, "--prefill-grid", grid, "--decode-grid", grid, "--prompt", whole(), "--new", whole(),
         *system],
        ["capacity", *llm, "--grid", grid,
         *options(random, [("--cache", ("shift", "concat", "x")), ("--regions", WHOLE)], 2)],
        ["pipeline", *llm, "--grid", grid, "--tokens", whole(),
         *options(random, [("--batch", WHOLE), ("--regions", WHOLE), ("--storage", ("F16", "Q4_0", "Q4_K", "x"))], 3)],
        ["best-grid", *llm, "--phase", pick(random, ("prefill", "decode")), "--tokens", whole()],
    ][what]  # fmt: skip
    return ["predict", *words, *options(random, [("--device", DEVICES), ("--json", ())], 2)]


OTHER = ("devices", "models", "devices --json", "models --json", "", "x", "--help", "predict", "report --json",
         "report --part claims", "report --part x", "fit wse2_decode", "fit wse2_decode --device a100",
         "fit wse3_meshgemv --device a100", "fit a100_gemv --device-out x.toml", "fit \udcff.csv", "fit /",
         "fit /dev/null", "fit /dev/zero.csv", "fit a100_gemv --device wse2 --json")  # fmt: skip
FOLDERS = ("/dev/null/x", "/proc/x", "", "\udcff", "/dev/full", "q" * 5000, "a?b")


def _other(random: np.random.Generator) -> list[str]:
    return pick(random, OTHER).split()


def _plots(random: np.random.Generator) -> list[str]:
    out = ["rings", "--out", pick(random, FOLDERS)]
    return [out, out, ["x"], ["\udcff"], ["rings", "x"], ["--out"], ["--help"]][random.integers(7)]


KINDS = (("meshkernels", _generate), ("perfmodel", _predict), ("perfmodel", _predict), ("meshkernels", _demo),
         ("meshkernels", _generate), ("perfmodel", _other), ("plots", _plots))  # fmt: skip


def case(number: int, random: np.random.Generator):
    if number < len(KNOWN):
        module, line, where = KNOWN[number]
        words = [str(ready.model()) if word == "MODEL" else word for word in line.split()]
    else:
        module, build = KINDS[number % len(KINDS)]
        words, where = build(random), "utf-8"
        if random.random() < 0.35:
            where = pick(random, ("ascii", "latin-1", "closed", "full", "broken"))
    shown = judge.shell(module, words).encode("utf-8", "backslashreplace").decode()
    return f"{shown}, stdout {where}", _check(module, words, where)


def raw(word: str) -> bytes:
    """An argument as the system passes it: no zero bytes."""
    return word.replace("\x00", "?").encode("utf-8", "surrogateescape" if "\ud800" not in word else "surrogatepass")


def _check(module: str, words: list[str], where: str) -> Callable[[], str]:
    def check() -> str:
        ends, more = [], {}
        if where in ("ascii", "latin-1"):
            more = {"encoding": where}
        elif where == "closed":
            more = {"stdout": -1}
        elif where == "full":
            ends = [os.open("/dev/full", os.O_WRONLY)]
            more = {"stdout": ends[0]}
        elif where == "broken":
            read, write = os.pipe()
            os.close(read)
            ends, more = [write], {"stdout": write}
        try:
            outcome = child.command(module, [raw(word) for word in words], **more)
        finally:
            for end in ends:
                os.close(end)
        judge.require(outcome.peak < 1 << 30, f"{outcome.peak >> 20} MB resident")
        if where in ("full", "closed") and outcome.code in (1, 74):
            outcome = _with(outcome, 2)
        if where == "broken" and outcome.code in (1, 141, -13) and not outcome.err:
            outcome = _with(outcome, 0)
        end = judge.verdict(outcome, longest=1500 + 4 * sum(map(len, words)))  # which it may repeat
        if "--json" in words and end == "accepted" and where in ("utf-8", "ascii", "latin-1") and "--help" not in words:
            if module == "meshkernels" and words[0] == "demo":
                return end
            found = judge.numbers(outcome)
            if words[:1] == ["predict"] and "cycles" in found:
                judge.require(found["cycles"] > 0, f"{found['cycles']} cycles")
                judge.require(found["cycles"] >= (found.get("lower_bound") or 0) * (1 - 1e-9),
                              f"{found['cycles']} cycles, below the lower bound of {found['lower_bound']}")
        return end

    return check


def _with(outcome: child.Outcome, code: int) -> child.Outcome:
    return child.Outcome(code, outcome.out, outcome.err, outcome.seconds, outcome.peak, outcome.hung)
