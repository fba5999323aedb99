"""Published measurements as checked columns: what the model is fitted to and compared with."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.errors import DataError, unknown
from perfmodel.model import model

FOLDER = Path(__file__).parent / "data"

#: columns of each kind of sweep; the last one is what was measured
SWEEPS = {
    "gemm": ("P", "M", "K", "N", "cycles"),
    "gemv": ("P", "M", "N", "groups", "cycles"),
    "reduce": ("P", "B_words", "group_size", "cycles"),
}
#: packaged sweeps: file -> (kind, device, clock of the cycles in hertz)
FILES = {
    "wse3_meshgemm": ("gemm", "wse3", 1.1e9),
    "wse3_meshgemv": ("gemv", "wse3", 1.1e9),
    "wse2_reduce_two_phase": ("reduce", "wse2", 1.1e9),
}
#: throughput tables 3 and 4: name -> (table, system, column of the grid)
TABLES = {
    "wse2_prefill": (3, "waferllm", "prefill_grid"), "wse2_decode": (4, "waferllm", "decode_grid"),
    "t10_prefill": (3, "t10", "prefill_grid"), "t10_decode": (4, "t10", "decode_grid"),
    "ladder_prefill": (3, "ladder", "prefill_grid"), "ladder_decode": (4, "ladder", "decode_grid"),
    "a100_prefill": (3, "a100", ""), "a100_decode": (4, "a100", ""),
    "a100_gemv": (6, "a100", ""),
}
CLOCK = 1.1e9


@dataclass(frozen=True)
class Measurements:
    """Columns of one experiment.

    Attributes:
        name: file or table.
        kind: which form of the model explains it.
        device: device it was measured on.
        columns: name -> values, all of one length.
        measured: cycles (seconds for ``host`` and ``a100_*``), positive.
        labels: name -> group of each row, for cross-validation ("grid", "tile", "model").
    """

    name: str
    kind: str
    device: str
    columns: Mapping[str, np.ndarray]
    measured: np.ndarray
    labels: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.measured)


def names() -> list[str]:
    """Names that `measurements` knows."""
    return sorted([*FILES, *TABLES])


def measurements(name: str | Path, device: str | None = None) -> Measurements:
    """Load a packaged experiment by name, a CSV sweep, or a pytest-benchmark JSON file.

    Args:
        name: one of `names`, or the path of a ``.csv`` or ``.json`` file.
        device: of a file of your own; default: the device of the packaged sweep of the same kind.

    Raises:
        DataError: missing columns, values that are not positive numbers, no rows.

    >>> len(measurements("wse3_meshgemm"))
    448
    """
    path = Path(name)
    if path.suffix == ".json":
        return _benchmarks(path)
    if path.suffix == ".csv":
        return _sweep(path, path.stem, device)
    if str(name) in FILES:
        return _sweep(FOLDER / f"{name}.csv", str(name), device)
    if str(name) in TABLES:
        return _table(str(name))
    raise unknown("measurements", str(name), names())


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    if not path.is_file():
        raise DataError(f"no file {str(path)!r}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise DataError(f"{path.name} has no rows")
    return rows


def _sweep(path: Path, name: str, device: str | None) -> Measurements:
    """A sweep of one kernel; its kind is told by its columns."""
    rows = rows_of(path)
    header = [column for column in rows[0] if column is not None]
    lacking = {kind: [c for c in columns if c not in header] for kind, columns in SWEEPS.items()}
    kind = min(lacking, key=lambda k: len(lacking[k]))
    if lacking[kind]:
        raise DataError(f"{path.name} lacks the column {', '.join(lacking[kind])} of a {kind} sweep; it has "
                        f"{', '.join(header)}")
    columns = {c: _numbers(path, c, [row[c] for row in rows]) for c in SWEEPS[kind]}
    _check_rows(path, rows, columns)
    measured = columns.pop("cycles")
    labels = {"grid": columns["P"]}
    if kind != "reduce":
        sides = [columns[c] // columns["P"] for c in ("M", "K", "N") if c in columns]
        labels["tile"] = np.array(["x".join(str(int(v)) for v in row) for row in zip(*sides)])
    default = next(FILES[file][1] for file in FILES if FILES[file][0] == kind)
    return Measurements(name, kind, device or default, columns, measured, labels)


def _numbers(path: Path, column: str, texts: list[str]) -> np.ndarray:
    """A column of positive numbers; whole numbers but for the measured one."""
    try:
        values = np.array([float(text) for text in texts])
    except (TypeError, ValueError):
        bad = next(i for i, text in enumerate(texts) if not _is_number(text))
        raise DataError(f"{path.name}, row {bad + 2}: {column} = {texts[bad]!r} is not a number") from None
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(f"{path.name}, row {at + 2}: {column} = {texts[at]} must be positive")
    if column == "cycles":
        return values
    if (broken := values != np.floor(values)).any():
        at = int(np.argmax(broken))
        raise DataError(f"{path.name}, row {at + 2}: {column} = {texts[at]} must be a whole number")
    return values.astype(np.int64)


#: ways to write the unit of a sweep
UNITS = ("cycle", "cycles")


def _check_rows(path: Path, rows: list[dict[str, str]], columns: Mapping[str, np.ndarray]) -> None:
    """What a sweep may not say: another unit than cycles, groups or group members beyond the cores of a line."""
    for at, row in enumerate(rows):
        if "unit" in row and str(row["unit"]).strip() not in UNITS:
            raise DataError(f"{path.name}, row {at + 2}: unit {row['unit']!r}, expected 'cycle'")
    for name in ("groups", "group_size"):
        if name in columns and (wrong := columns[name] > columns["P"]).any():
            at = int(np.argmax(wrong))
            raise DataError(f"{path.name}, row {at + 2}: {name} = {columns[name][at]} exceeds P = {columns['P'][at]}, "
                            f"the cores of a line")


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def tables(table: int | None = None) -> list[dict[str, Any]]:
    """Rows of the published tables 2 to 8, numbers converted, grids as one side (or None)."""
    rows = [_typed(row) for row in rows_of(FOLDER / "waferllm_tables.csv")]
    return [row for row in rows if table in (None, row["table"])]


def _typed(row: dict[str, str]) -> dict[str, Any]:
    """One row of the tables with numbers as numbers."""
    def side(text: str) -> int | None:
        return int(text.split("x")[0]) if text else None

    return {
        **row, "table": int(row["table"]), "value": float(row["value"]),
        "prefill_grid": side(row["prefill_grid"]), "decode_grid": side(row["decode_grid"]),
        "input_tokens": int(row["input_tokens"] or 0), "output_tokens": int(row["output_tokens"] or 0),
    }


def _table(name: str) -> Measurements:
    """Cycles per layer (and token, in decode) behind the throughputs of table 3 or 4."""
    table, system, column = TABLES[name]
    if table == 6:
        return _gpu_gemv(name)
    rows = [row for row in tables(table) if row["system"].startswith(system)]
    for row in rows:
        if row["unit"] != "token/s":
            raise DataError(f"table {table}: unit {row['unit']!r}, expected 'token/s'")
    sizes = [model(row["model"]) for row in rows]
    tokens = np.array([row["input_tokens"] for row in rows])
    columns: dict[str, np.ndarray] = {
        "dim": np.array([m.dim for m in sizes]), "ffn": np.array([m.ffn for m in sizes]), "tokens": tokens,
        "layers": np.array([m.layers for m in sizes]),
    }
    seconds = (tokens if table == 3 else 1) / np.array([row["value"] for row in rows])
    labels = {"model": np.array([row["model"] for row in rows])}
    if system == "a100":
        columns["gpus"] = np.array([int(row["system"].removeprefix("a100x")) for row in rows])
        columns["weights"] = np.array([m.layer_weights * m.layers for m in sizes])
        columns["vocab"] = np.array([m.vocab for m in sizes])
        columns["kv_dim"] = np.array([m.kv_dim for m in sizes])
        return Measurements(name, name, "a100", columns, seconds, {**labels, "gpus": columns["gpus"]})
    columns["P"] = np.array([row[column] for row in rows])
    return Measurements(name, name.removeprefix("wse2_"), "wse2", columns, seconds * CLOCK / columns["layers"],
                        {**labels, "grid": columns["P"]})


def _gpu_gemv(name: str) -> Measurements:
    """Seconds of the GEMVs of table 6 on GPUs."""
    rows = [row for row in tables(6) if row["metric"] == "gemv_latency" and row["system"].startswith("a100")]
    side = np.array([int(row["model"].removeprefix("gemv-")) for row in rows])
    columns = {"weights": side**2, "gpus": np.array([int(row["system"].removeprefix("a100x")) for row in rows])}
    seconds = np.array([row["value"] for row in rows]) / 1e3
    return Measurements(name, name, "a100", columns, seconds, {"model": side, "gpus": columns["gpus"]})


def _benchmarks(path: Path) -> Measurements:
    """Medians of a pytest-benchmark file whose ``extra_info`` says how many flops (and bytes) a call does."""
    if not path.is_file():
        raise DataError(f"no file {str(path)!r}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.name} is not a pytest-benchmark file: {error}") from error
    usable = [entry for entry in entries if "flops" in entry.get("extra_info", {})]
    if not usable:
        raise DataError(f"{path.name}: none of {len(entries)} benchmarks has extra_info['flops']")
    flops = np.array([float(entry["extra_info"]["flops"]) for entry in usable])
    moved = np.array([float(entry["extra_info"].get("bytes", 0.0)) for entry in usable])
    seconds = np.array([float(entry["stats"]["median"]) for entry in usable])
    for label, values in (("flops", flops), ("median", seconds)):
        if (values <= 0).any():
            at = int(np.argmin(values))
            raise DataError(f"{path.name}: {label} = {values[at]} of {usable[at]['name']!r} must be positive")
    labels = {"grid": np.array([entry["name"] for entry in usable])}
    return Measurements(path.stem, "host", "host", {"flops": flops, "bytes": moved}, seconds, labels)
