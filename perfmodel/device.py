"""Devices as data: every number of a chip comes from one TOML file, with its unit and its source.

A file holds ``name``, ``title``, ``kind`` and one table per quantity::

    [memory_per_core]
    value = 49152
    unit = "byte"
    source = "WSE-2 datasheet: 48 KB of SRAM per core"

``estimated = true`` marks a value without a published source; ``clock_hz`` belongs to a value that was
measured in cycles and is therefore tied to a clock. Three kinds exist: ``mesh`` (:class:`Device`), ``gpu``
(:class:`Gpu`) and ``host`` (:class:`Host`, an ordinary machine).
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, overload

from perfmodel.errors import DataError, unknown

FOLDER = Path(__file__).parent / "devices"


@dataclass(frozen=True)
class Quantity:
    """One number of a data file: its value, unit, source, and whether it is an estimate."""

    value: float
    unit: str
    source: str
    estimated: bool = False
    clock_hz: float | None = None


@dataclass(frozen=True)
class Described:
    """What every device has: a name, nominal power, peak rate, and the provenance of all of its numbers."""

    name: str
    title: str
    power_w: float
    peak_flops: float
    quantities: MappingProxyType[str, Quantity] = dataclasses.field(repr=False, compare=False)

    def quantity(self, field: str) -> Quantity:
        """Value, unit and source of one field.

        >>> device("wse2").quantity("memory_per_core").unit
        'byte'
        """
        if field not in self.quantities:
            raise unknown(f"quantity of {self.name}", field, self.quantities)
        return self.quantities[field]


@dataclass(frozen=True)
class Device(Described):
    """A many-core chip whose cores sit on a 2-D mesh (the PLMR view).

    Attributes:
        cores: cores on the chip.
        rows, cols: extent of the fabric a program can use (north-south, east-west).
        memory_per_core: bytes of local memory.
        colours: routing paths (virtual channels) a program may use at one router.
        clock_hz: core clock.
        alpha: cycles per hop through routers that forward by a pre-set rule.
        beta: cycles per routing stage, where a core's software handles the message.
        ramp: cycles between a router and its core (T_R of HPDC'24).
        word_bytes: bytes of one fabric word.
        link_words_per_cycle: fabric words per cycle, per link and direction.
        macs_per_cycle: fp16 multiply-accumulates per core and cycle at peak.
        memory_bytes_per_cycle: bytes a core can read from its memory per cycle.
        die_rows: rows of cores between two die boundaries.
    """

    cores: int
    rows: int
    cols: int
    memory_per_core: int
    colours: int
    clock_hz: float
    alpha: float
    beta: float
    ramp: float
    word_bytes: int
    link_words_per_cycle: float
    macs_per_cycle: float
    memory_bytes_per_cycle: float
    die_rows: float


@dataclass(frozen=True)
class Gpu(Described):
    """A GPU and the links of the cluster it is sold in: a roofline with tensor-parallel collectives.

    Attributes:
        memory_bytes, memory_bandwidth: capacity in bytes and bytes/s of device memory.
        gpus_per_node: GPUs that share the fast link.
        link_bandwidth, link_latency: bytes/s per direction and GPU, and seconds, inside a node.
        network_bandwidth, network_latency: the same between nodes.
    """

    memory_bytes: float
    memory_bandwidth: float
    gpus_per_node: int
    link_bandwidth: float
    link_latency: float
    network_bandwidth: float
    network_latency: float


@dataclass(frozen=True)
class Host(Described):
    """An ordinary machine: seconds = overhead + max(flops / peak_flops, bytes / memory_bandwidth).

    Attributes:
        cores: cores used.
        memory_bandwidth: bytes/s.
        overhead: seconds per call.
    """

    cores: int
    memory_bandwidth: float
    overhead: float


_KINDS: dict[str, type[Device] | type[Gpu] | type[Host]] = {"mesh": Device, "gpu": Gpu, "host": Host}

#: Unit and admissible range of every field: a value outside is a typing error, not a chip.
_RULES: dict[str, tuple[str, float, float]] = {
    "power_w": ("watt", 0.1, 1e6),
    "peak_flops": ("flop/s", 1e6, 1e19),
    "cores": ("core", 1, 1e8),
    "rows": ("core", 1, 1e5),
    "cols": ("core", 1, 1e5),
    "memory_per_core": ("byte", 256, 1e10),
    "colours": ("colour", 1, 1e4),
    "clock_hz": ("hertz", 1e6, 1e11),
    "alpha": ("cycle/hop", 0.01, 1e4),
    "beta": ("cycle/stage", 0.01, 1e6),
    "ramp": ("cycle", 0, 1e4),
    "word_bytes": ("byte", 1, 4096),
    "link_words_per_cycle": ("word/cycle", 1e-3, 1e3),
    "macs_per_cycle": ("mac/cycle", 0.01, 1e6),
    "memory_bytes_per_cycle": ("byte/cycle", 0.01, 1e6),
    "die_rows": ("core", 1, 1e5),
    "memory_bytes": ("byte", 1e6, 1e14),
    "memory_bandwidth": ("byte/s", 1e6, 1e15),
    "gpus_per_node": ("gpu", 1, 1024),
    "link_bandwidth": ("byte/s", 1e6, 1e14),
    "link_latency": ("second", 1e-9, 1.0),
    "network_bandwidth": ("byte/s", 1e6, 1e14),
    "network_latency": ("second", 1e-9, 1.0),
    "overhead": ("second", 0, 10.0),
}
_INTEGERS = {"cores", "rows", "cols", "memory_per_core", "colours", "word_bytes", "gpus_per_node"}


def devices() -> list[str]:
    """Names of the devices that come with the package.

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

    Raises:
        UnknownName: no such device; the message lists the known ones and the nearest.
        DataError: a quantity is missing, has the wrong unit, or is out of range.

    >>> device("wse2").memory_per_core
    49152
    """
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in devices():
            raise unknown("device", str(name), devices())
        path = FOLDER / f"{name}.toml"
    elif not path.is_file():
        raise DataError(f"no device file {str(path)!r}; the package brings: {', '.join(devices())}")
    return _build(path, _parse(path))


def _parse(path: Path) -> dict[str, Any]:
    """The tables of one TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path.name} is not TOML: {error}") from error


def _build(path: Path, tables: dict[str, Any]) -> Device | Gpu | Host:
    """The device that the tables describe; refuses missing, unknown and implausible quantities."""
    kind = tables.get("kind")
    if kind not in _KINDS:
        raise unknown(f"kind in {path.name}", kind, _KINDS)
    cls = _KINDS[kind]
    fields = {field.name for field in dataclasses.fields(cls)} - {"name", "title", "quantities"}
    given = set(tables) - {"name", "title", "kind"}
    if missing := sorted(fields - given):
        raise DataError(f"{path.name}: a {kind} device needs {', '.join(missing)}")
    if extra := sorted(given - fields):
        raise unknown(f"quantity in {path.name}", extra[0], fields)
    quantities = {field: _quantity(path, field, tables[field]) for field in sorted(fields)}
    values = {f: int(q.value) if f in _INTEGERS else float(q.value) for f, q in quantities.items()}
    name, title = str(tables.get("name", path.stem)), str(tables.get("title", path.stem))
    return cls(name=name, title=title, quantities=MappingProxyType(quantities), **values)  # type: ignore[arg-type]


def _quantity(path: Path, field: str, table: object) -> Quantity:
    """One checked quantity of a device file."""
    if not isinstance(table, dict) or not {"value", "unit", "source"} <= set(table):
        raise DataError(f"{path.name}: [{field}] needs value, unit and source")
    if extra := sorted(set(table) - {"value", "unit", "source", "estimated", "clock_hz"}):
        raise DataError(f"{path.name}: [{field}] has an unknown key {extra[0]!r}")
    unit, low, high = _RULES[field]
    value = table["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{path.name}: {field} = {value!r} is not a finite number")
    if table["unit"] != unit:
        raise DataError(f"{path.name}: {field} is in {table['unit']!r}, expected {unit!r}")
    if not low <= value <= high:
        raise DataError(f"{path.name}: {field} = {value} {unit} is outside {low:g} to {high:g}")
    if field in _INTEGERS and value != int(value):
        raise DataError(f"{path.name}: {field} = {value} is not a whole number")
    return Quantity(**table)
