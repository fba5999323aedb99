"""Measurements as checked columns: what the model is fitted to and compared with, packaged or of one's own.

A sweep of one's own is a CSV file, a pandas DataFrame, or a mapping of columns; its kind is told by its columns:

=======  =====================================================  ================================================
kind     columns                                                what was run
=======  =====================================================  ================================================
gemm     ``P, M, K, N``                                         C[M,N] = A[M,K] B[K,N] by MeshGEMM on P x P cores
gemv     ``P, M, N, groups``                                    y[N] = x[M] W[M,N] on P x P cores, K-tree of
                                                                ``groups`` groups
shift    ``P, L, tile_rows, tile_cols``                         tiles of fp16 handed on by L steps on P x P cores
matmul   ``grid_x, grid_y, M, K, N, fidelity, storage_in0_out``  matmul with multicast on a mesh of matrix engines
reduce   ``P, B_words, group_size``                             two-phase reduce of 32-bit words over P cores
=======  =====================================================  ================================================

and one column ``cycles`` or ``seconds``, of one run. Sizes are whole numbers; further columns are ignored.
Benchmarks of this machine are a JSON file of pytest-benchmark whose ``extra_info`` holds ``flops`` and, if known,
``bytes`` (moved), ``products`` (local ones, of all cores) and ``steps`` of one call, and the ``threads`` that share
the first three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel import checks, files
from perfmodel.device import Described, Device
from perfmodel.device import device as load_device
from perfmodel.errors import DataError, ModelError, shown
from perfmodel.model import model
from perfmodel.values import ByValue

FOLDER = Path(__file__).parent / "data"

#: columns of each kind of sweep, beside ``cycles`` or ``seconds``
SWEEPS = {
    "gemm": ("P", "M", "K", "N"),
    "gemv": ("P", "M", "N", "groups"),
    "shift": ("P", "L", "tile_rows", "tile_cols"),
    "matmul": ("grid_x", "grid_y", "M", "K", "N", "fidelity", "storage_in0_out"),
    "reduce": ("P", "B_words", "group_size"),
}
#: columns that are words instead of numbers, and those that are known
WORDS = {"fidelity": ("LoFi", "HiFi2", "HiFi3", "HiFi4"), "storage_in0_out": ("L1", "DRAM")}
#: packaged sweeps: name -> (file, kind, device)
FILES = {
    "wse3_meshgemm": ("wse3_meshgemm", "gemm", "wse3"),
    "wse3_meshgemv": ("wse3_meshgemv", "gemv", "wse3"),
    "wse3_shift": ("wse3_shift", "shift", "wse3"),
    "wse3_shift_beyond": ("wse3_shift", "shift", "wse3"),
    "tenstorrent_n150_gemm": ("tenstorrent_n150_gemm", "matmul", "n150"),
    "wse2_reduce_two_phase": ("wse2_reduce_two_phase", "reduce", "wse2"),
}
#: throughput tables 3 and 4: name -> (table, system, column of the grid)
TABLES = {
    "wse2_prefill": (3, "waferllm", "prefill_grid"), "wse2_decode": (4, "waferllm", "decode_grid"),
    "t10_prefill": (3, "t10", "prefill_grid"), "t10_decode": (4, "t10", "decode_grid"),
    "ladder_prefill": (3, "ladder", "prefill_grid"), "ladder_decode": (4, "ladder", "decode_grid"),
    "a100_prefill": (3, "a100", ""), "a100_decode": (4, "a100", ""),
    "a100_gemv": (6, "a100", ""),
}


@dataclass(frozen=True, eq=False)
class Measurements(ByValue):
    """Columns of one experiment.

    Attributes:
        name: file or table.
        kind: which form of the model explains it.
        device: device it was measured on, or its name.
        columns: name -> values, all of one length.
        measured: cycles (seconds for ``host`` and ``a100_*``), positive.
        labels: name -> group of each row, for cross-validation ("grid", "tile", "model").
    """

    name: str
    kind: str
    device: str | Device
    columns: Mapping[str, np.ndarray] = field(repr=False)
    measured: np.ndarray = field(repr=False)
    labels: Mapping[str, np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.measured)

    @property
    def chip(self) -> Any:
        """The device itself."""
        return self.device if isinstance(self.device, Described) else load_device(self.device)

    def part(self, rows: np.ndarray) -> Measurements:
        """Some of the rows.

        Args:
            rows: a mask.

        Returns:
            The same experiment with these rows.
        """
        columns, labels = ({key: values[rows] for key, values in table.items()}
                           for table in (self.columns, self.labels))
        return Measurements(self.name, self.kind, self.device, columns, self.measured[rows], labels)


def names() -> list[str]:
    """Names that `measurements` knows."""
    return sorted([*FILES, *TABLES])


def measurements(name: Any, device: str | Device | None = None) -> Measurements:
    """Load a packaged experiment by name, a sweep of one's own, or a pytest-benchmark JSON file.

    Args:
        name: one of `names`, the path of a ``.csv`` or ``.json`` file, a DataFrame, or a mapping of columns; the
            module's head says which columns a sweep has.
        device: mesh device of a sweep, or its name; default: the device of the packaged sweep of the same kind.

    Returns:
        The checked columns.

    Raises:
        UnknownName: no such experiment; the message lists the known ones and the nearest.
        DataError: missing columns, values that are not positive numbers, no rows.
        ModelError: a device for an experiment that is no sweep.

    >>> len(measurements("wse3_meshgemm"))
    448
    >>> measurements({"P": [8, 16], "L": 4, "tile_rows": 1, "tile_cols": 2, "seconds": 1e-6}, "wse2").measured
    array([1100., 1100.])
    """
    if isinstance(name, Mapping) or hasattr(name, "to_dict"):  # a DataFrame, without importing pandas
        return _sweep("columns", _table_rows(name), device)
    if not isinstance(name, str | Path):
        checks.choice("measurements", name, names())  # refuses
    path = Path(name)
    swept = path.suffix == ".csv" or str(name) in FILES
    if device is not None and not swept:
        raise ModelError(f"device = {shown(device)} is for a sweep (.csv), not for {shown(str(name))}")
    if path.suffix == ".json":
        return _benchmarks(path)
    if path.suffix == ".csv":
        return _sweep(path.name, files.rows(path), device)
    if swept:
        file, _, _ = FILES[str(name)]
        found = _sweep(f"{file}.csv", files.rows(FOLDER / f"{file}.csv"), device)
        if found.kind == "shift":  # beyond the block's side a step costs less: rows of their own
            found = found.part((found.columns["L"] > found.columns["P"]) == str(name).endswith("beyond"))
        return Measurements(str(name), found.kind, found.device, found.columns, found.measured, found.labels)
    return _table(checks.choice("measurements", str(name), names()))


def _table_rows(table: Any) -> list[dict[str, str]]:
    """Rows of a DataFrame or a mapping of columns, as those of a CSV file."""
    columns = table if isinstance(table, Mapping) else {str(name): table[name].tolist() for name in table.columns}
    arrays = {}
    for name, values in columns.items():
        try:
            arrays[str(name)] = np.asarray(values)
        except (ValueError, TypeError, OverflowError):  # lists of different lengths
            raise DataError(f"column {shown(name)} must be one list of values") from None
    checks.together(**arrays)
    shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    if len(shape) != 1 or not 0 < shape[0] <= files.MOST_ROWS:
        raise DataError(f"columns of shape {shape}: a sweep has 1 to {files.MOST_ROWS} rows")
    lists = [np.broadcast_to(array, shape).tolist() for array in arrays.values()]
    return [dict(zip(arrays, map(str, row))) for row in zip(*lists)]


def _sweep(file: str, rows: list[dict[str, str]], device: str | Device | None) -> Measurements:
    """A sweep of one kernel; its kind is told by its columns."""
    header = list(rows[0])
    lacking = {kind: [c for c in columns if c not in header] for kind, columns in SWEEPS.items()}
    kind = min(lacking, key=lambda k: len(lacking[k]))
    measured = [c for c in ("cycles", "seconds", "device_cycles_derived") if c in header][:1]
    if lacking[kind] or not measured:
        raise DataError(f"{file} lacks the column {', '.join(lacking[kind] or ['cycles (or seconds)'])} of a {kind} "
                        f"sweep; it has {shown(', '.join(header))[1:-1]}")
    default = next(name for _, of, name in FILES.values() if of == kind)
    chip = load_device(device) if isinstance(device, str | Path) else device
    if chip is not None and not isinstance(chip, Device):
        raise ModelError(f"device = {shown(device)} is no mesh of cores: a sweep is of one")
    columns = {c: _words(file, c, [row[c] for row in rows]) if c in WORDS else
               _numbers(file, c, [row[c] for row in rows]) for c in SWEEPS[kind]}
    _check_rows(file, rows, columns)
    values = _numbers(file, measured[0], [row[measured[0]] for row in rows])
    if measured[0] == "seconds":
        values = values * (chip or load_device(default)).clock_hz
    labels: dict[str, np.ndarray] = {"grid": columns["P"]} if "P" in columns else {}
    if kind in ("gemm", "gemv"):
        sides = [columns[c] // columns["P"] for c in ("M", "K", "N") if c in columns]
        labels["tile"] = np.array(["x".join(str(int(v)) for v in row) for row in zip(*sides)])
    if kind == "shift":
        labels["tile"] = columns["tile_rows"] * columns["tile_cols"]
    if kind == "matmul":
        labels = {"shape": np.array([f"{m}x{k}x{n}" for m, k, n in zip(*(columns[c] for c in ("M", "K", "N")))])}
    stem = file.removesuffix(".csv")
    return Measurements(stem, kind, chip or default, columns, values, labels)


def _words(file: str, column: str, texts: list[str]) -> np.ndarray:
    """A column of known words."""
    for at, text in enumerate(texts):
        checks.choice(f"{column} in {file}, row {at + 2}", text, WORDS[column])
    return np.array(texts)


#: fewest and most of a measurement: one cycle, and ten years
MEASURED = {"cycles": (1.0, 1e18), "device_cycles_derived": (1.0, 1e18), "seconds": (1e-12, 1e9)}
#: largest side of a tile of a sweep, so that the work on one core (three sides) is exact
LARGEST_TILE = 1 << 20


def _numbers(file: str, column: str, texts: list[str]) -> np.ndarray:
    """A column of positive numbers; whole numbers but for the measured one."""
    values = np.empty(len(texts))
    for at, text in enumerate(texts):
        where = f"{file}, row {at + 2}: {column} = {shown(text)[1:-1]}"
        try:
            values[at] = float(text)
        except ValueError:
            raise DataError(f"{file}, row {at + 2}: {column} = {shown(text)} is not a number") from None
        if not 0 < values[at] < np.inf:
            raise DataError(f"{where} must be positive")
        if column in MEASURED:
            checks.number(f"{file}, row {at + 2}: {column}", values[at], *MEASURED[column])
        elif values[at] != np.floor(values[at]) or values[at] > checks.LARGEST:
            raise DataError(f"{where} must be a whole number, at most 2^53")
    return values if column in MEASURED else values.astype(np.int64)


#: ways to write the unit of a sweep
UNITS = ("cycle", "cycles")


def _check_rows(file: str, rows: list[dict[str, str]], columns: Mapping[str, np.ndarray]) -> None:
    """What a sweep may not say: another unit than cycles, tiles or groups beyond a core or a line."""
    for at, row in enumerate(rows):
        if "unit" in row and str(row["unit"]).strip() not in UNITS:
            raise DataError(f"{file}, row {at + 2}: unit {shown(row['unit'])}, expected 'cycle'")
    for name in ("M", "K", "N"):
        if name in columns and "P" in columns and (wide := columns[name] / columns["P"] > LARGEST_TILE).any():
            at = int(np.argmax(wide))
            raise DataError(f"{file}, row {at + 2}: {name} = {columns[name][at]} on P = {columns['P'][at]} cores "
                            f"makes a tile of more than {LARGEST_TILE} a side")
    for name in ("groups", "group_size"):
        if name in columns and (wrong := columns[name] > columns["P"]).any():
            at = int(np.argmax(wrong))
            raise DataError(f"{file}, row {at + 2}: {name} = {columns[name][at]} exceeds P = {columns['P'][at]}, "
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
    cycles = seconds * load_device("wse2").clock_hz / columns["layers"]
    return Measurements(name, name.removeprefix("wse2_"), "wse2", columns, cycles, {**labels, "grid": columns["P"]})


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
    moved, products, steps = (column(name, [entry["extra_info"].get(name, 0.0) for entry in usable], 0.0, 1e30)
                    for name in ("bytes", "products", "steps"))
    stats = [checks.table(f"{path.name}: stats of {shown(entry['name'])}", entry.get("stats")) for entry in usable]
    seconds = column("median", [entry.get("median") for entry in stats], 1e-15, 1e9)
    labels = {"grid": np.array([entry["name"] for entry in usable])}
    if all("algorithm" in entry["extra_info"] for entry in usable):
        labels["algorithm"] = np.array([str(entry["extra_info"]["algorithm"]) for entry in usable])
    threads = column("threads", [entry["extra_info"].get("threads", 1) for entry in usable], 1.0, 1e6)
    columns = {"flops": flops / threads, "bytes": moved / threads, "products": products / threads, "steps": steps}
    return Measurements(path.stem, "host", "host", columns, seconds, labels)
