"""Questions of an architect: what if a part were faster, which constant matters, what would a target need."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from perfmodel import checks, llm, tune
from perfmodel.capacity import resident_bytes
from perfmodel.device import RULES, Device, Gpu, as_device
from perfmodel.errors import DoesNotFit, ModelError, shown
from perfmodel.model import Model, as_model
from perfmodel.operators import mesh
from perfmodel.prediction import Prediction, side, slopes
from perfmodel.values import ByValue

#: most devices of one sweep: each is built and checked, in some 50 us
MOST_DEVICES = 200_000


@dataclass(frozen=True, eq=False)
class Sweep(ByValue):
    """Predictions over a grid of device parameters.

    Attributes:
        axes: field -> its values.
        cycles, seconds: predicted times, one axis for each field, in their order; NaN where the problem does not fit.
        tokens_per_s: throughput, NaN where there is none.
        bound: the term that costs most, "" where the problem does not fit.
    """

    axes: Mapping[str, np.ndarray]
    cycles: np.ndarray = dataclasses.field(repr=False)
    seconds: np.ndarray = dataclasses.field(repr=False)
    tokens_per_s: np.ndarray = dataclasses.field(repr=False)
    bound: np.ndarray = dataclasses.field(repr=False)


def sweep(chip: Device | Gpu | str, predict: Callable[[Any], Prediction], **fields: Iterable[float]) -> Sweep:
    """Predict for every combination of device parameters; calibration is kept, as in `Device.replace`.

    Args:
        chip: a mesh device, a GPU, or the name of one.
        predict: a prediction of one point from a device.
        **fields: field of the device -> values (``alpha=[1, 2, 4], word_bytes=[2, 4, 8]``).

    Returns:
        Arrays of time and throughput.

    Raises:
        UnknownName: no such field.
        DataError: a value outside its range.
        ModelError: too many combinations, or a prediction of several points.

    >>> import perfmodel as pm
    >>> found = sweep("wse2", lambda chip: pm.gemv(chip, 4096, 4096, grid=480), alpha=[1, 2, 4])
    >>> bool((np.diff(found.cycles) > 0).all())
    True
    """
    chip = as_device(chip)
    chip = chip if isinstance(chip, Gpu) else mesh(chip)
    if not callable(predict):
        raise ModelError(f"predict = {shown(predict)} must be a function of a device")
    axes = {name: np.atleast_1d(np.asarray(list(np.atleast_1d(values)))) for name, values in fields.items()}  # type: ignore[call-overload]
    shape = tuple(len(values) for values in axes.values())
    if not shape or not 0 < np.prod(shape, dtype=float) <= MOST_DEVICES:
        raise ModelError(f"a sweep has 1 to {MOST_DEVICES} devices, not {' x '.join(map(str, shape)) or 'none'}")
    cycles, seconds, rate = (np.full(shape, np.nan) for _ in range(3))
    bound = np.full(shape, "", dtype=object)
    for at in itertools.product(*map(range, shape)):
        changed = chip.replace(**{name: axes[name][i].item() for name, i in zip(axes, at)})
        try:
            found = predict(changed)
        except DoesNotFit:
            continue
        if not isinstance(found, Prediction) or np.ndim(found.cycles):
            raise ModelError(f"predict must return the prediction of one point, not {shown(found)}")
        for array, value in ((cycles, found.cycles), (seconds, found.seconds), (rate, found.tokens_per_s)):
            array[at] = np.nan if value is None else value
        bound[at] = found.bound
    return Sweep(axes, cycles, seconds, rate, bound)


class Elasticity(NamedTuple):
    """How much a time changes with a constant: percent of the time per percent of the constant.

    Attributes:
        kernel: the kernel that has the constant.
        constant: its name.
        value: its value, in its own unit.
        elasticity: d log(cycles) / d log(constant).
    """

    kernel: str
    constant: str
    value: float
    elasticity: float


def sensitivity(prediction: Prediction) -> list[Elasticity]:
    """Rank the constants behind a prediction by elasticity, d log(cycles) / d log(constant).

    Args:
        prediction: of one point, from any predictor of this package.

    Returns:
        Constants from the one that matters most to those that do not.

    Raises:
        ModelError: no prediction, or one of several points.

    >>> import perfmodel as pm
    >>> sensitivity(pm.decode("wse2", "llama3-8b", context=4096, grid=360))[0].constant
    'row'
    """
    if not isinstance(prediction, Prediction) or np.ndim(prediction.cycles):
        raise ModelError(f"{shown(prediction)} is no prediction of one point")
    found = [Elasticity(f"{use.kernel.device}.{use.kernel.name}", name, use.kernel.values[name],
                        float(slope * use.kernel.values[name] / prediction.cycles))
             for use in prediction.uses for name, slope in slopes(use, use.kernel.values)]
    return sorted(found, key=lambda entry: -abs(entry.elasticity))


#: fields that may be improved, and the direction in which a part gets better
BETTER = {"alpha": -1, "beta": -1, "clock_hz": 1, "macs_per_cycle": 1, "memory_bytes_per_cycle": 1,
          "link_words_per_cycle": 1}


@dataclass(frozen=True)
class Need:
    """What a target asks of a device.

    Attributes:
        target, reached: tokens per second asked for, and reached by the device as it is on its best grid.
        grid: that grid.
        binding: the constraint that binds: the term of decode that costs most.
        shares: share of the time of each term.
        alone: field -> value at which it alone reaches the target; None where not even the best admissible does.
        limits: field -> tokens per second with the best admissible value of it alone.
        memory_per_core: bytes per core that hold the whole model with its context; None if a core has them.
        best_parts: tokens per second with the best admissible value of every field but the clock at once: more than
            that takes another kernel, or another clock.
        kernel_constant: the constant of the kernel that costs most then, as set-up of a vector for each ``row``.
    """

    target: float
    reached: float
    grid: int
    binding: str
    shares: Mapping[str, float]
    alone: Mapping[str, float | None]
    limits: Mapping[str, float]
    memory_per_core: int | None
    best_parts: float = dataclasses.field(repr=False)
    kernel_constant: str = dataclasses.field(repr=False)

    def __str__(self) -> str:
        ways = [f"{name} {value:.3g} {RULES[name][0]}" for name, value in self.alone.items() if value is not None]
        text = (f"{self.reached:.0f} of {self.target:.0f} token/s on {self.grid}^2 cores; {self.binding} binds "
                f"({self.shares[self.binding]:.0%} of the time); ")
        text += ("nothing needs a change" if self.reached >= self.target else
                 f"alone would do: {', '.join(ways) or 'no single field'}")
        if self.best_parts < self.target:
            text += (f"; with all parts but the clock at their best {self.best_parts:.0f} token/s: the rest is "
                     f"{self.kernel_constant!r}, how the kernel is written")
        return text if self.memory_per_core is None else f"{text}; a core needs {self.memory_per_core} bytes"


def need(chip: Device | str, model: Model | str, *, tokens_per_s: float, context: int = 4096, grid: Any = None,
         constants: Any = None) -> Need:
    """What a device would need for a throughput of decode, and which constraint binds.

    Args:
        chip: a mesh device to start from, or its name.
        model: from `perfmodel.model`, or its name.
        tokens_per_s: the target.
        context: tokens in the cache.
        grid: cores a side (a number, or a square pair or mesh); default: the fastest of the device.
        constants: constants of decode instead of the calibration; default: without the cycles of an instrumented
            kernel.

    Returns:
        The binding constraint, and what each field would have to be if it alone were changed.

    Raises:
        DoesNotFit: no grid holds a layer.
        ModelError: a size or name that is none.

    >>> print(need("wse3", "llama3-70b", tokens_per_s=5000).binding)
    communication
    """
    chip, model = mesh(chip), as_model(model)
    target = checks.number("tokens_per_s", tokens_per_s, 1e-6, 1e12)
    context = checks.size("context", context)
    constants = {"unprofiled": 0.0} if constants is None else constants
    if grid is None:
        grid = tune.best_grid(chip, model, phase="decode", tokens=context).value
    grid = checks.size("grid", side("grid", grid))

    def rate(device: Device) -> float:
        return float(llm.decode(device, model, context=context, grid=grid, constants=constants).tokens_per_s)

    now = llm.decode(chip, model, context=context, grid=grid, constants=constants)
    shares = {term: float(value / now.cycles) for term, value in now.terms.items()}
    alone, limits = {}, {}
    for field, direction in BETTER.items():
        best = RULES[field][1] if direction < 0 else RULES[field][2]
        limits[field] = rate(chip.replace(**{field: best}))
        alone[field] = _reach(chip, field, best, target, rate) if limits[field] >= target else None
    ideal = chip.replace(**{field: RULES[field][1 if direction < 0 else 2] for field, direction in BETTER.items()
                            if field != "clock_hz"})
    then = llm.decode(ideal, model, context=context, grid=grid, constants=constants)
    held = int(np.ceil(resident_bytes(chip, model, context, grid)))
    return Need(float(target), float(now.tokens_per_s), grid, now.bound, shares, alone, limits,
                held if held > chip.memory_per_core else None, float(then.tokens_per_s), sensitivity(then)[0].constant)


def _reach(chip: Device, field: str, best: float, target: float, rate: Callable[[Device], float]) -> float:
    """The least improvement of a field that reaches the target, by bisection in its logarithm."""
    here, there = float(np.log(getattr(chip, field))), float(np.log(best))
    if rate(chip) >= target:
        return float(getattr(chip, field))
    for _ in range(50):
        middle = (here + there) / 2
        if rate(chip.replace(**{field: float(np.exp(middle))})) >= target:
            there = middle
        else:
            here = middle
    return float(np.exp(there))
