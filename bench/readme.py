"""``python -m bench.readme``: renew the README's table and the pages of bench/results from the commands that they name.

A block stands between ``<!-- generated: COMMAND -->`` and ``<!-- end -->``; COMMAND is a module and its arguments.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "README.md", ROOT / "bench" / "results" / "model.md", ROOT / "bench" / "results" / "README.md")
BLOCK = re.compile(r"<!-- generated: python -m (.*?) -->\n(.*?)<!-- end -->", re.S)


def output(command: str) -> str:
    """What ``python -m command`` prints."""
    done = subprocess.run([sys.executable, "-m", *command.split()], capture_output=True, text=True, check=True,
                          cwd=ROOT)  # fmt: skip
    return done.stdout.strip() + "\n"


def renewed(text: str) -> str:
    """``text`` with every block replaced by the output of its command."""
    return BLOCK.sub(lambda b: f"<!-- generated: python -m {b[1]} -->\n{output(b[1])}<!-- end -->", text)


if __name__ == "__main__":
    for path in FILES:
        path.write_text(renewed(path.read_text()))
