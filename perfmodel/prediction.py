"""What every predictor returns: time, its terms, the lower bounds it cannot beat, and notes on its validity."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from perfmodel import tables
from perfmodel.checks import sizes
from perfmodel.errors import DoesNotFit, ModelError
from perfmodel.parameters import Kernel
from perfmodel.values import ByValue


class Use(NamedTuple):
    """A part of a prediction: the kernel whose constants it has, and its cycles with other values of them."""

    kernel: Kernel
    cycles: Callable[[Mapping[str, float]], Any]

    def __reduce__(self) -> Any:
        return Use, (self.kernel, self.cycles if isinstance(self.cycles, Tabulated) else Tabulated(self))


class Tabulated:
    """What a pickled prediction keeps of a form: cycles at its constants, and one percent up and down of each."""

    def __init__(self, use: Use):
        self.values, self.base = use.kernel.values, use.cycles(use.kernel.values)
        self.beside = {(name, value): use.cycles({**self.values, name: value})
                       for name in self.values for value in _beside(self.values[name])}

    def __call__(self, values: Mapping[str, float]) -> Any:
        """Cycles with these constants.

        Args:
            values: all constants of the kernel.

        Returns:
            Cycles.

        Raises:
            ModelError: values that were not tabulated.
        """
        changed = [(name, value) for name, value in values.items() if value != self.values[name]]
        if len(changed) > 1 or not self.beside.keys() >= set(changed):
            raise ModelError("a pickled prediction knows one change of one percent at a time: predict anew")
        return self.beside[changed[0]] if changed else self.base


#: probability that a measurement lies in the interval of a prediction, and as many standard deviations of a normal
LEVEL, DEVIATIONS = 0.9, 1.645
#: relative error, at that level, of a kernel that was not measured on the device: the blind tests of the report stay
#: below the first where a kernel is borrowed; a data sheet alone says little
BORROWED, DATA_SHEET = 0.15, 0.5


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(ByValue):
    """A predicted time, for one point or, with array arguments, for many.

    Attributes:
        cycles, seconds: predicted time.
        terms: exposed cycles by kind; they add up to ``cycles``.
        bounds: cycles below which no schedule can go: compute, link, distance.
        notes: what the reader must know: extrapolation, constants from a data sheet.
        tokens_per_s: throughput, where the operator has one.
        label: what was predicted, for messages.
        uses: the kernels behind it, for `interval` and `perfmodel.sensitivity`.
        parts: what a term is made of, where one is a sum.
        by_phase: terms of each phase of decode, made on demand.
        chip: the device.
    """

    cycles: Any
    seconds: Any
    terms: Mapping[str, Any]
    bounds: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    tokens_per_s: Any = None
    label: str = ""
    uses: tuple[Use, ...] = field(default=(), repr=False, compare=False)
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    by_phase: Callable[[], dict[str, dict[str, Any]]] | None = field(default=None, repr=False, compare=False)
    chip: Any = field(default=None, repr=False, compare=False)

    @property
    def bound(self) -> str:
        """The term that costs most (of the first point, for arrays)."""
        return max(self.terms, key=lambda kind: np.ravel(self.terms[kind])[0])

    @property
    def lower_bound(self) -> Any:
        """The largest of the bounds, in cycles."""
        return functools.reduce(np.maximum, (np.asarray(value, float) for value in self.bounds.values()))[()]

    @property
    def ratio(self) -> Any:
        """Predicted cycles over the lower bound; infinite where there is nothing to do."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.divide(self.cycles, self.lower_bound)

    @property
    def efficiency(self) -> Any:
        """Compute bound over predicted cycles: the share of the used cores' peak rate that is reached."""
        return self.bounds["compute"] / self.cycles

    @property
    def uncertainty(self) -> Any:
        """Half the width of `interval` over ``cycles``.

        Of each kernel the uncertainty of its fitted constants, by their covariance, and the error of rows that its
        fit has not seen; those of several kernels are independent.
        """
        square: Any = 0.0
        for use in self.uses:
            base = use.cycles(use.kernel.values)
            gradient = [slope for _, slope in slopes(use, use.kernel.fitted)]
            covariance = use.kernel.covariance()
            for i, row in enumerate(covariance):
                for j, entry in enumerate(row):
                    square = square + DEVIATIONS**2 * gradient[i] * entry * gradient[j]
            square = square + (_held_out(use.kernel) * base) ** 2
        return np.sqrt(np.maximum(square, 0.0)) / self.cycles

    @property
    def interval(self) -> tuple[Any, Any]:
        """Cycles between which a measurement lies with a probability of 90 %, bounded below by the lower bound."""
        factor = 1 + self.uncertainty
        return np.maximum(self.cycles / factor, np.minimum(self.lower_bound, self.cycles)), self.cycles * factor

    @property
    def phases(self) -> dict[str, dict[str, Any]]:
        """Compute and communication of each phase of decode, in cycles; empty for other operators."""
        return self.by_phase() if self.by_phase is not None else {}

    def __getstate__(self) -> dict[str, Any]:
        phases: Any = self.by_phase and functools.partial(dict, self.phases)  # a form cannot be pickled
        return super().__getstate__() | {"by_phase": phases}

    def __repr__(self) -> str:
        if np.ndim(self.cycles):
            return f"Prediction({self.label}: {np.shape(self.cycles)} points, {np.min(self.cycles):,.0f} to " \
                   f"{np.max(self.cycles):,.0f} cycles)"
        rate = "" if self.tokens_per_s is None else f", {self.tokens_per_s:,.0f} token/s"
        return f"Prediction({self.label}: {self.cycles:,.0f} cycles, {self.seconds:.4g} s{rate}; {self.bound} binds)"

    def _repr_html_(self) -> str:
        if np.ndim(self.cycles):
            return tables.html(repr(self), [], notes=self.notes)
        (low, high), total = self.interval, float(self.cycles) or 1.0
        rows: list[tuple[Any, ...]]
        rows = [(kind, float(value), f"{value / total:.1%}") for kind, value in self.terms.items()]
        rows += [(f"{LEVEL:.0%} interval", f"{low:,.0f} to {high:,.0f}", ""),
                 ("lower bound", float(self.lower_bound), "")]
        return tables.html(repr(self), rows, ("", "cycles", "share"), self.notes)

    def as_dict(self) -> dict[str, Any]:
        """The prediction in plain numbers and strings, for JSON.

        Returns:
            Time, interval, terms, bounds, notes; parts and phases where there are some.
        """
        found: dict[str, Any] = {"what": self.label, "cycles": self.cycles, "seconds": self.seconds}
        if self.tokens_per_s is not None:
            found["tokens_per_s"] = self.tokens_per_s
        low, high = self.interval
        found |= {
            "interval": {"level": LEVEL, "low": low, "high": high},
            "terms": dict(self.terms), "bound": self.bound, "efficiency": self.efficiency,
            "lower_bound": self.lower_bound, "bounds": dict(self.bounds), "ratio_to_bound": self.ratio,
            "notes": list(self.notes),
        }
        if self.parts:
            found["parts"] = {term: dict(part) for term, part in self.parts.items()}
        if self.by_phase is not None:
            found["phases"] = self.phases
        return {key: _plain(value) for key, value in found.items()}


def _held_out(kernel: Kernel) -> float:
    """Relative error of rows that the constants were not fitted to, at `LEVEL`."""
    if kernel.held_out is not None:
        return kernel.held_out
    sheet = any(parameter.how == "data sheet" for parameter in kernel.parameters.values())
    return DATA_SHEET if sheet else BORROWED


def slopes(use: Use, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Change of a part's cycles per unit of each constant, by central differences of one percent."""
    values = use.kernel.values
    for name in names:
        up, down = _beside(values[name])
        yield name, (use.cycles({**values, name: up}) - use.cycles({**values, name: down})) / (up - down)


def _beside(value: float) -> tuple[float, float]:
    """A constant one percent up and down."""
    step = 0.01 * value or 1e-6
    return value + step, value - step


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays as Python's; what JSON cannot write as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


#: what a bound's shortfall is charged to
_CHARGED = {"compute": "compute", "link": "transfer", "memory": "transfer", "distance": "alpha"}


def lift(terms: Mapping[str, Any], limits: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Terms and their sum, raised to the bounds: a core works while it waits, but no faster than its peak.

    Of a device that was measured there is nothing to raise; data sheets may name rates that contradict each other.

    Args:
        terms: cycles by kind of cost.
        limits: least cycles by bound: compute, link, distance, memory.

    Returns:
        (terms, cycles), raised.

    >>> lift({"alpha": 1.0, "beta": 2.0}, {"compute": 5.0, "distance": 4.0})
    ({'alpha': 1.0, 'beta': 2.0, 'compute': np.float64(2.0)}, np.float64(5.0))
    """
    raised = dict(terms)
    cycles: Any = sum(raised.values())
    for kind, least in limits.items():
        if np.any(short := np.maximum(least - cycles, 0.0)):
            raised[_CHARGED[kind]] = raised.get(_CHARGED[kind], 0.0) + short
            cycles = np.maximum(cycles, least)
    return raised, cycles


#: points that are worked on at a time: the temporaries of one block stay in a core's cache
BLOCK = 1 << 14


def in_blocks(function: Callable[..., Mapping[str, Any]], *arrays: Any) -> dict[str, Any]:
    """``function(*arrays)`` of elementwise arithmetic, evaluated block by block if there are many points.

    Args:
        function: takes arrays, returns arrays by name.
        *arrays: numbers and arrays that broadcast.

    Returns:
        What the function returns, in the shape of the broadcast.

    >>> in_blocks(lambda a, b: {"sum": a + b}, np.arange(3), 1)
    {'sum': array([1, 2, 3])}
    """
    shape = np.broadcast_shapes(*(np.shape(array) for array in arrays))
    points = math.prod(shape)
    if points <= BLOCK:
        return dict(function(*arrays))
    flat = [np.broadcast_to(array, shape).reshape(-1) for array in arrays]
    found: dict[str, np.ndarray] = {}
    for start in range(0, points, BLOCK):
        here = slice(start, start + BLOCK)
        for key, value in function(*(array[here] for array in flat)).items():
            found.setdefault(key, np.empty(points))[here] = value
    return {key: value.reshape(shape) for key, value in found.items()}


def sides(grid: Any) -> tuple[Any, Any]:
    """(rows, cols) of a grid: one side (a number, or an array of squares), a pair (rows, cols), or a mesh.

    Args:
        grid: the side, the pair or the mesh.

    Returns:
        (rows, cols), checked.

    Raises:
        ModelError: no grid, or sides that are none.
    """
    if grid is None:
        raise ModelError("grid must be given: the cores a side, or (rows, cols)")
    grid = getattr(grid, "shape", grid) if hasattr(grid, "rows") else grid
    if isinstance(grid, tuple) and len(grid) == 2:
        rows, cols = sizes(rows=grid[0], cols=grid[1])
        return rows, cols
    (side,) = sizes(grid=grid)
    return side, side


def side(name: str, grid: Any) -> Any:
    """The side of a grid that must be square.

    Args:
        name: what the refusal calls it.
        grid: a number, an array of sides, a pair (rows, cols), or a mesh.

    Returns:
        The side, or the array.

    Raises:
        ModelError: rows and columns differ.

    >>> side("grid", (24, 24)), side("grid", 24)
    (24, 24)
    """
    grid = getattr(grid, "shape", grid) if hasattr(grid, "rows") else grid
    if not (isinstance(grid, tuple) and len(grid) == 2):
        return grid
    if grid[0] != grid[1]:
        raise ModelError(f"{name} = {grid[0]} x {grid[1]}: inference is predicted on square grids")
    return grid[0]


def check_grid(chip: Any, rows: Any, cols: Any) -> None:
    """The grid must fit the fabric."""
    rows, cols = int(np.max(rows)), int(np.max(cols))
    if rows > chip.rows or cols > chip.cols:
        raise DoesNotFit(f"a grid of {rows} x {cols} cores is larger than the {chip.rows} x {chip.cols} of {chip.name}")


def check_memory(chip: Any, bytes_on: Callable[[Any], Any], grid: Any, what: str) -> None:
    """The buffers of one core must fit its memory; the refusal says on what grid they would.

    Args:
        chip: a mesh device.
        bytes_on: bytes per core on square grids of the given sides; of ``grid`` itself if that is a pair. Sizes go in
            as float64: the product of two tiles may exceed an int64.
        grid: side or sides of square grids, or (rows, cols).
        what: begins the refusal.

    Raises:
        DoesNotFit: the buffers exceed the memory of a core.
    """
    most = float(np.max(bytes_on(grid)))
    if most > chip.memory_per_core:
        raise DoesNotFit(f"{what} needs {most:.0f} bytes per core; {chip.name} has {chip.memory_per_core}; "
                         f"{_remedy(chip, bytes_on)}")


def _remedy(chip: Any, bytes_on: Callable[[Any], Any]) -> str:
    """The smallest square grid that holds the buffers, or how many of the largest would share them."""
    largest = min(chip.rows, chip.cols)
    # padded tiles only shrink as the side grows
    side = 1 + bisect.bisect_left(range(1, largest + 1), True,
                                  key=lambda side: bool(np.max(bytes_on(side)) <= chip.memory_per_core))
    if side <= largest:
        return f"a grid of {side}^2 would do"
    pieces = math.ceil(np.max(bytes_on(largest)) / chip.memory_per_core)
    return f"no grid of {chip.name} does: cut it over {pieces} regions of {largest}^2 cores (of more than one chip)"


def range_notes(kernel: Kernel, **values: Any) -> tuple[str, ...]:
    """One note that names every size outside the range the constants were fitted on; a tuple of arrays is one size.

    Args:
        kernel: constants and the range they were fitted on.
        **values: sizes by the names of the range; numbers, arrays, or tuples of them.

    Returns:
        The kernel's own notes, and this one where a size lies outside.

    >>> from perfmodel.parameters import kernel
    >>> range_notes(kernel("wse3", "gemm"), grid=720, tile=(8, np.array([3, 16])))[0]
    "extrapolated: grid 720 lies outside 16 to 656, tile 3 to 16 lies outside 1 to 8 (range of wse3.gemm's constants)"
    """
    outside = [text for name, value in values.items() if name in kernel.fitted_range
               and (text := _outside(name, value, *kernel.fitted_range[name]))]
    if not outside:
        return kernel.notes
    return (*kernel.notes, f"extrapolated: {', '.join(outside)} (range of {kernel.device}.{kernel.name}'s constants)")


def _outside(name: str, value: Any, low: float, high: float) -> str:
    """How a size leaves its range; nothing if it does not.

    Returns:
        The text, or "".

    >>> _outside("tokens", 2048, 4096, 4096), _outside("grid", 20, 16, 656)
    ('tokens 2048 is not 4096, the only value measured', '')
    """
    parts = value if isinstance(value, tuple) else (value,)
    least, most = min(int(np.min(part)) for part in parts), max(int(np.max(part)) for part in parts)
    if low <= least and most <= high:
        return ""
    seen = f"{name} {least}" + (f" to {most}" if most > least else "")
    return f"{seen} lies outside {low:.0f} to {high:.0f}" if high > low else (
        f"{seen} is not {low:.0f}, the only value measured")
