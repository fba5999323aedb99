"""The replay page: its data are the run's; it runs in a real browser where there is one."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

import meshkernels as mk
from meshkernels.__main__ import main

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_page_is_complete_in_itself(tmp_path, capsys):
    out = tmp_path / "steps.html"
    assert main(["replay", "cannon", "meshgemm", "--grid", "4", "--out", str(out)]) == 0
    page = out.read_text()
    assert not re.search(r"https?://|src=|@import|<link", page)
    data = json.loads(re.search(r"const runs = (.*);\n", page)[1].replace("<\\/", "</"))
    assert [run["name"] for run in data] == ["cannon", "meshgemm"]
    for run in data:
        schedule = mk.schedule(run["name"], mk.Mesh(4), 16, 16, 16)
        assert run["makespan"] == mk.simulate(schedule, "wse3", limits=False).makespan
        assert len(run["messages"]) == mk.count(schedule).messages
        assert len(run["holds"]) == len(schedule.steps)


def test_too_large_to_look_at(tmp_path):
    run = mk.simulate(mk.schedule("ktree", mk.Mesh(64), 64, 64), "wse3")
    with pytest.raises(mk.FabricError, match="at most 1024 cores"):
        run.replay(tmp_path / "page.html")


@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_in_a_browser(tmp_path):
    out = tmp_path / "steps.html"
    run = mk.simulate(mk.schedule("cannon", mk.Mesh(4), 8, 8, 8), "wse3")
    named = replace(mk.schedule("meshgemm", mk.Mesh(4), 8, 8, 8), name="<b>")
    run.replay(out, [mk.simulate(named, "wse3")])
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
             "--virtual-time-budget=2000", "--dump-dom"]  # fmt: skip
    done = subprocess.run([BROWSER, *flags, out.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    shown = done.stdout
    assert 'data-ready="2"' in shown and shown.count("<canvas") == 2
    assert f"0 of {run.makespan:.0f} cycles" in shown
    assert "A on its way" in shown and "B on its way" in shown and "<h2>&lt;b&gt;: " in shown
