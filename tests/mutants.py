"""Mutants: every built-in schedule as JSON with something changed must be refused, or still be right.

    python -m tests.mutants --cases 10000 --seed 0

The mutator knows JSON and nothing else: it changes any number, string, boolean or null, and drops, repeats, swaps or
transplants any element, field or object. A mutant that is not refused with `ScheduleError` is run in both methods on
whole numbers, whose sums are exact in any order, and compared with NumPy; then on random float32 and float16, where
both methods must agree bit for bit; it is counted and printed, and must be the same after another round trip.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache

import numpy as np

import meshkernels as mk
import meshkernels.schedules as vocabulary
from meshkernels.algorithms import gemv

GRIDS = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (4, 4), (5, 5), (2, 3), (3, 2), (2, 4), (4, 2), (1, 5), (5, 1), (3, 5),
         (4, 6), (1, 3), (3, 1)]  # fmt: skip
#: Seconds that one mutant may take, all of it, before that counts as a hang.
PATIENCE = 20
#: Elements of the largest operands that are worth running.
MOST_ELEMENTS = 1 << 20

Path = tuple[str | int, ...]


def built_ins(grids: list[tuple[int, int]] = GRIDS) -> Iterator[mk.Schedule]:
    """Every algorithm that there is, on small meshes; shapes with padding, with exact tiles, and tiny ones."""
    for rows, cols in grids:
        mesh, L = mk.Mesh(rows, cols), mk.Mesh(rows, cols).lcm
        for family, names in mk.algorithms().items():
            for name in names:
                for options in ({}, {"ring": "natural"}) if name == "cannon25d" else ({},):
                    for shape in ((5, 7, 6), (2 * L, L, L), (1, 2 * L - 1, 3)):
                        try:
                            if family in ("gemm", "gemm_t"):
                                yield mk.schedule(name, mesh, *shape, **options)
                            elif family == "transpose":
                                yield mk.schedule(name, mesh, *shape[1:])
                            elif family == "alltoall":
                                for axis in (0, 1):
                                    yield mk.schedule(name, mesh, shape[0], axis=axis)
                            else:
                                for axis in (0, 1):
                                    yield mk.schedule(name, mesh, *shape[1:], axis=axis)
                                    op = ("add", "max", "logsumexp")[shape[0] % (2 if name == "ring" else 3)]
                                    yield gemv.allreduce(mesh, shape[2], axis=axis, reduce=name, op=op)
                        except mk.MeshError:  # a mesh of other proportions than the algorithm takes
                            continue


# ------------------------------------------------------------------------------------------------------- mutating
@cache
def _defaults(name: str) -> dict:
    cls = getattr(vocabulary, name, None) or getattr(mk, name, None)
    if not is_dataclass(cls):
        return {}
    return {f.name: list(f.default) if isinstance(f.default, tuple) else f.default
            for f in fields(cls) if f.default is not MISSING}  # fmt: skip


def spelled_out(data: object) -> object:
    """The JSON with the fields that are at their defaults too: those can be mutated as well."""
    if isinstance(data, list):
        return [spelled_out(each) for each in data]
    if not isinstance(data, dict):
        return data
    return {key: spelled_out(each) for key, each in (copy.deepcopy(_defaults(data.get("is", ""))) | data).items()}


def nodes(data: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every part of the JSON with the way to it."""
    yield path, data
    if isinstance(data, (dict, list)):
        for key, each in data.items() if isinstance(data, dict) else enumerate(data):
            yield from nodes(each, (*path, key))


def _get(data, path: Path):
    for key in path:
        data = data[key]
    return data


def _shape_of(path: Path) -> tuple[str, ...]:
    """A path without list positions: what sort of thing it is."""
    return tuple("*" if isinstance(key, int) else key for key in path)


class Mutator:
    """One random change of a JSON after another."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def pick(self, found: list[Path]) -> Path:
        """One of the paths; first a sort of place is drawn, so that long tables do not drown the rest."""
        if self.rng.random() < 0.3:
            return self.rng.choice(found)
        sorts = sorted({_shape_of(path) for path in found})
        sort = self.rng.choice(sorts)
        return self.rng.choice([path for path in found if _shape_of(path) == sort])

    def mutate(self, data: dict) -> str:
        """Change ``data`` in place; says what was done."""
        kinds = [self.number, self.number, self.number, self.swap_numbers, self.drop, self.repeat, self.swap, self.text,
                 self.flip, self.null, self.transplant, self.transplant, self.vary, self.everywhere]  # fmt: skip
        while True:
            done = self.rng.choice(kinds)(data)
            if done:
                return done

    def _paths(self, data: dict, kind: type | tuple[type, ...]) -> list[Path]:
        return [
            path for path, each in nodes(data) if path and type(each) in (kind if isinstance(kind, tuple) else (kind,))
        ]

    def _set(self, data: dict, path: Path, value: object) -> None:
        _get(data, path[:-1])[path[-1]] = value

    def number(self, data: dict) -> str:
        path = self.pick(self._paths(data, int))
        old = _get(data, path)
        new = self.rng.choice([old + 1, old - 1, old + 1, old - 1, 0, -1, 1, 2, -old, 2 * old, 10**6, 1 << 31, 1 << 40,
                               10**30, old + 0.5, float(old), True, str(old)])  # fmt: skip
        self._set(data, path, new)
        return f"{path}: {old} -> {new}"

    def swap_numbers(self, data: dict) -> str:
        found = self._paths(data, int)
        one = self.pick(found)
        if self.rng.random() < 0.7:  # two of one list or object
            found = [path for path in found if path[:-1] == one[:-1]]
        other = self.rng.choice(found)
        a, b = _get(data, one), _get(data, other)
        self._set(data, one, b)
        self._set(data, other, a)
        return f"swap {one} and {other}: {a}, {b}" if a != b else ""

    def drop(self, data: dict) -> str:
        path = self.pick([path for path, _ in nodes(data) if path])
        del _get(data, path[:-1])[path[-1]]
        return f"drop {path}"

    def repeat(self, data: dict) -> str:
        path = self.pick([path for path, _ in nodes(data) if path and isinstance(path[-1], int)])
        into = _get(data, path[:-1])
        into.insert(path[-1], copy.deepcopy(into[path[-1]]))
        return f"repeat {path}"

    def swap(self, data: dict) -> str:
        found = [path for path, _ in nodes(data) if path and isinstance(path[-1], int)]
        one = self.pick(found)
        into = _get(data, one[:-1])
        other = self.rng.randrange(len(into))
        if into[one[-1]] == into[other]:
            return ""
        into[one[-1]], into[other] = into[other], into[one[-1]]
        return f"swap {one} and {other}"

    def text(self, data: dict) -> str:
        path = self.pick(self._paths(data, str))
        used = sorted({each for _, each in nodes(data) if isinstance(each, str)}
                      | {key for p, _ in nodes(data) for key in p if isinstance(key, str)})  # fmt: skip
        alike = sorted({each for p, each in nodes(data) if isinstance(each, str) and p[-1] == path[-1]})
        words = ["", "no such", "add", "max", "sum", "stored", "Shift", "Multicast", "Relay", "Reduce", "Permute",
                 "product", "product_t", "allreduce", "transpose", "alltoall", "Tiles", "Values"]  # fmt: skip
        new = self.rng.choice(self.rng.choice([used, alike, words]))
        old = _get(data, path)
        self._set(data, path, new)
        return f"{path}: {old!r} -> {new!r}" if new != old else ""

    def flip(self, data: dict) -> str:
        found = self._paths(data, bool)
        if not found:
            return ""
        path = self.pick(found)
        self._set(data, path, not _get(data, path))
        return f"flip {path}"

    def null(self, data: dict) -> str:
        nulls = self._paths(data, type(None))
        if nulls and self.rng.random() < 0.7:
            path = self.pick(nulls)
            names = [each for _, each in nodes(data) if isinstance(each, str)]
            new = self.rng.choice([0, 1, 2, "add", "max", self.rng.choice(names), self.rng.choice(names)])
            self._set(data, path, new)
            return f"{path}: None -> {new!r}"
        path = self.pick([path for path, _ in nodes(data) if path])
        self._set(data, path, self.rng.choice([None, None, [], {}]))
        return f"{path} emptied"

    def transplant(self, data: dict) -> str:
        """One object takes the place of another: a move of another step, an `Index` for a number, another route."""
        path = self.pick([path for path, each in nodes(data) if path and isinstance(each, (dict, int, type(None)))])
        objects = [p for p, each in nodes(data) if isinstance(each, dict) and "is" in each]
        alike = [p for p in objects if p and p[-1] == path[-1]] or objects
        source = self.pick(alike if self.rng.random() < 0.7 else objects)
        if source == path or not source:
            return ""
        new = copy.deepcopy(_get(data, source))
        self._set(data, path, new)
        return f"{path} becomes {source}"

    def vary(self, data: dict) -> str:
        """A number becomes a table of such numbers, turning with cores or iterations."""
        found = [
            p for p in self._paths(data, (int, type(None))) if isinstance(p[-1], str) and p[-1] not in ("is", "version")
        ]
        path = self.pick(found)
        old = _get(data, path) or 0
        rows, cols = data["mesh"]["rows"], data["mesh"]["cols"]
        if not all(type(n) is int and 0 < n < 50 for n in (rows, cols)):
            return ""
        n = self.rng.randint(1, 5)
        if type(old) is not int:
            return ""
        index = {"is": "Index", "table": [old + self.rng.choice([-1, 0, 0, 0, 1]) for _ in range(n)]}
        if self.rng.random() < 0.5:
            index["y"] = [self.rng.randrange(n + 1) for _ in range(rows)]
        if self.rng.random() < 0.5:
            index["x"] = [self.rng.randrange(n + 1) for _ in range(cols)]
        index["step"] = self.rng.choice([0, 0, 1, -1, n])
        index["outer"] = self.rng.choice([0, 0, 1])
        self._set(data, path, index)
        return f"{path}: {old} -> {index}"

    def everywhere(self, data: dict) -> str:
        """One value changes wherever it stands under one name, so that the parts still fit each other."""
        path = self.pick(self._paths(data, (int, str, bool)))
        old = _get(data, path)
        if type(old) is int:
            new: object = self.rng.choice([old + 1, old - 1, 0])
        elif type(old) is bool:
            new = not old
        else:
            new = self.rng.choice([each for p, each in nodes(data) if isinstance(each, str) and p[-1] == path[-1]])
        if new == old:
            return ""
        for p, each in list(nodes(data)):
            if p and type(each) is type(old) and each == old and [k for k in p if isinstance(k, str)][-1:] == (
                    [k for k in path if isinstance(k, str)][-1:]):  # fmt: skip
                self._set(data, p, new)
        return f"{_shape_of(path)[-2:]}: every {old!r} -> {new!r}"


# -------------------------------------------------------------------------------------------------------- judging
def merged(blocks: np.ndarray, axis: int) -> np.ndarray:
    """Softmax states ``(rows, h, cols, w)`` of the cores along an axis, combined."""
    largest = blocks[..., :1].max(axis, keepdims=True)
    sums = (blocks[..., 1:] * np.exp(blocks[..., :1] - largest)).sum(axis)
    return np.concatenate([largest.squeeze(axis), sums], axis=-1)


def reference(schedule: mk.Schedule, operands: dict[str, np.ndarray]) -> np.ndarray:
    """What the schedule says it computes, by NumPy."""
    task = schedule.task
    first, *rest = (operands[name] for name in task.operands)
    if task.kind == "product":
        return first @ rest[0]
    if task.kind == "product_t":
        return first @ rest[0].T
    if task.kind == "transpose":
        return first.T
    rows, cols = schedule.operands[task.operands[0]].grid
    h, w = (side // n for side, n in zip(first.shape, (rows, cols)))
    blocks = first.reshape(rows, h, cols, w)
    if task.kind == "allreduce":
        combine = {"max": np.max, "add": np.sum, "logsumexp": merged}[task.op]
        return combine(blocks, axis=0 if task.axis == 0 else 2).reshape(schedule.result.shape)
    lines = blocks.reshape(rows // cols, cols, h, cols, w)  # line, from, :, to, :
    return lines.swapaxes(1, 3).reshape(first.shape)


class WrongResultError(Exception):
    """A mutant passed and is not right."""


def judge(text: str) -> str:
    """``"refused"``, or ``"right"``, or ``"large"``: proved, and too large to be run here.

    Raises:
        WrongResultError: neither; any other exception is as bad.
    """
    try:
        schedule = mk.Schedule.from_json(text)
        mk.verify(schedule)
    except mk.ScheduleError:
        return "refused"
    if sum(t.shape[0] * t.shape[1] for t in (*schedule.operands.values(), schedule.result)) > MOST_ELEMENTS:
        return "large"
    rng = np.random.default_rng(0)
    shapes = {name: tiling.shape for name, tiling in schedule.operands.items()}
    whole = {name: rng.integers(-50, 50, shape).astype(np.float64) for name, shape in shapes.items()}
    expected = reference(schedule, whole)
    for method in ("fused", "lockstep"):
        got = mk.run(schedule, whole, method=method)
        if not (np.array_equal(got, expected) or (schedule.task.op == "logsumexp" and np.allclose(got, expected))):
            raise WrongResultError(f"{method} gives another result than NumPy")
    for dtype in (np.float32, np.float16):
        real = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
        fused, lockstep = (mk.run(schedule, real, method=method, accumulate=dtype) for method in ("fused", "lockstep"))
        if fused.tobytes() != lockstep.tobytes():
            raise WrongResultError(f"fused and lockstep give other bits in {np.dtype(dtype)}")
    mk.compliance(mk.count(schedule), "wse2")
    mk.count(schedule).to_dict()
    str(schedule)
    again = mk.Schedule.from_json(schedule.to_json())
    if again != schedule or hash(again) != hash(schedule):
        raise WrongResultError("the schedule is another one after a round trip")
    return "right"


def mutants(seed: int) -> Iterator[tuple[str, str, str]]:
    """``(schedule, what was changed, JSON)``, without end; the same for the same seed."""
    rng = random.Random(seed)
    texts = [(s.name, s.mesh.shape, s.task.kind, s.to_json()) for s in built_ins()]
    while True:
        name, shape, kind, text = rng.choice(texts)
        data = json.loads(text)
        if rng.random() < 0.9:
            data = spelled_out(data)
        done = []
        for _ in range(rng.choice([1, 1, 1, 1, 2, 3])):
            try:
                done.append(Mutator(rng).mutate(data))
            except (LookupError, TypeError, KeyError, AttributeError):  # the change before left nothing to change
                break
        yield f"{name} on {shape[0]} x {shape[1]} ({kind})", "; ".join(done), json.dumps(data)


def main(arguments: list[str] | None = None) -> int:
    """Judge many mutants; 1 if one of them is neither refused nor right."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", help="folder for the JSON of what went wrong")
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # a memory blow-up is an exception, not a dead machine

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {PATIENCE} s")

    signal.signal(signal.SIGALRM, too_long)
    verdicts: Counter[str] = Counter()
    for number, (name, done, text) in zip(range(options.cases), mutants(options.seed)):
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            verdicts[judge(text)] += 1
        except Exception as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            verdicts["WRONG"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{number}: {name}: {done}: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"[:600],
                  flush=True)  # fmt: skip
            if options.save:
                with open(f"{options.save}/{options.seed}-{number}.json", "w") as file:
                    file.write(text)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    return 1 if verdicts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
