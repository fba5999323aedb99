"""``python -m bench``: what it prints, keeps and refuses; with benchmarks that measure nothing of interest."""

import json

import pytest

import bench.__main__ as command
from bench import measure

BENCHMARKS = """
import pytest

@pytest.mark.benchmark(group="ratios")
@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_ratio(benchmark, ratio):
    spread = dict(ratio=ratio, ratio_low=0.9 * ratio, ratio_high=1.1 * ratio, target=1.0)
    benchmark.extra_info.update(spread, what=f"ratio {ratio}", threads=1, ours_ms=1.0, peer_ms=ratio, peer="a peer")
    benchmark.pedantic(int)

@pytest.mark.benchmark(group="times")
def test_time(benchmark):
    benchmark.extra_info.update(what="a call")
    benchmark.pedantic(int)

def test_left_out(benchmark):
    pytest.skip("no such machine")

def test_breaks(benchmark):
    assert FINE, "broken"
    benchmark.extra_info.update(what="broken or not")
    benchmark.pedantic(int)
"""
KEPT = {"machine": {"cpu": "old", "cores": 2}, "groups": {"ratios": [{"name": "test_ratio[0.5]"}]}}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A house of its own for results; what is stored is old."""
    monkeypatch.setattr(command, "HERE", tmp_path)
    for name, path in (("RESULTS", tmp_path), ("LAST", tmp_path / "runs" / "last.json"),
                       ("HISTORY", tmp_path / "history.jsonl")):  # fmt: skip
        monkeypatch.setattr(command, name, path)
    monkeypatch.setattr(measure, "fma_peak", lambda dtype: 1.0)
    monkeypatch.setattr(command, "MOST_THREADS", 1)
    (tmp_path / "tables.json").write_text(json.dumps(KEPT))

    def write(text=BENCHMARKS, fine=True):
        # a name of its own for each case: modules stay imported
        (tmp_path / f"bench_{tmp_path.name}_{fine}.py").write_text(text.replace("FINE", str(fine)))
        return tmp_path

    return write


def run(*words):
    try:
        return command.main(list(words))
    except SystemExit as refused:
        return refused.code


def test_a_run_prints_rows_and_keeps_the_raw_figures(house, capsys):
    folder = house()
    assert run() == 0
    out = capsys.readouterr().out
    assert "| ratio 0.5 | 1 | 1.00 | 0.50 | a peer | **0.500** [0.450, 0.550] | 1 | **no** |" in out
    assert "| a call | " in out and "left out: 1 (test_left_out). Skipped: no such machine" in out
    assert "4 figures, 1 of them miss their target by more than their spread" in out
    found = json.loads((folder / "runs" / "last.json").read_text())["benchmarks"]
    assert {entry["name"] for entry in found} == {"test_ratio[0.5]", "test_ratio[2.0]", "test_time", "test_breaks"}
    assert json.loads((folder / "tables.json").read_text()) == KEPT and not (folder / "history.jsonl").exists()


def test_check_compare_and_k(house, capsys):
    folder = house()
    assert run("--check") == 1 and run("--check", "-k", "2.0") == 0
    last = folder / "runs" / "last.json"
    before = json.loads(last.read_text())
    before["benchmarks"][0]["extra_info"]["ratio"] = 1.0
    (folder / "before.json").write_text(json.dumps(before))
    capsys.readouterr()
    assert run("--compare", str(folder / "before.json")) == 0
    assert "| ratio 2.0 | 1 | 1.000 | 2.000 | 2.000 |" in capsys.readouterr().out
    (folder / "other.json").write_text("[]")
    assert run("--compare", str(folder / "other.json")) == 2
    assert "not the JSON of an earlier run" in capsys.readouterr().err
    assert run("-k", "nosuch") == 2
    err = capsys.readouterr().err
    assert "no benchmark fits -k 'nosuch'" in err and err.count("\n") == 1


def test_a_complete_run_is_stored(house, capsys):
    folder = house()
    assert run("--store") == 0
    stored = json.loads((folder / "tables.json").read_text())
    assert [info["what"] for info in stored["groups"]["ratios"]] == ["ratio 0.5", "ratio 2.0"]
    (line,) = (folder / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["ratios"] == {"ratios": {"ratio 0.5, a peer, 1 threads": 0.5,
                                                     "ratio 2.0, a peer, 1 threads": 2.0}}  # fmt: skip
    capsys.readouterr()
    assert run("--history") == 0 and "| ratios | 1.25 |" in capsys.readouterr().out
    assert run("--stored") == 0 and "| ratios | 2 | 1.25 | 0.50 | 1 of 2 |" in capsys.readouterr().out


def test_groups_that_run_as_a_whole_are_renewed(house, monkeypatch, capsys):
    folder, here = house(), measure.machine()
    as_it_was = [{"what": "a call", "seconds": 1.0}]
    old = {"machine": here, "groups": {"ratios": [{"name": "test_ratio[0.5]"}], "times": as_it_was}}
    (folder / "tables.json").write_text(json.dumps(old))
    assert run("--store", "-k", "test_ratio and 2.0") == 0
    assert "not stored: no group is whole" in capsys.readouterr().out
    assert run("--store", "-k", "test_ratio") == 0 and "stored: ratios" in capsys.readouterr().out
    stored = json.loads((folder / "tables.json").read_text())
    assert [info["what"] for info in stored["groups"]["ratios"]] == ["ratio 0.5", "ratio 2.0"]
    assert (stored["machine"], stored["groups"]["times"]) == (here, as_it_was)
    assert not (folder / "history.jsonl").exists()


def test_an_incomplete_run_leaves_the_tables_alone(house, monkeypatch, capsys):
    folder = house(fine=False)
    assert run("--store") == 1
    out = capsys.readouterr().out
    assert "broken" in out and "not stored: a benchmark failed; the tables stay as they were" in out
    (folder / f"bench_{folder.name}_False.py").unlink()
    house(BENCHMARKS.replace("def test_ratio(benchmark, ratio):", "def test_ratio(benchmark, ratio):\n"
                             "    if ratio < 1: pytest.skip('not now')"))  # fmt: skip
    assert run("--store") == 0
    assert "not stored: test_ratio[0.5]; the tables stay as they were" in capsys.readouterr().out
    assert run("--store", "-k", "ratio") == 2 and "measured with {'cpu': 'old'" in capsys.readouterr().err
    monkeypatch.setattr(command, "MOST_THREADS", 10_000)
    for words, says in ((["--store"], "10000 threads are measured, this process may start"),
                        (["--store", "--quick"], "--store keeps careful runs only")):  # fmt: skip
        assert run(*words) == 2 and says in capsys.readouterr().err
    assert json.loads((folder / "tables.json").read_text()) == KEPT and not (folder / "history.jsonl").exists()
