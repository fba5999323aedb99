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
import functools
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, overload

from perfmodel import checks, files
from perfmodel.errors import DataError, shown, unknown

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

    def __post_init__(self) -> None:
        for field, rule in RULES.items():
            if hasattr(self, field):
                _check(f"{self.name}: {field}", getattr(self, field), field, rule)

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
RULES: dict[str, tuple[str, float, float]] = {
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
    "word_bytes": ("byte", 2, 4096),  # an element is fp16
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
    if not isinstance(name, str | Path):
        raise unknown("device", name, devices())
    path = Path(name)
    if path.suffix == ".toml":
        return _build(path, files.toml(path, ", ".join(devices())))
    checks.choice("device", str(name), devices())
    return _packaged(str(name))


@functools.cache
def _packaged(name: str) -> Device | Gpu | Host:
    path = FOLDER / f"{name}.toml"
    return _build(path, files.toml(path))


def _build(path: Path, tables: dict[str, Any]) -> Device | Gpu | Host:
    """The device that the tables describe; refuses missing, unknown and implausible quantities."""
    kind = checks.choice(f"kind in {path.name}", tables.get("kind"), _KINDS)
    cls = _KINDS[kind]
    fields = {field.name for field in dataclasses.fields(cls)} - {"name", "title", "quantities"}
    given = set(tables) - {"name", "title", "kind"}
    if missing := sorted(fields - given):
        raise DataError(f"{path.name}: a {kind} device needs {', '.join(missing)}")
    if extra := sorted(given - fields):
        raise unknown(f"quantity in {path.name}", extra[0], fields)
    quantities = {field: _quantity(path, field, tables[field]) for field in sorted(fields)}
    values = {f: int(q.value) if f in _INTEGERS else float(q.value) for f, q in quantities.items()}
    name, title = (checks.text(f"{path.name}: {key}", tables.get(key, path.stem)) for key in ("name", "title"))
    built = cls(name=name, title=title, quantities=MappingProxyType(quantities), **values)  # type: ignore[arg-type]
    if isinstance(built, Device) and built.rows * built.cols > built.cores:
        raise DataError(f"{path.name}: rows x cols = {built.rows} x {built.cols} are more than its {built.cores} cores")
    return built


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
    _check(where, table["value"], field, RULES[field])
    checks.text(f"{where}: source", table["source"])
    if not isinstance(table.get("estimated", False), bool):
        raise DataError(f"{where}: estimated = {shown(table['estimated'])} must be true or false")
    if "clock_hz" in table:
        checks.number(f"{where}: clock_hz", table["clock_hz"], *RULES["clock_hz"][1:], "hertz")
    return Quantity(**table)


def _check(where: str, value: object, field: str, rule: tuple[str, float, float]) -> None:
    """A quantity must be a number in its range, of some a whole one."""
    unit, low, high = rule
    checks.number(where, value, low, high, unit)
    if field in _INTEGERS and value != int(value):  # type: ignore[call-overload]
        raise DataError(f"{where} = {value} is not a whole number")
