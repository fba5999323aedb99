"""Data files, read within limits: every failure is a `DataError` that names the file and what would do."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError

#: most bytes that are read of a sweep or of benchmarks; those of a whole suite take less than 1 MiB
LARGEST = 8 << 20
#: most bytes of a TOML file, whose parser takes time with the square of a dotted key; the packaged ones take 4 KiB
LARGEST_TOML = 16 << 10
#: most rows and columns of a sweep
MOST_ROWS, MOST_COLUMNS = 20_000, 100


def read(path: Path, known: str = "", largest: int = LARGEST) -> str:
    """The text of a regular file in UTF-8, of at most ``largest`` bytes.

    Args:
        path: of the file.
        known: what the package brings itself, for the message about a file that is not there.
        largest: bytes that are read at most.

    Returns:
        The text.

    Raises:
        DataError: no file, no regular file, too large, empty, or not UTF-8.
    """
    try:
        if not path.exists():
            raise DataError(f"no file {str(path)!r}{known and '; the package brings: '}{known}")
        if not path.is_file():  # a folder, or a device or pipe that may never end
            raise DataError(f"{str(path)!r} is not a regular file")
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, DataError) else cannot("read", path, error) from None
    if len(data) > largest:
        raise DataError(f"{path.name} is larger than {largest} bytes, the most that is read of a {path.suffix} file")
    if not data.strip():
        raise DataError(f"{path.name} is empty")
    try:
        return data.decode("utf-8-sig")  # spreadsheets begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8: byte {data[error.start]:#04x} at {error.start}") from None


def write(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    try:
        path.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise cannot("write", path, error) from None


def cannot(do: str, path: Path, error: Exception) -> DataError:
    """The refusal for a file that the system does not let us read or write."""
    return DataError(f"cannot {do} {str(path)!r}: {getattr(error, 'strerror', None) or error}")


def toml(path: Path, known: str = "") -> dict[str, Any]:
    """The tables of a TOML file."""
    text = read(path, known, LARGEST_TOML)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError too: a number of too many digits
        raise DataError(f"{path.name} is not TOML: {_reason(error)}") from None


def json_value(path: Path, known: str = "") -> Any:
    """What a JSON file holds; NaN and Infinity, which JSON does not know, are refused."""
    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")

    text = read(path, known)
    try:
        return json.loads(text, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not JSON: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by its header: no column twice, every row as wide as the header."""
    lines = csv.reader(io.StringIO(read(path), newline=""), strict=True)
    found: list[dict[str, str]] = []
    try:
        header = [name.strip() for name in next(lines, [])]
        if len(header) > MOST_COLUMNS:
            raise DataError(f"{path.name} has {len(header)} columns, a sweep has at most {MOST_COLUMNS}")
        if twice := [name for at, name in enumerate(header) if name in header[:at]]:
            raise DataError(f"{path.name} has the column {twice[0]!r} twice")
        for fields in lines:
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(f"{path.name}, line {lines.line_num}: {len(fields)} fields under a header of "
                                f"{len(header)}")
            if len(found) == MOST_ROWS:
                raise DataError(f"{path.name} has more than {MOST_ROWS} rows, the most that are fitted at once")
            found.append(dict(zip(header, fields)))
    except csv.Error as error:
        raise DataError(f"{path.name}, line {lines.line_num} is not CSV: {error}") from None
    if not found:
        raise DataError(f"{path.name} has no rows")
    return found
