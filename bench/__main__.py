"""``python -m bench``: run the benchmarks against their peers, each row printed as soon as it is measured.

A complete run (no ``-k``, no ``--quick``) with ``--store`` renews the README's tables and adds a line to the history
of ratios, ``bench/results/history.jsonl``; with ``-k`` it renews the groups that it measures as a whole, on the same
kind of machine only. Each run leaves pytest-benchmark's JSON in ``.benchmarks/last.json``: keep
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

import numba
import pytest
from tqdm import tqdm

from bench import llm_8b, measure, scaling
from perfmodel import console, files, report, tables
from perfmodel.render import percent

HERE = Path(__file__).parent
RESULTS, LAST = HERE / "results", HERE.parent / ".benchmarks" / "last.json"
HISTORY = RESULTS / "history.jsonl"
#: threads of the benchmarks that take most of them
MOST_THREADS = 2


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


def figure(extra_info: dict, median: float) -> dict:
    """What a benchmark found; one that compares nothing has the median of its calls, in seconds."""
    return extra_info if {"ratio", "seconds"} & set(extra_info) else extra_info | {"seconds": median}


def columns(info: dict) -> list[str]:
    """The head of a table whose rows are like this one."""
    if "ratio" in info:
        return ["what", "threads", "ours ms", "peer ms", "peer", "peer / ours [quartiles]", "target", "met"]
    return ["what", "value", "at most", "met"]


def cells(info: dict) -> list[str]:
    """One measured figure as a row of its table."""
    target = "" if info.get("target") is None else f"{info['target']:g}"
    if "ratio" in info:
        spread = f"**{info['ratio']:.3f}** [{info['ratio_low']:.3f}, {info['ratio_high']:.3f}]"
        return [info["what"], info["threads"], f"{info['ours_ms']:.2f}", f"{info['peer_ms']:.2f}", info["peer"], spread,
                target, verdict(info)]  # fmt: skip
    return [info["what"], f"{info['seconds']:.4g}", target, verdict(info)]


def table(group: str, infos: list[dict]) -> str:
    """One group as a markdown table."""
    return f"### {group}\n\n{tables.markdown(columns(infos[0]), map(cells, infos))}\n"


class Progress:
    """A bar on a terminal, each row as soon as it is measured, and why there is none.

    Attributes:
        left_out: name of each benchmark that was skipped -> why.
        cut: groups that do not run as a whole.
    """

    def __init__(self) -> None:
        self._group, self._bar = "", tqdm(disable=True)
        self.left_out: dict[str, str] = {}
        self.cut: set[str] = set()

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Called by pytest with the benchmarks that ``-k`` leaves out."""
        marks = [item.get_closest_marker("benchmark") for item in items]
        self.cut |= {mark.kwargs["group"] for mark in marks if mark}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Called by pytest when it knows what will run."""
        self._bar = tqdm(total=len(session.items), unit=" figures", disable=None)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Called by pytest before each benchmark."""
        self._bar.set_postfix_str(nodeid.rpartition("::")[2])

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Called by pytest after each benchmark."""
        self._bar.update()
        benchmark = getattr(item, "funcargs", {}).get("benchmark")
        if benchmark is None or "what" not in benchmark.extra_info:
            return
        if benchmark.stats is None:  # it failed before it was timed
            return
        found = figure(benchmark.extra_info, benchmark.stats.stats.median)
        if benchmark.group != self._group:
            self._group = benchmark.group
            self._print(f"\n### {self._group}\n\n{tables.markdown(columns(found))}")
        self._print(tables.markdown_row(cells(found)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest with what became of a benchmark."""
        if report.skipped:
            self.left_out[report.nodeid.rpartition("::")[2]] = str(report.longrepr[2])
        if report.failed:
            self._print(f"failed: {report.nodeid}\n{report.longreprtext}")

    def pytest_sessionfinish(self) -> None:
        """Called by pytest at the end."""
        self._bar.close()
        for why in dict.fromkeys(self.left_out.values()):
            names = [name for name, reason in self.left_out.items() if reason == why]
            self._print(f"\nleft out: {len(names)} ({names[0]}{', ...' * (len(names) > 1)}). {why}")

    def _print(self, text: str) -> None:
        self._bar.write(text)
        sys.stdout.flush()


def earlier(path: Path) -> dict[str, dict]:
    """The figures of an earlier run's JSON by name."""
    try:
        return {entry["name"]: entry["extra_info"] for entry in json.loads(path.read_text())["benchmarks"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise files.DataError(f"{path}: not the JSON of an earlier run; each run leaves {LAST}") from None


def compared(groups: dict[str, list[dict]], path: Path) -> str:
    """Ratios now and in an earlier run's JSON, for the rows that both have."""
    known = earlier(path)
    rows = []
    for info in (info for infos in groups.values() for info in infos):
        before = known.get(info["name"], {})
        if "ratio" in info and "ratio" in before:
            rows.append([info["what"], info["threads"], f"{before['ratio']:.3f}", f"{info['ratio']:.3f}",
                         f"{info['ratio'] / before['ratio']:.3f}"])  # fmt: skip
    if not rows:
        raise files.DataError(f"{path}: no benchmark of this run stands in it")
    return tables.markdown(["what", "threads", "ratio before", "now", "now / before"], rows)


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
    return page(kept["machine"], chosen)


#: Of the README's table: groups of the stored tables with their peers, and summaries of the model with their names.
SPEED = {"MeshGEMM, float32": "np.matmul", "MeshGEMM, 16-bit storage": "np.matmul of float32",
         "MeshGEMV, W placed once, K-tree included": "x @ W", "SmolLM2-135M, float32": "NumPy, the same model",
         "SmolLM2-135M Q4_1, against llama.cpp": "llama.cpp"}
MODEL = {("wse3_meshgemm", "leave one tile out"): "MeshGEMM on the WSE-3, each tile size left out",
         ("wse3_meshgemv, above 16 cores a side", "leave one grid out"):
             "MeshGEMV on the WSE-3 above 16 cores a side, each grid left out",
         ("table 2, WaferLLM", "predicted"): "whole LLM requests on the WSE-2, nothing fitted to them",
         ("wse2_prefill", "leave one model out"): "LLM prefill on the WSE-2, each model left out",
         ("wse2_decode", "leave one model out"): "LLM decode on the WSE-2, each model left out",
         ("WSE-3 decode, total", "blind"): "LLM decode on the WSE-3, blind",
         ("WSE-3 shift, L <= P", "blind"): "KV-cache shift on the WSE-3, blind"}  # fmt: skip


def headline() -> str:
    """The README's table: speed from the stored tables, errors of the model from its report."""
    kept = json.loads((RESULTS / "tables.json").read_text())
    rows = []
    for group, peer in SPEED.items():
        ratios = sorted(info["ratio"] for info in kept["groups"].get(group, []) if "ratio" in info)
        if ratios:
            rows.append([f"speed: {group}", peer, len(ratios), f"{statistics.median(ratios):.2f} x",
                         f"{ratios[0]:.2f} x"])  # fmt: skip
    known = {(s.experiment, s.regime): s
             for s in [*report.table_summaries(), *report.blind_summaries(), *report.fit_summaries()]}  # fmt: skip
    for name, what in MODEL.items():
        found = known[name]
        rows.append([f"model: {what}", "silicon", found.rows, percent(found.mean), percent(found.worst)])
    about = f"{kept['machine']['cpu']}, {kept['machine']['cores']} cores"
    return (tables.markdown(["what", "held against", "figures", "middle ratio / mean error", "lowest / worst"], rows)
            + f"\n\nSpeed is peer / ours in the same run, middle of all figures ({about}).")  # fmt: skip


def summary(groups: dict[str, list[dict]]) -> str:
    """A line for each group: our time against the peers', and how many targets are met."""
    rows = []
    for group, infos in groups.items():
        ratios = sorted(info["ratio"] for info in infos if "ratio" in info)
        aimed = [info for info in infos if info.get("target") is not None]
        if ratios and aimed:
            met = sum(verdict(info) == "yes" for info in aimed)
            rows.append([group, len(ratios), f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}",
                         f"{met} of {len(aimed)}"])  # fmt: skip
    return tables.markdown(["group", "figures", "middle ratio", "lowest", "targets met"], rows) + "\n"


def page(about: dict, groups: dict[str, list[dict]]) -> str:
    """All tables, a summary first."""
    return "\n".join([heading(about), summary(groups), *(table(name, infos) for name, infos in groups.items())])


def history() -> str:
    """The middle ratio of each group, release by release."""
    releases = [json.loads(line) for line in HISTORY.read_text().splitlines()]
    found = [{group: statistics.median(ratios.values()) for group, ratios in release["ratios"].items()}
             for release in releases]  # fmt: skip
    rows = [[group, *(f"{middle[group]:.2f}" if group in middle else "" for middle in found)]
            for group in dict.fromkeys(group for middle in found for group in middle)]  # fmt: skip
    return tables.markdown(["peer / ours, middle", *(f"{r['version']} ({r['date']})" for r in releases)], rows)


def main(argv: list[str] | None = None) -> int:
    """Run; what it returns and prints on bad input, see `perfmodel.console`."""
    return console.run("bench", lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = console.Parser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true",
                        help="some minutes: one thread, fewer rounds, nothing that is large")
    parser.add_argument("--scaling", action="store_true", help="also measure the data of the scaling plot")
    parser.add_argument("--store", action="store_true",
                        help="keep the tables, and add a complete run to the history; with -k: of whole groups")
    parser.add_argument("--stored", nargs="*", metavar="GROUP",
                        help="measure nothing: print the tables that were stored last (of the groups that begin so)")
    parser.add_argument("--headline", action="store_true", help="measure nothing: print the README's table")
    parser.add_argument("--history", action="store_true", help="measure nothing: print the ratios of each release")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="print ratios beside those of an earlier run")
    parser.add_argument("--check", action="store_true",
                        help="exit code 1 where a figure misses its target by more than its spread")
    parser.add_argument("--rejected", action="store_true", help="also print what was tried and rejected")
    parser.add_argument("--llm-8b", action="store_true",
                        help="only LLaMA3-8B's shape in Q4_0, decoded on 360 x 360 cores (writes a file of 4.5 GB)")
    parser.add_argument("-k", default="", metavar="EXPR", help="which benchmarks, as in pytest")
    options = parser.parse_args(argv)
    if options.headline or options.history:
        print(headline() if options.headline else history())
        return 0
    if options.stored is not None:
        print(stored(options.stored))
        return 0
    if options.llm_8b:
        llm_8b.report()
        return 0
    if options.store and options.quick:
        parser.error("--store keeps careful runs only: leave out --quick")
    if options.store and (most := numba.config.NUMBA_NUM_THREADS) < MOST_THREADS:
        parser.error(f"--store keeps whole groups only: {MOST_THREADS} threads are measured, this process may start "
                     f"{most} (cores, or NUMBA_NUM_THREADS)")  # fmt: skip
    if options.compare:
        earlier(options.compare)  # refused before minutes of measuring
    if options.quick:
        os.environ["BENCH_QUICK"] = "1"
    about = measure.machine()
    kept = json.loads((RESULTS / "tables.json").read_text())
    if options.store and options.k and kept["machine"] | about != kept["machine"]:
        other = {fact: kept["machine"].get(fact) for fact in about if kept["machine"].get(fact) != about[fact]}
        parser.error(f"--store -k renews groups of tables that were measured with {other}: leave out -k")
    about |= {f"peak_{dtype}_gflops": round(measure.fma_peak(dtype), 1) for dtype in ("float32", "float64")}
    print(heading(about))
    LAST.parent.mkdir(exist_ok=True)
    raw, progress = LAST.with_suffix(".tmp"), Progress()
    status = pytest.main([str(HERE), "-o", "addopts=", "-o", "python_files=bench_*.py", "-p", "no:cacheprovider", "-p",
                          "no:terminal", "-s", "-W", "ignore:Not saving anything", "-k", options.k, "--benchmark-quiet",
                          f"--benchmark-json={raw}"],
                         plugins=[progress])  # fmt: skip
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        parser.error(f"no benchmark fits -k {options.k!r}")
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(status)
    raw.replace(LAST)
    groups: dict[str, list[dict]] = {}
    for entry in json.loads(LAST.read_text())["benchmarks"]:
        groups.setdefault(entry["group"], []).append(
            figure(entry["extra_info"], entry["stats"]["median"]) | {"name": entry["name"]})
    missed = [info for infos in groups.values() for info in infos if misses(info)]
    if options.compare:
        print("", compared(groups, options.compare), sep="\n")
    if options.rejected:
        print("", (HERE / "rejected.md").read_text(), sep="\n")
    if options.store:
        whole = {group: infos for group, infos in groups.items() if group not in progress.cut}
        names = {info.get("name") for group, infos in kept["groups"].items() if not options.k or group in whole
                 for info in infos}  # fmt: skip
        lost = progress.left_out.keys() & names
        if status != pytest.ExitCode.OK or lost or not whole:
            why = ", ".join(sorted(lost)) or ("no group is whole" if groups and not whole else "a benchmark failed")
            print(f"\nnot stored: {why}; the tables stay as they were")
        elif options.k:
            _write_tables(kept["machine"], kept["groups"] | whole)
            print(f"\nstored: {', '.join(whole)}")
        else:
            _write_tables(about, groups)
            _add_to_history(about, groups)
    if options.scaling:
        (RESULTS / "scaling.json").write_text(json.dumps({"machine": about, **scaling.measure_all()}, indent=1))
    print(f"\n{sum(map(len, groups.values()))} figures, {len(missed)} of them miss their target by more than their "
          f"spread; all of them: {LAST}")
    for info in missed:
        print(tables.markdown_row(cells(info)))
    return int(status) or int(options.check and bool(missed))


def _write_tables(about: dict, groups: dict[str, list[dict]]) -> None:
    (RESULTS / "tables.md").write_text(page(about, groups))
    (RESULTS / "tables.json").write_text(json.dumps({"machine": about, "groups": groups}, indent=1))


def _add_to_history(about: dict, groups: dict[str, list[dict]]) -> None:
    ratios = {group: {f"{info['what']}, {info['peer']}, {info['threads']} threads": round(info["ratio"], 4)
                      for info in infos if "ratio" in info} for group, infos in groups.items()}
    line = {"date": datetime.now(UTC).date().isoformat(), "version": version("meshkernels"), "machine": about,
            "ratios": {group: found for group, found in ratios.items() if found}}  # fmt: skip
    with HISTORY.open("a") as releases:
        releases.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
