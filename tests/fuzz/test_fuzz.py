"""Every battery, seeded and quick, by the command that runs it for hours: ``make fuzz``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import BATTERIES


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", "--json"], capture_output=True, text=True, timeout=600,
                          cwd=Path(__file__).resolve().parents[2])  # fmt: skip
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("battery", BATTERIES)
def test_battery(found, battery):
    assert found[battery]["cases"] > 0
    assert not found[battery]["failures"], "\n".join(found[battery]["failures"])
