"""Fitting the constants: robust, bounded, weighted by relative error, with uncertainties and cross-validation.

Minimises sum soft_l1((model / measured - 1) / soft) over non-negative constants with
`scipy.optimize.least_squares`; standard errors are the square roots of the diagonal of s^2 (J^T J)^-1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel import checks, forms, systems
from perfmodel.device import device
from perfmodel.errors import ModelError, shown, unknown
from perfmodel.measurements import Measurements
from perfmodel.parameters import kernel

Columns = Mapping[str, np.ndarray]
Form = Callable[[Mapping[str, float], Columns, str], Any]

def _gemm(c: Mapping[str, float], x: Columns, name: str) -> Any:
    return forms.total(forms.gemm(c, device(name), "meshgemm", x["M"], x["K"], x["N"], x["P"], x["P"]))


def _gemv(c: Mapping[str, float], x: Columns, name: str) -> Any:
    return forms.total(forms.gemv(c, device(name), "ktree", x["M"], x["N"], x["P"], x["P"], x["groups"]))


def _prefill(c: Mapping[str, float], x: Columns, name: str) -> Any:
    return forms.total(forms.prefill(c, device(name), x["dim"], x["ffn"], x["tokens"], x["P"]))


def _decode(c: Mapping[str, float], x: Columns, name: str) -> Any:
    groups = forms.default_groups(x["P"])
    return forms.total(forms.decode(c, x["dim"], x["ffn"], x["tokens"], x["P"], groups))


def _host(c: Mapping[str, float], x: Columns, name: str) -> Any:
    return c["overhead"] + x["flops"] * c["per_flop"] + x["bytes"] * c["per_byte"]


def _system(name: str) -> Form:
    return lambda c, x, _: sum(systems.FORMS[name](c, x).values())


@dataclass(frozen=True)
class Kind:
    """A form, the constants to fit (name -> typical size), and how to find those it takes from elsewhere.

    ``soft`` is the relative residual at which the loss turns from square to linear: about the error expected of
    the form. Rows that miss by far more pull no harder for it.
    """

    form: Form
    free: Mapping[str, float]
    carried: Mapping[str, tuple[Callable[[], float], str]] = dataclasses.field(default_factory=dict)
    soft: float = 0.02


def _of(owner: str, name: str, constant: str) -> tuple[Callable[[], float], str]:
    """A constant of a packaged kernel, and whose it is."""
    return lambda: kernel(owner, name).values[constant], f"{owner}.{name}"


_ZERO = (lambda: 0.0, "")


KINDS: dict[str, Kind] = {
    "gemm": Kind(_gemm, {"launch": 80, "startup": 80, "k_loop": 40, "remainder": 4, "vector": 1, "beat": 1}),
    "gemv": Kind(_gemv, {"launch": 100, "row": 3, "stream": 3, "alpha": 2, "beta": 10, "die": 10},
                 {"beat": _of("wse3", "gemm", "beat")},
                 soft=0.001),  # repeats to a few cycles; on 16 cores a side other effects show, which stay out
    # Six published rows cannot tell all constants of a step apart. Start-up is the WSE-3's (a free fit gives the
    # same); the start of a vector is inside beat, the loop's remainder inside k_loop, a launch below 0.1 %.
    "prefill": Kind(_prefill, {"k_loop": 50, "beat": 2}, {
        "startup": _of("wse3", "gemm", "startup"), "vector": _ZERO, "remainder": _ZERO, "launch": _ZERO}),
    "decode": Kind(_decode, {"row": 30, "beta": 20}, {
        "alpha": (lambda: device("wse2").alpha, "the device file of wse2"), "beat": _of("wse2", "gemm", "beat")}),
    "t10_prefill": Kind(_system("t10_prefill"), {"word": 2, "relay": 100}),
    "t10_decode": Kind(_system("t10_decode"), {"relay": 20}),
    "ladder_prefill": Kind(_system("ladder_prefill"), {"word": 1, "barrier": 800}),
    "ladder_decode": Kind(_system("ladder_decode"), {"word": 1, "barrier": 400}),
    "a100_prefill": Kind(_system("a100_prefill"), {"compute_efficiency": 0.7, "fabric_efficiency": 0.1,
                                                   "collective_x8": 1e-3, "collective_x16": 1e-3}),
    "a100_decode": Kind(_system("a100_decode"), {"memory_efficiency": 0.8, "layer_x1": 1e-4, "layer_x8": 1e-4,
                                                 "layer_x16": 1e-4}),
    "a100_gemv": Kind(_system("a100_gemv"), {"collective_x8": 1e-4, "collective_x16": 1e-4},
                      {"memory_efficiency": _of("a100", "decode", "memory_efficiency")}),
    "host": Kind(_host, {"overhead": 1e-5, "per_flop": 1e-11, "per_byte": 1e-10}),
}


#: most groups that are left out in turn: each costs a fit
MOST_GROUPS = 200


@dataclass(frozen=True)
class CrossValidation:
    """Signed relative errors of rows predicted by fits that never saw their group."""

    by: str
    errors: np.ndarray

    @property
    def mean(self) -> float:
        """Mean absolute relative error."""
        return float(np.abs(self.errors).mean())

    @property
    def worst(self) -> float:
        """Largest absolute relative error."""
        return float(np.abs(self.errors).max())


@dataclass(frozen=True)
class Fit:
    """Fitted constants with their uncertainty.

    Attributes:
        measurements: what was fitted.
        params, stderr: name -> value and standard error.
        fixed: constants taken from elsewhere.
        correlation: of the params, in their order.
        residuals: predicted / measured - 1, per row.
        warnings: constants that the data does not identify.
    """

    measurements: Measurements
    params: dict[str, float]
    stderr: dict[str, float]
    fixed: dict[str, float]
    correlation: np.ndarray
    residuals: np.ndarray
    warnings: tuple[str, ...]

    def cross_validate(self, by: str = "grid") -> CrossValidation:
        """Leave one group out at a time, fit the others, predict the group.

        Args:
            by: a label of the measurements: "grid", "tile" or "model" where they have it.
        """
        data = self.measurements
        if by not in data.labels:
            raise unknown(f"label of {data.name}", by, data.labels)
        labels = data.labels[by]
        if (groups := len(np.unique(labels))) > MOST_GROUPS:
            raise ModelError(f"{data.name}: {groups} groups of one {by}; at most {MOST_GROUPS} are left out in turn")
        errors = np.empty(len(data))
        for label in np.unique(labels):
            out = labels == label
            params = _solve(data, ~out, self.fixed, list(self.params)).x
            errors[out] = _residuals(data, out, dict(zip(self.params, params)) | self.fixed)
        return CrossValidation(by, errors)


def fit(data: Measurements, *, fixed: Mapping[str, float] | None = None, drop: tuple[str, ...] = ()) -> Fit:
    """Fit the constants of the form that explains ``data``.

    Args:
        data: from `perfmodel.measurements`.
        fixed: constants to hold at a value instead.
        drop: constants to leave out (held at zero).

    Raises:
        ModelError: fewer rows than constants, or constants that the rows cannot tell apart.
    """
    if not isinstance(data, Measurements):
        raise ModelError(f"{shown(data)} is no Measurements; load them by perfmodel.measurements")
    if data.kind not in KINDS:
        raise ModelError(f"{data.name}: nothing is fitted to a {data.kind!r} experiment")
    kind = KINDS[data.kind]
    held = {**dict.fromkeys(drop, 0.0), **(fixed or {})}
    known = [*kind.free, *kind.carried]
    for name, value in held.items():
        checks.choice(f"constant of {data.kind}", name, known)
        checks.number(f"constant {name}", value, 0.0, 1e18)
    lent = {name: lender for name, (_, lender) in kind.carried.items() if name not in held and lender}
    held |= {name: find() for name, (find, _) in kind.carried.items() if name not in held}
    if data.kind == "host" and not data.columns["bytes"].any():
        held["per_byte"] = 0.0
    free = [name for name in kind.free if name not in held]
    if len(data) < len(free) + 1:
        raise ModelError(f"{data.name} has {len(data)} rows; {len(free)} constants ({', '.join(free)}) need at least "
                         f"{len(free) + 1}")
    every = np.ones(len(data), bool)
    solution = _solve(data, every, held, free)
    residuals = _residuals(data, every, dict(zip(free, solution.x)) | held)
    stderr, correlation = _uncertainty(data, solution, free, residuals)
    params = dict(zip(free, solution.x.tolist()))
    return Fit(data, params, dict(zip(free, stderr.tolist())), held, correlation, residuals,
               _carried(data, held, lent) + _absurd(residuals) + _warnings(params, stderr, correlation))


def _carried(data: Measurements, held: Mapping[str, float], lent: Mapping[str, str]) -> tuple[str, ...]:
    """A warning for each constant that comes from another kernel instead of from the rows."""
    return tuple(f"{name} = {held[name]:.4g} is carried over from {lender}, not fitted to {data.name}"
                 for name, lender in lent.items())


#: mean relative error above which the form does not describe the rows at all
ABSURD = 0.5


def _absurd(residuals: np.ndarray) -> tuple[str, ...]:
    """A warning if the constants explain nothing: wrong unit, wrong kernel, wrong columns."""
    mean = float(np.abs(residuals).mean())
    if mean <= ABSURD:
        return ()
    return (f"mean error {mean:.0%}: the form does not describe these rows; check their unit and kernel",)


def _residuals(data: Measurements, rows: np.ndarray, constants: Mapping[str, float]) -> np.ndarray:
    """predicted / measured - 1 of the chosen rows."""
    columns = {name: values[rows] for name, values in data.columns.items()}
    return KINDS[data.kind].form(constants, columns, data.device) / data.measured[rows] - 1


def _solve(data: Measurements, rows: np.ndarray, held: Mapping[str, float], free: list[str]) -> Any:
    """The robust bounded fit, in units of each constant's typical size."""
    from scipy.optimize import least_squares

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
    scale = np.maximum(np.linalg.norm(solution.jac, axis=0), 1e-300)
    unit = solution.jac / scale
    values, vectors = np.linalg.eigh(unit.T @ unit)
    if values[0] < 1e-10:
        mixed = [name for name, weight in zip(free, vectors[:, 0]) if abs(weight) > 0.1]
        raise ModelError(f"{data.name}: its {len(data)} rows cannot tell {', '.join(mixed)} apart; vary the sizes, or "
                         f"fix some of them")
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
