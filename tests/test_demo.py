"""The demo: real weights on the mesh, the table's keys, and its refusals."""

import json
import subprocess
import sys

import pytest

from meshkernels.__main__ import main

KEYS = {"algorithm", "op", "max_abs_err", "steps", "critical_hops", "words", "peak_bytes_per_core", "colours",
        "compliant"}  # fmt: skip


def test_json_rows(capsys):
    assert main(["demo", "--grid", "6x4", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(set(row) >= KEYS for row in rows)
    assert {"meshgemm", "cannon", "summa", "allgather", "ktree", "chain", "pipeline", "ring", "gemm_t"} <= {
        row["algorithm"] for row in rows}
    shapes = {row["op"].split()[-1].split("x", 1)[1] for row in rows if "QK" not in row["op"]}
    assert shapes == {"576x576", "576x192", "576x1536", "1536x576"}
    assert all(0 < row["max_abs_err"] < 1e-3 for row in rows)


@pytest.mark.parametrize(("arguments", "says"), [
    (["--grid", "0"], "rows = 0"),
    (["--grid", "2", "2", "2"], "is no grid: give a side (24) or rows x columns (24x16)"),
    (["--device", "wse7"], "wse7"),
    (["--grid", "2000"], "2000 x 2000 cores does not fit wse2"),
    (["--grid", "100000"], "rows = 100000: a mesh has at least 1 core a side, at most 8192"),
    (["--grid", "200", "201"], "200 x 201 cores takes 40200 steps"),
    (["--prompt", ""], "prompt is empty"),
    (["--model", "no-such-file.gguf"], "no-such-file.gguf"),
])  # fmt: skip
def test_refusals_are_one_line(arguments, says, capsys):
    assert main(["demo", *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_from_the_shell():
    done = subprocess.run([sys.executable, "-m", "meshkernels", "demo", "--grid", "24"], capture_output=True,
                          text=True, check=True)  # fmt: skip
    lines = done.stdout.splitlines()
    assert "words sent" in lines[1] and any("meshgemm" in line and " ok" in line for line in lines)
