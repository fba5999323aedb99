"""``python -m bench``: run the benchmarks and print the README's tables as markdown.

Options: ``--quick`` leaves out what takes minutes; ``-k EXPR`` selects as in pytest; ``--scaling`` also measures the
data of the scaling plot (about ten minutes) into bench/results/scaling.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from bench import measure, scaling
from perfmodel import console

RESULTS = Path(__file__).parent / "results"


def verdict(info: dict) -> str:
    """Whether a figure meets its target: at least for a ratio, at most for seconds or memory."""
    if info["target"] is None:
        return ""
    met = info["ratio"] >= info["target"] if "ratio" in info else info["seconds"] <= info["target"]
    return "yes" if met else "**no**"


def table(group: str, infos: list[dict]) -> str:
    """One group as a markdown table."""
    lines = [f"### {group}", ""]
    if "ratio" in infos[0]:
        lines += ["| what | threads | ours ms | peer ms | peer | peer / ours [quartiles] | target | met |",
                  "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    else:
        lines += ["| what | value | at most | met |", "|---|---|---|---|"]
    for info in infos:
        target = "" if info["target"] is None else f"{info['target']:g}"
        if "ratio" in info:
            spread = f"**{info['ratio']:.3f}** [{info['ratio_low']:.3f}, {info['ratio_high']:.3f}]"
            lines.append(f"| {info['what']} | {info['threads']} | {info['ours_ms']:.2f} | {info['peer_ms']:.2f} "
                         f"| {info['peer']} | {spread} | {target} | {verdict(info)} |")
        else:
            lines.append(f"| {info['what']} | {info['seconds']:.2f} | {target} | {verdict(info)} |")
    return "\n".join([*lines, ""])


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


def main(argv: list[str] | None = None) -> int:
    """Run; what it returns and prints on bad input, see `perfmodel.console`."""
    return console.run("bench", lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = console.Parser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--scaling", action="store_true", help="also measure the data of the scaling plot")
    parser.add_argument("--stored", nargs="*", metavar="GROUP",
                        help="measure nothing: print what the last run without -k stored (of the groups that begin so)")
    parser.add_argument("-k", default="", metavar="EXPR", help="which benchmarks, as in pytest")
    options = parser.parse_args(argv)
    if options.stored is not None:
        print(stored(options.stored))
        return 0
    if options.quick:
        os.environ["BENCH_LARGE"] = "0"
    RESULTS.mkdir(exist_ok=True)
    raw = RESULTS / "pytest-benchmark.json"
    about = measure.machine()
    about |= {f"peak_{dtype}_gflops": round(measure.fma_peak(dtype), 1) for dtype in ("float32", "float64")}
    files = [str(Path(__file__).parent / name) for name in ("bench_kernels.py", "bench_llm.py", "bench_engines.py")]
    status = pytest.main([*files, "-q", "-p", "no:cacheprovider",
                          "-k", options.k, f"--benchmark-json={raw}", "--benchmark-columns=median,iqr"])  # fmt: skip
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(status)
    groups: dict[str, list[dict]] = {}
    for entry in json.loads(raw.read_text())["benchmarks"]:
        groups.setdefault(entry["group"], []).append(entry["extra_info"])
    raw.unlink()
    text = "\n".join([heading(about), *(table(group, infos) for group, infos in groups.items())])
    print(text, (Path(__file__).parent / "rejected.md").read_text(), sep="\n")
    if not options.k:
        (RESULTS / "tables.md").write_text(text)
        (RESULTS / "tables.json").write_text(json.dumps({"machine": about, "groups": groups}, indent=1))
    if options.scaling:
        (RESULTS / "scaling.json").write_text(json.dumps({"machine": about, **scaling.measure_all()}, indent=1))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
