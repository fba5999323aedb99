"""``python -m tests.fuzz [BATTERY ...]``: run batteries, print what failed and a table of what was run."""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
import zlib
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a process with threads must not be forked

import numpy as np

from tests.fuzz import judge

BATTERIES = ("gguf_fields", "gguf_bytes", "templates", "data_files", "command_lines", "processes", "predictions",
             "operands", "bits", "memory", "threads", "interrupts")  # fmt: skip


@dataclass
class Tally:
    """What a battery has found."""

    ends: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    begun: int = 0

    @property
    def cases(self) -> int:
        return sum(self.ends.values()) + len(self.failures)


def once(battery: str, seed: int, number: int) -> tuple[str, str, str, float]:
    """One case: name, how it ended ("failed": with what it found)."""
    begin, name, found = time.monotonic(), "?", ""
    random = np.random.default_rng([seed, zlib.crc32(battery.encode()), number])
    try:
        name, check = importlib.import_module(f"tests.fuzz.{battery}").case(number, random)
        end = check()
    except judge.Failure as failure:
        end, found = "failed", str(failure)
    except Exception:  # of the battery itself: no less a failure
        end, found = "failed", traceback.format_exc()
    return name, end, found, time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("batteries", nargs="*", metavar="BATTERY", help=f"some of {', '.join(BATTERIES)}")
    parser.add_argument("--minutes", type=float, help="as many cases as fit, each battery the same time")
    parser.add_argument("--cases", type=int, help="so many cases of each battery (default: those of the test suite)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, metavar="N", help="this case of the battery only")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="cases at a time")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    if unknown := set(options.batteries) - set(BATTERIES):
        parser.error(f"no battery {', '.join(sorted(unknown))}; known: {', '.join(BATTERIES)}")
    chosen = options.batteries or list(BATTERIES)
    modules = {name: importlib.import_module(f"tests.fuzz.{name}") for name in chosen}
    most = {name: options.cases or (sys.maxsize if options.minutes else modules[name].QUICK) for name in chosen}
    if options.case is not None:
        most = dict.fromkeys(chosen, options.case + 1)
    tallies = {name: Tally(begun=options.case or 0) for name in chosen}
    until = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    from tests.fuzz import ready

    ready.compile_everything()
    os.chdir(ready.folder())  # where commands may write what they like
    running: dict[Future, tuple[str, int]] = {}
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        while True:
            open_ = [name for name in chosen if tallies[name].begun < most[name] and time.monotonic() < until]
            if open_ and len(running) < options.jobs:
                # the battery that has had the least time so far; the quick run: the one that has most left
                name = min(open_, key=lambda n: (tallies[n].seconds, tallies[n].begun / modules[n].QUICK))
                running[pool.submit(once, name, options.seed, tallies[name].begun)] = name, tallies[name].begun
                tallies[name].begun += 1
                continue
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED)[0]:
                battery, number = running.pop(done)
                tally, (name, end, found, seconds) = tallies[battery], done.result()
                tally.seconds += seconds
                if end == "failed":
                    again = f"python -m tests.fuzz {battery} --seed {options.seed} --case {number}"
                    tally.failures.append(f"{battery} {number}: {name:.300}\n    {found:.1000}\n    again: {again}")
                    if not options.json:
                        print(tally.failures[-1], flush=True)
                else:
                    tally.ends[end] += 1
    if options.json:
        print(json.dumps({name: {"cases": t.cases, **t.ends, "failures": t.failures, "seconds": round(t.seconds, 1)}
                          for name, t in tallies.items()}))
    else:
        print(table(tallies))
    return int(any(tally.failures for tally in tallies.values()))


def table(tallies: dict[str, Tally]) -> str:
    """Markdown, for the README."""
    lines = ["| battery | cases | refused | accepted | failures | seconds |", "|---|---|---|---|---|---|"]
    for name, t in [*tallies.items(), ("all", sum_of(tallies))]:
        lines.append(f"| {name} | {t.cases:,} | {t.ends['refused']:,} | {t.ends['accepted']:,} | {len(t.failures):,} | "
                     f"{t.seconds:.0f} |")
    return "\n".join(lines)


def sum_of(tallies: dict[str, Tally]) -> Tally:
    """All batteries together."""
    every = tallies.values()
    return Tally(sum((t.ends for t in every), Counter()), [f for t in every for f in t.failures],
                 sum(t.seconds for t in every))  # fmt: skip


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
