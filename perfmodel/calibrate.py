"""``python -m perfmodel calibrate``: fit every kernel to the packaged measurements, in order, into one file.

`SOURCES` is the one place that says where each constant comes from. Later kernels build on earlier ones, so the
order matters; the file is reproducible from the measurements alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perfmodel import files, parameters
from perfmodel.device import device
from perfmodel.fitting import Fit, errors, fit
from perfmodel.measurements import measurements, tables
from perfmodel.prediction import DEVIATIONS

HEADER = """# Constants of the model, written by `python -m perfmodel calibrate` from the measurements in this folder.
# how: measured (a microbenchmark, a publication), fitted (to `rows` rows), or carried over from another kernel.
"""

Entry = dict[str, object]
Key = tuple[str, str]


@dataclass(frozen=True)
class Value:
    """A constant that is not fitted: a number that somebody measured, or a reason."""

    value: float
    origin: str
    how: str = "measured"


@dataclass(frozen=True)
class From:
    """A constant of another kernel, scaled by the ratio of what it stands for on the two devices."""

    kernel: Key
    name: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Source:
    """Where the constants of a kernel come from.

    Attributes:
        measurements: the rows that the other constants are fitted to; "" if none are.
        leave_out: by which label rows are left out for the held-out error.
        others: constants that are not fitted.
        blind: rows that nothing is fitted to, whose error is the held-out one.
    """

    measurements: str = ""
    leave_out: str = ""
    others: Mapping[str, Value | From] | None = None
    blind: str = ""


_HPDC = "Luczynski et al., Near-Optimal Wafer-Scale Reduce, HPDC 2024"
_FABRICA = "FABRICA (arXiv 2608.25124), microbenchmarks on WSE-3 silicon"

SOURCES: dict[Key, Source] = {
    ("wse3", "gemm"): Source("wse3_meshgemm", "tile", {
        "beat": Value(1.0, "16 bytes of operands per cycle, 4 fp16 multiply-accumulates (WSE-3 device file)")}),
    ("wse3", "gemv"): Source("wse3_meshgemv", "tile", {
        "beat": From(("wse3", "gemm")), "alpha": Value(2.0, f"{_FABRICA}: 2.000 cycles per hop")}),
    # Six published rows cannot tell all constants of a step apart.
    ("wse2", "gemm"): Source("wse2_prefill", "model", {
        "startup": From(("wse3", "gemm"), remark="a free fit gives the same"),
        "beat": Value(2.0, f"two accesses to one bank, one after the other ({_FABRICA}: a conflict slows down "
                           f"by 1.94); a free fit gives 2.0"),
        "vector": Value(0.0, "inside beat: six rows do not tell them apart", "carried"),
        "remainder": Value(0.0, "inside k_loop: six rows do not tell them apart", "carried"),
        "launch": Value(0.0, "below 0.1 % of a layer, not identified", "carried")}),
    ("wse2", "decode"): Source("wse2_decode", "grid", {
        "alpha": Value(1.0, f"{_HPDC}: one cycle per hop"), "beat": From(("wse2", "gemm")),
        "stream": Value(0.0, "inside row: payloads grow with rows, six launches do not tell them apart", "carried"),
        "unprofiled": Value(0.0, "the published kernel is not instrumented", "carried")}),
    ("wse2", "gemv"): Source(others={
        "launch": From(("wse3", "gemv")), "row": From(("wse3", "gemv")), "stream": From(("wse3", "gemv")),
        "beat": From(("wse2", "gemm")), "alpha": Value(1.0, f"{_HPDC}: one cycle per hop"),
        "beta": Value(5.0, f"{_HPDC}: 2 T_R + 1 cycles per dependent core, T_R = 2"),
        "die": Value(0.0, "no measurement shows it on this wafer", "carried")}),
    ("wse3", "decode"): Source(others={
        "row": From(("wse2", "decode"), remark="how the kernel is written"),
        "beta": From(("wse2", "decode"), remark="by the ratio of the chips' stages"),
        "beat": From(("wse3", "gemm")), "stream": From(("wse2", "decode")), "alpha": From(("wse3", "gemv")),
        "unprofiled": Value(4357.109, "wse3_decode: what its instrumented kernel spends outside its phases")}),
    ("wse3", "shift"): Source(others={
        "startup": From(("wse3", "gemm")), "alpha": From(("wse3", "gemv")),
        "setup": Value(15.0, f"{_FABRICA}: set-up of a copy, 15 cycles"),
        "latency": Value(40.0, f"{_FABRICA}: one-way latency of 42 cycles at one hop, less the hop"),
        "word": Value(1.125, f"{_FABRICA}: 1.125 cycles per 32-bit word")}, blind="wse3_shift"),
    ("wse2", "shift"): Source(others={
        "startup": From(("wse2", "gemm")), "alpha": Value(1.0, f"{_HPDC}: one cycle per hop"),
        "setup": From(("wse3", "shift")), "latency": From(("wse3", "shift")), "word": From(("wse3", "shift"))}),
    ("n150", "matmul"): Source("tenstorrent_n150_gemm", "shape"),
    ("p150", "matmul"): Source(others={name: From(("n150", "matmul"))
                                       for name in ("launch", "issue", "multicast", "exposed")}),
    ("t10", "prefill"): Source("t10_prefill", "model", {
        "element": Value(2.0, "an element is received, then sent on; a free fit gives 1.93", "carried")}),
    ("t10", "decode"): Source("t10_decode", "model"),
    ("ladder", "prefill"): Source("ladder_prefill", "model"),
    ("ladder", "decode"): Source("ladder_decode", "model", {
        "element": Value(1.0, "an element per cycle; a free fit gives 1.04", "carried")}),
    ("a100", "prefill"): Source("a100_prefill", "model"),
    ("a100", "decode"): Source("a100_decode", "model"),
    ("a100", "gemv"): Source("a100_gemv", "model"),
}


def calibrate() -> dict[Key, dict[str, Entry]]:
    """Fit everything anew.

    Returns:
        The tables of `parameters.FILE`, which is not touched.
    """
    done: dict[Key, dict[str, Entry]] = {}
    for key, source in SOURCES.items():
        given = {name: _given(key, name, found, done) for name, found in (source.others or {}).items()}
        entries: dict[str, Entry] = {}
        if source.measurements:
            fitted = refit(key, {name: float(entry["value"]) for name, entry in given.items()})  # type: ignore[arg-type]
            entries = _fitted(fitted, source)
        elif lender := next((s.kernel for s in (source.others or {}).values() if isinstance(s, From)), None):
            entries["range"] = done[lender]["range"] if lender in done else {}
        if source.blind:
            data = measurements(source.blind)
            constants = {name: float(entry["value"]) for name, entry in given.items()}  # type: ignore[arg-type]
            entries["about"] = {"held_out": _at_90(errors(data, constants))}
        done[key] = {**entries, **given}
    done["a100", "generate"] = {"served": _served()}
    return done


def refit(key: Key, given: Mapping[str, float] | None = None) -> Fit:
    """The fit behind a kernel: `SOURCES` says to which rows, and which constants are held.

    Args:
        key: (device or system, kernel).
        given: the constants that are held; default: their packaged values.

    Returns:
        The fitted constants with their errors.
    """
    source = SOURCES[key]
    if given is None:
        values = parameters.kernel(*key).values
        given = {name: values[name] for name in source.others or {}}
    return fit(measurements(source.measurements), fix=given)


#: (owner, kernel) -> measurements it is fitted to
FITTED = {key: source.measurements for key, source in SOURCES.items() if source.measurements}


def _given(key: Key, name: str, found: Value | From, done: Mapping[Key, dict[str, Entry]]) -> Entry:
    """A constant that is measured or carried over, as an entry."""
    if isinstance(found, Value):
        return {"value": found.value, "how": found.how, "origin": found.origin}
    lender = found.kernel
    value = float(done[lender][found.name or name]["value"])  # type: ignore[arg-type]
    if lender[0] != key[0]:
        value *= parameters.ratio(name, device(key[0]), device(lender[0]))
    remark = f"; {found.remark}" if found.remark else ""
    return {"value": value, "how": "carried", "origin": f"carried over from {'.'.join(lender)}{remark}"}


def _fitted(fitted: Fit, source: Source) -> dict[str, Entry]:
    """A fit as table entries, with the range of sizes it saw and the error of rows that it did not see."""
    entries: dict[str, Entry] = {"range": {key: list(ends) for key, ends in fitted.range().items()}}
    # rows left out are missed by the form and by the constants; the interval of a prediction adds the latter itself
    missed, constants = _at_90(fitted.cross_validate(source.leave_out).errors), DEVIATIONS * fitted.deviation()
    entries["about"] = {"held_out": float(np.sqrt(max(missed**2 - np.median(constants) ** 2, 0.0))),
                        "correlation": fitted.correlation.round(6).tolist()}
    for key, value in fitted.params.items():
        entries[key] = {"value": value, "stderr": fitted.stderr[key], "how": "fitted",
                        "rows": len(fitted.measurements), "origin": f"fitted to {fitted.measurements.name}"}
    return entries


def _at_90(errors: np.ndarray) -> float:
    """Of n held-out errors the one that the next row stays below with a probability of 90 %."""
    sizes = np.sort(np.abs(errors))
    return float(sizes[min(int(np.ceil(0.9 * (len(sizes) + 1))), len(sizes)) - 1])


def _served() -> Entry:
    """How much slower than in table 4 the A100s of table 2 decode: the median over its requests.

    Three of four workloads are served at half the steady rate of table 4, on every number of GPUs; the fourth
    (4096 tokens in and out) at that rate. The paper does not say why.

    Returns:
        Median, standard error, and the rows behind them.
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
    return {"value": float(np.median(ratios)), "stderr": spread, "how": "fitted", "rows": len(ratios),
            "origin": "median over the A100 rows of table 2"}


def write(path: Path = parameters.FILE) -> None:
    """Calibrate and write the file."""
    lines = [HEADER]
    for (owner, name), entries in calibrate().items():
        for key, entry in entries.items():
            lines.append(f"[{owner}.{name}.{key}]")
            lines += [f"{field} = {_toml(value, 2 if field in ('stderr', 'held_out') else 7)}"
                      for field, value in entry.items()]
            lines.append("")
    files.write(path, "\n".join(lines))
    parameters.kernels.cache_clear()


def _toml(value: object, digits: int) -> str:
    """A number, a string, or a list, as TOML."""
    if isinstance(value, float):
        return f"{value:.{digits}g}" if value != int(value) else f"{value:.1f}"
    return str(value) if isinstance(value, list | int) else f'"{value}"'
