"""perfmodel's files: devices, models, sweeps and benchmarks, changed in structure, value or byte."""

from __future__ import annotations

import copy
import csv
import io
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import perfmodel
from tests.fuzz import child, judge, ready

QUICK = 120

_PACKAGE = Path(perfmodel.__file__).parent
VALUES: tuple[Any, ...] = (0, -1, 1, 2**31, 2**63, 10**19, 10**40, 1e308, -0.5, 1e-300, float("nan"), float("inf"),
                           True, "", "x", "1", "\x00", "\x1b[2J\n", "é" * 3000, [], ["mesh"], [[1]], {}, {"value": 1},
                           None)  # fmt: skip
TEXTS = ("", "0", "-1", "nan", "inf", "1e400", "1e19", "99999999999999999999", "x", "1,2", '"', "\x00", "é", " 5 ",
         "5.5", "1_0", "٣", "9" * 140000, "\n", "\r")  # fmt: skip


def toml(table: dict[str, Any]) -> str:
    """A table as TOML; nested tables inline."""

    def form(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {form(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(form, value)) + "]"
        if isinstance(value, float):
            return repr(value)
        return json.dumps(value) if value is not None else '"none"'

    return "\n".join(f"{json.dumps(key)} = {form(value)}" for key, value in table.items())


def changed(tree: Any, random: np.random.Generator) -> Any:
    """A nested value, one place of which is gone, replaced, doubled or renamed."""
    tree = copy.deepcopy(tree)
    at = tree
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        if not keys:
            return VALUES[random.integers(len(VALUES))]
        key = keys[random.integers(len(keys))]
        if isinstance(at[key], (dict, list)) and at[key] and random.random() < 0.7:
            at = at[key]
            continue
        what = random.integers(5)
        if what == 0:
            del at[key]
        elif what == 1 and isinstance(at, dict):
            at[("extra", "", "é\x00", "value", str(key).upper())[random.integers(5)]] = at.pop(key)
        elif what == 2 and isinstance(at, list):
            at.extend(at * int(random.integers(1, 4)))
        else:
            at[key] = VALUES[random.integers(len(VALUES))]
        return tree


def bytes_changed(raw: bytes, random: np.random.Generator) -> bytes:
    """A few bytes flipped, inserted, gone; or the end."""
    data = bytearray(raw)
    for _ in range(random.integers(1, 4)):
        at, what = int(random.integers(len(data) + 1)), random.integers(5)
        if what == 0 and at < len(data):
            data[at] ^= 1 << int(random.integers(8))
        elif what == 1:
            data[at:at] = (b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b'"', b"[", b"{", b"\n", b"\xc3")[random.integers(8)]
        elif what == 2:
            del data[at : at + int(random.integers(1, 30))]
        elif what == 3 and random.random() < 0.3:
            del data[at:]
        else:
            data[at:at] = data[: int(random.integers(60))]
    return bytes(data)


def _device(random: np.random.Generator):
    name = ("wse2", "wse3", "a100", "host", "dojo")[random.integers(5)]
    table = tomllib.loads((_PACKAGE / "devices" / f"{name}.toml").read_text())
    use = [["gemm", "--grid", "4", "--shape", "8", "8", "8"], ["gemv", "--grid", "12x7", "--shape", "100", "100"],
           ["prefill", "--model", "llama3-8b", "--grid", "100", "--tokens", "64"],
           ["capacity", "--model", "smollm2-135m", "--grid", "300"],
           ["best-grid", "--model", "llama3-8b", "--phase", "decode", "--tokens", "64"],
           ][random.integers(5)]  # fmt: skip
    return ".toml", table, toml, lambda path: ["predict", use[0], "--device", path, *use[1:], "--json"]


def _model(random: np.random.Generator):
    name = ("llama3-8b", "smollm2-135m", "qwen2-72b")[random.integers(3)]
    table = tomllib.loads((_PACKAGE / "models" / f"{name}.toml").read_text())
    if random.random() < 0.3:
        table = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "vocab_size": 128256, "rope_scaling": None, "torch_dtype": "bfloat16",
                 "eos_token_id": [1, 2]}  # fmt: skip
    use = [["prefill", "--grid", "100", "--tokens", "64"], ["decode", "--grid", "100", "--context", "64"],
           ["capacity", "--grid", "300"], ["decode", "--system", "a100x8", "--context", "64"],
           ["generate", "--prefill-grid", "200", "--decode-grid", "100", "--prompt", "50", "--new", "9"],
           ][random.integers(5)]  # fmt: skip
    ending, form = ((".toml", toml), (".json", json.dumps))[random.integers(2)]
    return ending, table, form, lambda path: ["predict", use[0], "--model", path, *use[1:], "--json"]


def _sweep(random: np.random.Generator):
    name = ("wse3_meshgemm", "wse3_meshgemv", "wse2_reduce_two_phase")[random.integers(3)]
    rows = list(csv.reader((_PACKAGE / "data" / f"{name}.csv").open()))
    rows = [rows[0], *(rows[1 + int(i)] for i in random.permutation(len(rows) - 1)[: random.integers(1, 120)])]
    for _ in range(random.integers(3)):
        row, what = int(random.integers(len(rows))), random.integers(5)
        column = int(random.integers(len(rows[row]))) if rows[row] else 0
        if what == 0:
            del rows[row][column : column + 1]
        elif what == 1:
            rows[row].append("7")
        elif what == 2 and row:
            for line in rows[1:]:
                if len(line) > column:
                    line[column] = TEXTS[random.integers(12)]
        elif rows[row]:
            rows[row][column] = TEXTS[random.integers(len(TEXTS))]
    more = [[], ["--device", "wse2"], ["--device", "a100"], ["--device", "host"], ["--device", "x"]][random.integers(5)]

    def form(table: list[list[str]]) -> str:
        text = io.StringIO()
        csv.writer(text, quoting=(random.integers(2) and csv.QUOTE_ALL) or csv.QUOTE_MINIMAL).writerows(table)
        return text.getvalue()

    return ".csv", rows, form, lambda path: ["fit", path, *more, "--json"]


def _benchmarks(random: np.random.Generator):
    entries = [{"name": f"b{i}", "stats": {"median": float(1e-5 + n / 2e10), "rounds": 5},
                "extra_info": {"flops": n, "bytes": n / 4}}
               for i, n in enumerate(10.0 ** random.uniform(3, 9, size=random.integers(1, 12)))]  # fmt: skip
    target = ("", "/proc/no/such.toml", "/dev/full", str(ready.folder()),
              str(ready.folder() / f"out-{random.integers(1 << 40)}.toml"))[random.integers(5)]  # fmt: skip
    out = ["--device-out", target] if random.random() < 0.8 else []
    table = {"machine_info": {"cpu": {"brand": "x"}}, "benchmarks": entries, "version": "4.0.0"}
    return ".json", table, json.dumps, lambda path: ["fit", path, *out, "--json"]


def case(number: int, random: np.random.Generator):
    kind = (_device, _model, _sweep, _benchmarks)[number % 4]
    ending, table, form, arguments = kind(random)
    sound, how = number < 20 and kind is not _sweep, random.random()
    if kind is not _sweep and not sound and how < 0.7:
        for _ in range(random.integers(1, 3)):
            table = changed(table, random)
    if kind is _device and not isinstance(table, dict):
        table = {"kind": table}
    if ending == ".toml" and not isinstance(table, dict):
        ending, form = ".json", json.dumps
    raw = form(table).encode("utf-8", "surrogatepass")
    if (not sound and how >= 0.7) or (kind is _sweep and how < 0.2):
        raw = bytes_changed(raw, random)
    if random.random() < 0.05:
        raw = raw.decode("utf-8", "replace").encode("utf-16")
    if random.random() < 0.03:
        raw = b"[" * 50000 if ending == ".json" else b"a = " + b"[" * 50000
    path = ready.folder() / f"data-{number}{ending}"
    name = f"{kind.__name__[1:]}: {judge.shell('perfmodel', arguments(path.name))} <<< {raw[:60]!r}"
    return name, _check(path, raw, arguments)


def _check(path: Path, raw: bytes, arguments: Callable[[str], list[str]]) -> Callable[[], str]:
    def check() -> str:
        path.write_bytes(raw)
        try:
            outcome = child.command("perfmodel", arguments(str(path)))
            end = judge.verdict(outcome)
            if end == "accepted":
                found = judge.numbers(outcome)
                if "cycles" in found:
                    judge.require(found["cycles"] > 0 and found["cycles"] >= found.get("lower_bound", 0) * (1 - 1e-9),
                                  f"cycles = {found['cycles']}, lower bound {found.get('lower_bound')}")  # fmt: skip
            return end
        finally:
            path.unlink(missing_ok=True)

    return check
