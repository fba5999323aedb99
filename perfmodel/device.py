"""Devices as data: every number of a chip comes from one TOML file, with its unit and its source.

A file holds ``name``, ``title``, ``kind`` and one table per quantity::

    [memory_per_core]
    value = 49152
    unit = "byte"
    source = "WSE-2 datasheet: 48 KB of SRAM per core"

``estimated = true`` marks a value without a published source; ``clock_hz`` belongs to a value that was
measured in cycles and is therefore tied to a clock. Four kinds exist: ``mesh`` (:class:`Device`), ``cluster``
(:class:`Cluster`, processes that send each other messages), ``gpu`` (:class:`Gpu`) and ``host`` (:class:`Host`, an
ordinary machine).

A changed device keeps the calibration of the one it was made from::

    base = "wse2"          # every quantity that is not named below
    alpha = 2              # in the unit of the base; or a whole table
    [constants.gemm]       # optional: constants fitted to measurements of one's own
    startup = 80.0
    [constants.gemm.about] # optional, as `Fit.save` writes it: stderr, correlation, range, held_out
    stderr = { startup = 0.3 }
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, overload

from perfmodel import checks, files
from perfmodel.chips import (
    INTEGERS,
    RULES,
    Calibrated,
    Cluster,
    Described,
    Device,
    Gpu,
    Host,
    Quantity,
    check_field,
    check_quantity,
)
from perfmodel.constants import KERNELS
from perfmodel.errors import DataError, shown, unknown

FOLDER = Path(__file__).parent / "devices"

_KINDS: dict[str, type[Device] | type[Gpu] | type[Host]] = {
    "mesh": Device, "cluster": Cluster, "gpu": Gpu, "host": Host}  # fmt: skip

#: quantities that a file may leave out
_OPTIONAL = {"dram_bandwidth"}
#: by how much a stated peak rate may differ from what it follows from
STATED = 0.05


def devices() -> list[str]:
    """Names of the devices that come with the package.

    Returns:
        Names, sorted.

    >>> "wse3" in devices()
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@overload
def device(name: Literal["a100"]) -> Gpu: ...  # type: ignore[overload-overlap]
@overload
def device(name: Literal["host"]) -> Host: ...  # type: ignore[overload-overlap]
@overload
def device(name: str | Path) -> Device: ...


def device(name: str | Path) -> Device | Gpu | Host:
    """Load a device by name, or from a TOML file of your own.

    Args:
        name: one of :func:`devices`, or the path of a ``.toml`` file.

    Returns:
        The device, with the provenance of all of its numbers.

    Raises:
        UnknownName: no such device; the message lists the known ones and the nearest.
        DataError: a quantity is missing, has the wrong unit, or is out of range.

    >>> device("wse2").memory_per_core
    49152
    """
    if not isinstance(name, str | Path):
        checks.choice("device", name, devices())  # refuses
    path = Path(name)
    if path.suffix == ".toml":
        return _build(path, files.toml(path, ", ".join(devices())), ())
    checks.choice("device", str(name), devices())
    return _packaged(str(name))


def as_device(chip: Any) -> Any:
    """A device: the one given, or the one of a name or file.

    Args:
        chip: a device, its name, or the path of its file.

    Returns:
        The device.

    >>> as_device("wse3").name
    'wse3'
    """
    return device(chip) if isinstance(chip, str | Path) else chip


@functools.cache
def _packaged(name: str) -> Device | Gpu | Host:
    path = FOLDER / f"{name}.toml"
    return _build(path, files.toml(path), ())


def _build(path: Path, tables: dict[str, Any], above: tuple[Path, ...]) -> Device | Gpu | Host:
    """The device that a file's tables describe; ``above`` are the files that have it as their base, or below that."""
    if "base" in tables:
        return _changed(path, tables, above)
    kind = checks.choice(f"kind in {path.name}", tables.get("kind"), _KINDS)
    cls = _KINDS[kind]
    fields = set(cls.fields())
    given = set(tables) - {"name", "title", "kind"}
    stated = {"peak_flops"} & given - fields  # of a mesh it follows from others, and may be stated beside them
    given -= stated
    fields -= _OPTIONAL - given
    if missing := sorted(fields - given):
        raise DataError(f"{path.name}: a {kind} device needs {', '.join(missing)}")
    if extra := sorted(given - fields):
        raise unknown(f"quantity in {path.name}", extra[0], fields | _OPTIONAL)
    quantities = {field: _quantity(path, field, tables[field]) for field in sorted(fields)}
    values = {f: int(q.value) if f in INTEGERS else float(q.value) for f, q in quantities.items()}
    name, title = (checks.text(f"{path.name}: {key}", tables.get(key, path.stem)) for key in ("name", "title"))
    base = name if name in devices() else ""
    built = cls(name=name, title=title, quantities=MappingProxyType(quantities), base=base,
                **values)  # type: ignore[arg-type]
    for field in stated:
        value, follows = _quantity(path, field, tables[field]).value, getattr(built, field)
        if abs(value / follows - 1) > STATED:
            raise DataError(f"{path.name}: {field} = {value:g} contradicts cores x macs_per_cycle x 2 x clock_hz = "
                            f"{follows:g}; leave it out")
    return built


def _changed(path: Path, tables: dict[str, Any], above: tuple[Path, ...]) -> Device | Gpu | Host:
    """A device with the overrides, and the fitted constants, of a file."""
    name, above = checks.text(f"{path.name}: base", tables["base"]), (*above, path.absolute())
    if name.endswith(".toml"):
        below = Path(name)
        if below.absolute() in above:
            raise DataError(f"{path.name}: base = {shown(name)} is the file itself, or has it as its base")
        base: Described = _build(below, files.toml(below, ", ".join(devices())), above)
    else:
        base = device(name)
    kind = next(kind for kind, cls in _KINDS.items() if type(base) is cls)
    if tables.get("kind", kind) != kind:
        raise DataError(f"{path.name}: kind = {shown(tables['kind'])}, but its base {base.name} is a {kind} device")
    fields = base.fields()
    given = {key: value for key, value in tables.items() if key not in ("base", "name", "title", "kind", "constants")}
    for field in sorted(given):
        check_field(f"quantity in {path.name}", field, fields)
    quantities = dict(base.quantities)
    for field, table in given.items():
        if not isinstance(table, dict):
            table = {"value": table}
        source = f"{path.name}; {base.name} has {getattr(base, field):g}"
        quantities[field] = _quantity(path, field, {"unit": RULES[field][0], "source": source, **table})
    name, title = (checks.text(f"{path.name}: {key}", tables.get(key, default))
                   for key, default in (("name", path.stem), ("title", f"{base.title}, changed")))
    values = {field: quantities[field].value for field in given}
    built = dataclasses.replace(base, name=name, title=title, quantities=MappingProxyType(quantities),
                                **values)  # type: ignore[arg-type]
    constants = checks.table(f"{path.name}: constants", tables.get("constants", {}))
    if not constants:
        return built  # type: ignore[return-value]
    if not isinstance(built, Device):
        raise DataError(f"{path.name}: constants belong to a mesh device, not to {base.name}")
    kept = tuple(entry for entry in built.constants if entry.kernel not in constants)
    own = tuple(_constants(path, kernel, table, built) for kernel, table in constants.items())
    return dataclasses.replace(built, constants=kept + own)


#: what a file may say about the constants of a kernel
ABOUT = ("stderr", "correlation", "range", "held_out")


def _constants(path: Path, kernel: str, table: Any, built: Device) -> Calibrated:
    """The constants of a kernel in a device file, checked: kernel and names must be known, values positive."""
    where = f"{path.name}: constants.{checks.choice(f'kernel in {path.name}', kernel, KERNELS)}"
    given = dict(checks.table(where, table))
    about = checks.table(f"{where}.about", given.pop("about", {}))
    for key in about:
        checks.choice(f"key of {where}.about", key, ABOUT)

    def numbers(what: str, found: Any, known: Iterable[str]) -> tuple[tuple[str, float], ...]:
        return tuple((checks.choice(f"{what} of {kernel} in {path.name}", name, known),
                      checks.number(f"{where}: {what} {name}", value, 0.0, 1e12))
                     for name, value in checks.table(f"{where}: {what}", found).items())

    values = numbers("constant", given, KERNELS[kernel])
    stderr = numbers("stderr", about.get("stderr", {}), given)
    correlation = _table(f"{where}: correlation", about.get("correlation", []), -1.0, 1.0, len(stderr))
    spans = checks.table(f"{where}: range", about.get("range", {}))
    ranges = tuple((size, (low, high)) for size, span in spans.items()
                   for (low, high) in _table(f"{where}: range of {size}", [span], 0.0, 1e18, 2))
    for size, (low, high) in ranges:
        if low > high:
            raise DataError(f"{where}: range of {size} = [{low:g}, {high:g}] ends before it begins")
    held_out = about.get("held_out")
    if held_out is not None:
        held_out = checks.number(f"{where}: held_out", held_out, 0.0, 1e3)
    return Calibrated(kernel, built, values, stderr, correlation, ranges, held_out)


def _table(where: str, rows: Any, low: float, high: float, width: int) -> tuple[tuple[float, ...], ...]:
    """Rows of ``width`` numbers from low to high."""
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == width for row in rows):
        raise DataError(f"{where} must be made of {width} numbers a row, not {shown(rows)}")
    return tuple(tuple(checks.number(where, value, low, high) for value in row) for row in rows)


def _quantity(path: Path, field: str, table: object) -> Quantity:
    """One checked quantity of a device file."""
    where = f"{path.name}: {field}"
    if not isinstance(table, dict) or not {"value", "unit", "source"} <= set(table):
        raise DataError(f"{path.name}: [{field}] needs value, unit and source")
    if extra := sorted(set(table) - {"value", "unit", "source", "estimated", "clock_hz"}):
        raise DataError(f"{path.name}: [{field}] has an unknown key {shown(extra[0])}")
    unit = RULES[field][0]
    if table["unit"] != unit:
        raise DataError(f"{where} is in {shown(table['unit'])}, expected {unit!r}")
    check_quantity(where, table["value"], field, RULES[field])
    checks.text(f"{where}: source", table["source"])
    if not isinstance(table.get("estimated", False), bool):
        raise DataError(f"{where}: estimated = {shown(table['estimated'])} must be true or false")
    if "clock_hz" in table:
        checks.number(f"{where}: clock_hz", table["clock_hz"], *RULES["clock_hz"][1:], "hertz")
    return Quantity(**table)
