"""Kernels are compiled and run, whatever becomes of the folders in which compiled code is kept."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from numba.core.bytecode import FunctionIdentity

from meshkernels.kernels.compiled import compiled

ROOT = Path(__file__).parents[2]
PRODUCT = ("import numpy as np, meshkernels as mk; W = np.eye(3, dtype='f4')\n"
           "print(mk.gemv(W[1], W, mk.Mesh(2)).tolist())")  # fmt: skip


@pytest.fixture
def package(tmp_path):
    """A copy of the package in a folder of its own."""
    shutil.copytree(ROOT / "meshkernels", tmp_path / "meshkernels", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "meshkernels"


def run(package, script, **variables):
    paths = os.pathsep.join([str(package.parent), str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    done = subprocess.run([sys.executable, "-c", script], env=environment | {"PYTHONPATH": paths} | variables,
                          cwd=package.parent, capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_no_folder_can_be_written(package):
    """Neither the package's nor the user's; also for an administrator, who may write where permissions forbid it."""
    for folder in (package, *(path for path in package.iterdir() if path.is_dir())):
        (folder / "__pycache__").write_text("a file, not a folder")
    script = "import meshkernels, meshkernels.kernels.team; print(meshkernels.__file__)"
    out, errors = run(package, script, HOME="/dev/null")
    assert (out, errors) == ([str(package / "__init__.py")], []), "nothing is said until something is compiled"
    out, errors = run(package, PRODUCT, HOME="/dev/null")
    assert out == ["[0.0, 1.0, 0.0]"]
    assert len(errors) == 1 and "in every process: no folder" in errors[0] and "NUMBA_CACHE_DIR" in errors[0]


def test_a_full_disk_and_damaged_files(package, tmp_path):
    full = "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    out, errors = run(package, full + PRODUCT, **cache)
    assert out == ["[0.0, 1.0, 0.0]"]
    assert len(errors) == 2 and str(tmp_path / "cache") in errors[1] and "File too large" in errors[1]

    assert len(run(package, PRODUCT, **cache)[1]) == 1  # compiles, and keeps it
    assert run(package, PRODUCT, **cache) == (["[0.0, 1.0, 0.0]"], [])
    for damage in (b"", b"\x80\x04 no pickle"):
        kept = [path for kind in ("nbi", "nbc") for path in (tmp_path / "cache").rglob(f"*.{kind}")]
        assert kept
        for path in kept:
            path.write_bytes(damage)
        out, errors = run(package, PRODUCT, **cache)
        assert out == ["[0.0, 1.0, 0.0]"] and len(errors) == 1
        assert run(package, PRODUCT, **cache)[1] == [], "what was damaged is replaced"


def test_edits_of_intrinsics_are_noticed(package, tmp_path):
    """Numba looks at the file of a kernel only; what it calls is in others, and part of its code."""
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    script = ("import numpy as np; from meshkernels.kernels.attention import square_sums\n"
              "out = np.zeros((1, 1), 'f4'); square_sums(0, 1, np.full((1, 2), 3, 'f4'), 2, False, out)\n"
              "print(out.tolist())")  # fmt: skip
    assert run(package, script, **cache)[0] == ["[[18.0]]"]
    assert run(package, script, **cache) == (["[[18.0]]"], [])
    source = package / "kernels" / "intrinsics.py"
    call = "lambda context, builder, signature, args: fused(builder, *args)"
    assert call in source.read_text()
    source.write_text(source.read_text().replace(call, call.replace("*args", "args[0], args[1], args[0]")))
    out, errors = run(package, script, **cache)
    assert out == ["[[12.0]]"] and len(errors) == 1, "3 * 3 + 3"


def test_an_interrupt_leaves_the_compilers_lock_free(tmp_path):
    """Ctrl-C while the main thread takes the lock: every other thread that compiles would wait for ever."""
    script = tmp_path / "interrupted.py"
    script.write_text(dedent("""
        import signal, threading
        from numba.core import event
        from numba.core.compiler_lock import global_compiler_lock
        from meshkernels.kernels.compiled import compiled

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it

        class CtrlC(event.Listener):
            def on_start(self, event):
                if self.seen < 1:
                    self.seen += 1
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            def on_end(self, event):
                pass

        @compiled
        def double(x):
            return x + x

        listener = CtrlC()
        listener.seen = 0
        event.register("numba:compiler_lock", listener)
        try:
            double(1)
        except KeyboardInterrupt:
            print("interrupted")
        free = []
        def look():
            free.append(global_compiler_lock._lock.acquire(timeout=30))
        other = threading.Thread(target=look)
        other.start(), other.join()
        print(free, double(2))
    """))
    done = subprocess.run([sys.executable, script], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert done.stdout.splitlines() == ["interrupted", "[True] 4"], done.stderr


def test_processes_that_compile_at_the_same_time_do_not_mix_up_their_kernels(tmp_path):
    """One writes its code between the other's reading of the index and its writing: neither gets the other's."""
    (tmp_path / "made.py").write_text(dedent("""
        from meshkernels.kernels.compiled import compiled
        def plus(n):
            @compiled
            def add(x):
                return x + n
            return add
    """))
    race = dedent("""
        from made import plus
        one, two = plus(1), plus(2)
        files = [each._cache._cache_file for each in (one, two)]
        write, read, before = files[0]._save_data, files[1]._load_index, files[1]._load_index()
        def meanwhile(*arguments):
            files[1]._load_index = lambda: dict(before)  # as if read before the other's was written
            two(0)
            files[1]._load_index = read
            write(*arguments)
        files[0]._save_data = meanwhile
        print(one(0), two(0))
    """)
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for script in race, "from made import plus; print(plus(1)(0), plus(2)(0))":
        done = subprocess.run([sys.executable, "-c", script], env=os.environ | paths, capture_output=True, text=True,
                              timeout=300, check=True)  # fmt: skip
        assert done.stdout.split() == ["1", "2"]


def test_kernels_that_one_function_makes_have_symbols_of_their_own(monkeypatch):
    """Numba tells them apart by a number that each process counts up: two in the cache may have the same."""
    def symbol(step):
        @compiled
        def kernel(x):
            return x + step

        monkeypatch.setattr(FunctionIdentity, "_unique_ids", itertools.count(10**6))
        assert kernel(2) == 2 + step
        (code,) = kernel.overloads.values()
        return code.fndesc.mangled_name

    assert symbol(1) != symbol(100)
