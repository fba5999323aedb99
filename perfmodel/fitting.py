"""Fitting the constants: robust, bounded, weighted by relative error, with uncertainties and cross-validation.

Minimises sum soft_l1((model / measured - 1) / soft) over non-negative constants with
`scipy.optimize.least_squares`; standard errors are the square roots of the diagonal of s^2 (J^T J)^-1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel import checks, counts_reduce, files, parameters
from perfmodel.chips import Calibrated
from perfmodel.constants import KERNELS
from perfmodel.counts import cdiv
from perfmodel.errors import ModelError
from perfmodel.kinds import KINDS
from perfmodel.measurements import SWEEPS, Measurements, measurements
from perfmodel.terms import total
from perfmodel.values import ByValue

#: most groups that are left out in turn: each costs a fit
MOST_GROUPS = 200


@dataclass(frozen=True, eq=False)
class CrossValidation(ByValue):
    """Signed relative errors of rows predicted by fits that never saw their group."""

    by: str
    errors: np.ndarray = field(repr=False)

    @property
    def mean(self) -> float:
        """Mean absolute relative error."""
        return float(np.abs(self.errors).mean())

    @property
    def worst(self) -> float:
        """Largest absolute relative error."""
        return float(np.abs(self.errors).max())


@dataclass(frozen=True, eq=False)
class Fit(ByValue):
    """Fitted constants with their uncertainty.

    Attributes:
        measurements: what was fitted.
        params, stderr: name -> value and standard error.
        fixed: constants held at a value, or taken from elsewhere.
        correlation: of the params, in their order.
        residuals: predicted / measured - 1, per row.
        warnings: constants that the data does not identify.

    A fit is a model: it predicts (`predict`), replaces the calibration of a call
    (``pm.gemm(chip, ..., constants=fit)``), and becomes a device (`save`).
    """

    measurements: Measurements
    params: dict[str, float]
    stderr: dict[str, float]
    fixed: dict[str, float]
    correlation: np.ndarray = field(repr=False)
    residuals: np.ndarray = field(repr=False)
    warnings: tuple[str, ...]

    @property
    def kernel(self) -> str | None:
        """The kernel that the constants are of (`perfmodel.constants.KERNELS`); None if none runs on a mesh."""
        return KINDS[self.measurements.kind].kernel

    @property
    def values(self) -> dict[str, float]:
        """All constants of the form, fitted and held."""
        return {**self.fixed, **self.params}

    def predict(self, **sizes: Any) -> Any:
        """The time of other sizes, with these constants, on the device of the measurements.

        Args:
            **sizes: the columns of the measurements but the measured one (``P=720, M=5760, ...``); numbers or arrays.

        Returns:
            Cycles; seconds for benchmarks and GPUs.

        Raises:
            ModelError: a column is missing or unknown.

        >>> import perfmodel as pm
        >>> cycles = pm.fit(pm.measurements("wse3_meshgemm")).predict(P=400, M=800, K=800, N=800)
        >>> bool(60_000 < cycles < 90_000)
        True
        """
        columns = self.measurements.columns
        if set(sizes) != set(columns):
            raise ModelError(f"predict of {self.measurements.name} takes {', '.join(columns)}; got "
                             f"{', '.join(sizes) or 'nothing'}")
        if self.measurements.kind in SWEEPS:
            sizes = dict(zip(sizes, checks.sizes(**sizes)))
        form, chip = KINDS[self.measurements.kind].form, self.measurements.chip
        return total(form(self.values, {name: np.asarray(v) for name, v in sizes.items()}, chip))[()]

    def deviation(self) -> np.ndarray:
        """Standard deviation of each row's prediction that the uncertainty of the constants makes.

        Returns:
            ``(rows,)`` relative to the prediction.
        """
        every = np.ones(len(self.measurements), bool)
        columns = []
        for name, value in self.params.items():
            step = 0.01 * value or 1e-6
            up, down = (1 + _residuals(self.measurements, every, self.values | {name: value + sign * step})
                        for sign in (1, -1))
            columns.append((up - down) / (2 * step) / (1 + self.residuals) * self.stderr[name])
        gradient = np.reshape(columns, (len(columns), -1))
        return np.sqrt(np.maximum(np.einsum("ir,ij,jr->r", gradient, self.correlation, gradient), 0.0))

    def range(self) -> dict[str, tuple[int, int]]:
        """Smallest and largest of every size that was varied: grid, tile side, groups, payload, tokens, dimensions.

        Returns:
            Size -> (smallest, largest).
        """
        columns, kind = self.measurements.columns, self.measurements.kind
        found = {"grid": columns["P"]} if "P" in columns else {}
        found |= {name: columns[name] for name in ("tokens", "dim", "ffn", "groups") if name in columns}
        if kind == "decode":
            found["groups"] = counts_reduce.published_groups(columns["P"])
        if kind in ("gemm", "gemv", "prefill"):
            lengths = [columns[name] for name in ("M", "K", "N", "tokens", "dim", "ffn") if name in columns]
            found["tile"] = np.concatenate([cdiv(length, columns["P"]) for length in lengths])
        if kind == "matmul":
            found |= {name: columns[name] for name in ("M", "K", "N")}
        if kind == "gemv":
            found["words"] = cdiv(columns["N"], columns["P"])
        return {name: (int(values.min()), int(values.max())) for name, values in found.items()}

    def calibrated(self) -> Calibrated:
        """The constants as a device may have them, with their errors.

        Returns:
            Values, standard errors, correlation, ranges of sizes, and the error that 90 % of the rows stay within.

        Raises:
            ModelError: the constants belong to no kernel of a mesh device.
        """
        if self.kernel is None:
            raise ModelError(f"{self.measurements.name}: its constants are of no kernel on a mesh; no device has them")
        ranges = tuple((name, (float(low), float(high))) for name, (low, high) in self.range().items())
        return Calibrated(self.kernel, self.measurements.chip, tuple(self.values.items()), tuple(self.stderr.items()),
                          tuple(map(tuple, self.correlation.round(6).tolist())), ranges,
                          float(np.quantile(np.abs(self.residuals), 0.9)))

    def save(self, path: str | Path) -> Path:
        """Write a device file with these constants, for `perfmodel.device`.

        Args:
            path: a ``.toml`` file.

        Returns:
            The path.

        Raises:
            ModelError: the constants belong to no kernel of a mesh device.
            DataError: the file cannot be written.
        """
        path, own = Path(path), self.calibrated()
        if not self.measurements.chip.base:
            raise ModelError(f"{self.measurements.chip.name} is not made from a packaged device: its file can have "
                             f"a table [constants.{self.kernel}] only with base = ...")
        if path.suffix != ".toml":
            raise ModelError(f"{str(path)!r} must end in .toml, the form of a device file")
        chip = self.measurements.chip
        lines = [f'base = "{chip.base}"', f'title = "{chip.base}, constants of {self.kernel} fitted"']
        packaged = parameters.device(chip.base)
        lines += [f"{field} = {getattr(chip, field)!r}" for field in packaged.quantities
                  if getattr(chip, field) != getattr(packaged, field)]
        lines += ["", f"[constants.{self.kernel}]  # fitted to {len(self.residuals)} rows"]
        lines += [f"{name} = {value!r}" for name, value in own.values]
        lines += ["", f"[constants.{self.kernel}.about]", f"held_out = {own.held_out!r}",
                  f"stderr = {_inline(own.stderr)}", f"correlation = {[list(row) for row in own.correlation]}",
                  f"range = {_inline((size, list(span)) for size, span in own.ranges)}"]
        files.write(path, "\n".join(lines) + "\n")
        return path

    def cross_validate(self, by: str = "grid") -> CrossValidation:
        """Leave one group out at a time, fit the others, predict the group.

        Args:
            by: a label of the measurements: "grid", "tile" or "model" where they have it.

        Returns:
            The signed errors of all rows.

        Raises:
            UnknownName: no such label.
            ModelError: too many groups.
        """
        data = self.measurements
        labels = data.labels[checks.choice(f"label of {data.name}", by, data.labels)]
        if (groups := len(np.unique(labels))) > MOST_GROUPS:
            raise ModelError(f"{data.name}: {groups} groups of one {by}; at most {MOST_GROUPS} are left out in turn")
        missed = np.empty(len(data))
        for label in np.unique(labels):
            out = labels == label
            params = _solve(data, ~out, self.fixed, list(self.params)).x
            missed[out] = _residuals(data, out, dict(zip(self.params, params)) | self.fixed)
        return CrossValidation(by, missed)


def _inline(pairs: Iterable[tuple[str, Any]]) -> str:
    """An inline table of TOML."""
    return f"{{ {', '.join(f'{name} = {value!r}' for name, value in pairs)} }}"


def fit(data: Any, *, fix: Mapping[str, float] | None = None, drop: tuple[str, ...] = ()) -> Fit:
    """Fit the constants of the form that explains ``data``.

    Args:
        data: from `perfmodel.measurements`, or what that takes: a file's path, a DataFrame, a mapping of columns.
        fix: constants to hold at a value instead; all of them: the errors of these values.
        drop: constants to leave out (held at zero).

    Returns:
        Constants with standard errors; usable as a model and as a device.

    Raises:
        ModelError: fewer rows than constants, or constants that the rows cannot tell apart.
    """
    if not isinstance(data, Measurements):
        data = measurements(data)
    if data.kind not in KINDS:
        raise ModelError(f"{data.name}: nothing is fitted to a {data.kind!r} experiment")
    kind = KINDS[data.kind]
    held = {**dict.fromkeys(drop, 0.0), **(fix or {})}
    known = [*kind.free, *(name for name in KERNELS.get(kind.kernel or "", ()) if name not in kind.free)]
    for name, value in held.items():
        checks.choice(f"constant of {data.kind}", name, known)
        checks.number(f"constant {name}", value, 0.0, 1e18)
    lent = [name for name in known if name not in kind.free and name not in held]
    if lent:
        packaged = parameters.on(data.chip, kind.kernel or "").values
        held |= {name: packaged[name] for name in lent}
    if data.kind == "host":
        costs = {"per_byte": "bytes", "per_step": "steps", "per_product": "products"}
        held |= {name: 0.0 for name, column in costs.items() if not data.columns[column].any()}
    free = [name for name in kind.free if name not in held]
    if len(data) < len(free) + 1:
        raise ModelError(f"{data.name} has {len(data)} rows; {len(free)} constants ({', '.join(free)}) need at least "
                         f"{len(free) + 1}; fix some of them: fix={{{free[0]!r}: ...}}, --fix {free[0]}=...")
    every = np.ones(len(data), bool)
    solution = _solve(data, every, held, free)
    residuals = _residuals(data, every, dict(zip(free, solution.x)) | held)
    stderr, correlation = _uncertainty(data, solution, free, residuals)
    params = dict(zip(free, solution.x.tolist()))
    return Fit(data, params, dict(zip(free, stderr.tolist())), held, correlation, residuals,
               _carried(data, held, lent) + _absurd(residuals) + _warnings(params, stderr, correlation)
               + _few(data, free))


def _few(data: Measurements, free: list[str]) -> tuple[str, ...]:
    """A warning where there are fewer than three rows per constant."""
    if len(data) >= 3 * len(free):
        return ()
    return (f"{len(data)} rows for {len(free)} constants: an interpolation, not a test of the form",)


def _carried(data: Measurements, held: Mapping[str, float], lent: list[str]) -> tuple[str, ...]:
    """A warning for each constant that is the packaged one instead of being fitted to the rows."""
    return tuple(f"{name} = {held[name]:.4g} is the packaged {data.chip.base}.{KINDS[data.kind].kernel}'s, not fitted "
                 f"to {data.name}" for name in lent if held[name])


#: mean relative error above which the form does not describe the rows at all
ABSURD = 0.5


def _absurd(residuals: np.ndarray) -> tuple[str, ...]:
    """A warning if the constants explain nothing: wrong unit, wrong kernel, wrong columns."""
    mean = float(np.abs(residuals).mean())
    if mean <= ABSURD:
        return ()
    return (f"mean error {mean:.0%}: the form does not describe these rows; check their unit and kernel",)


def errors(data: Measurements, constants: Mapping[str, float]) -> np.ndarray:
    """Predicted / measured - 1 of every row with the given constants."""
    return _residuals(data, np.ones(len(data), bool), constants)


def _residuals(data: Measurements, rows: np.ndarray, constants: Mapping[str, float]) -> np.ndarray:
    """Relative errors, predicted / measured - 1, of the chosen rows."""
    columns = {name: values[rows] for name, values in data.columns.items()}
    return total(KINDS[data.kind].form(constants, columns, data.chip)) / data.measured[rows] - 1


def _solve(data: Measurements, rows: np.ndarray, held: Mapping[str, float], free: list[str]) -> Any:
    """The robust bounded fit, in units of each constant's typical size."""
    from scipy.optimize import OptimizeResult, least_squares  # takes half a second: only who fits waits for it

    if not free:
        return OptimizeResult(x=np.zeros(0), jac=np.zeros((int(rows.sum()), 0)))
    typical = np.array([KINDS[data.kind].free[name] for name in free])

    def objective(z: np.ndarray) -> np.ndarray:
        return _residuals(data, rows, dict(zip(free, z * typical)) | dict(held))

    try:
        solution = least_squares(objective, np.ones(len(free)), bounds=(0, np.inf), loss="soft_l1",
                                 f_scale=KINDS[data.kind].soft, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise ModelError(f"{data.name}: no constants describe these rows ({error}); check unit and sizes") from None
    solution.x = solution.x * typical
    solution.jac = solution.jac / typical
    return solution


def _uncertainty(data: Measurements, solution: Any, free: list[str],
                 residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors and correlations from the curvature; refuses constants that cannot be told apart."""
    if not free:
        return np.zeros(0), np.zeros((0, 0))
    scale = np.maximum(np.linalg.norm(solution.jac, axis=0), 1e-300)
    unit = solution.jac / scale
    values, vectors = np.linalg.eigh(unit.T @ unit)
    if values[0] < 1e-10:
        mixed = [name for name, weight in zip(free, vectors[:, 0]) if abs(weight) > 0.1]
        raise ModelError(f"{data.name}: its {len(data)} rows cannot tell {', '.join(mixed)} apart; vary the sizes, or "
                         f"fix some of them: fix={{{mixed[0]!r}: ...}}, --fix {mixed[0]}=...")
    variance = (residuals @ residuals) / max(len(data) - len(free), 1)
    covariance = variance * np.linalg.inv(unit.T @ unit) / np.outer(scale, scale)
    stderr = np.sqrt(np.diag(covariance))
    return stderr, covariance / np.maximum(np.outer(stderr, stderr), 1e-300)


def _warnings(params: Mapping[str, float], stderr: np.ndarray, correlation: np.ndarray) -> tuple[str, ...]:
    """Constants whose error is large, that sit on their bound, or that trade off against another."""
    found = []
    for (name, value), error in zip(params.items(), stderr):
        if value <= 1e-9 * max(error, 1e-30) or value < error / 2:
            found.append(f"{name} = {value:.3g} +- {error:.2g} is not identified by the data")
        elif error > value / 2:
            found.append(f"{name} = {value:.3g} +- {error:.2g} is known to within {error / value:.0%} only")
    names = list(params)
    for i, j in zip(*np.nonzero(np.triu(np.abs(correlation) > 0.98, 1))):
        found.append(f"{names[i]} and {names[j]} trade off (correlation {correlation[i, j]:.3f})")
    return tuple(found)
