"""What a device is: a mesh of cores, a cluster of processes, GPUs, a host; and which values its quantities may have."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from perfmodel import checks
from perfmodel.errors import DataError

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
#: quantities that are whole numbers
INTEGERS = {"cores", "rows", "cols", "memory_per_core", "colours", "word_bytes", "gpus_per_node"}


def check_quantity(where: str, value: object, field: str, rule: tuple[str, float, float]) -> None:
    """A quantity must be a number in its range, of some a whole one."""
    unit, low, high = rule
    checks.number(where, value, low, high, unit)
    if field in INTEGERS and value != int(value):  # type: ignore[call-overload]
        raise DataError(f"{where} = {value} is not a whole number")


def check_field(what: str, field: str, known: list[str]) -> None:
    """A quantity must be one of the known; what follows from others is refused with what it follows from."""
    if field == "peak_flops" and field not in known:
        raise DataError(f"{what}: peak_flops of a mesh is cores x macs_per_cycle x 2 x clock_hz; change one of those")
    checks.choice(what, field, known)


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
    """What every device has: a name, nominal power, and the provenance of all of its numbers.

    Attributes:
        name: as in `device`.
        title: what its data sheet calls it.
        power_w: nominal power, W.
        quantities: value, unit and source of every number, by field.
        base: the packaged device whose measurements calibrate it; "" if there is none.
    """

    name: str
    title: str
    power_w: float
    quantities: MappingProxyType[str, Quantity] = dataclasses.field(repr=False, compare=False)
    base: str = dataclasses.field(default="", kw_only=True)

    def __post_init__(self) -> None:
        checks.text("name", self.name)
        checks.text("title", self.title)
        found = dict(self.quantities)
        for field in self.fields():
            value = getattr(self, field)
            check_quantity(f"{self.name}: {field}", value, field, RULES[field])
            value = int(value) if field in INTEGERS else float(value)
            object.__setattr__(self, field, value)
            if field in found and found[field].value != value:
                was = found[field]
                found[field] = Quantity(value, was.unit, f"changed; {self.base or self.name} has {was.value:g}")
        object.__setattr__(self, "quantities", MappingProxyType(found))

    @classmethod
    def fields(cls) -> list[str]:
        """Names of the quantities that devices of this kind have."""
        return [field.name for field in dataclasses.fields(cls) if field.name in RULES]

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

        >>> from perfmodel.device import device
        >>> wse2 = device("wse2")
        >>> wse2.replace(alpha=2, memory_per_core=96 * 1024).quantity("alpha").source
        'changed; wse2 has 1'
        """
        for field in changes:
            check_field(f"quantity of {self.name}", field, [*type(self).fields(), "name", "title"])
        return dataclasses.replace(self, **changes)

    def quantity(self, field: str) -> Quantity:
        """Value, unit and source of one field.

        Args:
            field: name of the quantity in the device file.

        Returns:
            The quantity as the file states it.

        Raises:
            UnknownName: the file has no such quantity.

        >>> from perfmodel.device import device
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
        constants: of kernels, as a device file of one's own gives them.
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
    def peak_flops(self) -> float:
        """fp16 operations per second of all cores at peak.

        >>> from perfmodel.device import device
        >>> device("wse2").peak_flops
        7480000000000000.0
        """
        return self.cores * self.macs_per_cycle * 2 * self.clock_hz

    @property
    def vector_rate(self) -> float:
        """fp16 multiply-accumulates per cycle that both the SIMD unit and the memory sustain.

        Two fp16 operands (4 bytes) are read for each; the sum is written through a port of its own.

        >>> from perfmodel.device import device
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
        constants: of kernels, as a device file of one's own gives them.
    """

    @property
    def peak_flops(self) -> float:
        """Operations per second of one process."""
        return self.macs_per_cycle * 2 * self.clock_hz

    @property
    def bandwidth(self) -> float:
        """Of a connection, in bytes/s and direction."""
        return self.word_bytes * self.link_words_per_cycle * self.clock_hz


@dataclass(frozen=True)
class Calibrated:
    """Constants of a kernel that one's own measurements, or one's own file, give.

    Attributes:
        kernel: whose constants.
        reference: the device as it was when they held.
        values: (name, value) of each.
        stderr: (name, standard error) of those that were fitted.
        correlation: of these, in their order.
        ranges: (size, (least, most)) of the rows that they were fitted to.
        held_out: relative error that 90 % of the rows stay within; None: not known.
    """

    kernel: str
    reference: Device
    values: tuple[tuple[str, float], ...]
    stderr: tuple[tuple[str, float], ...] = ()
    correlation: tuple[tuple[float, ...], ...] = ()
    ranges: tuple[tuple[str, tuple[float, float]], ...] = ()
    held_out: float | None = None


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

    peak_flops: float
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

    peak_flops: float
    cores: int
    memory_bandwidth: float
    overhead: float
