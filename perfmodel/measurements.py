"""Published measurements as checked columns: what the model is fitted to and compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel import checks, files
from perfmodel.device import Device
from perfmodel.device import device as load_device
from perfmodel.errors import DataError, ModelError, shown, unknown
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
        device: mesh device of a sweep; default: the device of the packaged sweep of the same kind.

    Raises:
        DataError: missing columns, values that are not positive numbers, no rows.

    >>> len(measurements("wse3_meshgemm"))
    448
    """
    if not isinstance(name, str | Path):
        raise unknown("measurements", name, names())
    path = Path(name)
    swept = path.suffix == ".csv" or str(name) in FILES
    if device is not None and not swept:
        raise ModelError(f"device = {shown(device)} is for a sweep (.csv), not for {shown(str(name))}")
    if path.suffix == ".json":
        return _benchmarks(path)
    if swept:
        return _sweep(path if path.suffix == ".csv" else FOLDER / f"{name}.csv", path.stem, device)
    if str(name) in TABLES:
        return _table(str(name))
    raise unknown("measurements", str(name), names())


def _sweep(path: Path, name: str, device: str | None) -> Measurements:
    """A sweep of one kernel; its kind is told by its columns."""
    if device is not None and not isinstance(load_device(device), Device):
        raise ModelError(f"device = {shown(device)} is no mesh of cores: a sweep is of one")
    rows = files.rows(path)
    header = list(rows[0])
    lacking = {kind: [c for c in columns if c not in header] for kind, columns in SWEEPS.items()}
    kind = min(lacking, key=lambda k: len(lacking[k]))
    if lacking[kind]:
        raise DataError(f"{path.name} lacks the column {', '.join(lacking[kind])} of a {kind} sweep; it has "
                        f"{shown(', '.join(header))[1:-1]}")
    columns = {c: _numbers(path, c, [row[c] for row in rows]) for c in SWEEPS[kind]}
    _check_rows(path, rows, columns)
    measured = columns.pop("cycles")
    labels = {"grid": columns["P"]}
    if kind != "reduce":
        sides = [columns[c] // columns["P"] for c in ("M", "K", "N") if c in columns]
        labels["tile"] = np.array(["x".join(str(int(v)) for v in row) for row in zip(*sides)])
    default = next(FILES[file][1] for file in FILES if FILES[file][0] == kind)
    return Measurements(name, kind, device or default, columns, measured, labels)


#: fewest and most cycles of a measurement: one, and ten years
CYCLES = (1.0, 1e18)
#: largest side of a tile of a sweep, so that the work on one core (three sides) is exact
LARGEST_TILE = 1 << 20


def _numbers(path: Path, column: str, texts: list[str]) -> np.ndarray:
    """A column of positive numbers; whole numbers but for the measured one."""
    values = np.empty(len(texts))
    for at, text in enumerate(texts):
        where = f"{path.name}, row {at + 2}: {column} = {shown(text)[1:-1]}"
        try:
            values[at] = float(text)
        except ValueError:
            raise DataError(f"{path.name}, row {at + 2}: {column} = {shown(text)} is not a number") from None
        if not 0 < values[at] < np.inf:
            raise DataError(f"{where} must be positive")
        if column == "cycles":
            checks.number(f"{path.name}, row {at + 2}: cycles", values[at], *CYCLES)
        elif values[at] != np.floor(values[at]) or values[at] > checks.LARGEST:
            raise DataError(f"{where} must be a whole number, at most 2^53")
    return values if column == "cycles" else values.astype(np.int64)


#: ways to write the unit of a sweep
UNITS = ("cycle", "cycles")


def _check_rows(path: Path, rows: list[dict[str, str]], columns: Mapping[str, np.ndarray]) -> None:
    """What a sweep may not say: another unit than cycles, tiles or groups beyond a core or a line."""
    for at, row in enumerate(rows):
        if "unit" in row and str(row["unit"]).strip() not in UNITS:
            raise DataError(f"{path.name}, row {at + 2}: unit {shown(row['unit'])}, expected 'cycle'")
    for name in ("M", "K", "N"):
        if name in columns and (wide := columns[name] / columns["P"] > LARGEST_TILE).any():
            at = int(np.argmax(wide))
            raise DataError(f"{path.name}, row {at + 2}: {name} = {columns[name][at]} on P = {columns['P'][at]} cores "
                            f"makes a tile of more than {LARGEST_TILE} a side")
    for name in ("groups", "group_size"):
        if name in columns and (wrong := columns[name] > columns["P"]).any():
            at = int(np.argmax(wrong))
            raise DataError(f"{path.name}, row {at + 2}: {name} = {columns[name][at]} exceeds P = {columns['P'][at]}, "
                            f"the cores of a line")


def tables(table: int | None = None) -> list[dict[str, Any]]:
    """Rows of the published tables 2 to 8, numbers converted, grids as one side (or None)."""
    rows = [_typed(row) for row in files.rows(FOLDER / "waferllm_tables.csv")]
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
    found = checks.table(path.name, files.json_value(path))
    if not isinstance(entries := found.get("benchmarks"), list):
        raise DataError(f"{path.name} is not a pytest-benchmark file: it has no list of 'benchmarks'")
    usable = []
    for at, entry in enumerate(entries):
        where = f"{path.name}: benchmarks[{at}]"
        checks.table(where, entry)
        checks.text(f"{where}: name", entry.get("name"))
        if "flops" in checks.table(f"{where}: extra_info", entry.get("extra_info", {})):
            usable.append(entry)
    if not usable:
        raise DataError(f"{path.name}: none of {len(entries)} benchmarks has extra_info['flops']")
    if len(usable) > files.MOST_ROWS:
        raise DataError(f"{path.name} has more than {files.MOST_ROWS} benchmarks, the most that are fitted at once")

    def column(label: str, values: list[Any], low: float, high: float) -> np.ndarray:
        for value, entry in zip(values, usable):
            where = f"{path.name}: {label} = {shown(value)} of {shown(entry['name'])}"
            if isinstance(value, int | float) and not value >= low:
                raise DataError(f"{where} must be {'positive' if low else 'at least 0'}")
            checks.number(f"{path.name}: {label} of {shown(entry['name'])}", value, low, high)
        return np.array(values, float)

    flops = column("flops", [entry["extra_info"]["flops"] for entry in usable], 1e-9, 1e30)
    moved = column("bytes", [entry["extra_info"].get("bytes", 0.0) for entry in usable], 0.0, 1e30)
    stats = [checks.table(f"{path.name}: stats of {shown(entry['name'])}", entry.get("stats")) for entry in usable]
    seconds = column("median", [entry.get("median") for entry in stats], 1e-15, 1e9)
    labels = {"grid": np.array([entry["name"] for entry in usable])}
    return Measurements(path.stem, "host", "host", {"flops": flops, "bytes": moved}, seconds, labels)
