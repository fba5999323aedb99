"""The shape of the house: fast import, no forbidden imports, no algorithm's name outside its module."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = ("meshgemm", "cannon", "summa", "allgather", "gemm_t", "ktree", "pipeline", "hsumma",
         "cannon25d", "meshgemm_t")  # fmt: skip


def _imports(path: Path) -> set[str]:
    return set(re.findall(r"^\s*(?:from|import)\s+(\w+)", path.read_text(), re.M))


def test_dependencies_point_one_way():
    for path in ROOT.glob("perfmodel/**/*.py"):
        assert "meshkernels" not in _imports(path), path
    for package in ("meshkernels", "perfmodel"):
        for path in ROOT.glob(f"{package}/**/*.py"):
            assert not _imports(path) & {"plots", "bench", "tests"}, path


def test_readers_know_no_algorithm():
    """Executors, ledger and compliance read schedules; none of them names an algorithm."""
    packages = ("execute", "fabric", "readers", "schedules")
    readers = [path for package in packages for path in ROOT.glob(f"meshkernels/{package}/*.py")
               if path.name != "cli.py"]  # what a user types: names of families, one of which is an algorithm too
    assert {path.stem for path in readers} >= {"lockstep", "fused", "ledger", "compliance", "verify", "order"}
    for path in readers:
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.S)
        for name in NAMES:
            assert not re.search(rf"\b{name}\b", code), f"{path.name} names {name}"


def test_import_compiles_nothing():
    """Importing the library neither compiles nor even loads a compiled kernel."""
    script = "import meshkernels, numba; from numba.core import event; import sys; " \
             "from numba.core.dispatcher import Dispatcher; import gc; " \
             "print(sum(len(d.overloads) for d in gc.get_objects() if isinstance(d, Dispatcher) " \
             "and d.py_func.__module__.startswith('meshkernels')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "0"
