"""``python -m bench``: run the benchmarks against their peers, a row of a table as soon as it is measured.

A complete run (no ``-k``, no ``--quick``) with ``--store`` renews the README's tables and adds a line to the history
of ratios, ``bench/results/history.jsonl``. Each run leaves pytest-benchmark's JSON in ``.benchmarks/last.json``: keep
a copy, and ``--compare`` holds a later run against it. The same benchmarks run as ``pytest bench --benchmark-only``.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from bench import llm_8b, measure, scaling
from perfmodel import console, files

HERE = Path(__file__).parent
RESULTS, LAST = HERE / "results", HERE.parent / ".benchmarks" / "last.json"


def verdict(info: dict) -> str:
    """Whether a figure meets its target: at least for a ratio, at most for seconds or memory."""
    if info.get("target") is None:
        return ""
    met = info["ratio"] >= info["target"] if "ratio" in info else info["seconds"] <= info["target"]
    return "yes" if met else "**no**"


def misses(info: dict) -> bool:
    """Whether a figure misses its target by more than its spread: the better quartile does not reach it either."""
    if info.get("target") is None:
        return False
    return info["ratio_high"] < info["target"] if "ratio" in info else info["seconds"] > info["target"]


def columns(info: dict) -> str:
    """The head of a table whose rows are like this one."""
    if "ratio" in info:
        return ("| what | threads | ours ms | peer ms | peer | peer / ours [quartiles] | target | met |\n"
                "|---|---|---|---|---|---|---|---|")  # fmt: skip
    return "| what | value | at most | met |\n|---|---|---|---|"


def row(info: dict) -> str:
    """One measured figure as a row of its table."""
    target = "" if info.get("target") is None else f"{info['target']:g}"
    if "ratio" in info:
        spread = f"**{info['ratio']:.3f}** [{info['ratio_low']:.3f}, {info['ratio_high']:.3f}]"
        return (f"| {info['what']} | {info['threads']} | {info['ours_ms']:.2f} | {info['peer_ms']:.2f} "
                f"| {info['peer']} | {spread} | {target} | {verdict(info)} |")
    return f"| {info['what']} | {info['seconds']:.2f} | {target} | {verdict(info)} |"


def table(group: str, infos: list[dict]) -> str:
    """One group as a markdown table."""
    return "\n".join([f"### {group}", "", columns(infos[0]), *map(row, infos), ""])


class Progress:
    """Prints each row as soon as it is measured, and why there is none."""

    def __init__(self) -> None:
        self._group = ""

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Called by pytest after each benchmark."""
        benchmark = getattr(item, "funcargs", {}).get("benchmark")
        if benchmark is None or "what" not in benchmark.extra_info:
            return
        if benchmark.group != self._group:
            self._group = benchmark.group
            print(f"\n\n### {self._group}\n\n{columns(benchmark.extra_info)}")
        print(row(benchmark.extra_info), flush=True)


    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest with what became of a benchmark."""
        if not report.passed:
            print(f"{report.outcome}: {report.nodeid}\n{report.longreprtext}", flush=True)


def compared(groups: dict[str, list[dict]], path: Path) -> str:
    """Ratios now and in an earlier run's JSON, for the rows that both have."""
    try:
        earlier = {e["name"]: e["extra_info"] for e in json.loads(path.read_text())["benchmarks"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise files.DataError(f"{path}: not the JSON of an earlier run; each run leaves {LAST}") from None
    lines = ["| what | threads | ratio before | now | now / before |", "|---|---|---|---|---|"]
    for info in (info for infos in groups.values() for info in infos):
        before = earlier.get(info["name"], {})
        if "ratio" in info and "ratio" in before:
            lines.append(f"| {info['what']} | {info['threads']} | {before['ratio']:.3f} | {info['ratio']:.3f} "
                         f"| {info['ratio'] / before['ratio']:.3f} |")
    return "\n".join(lines)


def heading(about: dict) -> str:
    """The machine, the versions, and the greatest rate that the machine offers."""
    facts = ", ".join(f"{key} {value}" for key, value in about.items())
    return (f"Machine: {facts}.\n\nRatios are peer time over ours, medians of interleaved rounds with quartiles; "
            "threads are the same on both sides.\n")


def stored(prefixes: list[str]) -> str:
    """Tables of the last run without ``-k``: groups whose name begins with one of ``prefixes``; else all."""
    kept = json.loads((RESULTS / "tables.json").read_text())
    chosen = {name: infos for name, infos in kept["groups"].items()
              if not prefixes or any(name.startswith(prefix) for prefix in prefixes)}  # fmt: skip
    return "\n".join([heading(kept["machine"]), *(table(name, infos) for name, infos in chosen.items())])


def headline() -> str:
    """A line for each group of the stored tables: our time against the peers', and how many targets are met."""
    kept = json.loads((RESULTS / "tables.json").read_text())
    machine = f"{kept['machine']['cpu']}, {kept['machine']['cores']} cores"
    lines = [f"{machine}; peer / ours, medians of interleaved rounds.", "",
             "| group | figures | middle ratio | lowest | targets met |", "|---|---|---|---|---|"]
    for group, infos in kept["groups"].items():
        ratios = sorted(info["ratio"] for info in infos if "ratio" in info)
        aimed = [info for info in infos if info.get("target") is not None]
        if ratios and aimed:
            met = sum(verdict(info) == "yes" for info in aimed)
            lines.append(f"| {group} | {len(ratios)} | {statistics.median(ratios):.2f} | {ratios[0]:.2f} "
                         f"| {met} of {len(aimed)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run; what it returns and prints on bad input, see `perfmodel.console`."""
    return console.run("bench", lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = console.Parser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three minutes: fewer rounds, and nothing that is large")
    parser.add_argument("--scaling", action="store_true", help="also measure the data of the scaling plot")
    parser.add_argument("--store", action="store_true", help="keep a complete run's tables, and add it to the history")
    parser.add_argument("--stored", nargs="*", metavar="GROUP",
                        help="measure nothing: print the tables that were stored last (of the groups that begin so)")
    parser.add_argument("--headline", action="store_true", help="measure nothing: print a line for each stored group")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="print ratios beside those of an earlier run")
    parser.add_argument("--check", action="store_true",
                        help="exit code 1 where a figure misses its target by more than its spread")
    parser.add_argument("--rejected", action="store_true", help="also print what was tried and rejected")
    parser.add_argument("--llm-8b", action="store_true",
                        help="only LLaMA3-8B's shape in Q4_0, decoded on 360 x 360 cores (writes a file of 4.5 GB)")
    parser.add_argument("-k", default="", metavar="EXPR", help="which benchmarks, as in pytest")
    options = parser.parse_args(argv)
    if options.headline:
        print(headline())
        return 0
    if options.stored is not None:
        print(stored(options.stored))
        return 0
    if options.llm_8b:
        llm_8b.report()
        return 0
    if options.store and (options.quick or options.k):
        parser.error("--store keeps complete runs only: leave out --quick and -k")
    if options.quick:
        os.environ["BENCH_QUICK"] = "1"
    about = measure.machine()
    about |= {f"peak_{dtype}_gflops": round(measure.fma_peak(dtype), 1) for dtype in ("float32", "float64")}
    print(heading(about))
    LAST.parent.mkdir(exist_ok=True)
    raw = LAST.with_suffix(".tmp")
    status = pytest.main([str(HERE), "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:terminal", "-s",
                          "-k", options.k, f"--benchmark-json={raw}"], plugins=[Progress()])  # fmt: skip
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(status)
    raw.replace(LAST)
    groups: dict[str, list[dict]] = {}
    for entry in json.loads(LAST.read_text())["benchmarks"]:
        groups.setdefault(entry["group"], []).append(entry["extra_info"] | {"name": entry["name"]})
    missed = [info for infos in groups.values() for info in infos if misses(info)]
    if options.compare:
        print("", compared(groups, options.compare), sep="\n")
    if options.rejected:
        print("", (HERE / "rejected.md").read_text(), sep="\n")
    if options.store and status == pytest.ExitCode.OK:
        _store(about, groups)
    if options.scaling:
        (RESULTS / "scaling.json").write_text(json.dumps({"machine": about, **scaling.measure_all()}, indent=1))
    print(f"\n{sum(map(len, groups.values()))} figures, {len(missed)} of them miss their target by more than their "
          f"spread; all of them: {LAST}")
    for info in missed:
        print(row(info))
    return int(status) or int(options.check and bool(missed))


def _store(about: dict, groups: dict[str, list[dict]]) -> None:
    """Keep the tables of a complete run, and add its ratios to the history."""
    (RESULTS / "tables.md").write_text(
        "\n".join([heading(about), *(table(group, infos) for group, infos in groups.items())]))
    (RESULTS / "tables.json").write_text(json.dumps({"machine": about, "groups": groups}, indent=1))
    ratios = {info["name"]: round(info["ratio"], 4) for infos in groups.values() for info in infos if "ratio" in info}
    line = {"date": datetime.now(UTC).date().isoformat(), "version": version("meshkernels"), "machine": about,
            "ratios": ratios}  # fmt: skip
    with (RESULTS / "history.jsonl").open("a") as history:
        history.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
