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
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, overload

from perfmodel import checks, files
from perfmodel.constants import KERNELS
from perfmodel.errors import DataError, shown, unknown

FOLDER = Path(__file__).parent / "devices"


@dataclass(frozen=True)
class Quantity:
    """One number of a data file: its value, unit, source, and whether it is an estimate.

    Attributes:
        value: in units of ``unit``.
        unit: as the data file writes it.
        source: where the number comes from.
        estimated: whether it is an estimate.
        clock_hz: of the device that a quantity in cycles was measured on, where the file says so.
    """

    value: float
    unit: str
    source: str
    estimated: bool = False
    clock_hz: float | None = None


@dataclass(frozen=True)
class Described:
    """What every device has: a name, nominal power, peak rate, and the provenance of all of its numbers.

    Attributes:
        name: as in `device`.
        title: what its data sheet calls it.
        power_w: nominal power, W.
        peak_flops: fp16 operations per second at peak.
        quantities: value, unit and source of every number, by field.
        base: the packaged device whose measurements calibrate it; "" if there is none.
    """

    name: str
    title: str
    power_w: float
    peak_flops: float
    quantities: MappingProxyType[str, Quantity] = dataclasses.field(repr=False, compare=False)
    base: str = dataclasses.field(default="", kw_only=True)

    def __post_init__(self) -> None:
        checks.text("name", self.name)
        found = dict(self.quantities)
        for field, rule in RULES.items():
            if not hasattr(self, field):
                continue
            value = getattr(self, field)
            _check(f"{self.name}: {field}", value, field, rule)
            value = int(value) if field in _INTEGERS else float(value)
            object.__setattr__(self, field, value)
            if field in found and found[field].value != value:
                was = found[field]
                found[field] = Quantity(value, was.unit, f"changed; {self.base or self.name} has {was.value:g}")
        object.__setattr__(self, "quantities", MappingProxyType(found))

    def replace(self, **changes: Any) -> Self:
        """The same device with some quantities changed; what was measured on it stays its calibration.

        A changed field scales, by the same ratio, every constant that stands for it (`perfmodel.parameters.COSTS`);
        all others keep their values.

        Args:
            **changes: field -> new value, in the field's unit; also ``name``, ``title``.

        Returns:
            A new device.

        Raises:
            UnknownName: no such field.
            DataError: a value outside its admissible range.

        >>> wse2 = device("wse2")
        >>> wse2.replace(alpha=2, memory_per_core=96 * 1024).quantity("alpha").source
        'changed; wse2 has 1'
        """
        known = [field.name for field in dataclasses.fields(self) if field.name in RULES] + ["name", "title"]
        for field in changes:
            checks.choice(f"quantity of {self.name}", field, known)
        return dataclasses.replace(self, **changes)

    def quantity(self, field: str) -> Quantity:
        """Value, unit and source of one field.

        Args:
            field: name of the quantity in the device file.

        Returns:
            The quantity as the file states it.

        Raises:
            UnknownName: the file has no such quantity.

        >>> device("wse2").quantity("memory_per_core").unit
        'byte'
        """
        return self.quantities[checks.choice(f"quantity of {self.name}", field, self.quantities)]


@dataclass(frozen=True)
class Device(Described):
    """A many-core chip whose cores sit on a 2-D mesh (the PLMR view).

    Attributes:
        name: as in `device`.
        title: what its data sheet calls it.
        power_w: nominal power, W.
        peak_flops: fp16 operations per second at peak.
        quantities: value, unit and source of every number, by field.
        base: the packaged device whose measurements calibrate it; "" if there is none.
        cores: cores on the chip.
        rows: rows of the fabric that a program can use (north-south).
        cols: columns of it (east-west).
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
        dram_bandwidth: bytes/s of memory beside the chip, 0 if there is none.
        constants: constants of kernels that a device file of one's own gives (`Calibrated`).
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
    dram_bandwidth: float = dataclasses.field(default=0.0, kw_only=True)
    constants: tuple[Calibrated, ...] = dataclasses.field(default=(), kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows * self.cols > self.cores:
            raise DataError(f"{self.name}: rows x cols = {self.rows} x {self.cols} are more than its {self.cores} "
                            f"cores")

    @property
    def vector_rate(self) -> float:
        """fp16 multiply-accumulates per cycle that both the SIMD unit and the memory sustain.

        Two fp16 operands (4 bytes) are read for each; the sum is written through a port of its own.

        >>> device("wse2").vector_rate, device("wse3").vector_rate
        (4.0, 4.0)
        """
        return min(self.macs_per_cycle, self.memory_bytes_per_cycle / 4)


@dataclass(frozen=True)
class Cluster(Device):
    """Processes that send each other messages, as a mesh: a core is a process, a link a connection, a cycle 1 ns.

    ``python -m perfmodel ping-pong`` measures one. A network of switches has no hops: where a message of a schedule
    crosses several links, models of a mesh charge alpha for each; `perfmodel.on_ranks` charges it once.

    Attributes:
        name: as in `device`.
        title: what it is.
        power_w: nominal power, W, of all processes.
        peak_flops: operations per second of one process.
        quantities: value, unit and source of every number, by field.
        base: the packaged device whose measurements calibrate it; "" if there is none.
        cores: processes.
        rows: rows of the grid that they form.
        cols: columns of it.
        memory_per_core: bytes of a process.
        colours: no limit: messages have tags.
        clock_hz: 1e9: a cycle is a nanosecond.
        alpha: time of an empty message.
        beta: time of one more message to or from a process that is busy with messages.
        ramp: contained in alpha.
        word_bytes: bytes of a word, an element.
        link_words_per_cycle: words per cycle of a connection, in either direction.
        macs_per_cycle: multiply-accumulates per process and cycle.
        memory_bytes_per_cycle: bytes a process can copy per cycle.
        die_rows: no die boundaries: more than there are rows.
        dram_bandwidth: none.
        constants: constants of kernels that a device file of one's own gives (`Calibrated`).
    """

    @property
    def bandwidth(self) -> float:
        """Of a connection, in bytes/s and direction."""
        return self.word_bytes * self.link_words_per_cycle * self.clock_hz


@dataclass(frozen=True)
class Calibrated:
    """One constant of a device file: its kernel, name, value, and the device as it was when the value held."""

    kernel: str
    name: str
    value: float
    reference: Device


@dataclass(frozen=True)
class Gpu(Described):
    """A GPU and the links of the cluster it is sold in: a roofline with tensor-parallel collectives.

    Attributes:
        name: as in `device`.
        title: what its data sheet calls it.
        power_w: nominal power, W.
        peak_flops: fp16 operations per second at peak.
        quantities: value, unit and source of every number, by field.
        base: the packaged device whose measurements calibrate it; "" if there is none.
        memory_bytes: capacity of device memory, bytes.
        memory_bandwidth: of device memory, bytes/s.
        gpus_per_node: GPUs that share the fast link.
        link_bandwidth: bytes/s per direction and GPU inside a node.
    """

    memory_bytes: float
    memory_bandwidth: float
    gpus_per_node: int
    link_bandwidth: float


@dataclass(frozen=True)
class Host(Described):
    """An ordinary machine: seconds = overhead + max(flops / peak_flops, bytes / memory_bandwidth).

    Attributes:
        name: as in `device`.
        title: what its data sheet calls it.
        power_w: nominal power, W.
        peak_flops: operations per second at peak.
        quantities: value, unit and source of every number, by field.
        base: the packaged device whose measurements calibrate it; "" if there is none.
        cores: cores used.
        memory_bandwidth: bytes/s.
        overhead: seconds per call.
    """

    cores: int
    memory_bandwidth: float
    overhead: float


_KINDS: dict[str, type[Device] | type[Gpu] | type[Host]] = {
    "mesh": Device, "cluster": Cluster, "gpu": Gpu, "host": Host}  # fmt: skip

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
    "alpha": ("cycle/hop", 0.01, 1e6),
    "beta": ("cycle/stage", 0.01, 1e6),
    "ramp": ("cycle", 0, 1e4),
    "word_bytes": ("byte", 2, 4096),  # an element is fp16
    "link_words_per_cycle": ("word/cycle", 1e-3, 1e3),
    "macs_per_cycle": ("mac/cycle", 0.01, 1e6),
    "memory_bytes_per_cycle": ("byte/cycle", 0.01, 1e6),
    "die_rows": ("core", 1, 1e5),
    "dram_bandwidth": ("byte/s", 0, 1e15),
    "memory_bytes": ("byte", 1e6, 1e14),
    "memory_bandwidth": ("byte/s", 1e6, 1e15),
    "gpus_per_node": ("gpu", 1, 1024),
    "link_bandwidth": ("byte/s", 1e6, 1e14),
    "overhead": ("second", 0, 10.0),
}
#: quantities that a file may leave out
_OPTIONAL = {"dram_bandwidth"}
_INTEGERS = {"cores", "rows", "cols", "memory_per_core", "colours", "word_bytes", "gpus_per_node"}


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
        return _build(path, files.toml(path, ", ".join(devices())))
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
    return _build(path, files.toml(path))


def _build(path: Path, tables: dict[str, Any]) -> Device | Gpu | Host:
    """The device that the tables describe; refuses missing, unknown and implausible quantities."""
    if "base" in tables:
        return _changed(path, tables)
    kind = checks.choice(f"kind in {path.name}", tables.get("kind"), _KINDS)
    cls = _KINDS[kind]
    fields = {field.name for field in dataclasses.fields(cls)} & set(RULES)
    given = set(tables) - {"name", "title", "kind"}
    fields -= _OPTIONAL - given
    if missing := sorted(fields - given):
        raise DataError(f"{path.name}: a {kind} device needs {', '.join(missing)}")
    if extra := sorted(given - fields):
        raise unknown(f"quantity in {path.name}", extra[0], fields | _OPTIONAL)
    quantities = {field: _quantity(path, field, tables[field]) for field in sorted(fields)}
    values = {f: int(q.value) if f in _INTEGERS else float(q.value) for f, q in quantities.items()}
    name, title = (checks.text(f"{path.name}: {key}", tables.get(key, path.stem)) for key in ("name", "title"))
    base = name if name in devices() else ""
    return cls(name=name, title=title, quantities=MappingProxyType(quantities), base=base,
               **values)  # type: ignore[arg-type]


def _changed(path: Path, tables: dict[str, Any]) -> Device | Gpu | Host:
    """A packaged device with the overrides, and the fitted constants, of a file."""
    base: Described = device(checks.text(f"{path.name}: base", tables["base"]))
    fields = [field.name for field in dataclasses.fields(base) if field.name in RULES]
    given = {key: value for key, value in tables.items() if key not in ("base", "name", "title", "kind", "constants")}
    if extra := sorted(set(given) - set(fields)):
        raise unknown(f"quantity in {path.name}", extra[0], fields)
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
    return dataclasses.replace(built, constants=tuple(_constants(path, constants, built)))


def _constants(path: Path, tables: dict[str, Any], built: Device) -> Iterator[Calibrated]:
    """The constants of a device file, checked: kernel and name must be known, values positive."""
    for kernel, table in tables.items():
        names = KERNELS[checks.choice(f"kernel in {path.name}", kernel, KERNELS)]
        for name, value in checks.table(f"{path.name}: constants.{kernel}", table).items():
            checks.choice(f"constant of {kernel} in {path.name}", name, names)
            yield Calibrated(kernel, name, checks.number(f"{path.name}: {kernel}.{name}", value, 0.0, 1e12), built)


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
