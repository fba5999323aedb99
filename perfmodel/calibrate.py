"""``python -m perfmodel calibrate``: fit every kernel to the packaged measurements, in order, into one file.

Later fits build on earlier ones (the WSE-2 borrows what its six rows cannot identify), so the file is rewritten after
each and is reproducible from the measurements alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from perfmodel import files, parameters
from perfmodel.device import device
from perfmodel.fitting import Fit, fit
from perfmodel.forms import default_groups
from perfmodel.measurements import measurements, tables

HEADER = """# Constants of the model, written by `python -m perfmodel calibrate` from the measurements in this folder.
# origin: the measurements a constant was fitted to, or where it was carried over from.
"""

#: (owner, kernel) -> measurements it is fitted to
FITTED = {
    ("wse3", "gemm"): "wse3_meshgemm", ("wse3", "gemv"): "wse3_meshgemv", ("wse2", "gemm"): "wse2_prefill",
    ("wse2", "decode"): "wse2_decode", ("t10", "prefill"): "t10_prefill", ("t10", "decode"): "t10_decode",
    ("ladder", "prefill"): "ladder_prefill", ("ladder", "decode"): "ladder_decode",
    ("a100", "prefill"): "a100_prefill", ("a100", "decode"): "a100_decode",
    ("a100", "gemv"): "a100_gemv",
}

Entry = dict[str, object]


def calibrate() -> dict[tuple[str, str], dict[str, Entry]]:
    """Fit everything anew; returns the tables of `parameters.FILE` without touching it."""
    done: dict[tuple[str, str], dict[str, Entry]] = {}
    for key, name in FITTED.items():
        done[key] = _entries(fit(measurements(name), fixed=_carried(key, done)), done)
    done["wse2", "gemv"] = _wse2_gemv(done)
    done["wse3", "decode"] = _borrowed(done, ("wse3", "gemv"), ("row", "beat", "alpha", "beta"))
    done["a100", "generate"] = {"served": _served(done)}
    return done


def _carried(key: tuple[str, str], done: dict[tuple[str, str], dict[str, Entry]]) -> dict[str, float] | None:
    """Constants that a fit takes from the fits before it."""
    borrowed = {
        ("wse3", "gemv"): (("wse3", "gemm"), "beat"), ("wse2", "gemm"): (("wse3", "gemm"), "startup"),
        ("wse2", "decode"): (("wse2", "gemm"), "beat"),
        ("a100", "gemv"): (("a100", "decode"), "memory_efficiency"),
    }
    if key not in borrowed:
        return None
    lender, name = borrowed[key]
    return {name: float(done[lender][name]["value"])}  # type: ignore[arg-type]


def _entries(fitted: Fit, done: dict[tuple[str, str], dict[str, Entry]]) -> dict[str, Entry]:
    """A fit as table entries, with the range of sizes it saw."""
    name = fitted.measurements.name
    entries: dict[str, Entry] = {"range": _range(fitted)}
    for key, value in fitted.params.items():
        entries[key] = {"value": value, "stderr": fitted.stderr[key], "origin": f"fitted to {name}"}
    for key, value in fitted.fixed.items():
        entries[key] = {"value": value, "origin": _ORIGIN[name, key]}
    return entries


_ORIGIN = {
    ("wse3_meshgemv", "beat"): "carried over from wse3.gemm",
    ("a100_gemv", "memory_efficiency"): "carried over from a100.decode",
    ("wse2_prefill", "startup"): "carried over from wse3.gemm; a free fit gives the same",
    ("wse2_prefill", "vector"): "inside beat: six rows do not tell them apart",
    ("wse2_prefill", "remainder"): "inside k_loop: six rows do not tell them apart",
    ("wse2_prefill", "launch"): "below 0.1 % of a layer, not identified",
    ("wse2_decode", "beat"): "carried over from wse2.gemm",
    ("wse2_decode", "alpha"): "published: one cycle per hop (HPDC 2024)",
}


def _range(fitted: Fit) -> Entry:
    """Smallest and largest of every size that was varied: grid, tile side, groups, payload, tokens, dimensions."""
    data = fitted.measurements
    columns = data.columns
    found: dict[str, np.ndarray] = {}
    if "P" in columns:
        found["grid"] = columns["P"]
    for name in ("tokens", "dim", "ffn", "groups"):
        if name in columns:
            found[name] = columns[name]
    if data.kind == "decode":
        found["groups"] = default_groups(columns["P"])
    if data.kind in ("gemm", "gemv", "prefill"):
        lengths = [columns[name] for name in ("M", "K", "N", "tokens", "dim", "ffn") if name in columns]
        found["tile"] = np.concatenate([-(-length // columns["P"]) for length in lengths])
    if data.kind == "gemv":
        found["words"] = -(-columns["N"] // columns["P"])
    return {name: [int(values.min()), int(values.max())] for name, values in found.items()}


def _wse2_gemv(done: dict[tuple[str, str], dict[str, Entry]]) -> dict[str, Entry]:
    """Nothing is fitted: latencies published in HPDC'24, beats of WSE-2 prefill, the rest of the WSE-3 kernel."""
    wse2 = device("wse2")
    entries = _borrowed(done, ("wse3", "gemv"), ("launch", "row", "stream"))
    entries["beat"] = {"value": done["wse2", "gemm"]["beat"]["value"], "origin": "carried over from wse2.gemm"}
    entries["alpha"] = {"value": wse2.alpha, "origin": wse2.quantity("alpha").source}
    entries["beta"] = {"value": wse2.beta, "origin": wse2.quantity("beta").source}
    entries["die"] = {"value": 0.0, "origin": "no measurement shows it on this wafer"}
    return entries


def _borrowed(done: dict[tuple[str, str], dict[str, Entry]], lender: tuple[str, str], names: Iterable[str]
              ) -> dict[str, Entry]:
    """Constants of another kernel, with the range they were fitted on there."""
    origin = f"carried over from {'.'.join(lender)}"
    return {"range": done[lender]["range"],
            **{name: {"value": done[lender][name]["value"], "origin": origin} for name in names}}


def _served(done: dict[tuple[str, str], dict[str, Entry]]) -> Entry:
    """How much slower than in table 4 the A100s of table 2 decode: the median over its requests.

    Three of four workloads are served at half the steady rate of table 4, on every number of GPUs; the fourth
    (4096 tokens in and out) at that rate. The paper does not say why.
    """
    steady = {(r["model"], r["system"]): 1 / r["value"] for r in tables(4) if r["system"].startswith("a100")}
    prompt = {(r["model"], r["system"]): r["input_tokens"] / r["value"] for r in tables(3)
              if r["system"].startswith("a100")}
    ratios = []
    for row in tables(2):
        key = (row["model"], row["system"])
        if key in steady:
            whole = row["output_tokens"] / row["value"]
            first = prompt[key] * row["input_tokens"] / 4096
            ratios.append((whole - first) / row["output_tokens"] / steady[key])
    spread = float(np.std(ratios, ddof=1) / np.sqrt(len(ratios)))
    return {"value": float(np.median(ratios)), "stderr": spread, "origin": "median over the A100 rows of table 2"}


def write(path: Path = parameters.FILE) -> None:
    """Calibrate and write the file."""
    lines = [HEADER]
    for (owner, name), entries in calibrate().items():
        for key, entry in entries.items():
            lines.append(f"[{owner}.{name}.{key}]")
            lines += [f"{field} = {_toml(value, 2 if field == 'stderr' else 7)}" for field, value in entry.items()]
            lines.append("")
    files.write(path, "\n".join(lines))
    parameters.kernels.cache_clear()


def _toml(value: object, digits: int) -> str:
    """A number, a string, or a list, as TOML."""
    if isinstance(value, float):
        return f"{value:.{digits}g}" if value != int(value) else f"{value:.1f}"
    return str(value) if isinstance(value, list) else f'"{value}"'


