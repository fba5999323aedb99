"""The shape of the house: fast import, no forbidden imports, no algorithm's name outside its module."""

import ast
import os
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
    packages = ("engines", "fabric", "kernels", "readers", "schedules")
    readers = [path for package in packages for path in ROOT.glob(f"meshkernels/{package}/*.py")
               if path.name not in ("cli.py", "demo.py")]  # what users type and see: verbs, one called as an algorithm
    assert {path.stem for path in readers} >= {"lockstep", "fused", "ledger", "compliance", "verify", "order"}
    for path in readers:
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.S)
        code = code.replace("comm.allgather", "")  # of MPI
        for name in NAMES:
            assert not re.search(rf"\b{name}\b", code), f"{path.name} names {name}"


def _modules() -> dict[str, Path]:
    found = {}
    for package in ("meshkernels", "perfmodel"):
        for path in ROOT.glob(f"{package}/**/*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imported(path: Path, known: dict[str, Path], inner: bool) -> set[str]:
    """Modules of ours that a module imports, with ``inner`` also those that its functions import when called."""
    found, todo = set(), [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef) and not inner:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {full if (full := f"{node.module}.{name.name}") in known else node.module for name in node.names}
        todo += ast.iter_child_nodes(node)
    return found & set(known)


#: From the bottom up: a module imports from its own line or from lines above.
LAYERS = (
    ("perfmodel",),
    ("meshkernels.errors", "meshkernels.kept"), ("meshkernels.mesh", "meshkernels.rings"), ("meshkernels.arguments",),
    ("meshkernels.schedules",), ("meshkernels.algorithms", "meshkernels.kernels"), ("meshkernels.placed",),
    ("meshkernels.readers", "meshkernels.engines"), ("meshkernels.dispatch",),
    ("meshkernels.api", "meshkernels.draw", "meshkernels.fabric"),
    ("meshkernels.files",), ("meshkernels.llm",),
    ("meshkernels.demo", "meshkernels.examples", "meshkernels.__main__"),
)  # fmt: skip
#: Methods that users expect on an object and that its readers carry out: a mesh that is given a communicator, a
#: schedule asked for its proof or its text, a model for several texts.
METHODS = {("meshkernels.mesh", "meshkernels.engines.distribution"),
           ("meshkernels.llm.model", "meshkernels.llm.batch"),
           ("meshkernels.schedules.steps", "meshkernels.schedules.text"),
           ("meshkernels.schedules.steps", "meshkernels.schedules.verify")}  # fmt: skip
#: Scripts for users, who import the whole.
SCRIPTS = ("demo", "draw", "examples", "__main__")


def _layer(module: str) -> int:
    fits = [i for i, names in enumerate(LAYERS) for name in names if f"{module}.".startswith(f"{name}.")]
    assert fits, f"{module} belongs to no layer"
    return fits[0]


def test_nothing_imports_upwards():
    modules = _modules()
    for name, path in modules.items():
        if name in ("meshkernels", "meshkernels.llm", "perfmodel"):  # these gather what users call
            continue
        others = _imported(path, modules, inner=True) - {name}
        whole = {"meshkernels"} if name.split(".")[1] in SCRIPTS or name.endswith((".cli", ".demo")) else set()
        higher = {other for other in others - whole
                  if other == "meshkernels" or (_layer(other) > _layer(name) and (name, other) not in METHODS)}
        assert not higher, f"{name} imports upwards: {', '.join(sorted(higher))}"


def test_modules_do_not_need_each_other():
    """No circle, what functions import when they are called included."""
    modules = _modules()
    gathering = {"meshkernels", "perfmodel"}
    left = {name: {other for other in _imported(path, modules, inner=True) - {name} - gathering
                   if (name, other) not in METHODS} for name, path in modules.items()}
    while leaves := {name for name, others in left.items() if not others & set(left)}:
        left = {name: others for name, others in left.items() if name not in leaves}
    assert not left, f"a circle among {', '.join(sorted(left))}"


def test_import_compiles_nothing():
    """Importing the library neither compiles nor even loads a compiled kernel."""
    script = "import meshkernels, numba; from numba.core import event; import sys; " \
             "from numba.core.dispatcher import Dispatcher; import gc; " \
             "print(sum(len(d.overloads) for d in gc.get_objects() if isinstance(d, Dispatcher) " \
             "and d.py_func.__module__.startswith('meshkernels')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "0"


def test_without_the_extra_llm_the_rest_works(tmp_path):
    """The commands that need it say how to install it; the others do not notice."""
    for package in ("gguf", "tokenizers", "jinja2", "jax", "mpi4py"):
        (tmp_path / f"{package}.py").write_text(f'raise ImportError("No module named {package}")')
    here = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}

    def run(*words):
        return subprocess.run([sys.executable, "-m", "meshkernels", *words], capture_output=True, text=True, env=here)

    for words in (["demo"], ["generate", "abc"]):
        done = run(*words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "pip install 'meshkernels[llm]'" in done.stderr
    done = run("examples", "capacity")
    assert done.returncode == 0 and "tokens" in done.stdout, done.stderr
