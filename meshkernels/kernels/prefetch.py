"""How far ahead of what it reads a kernel prefetches: measured once on this CPU, and kept beside its compiled code.

What is asked for too late is waited for, and what is asked for too early has left the cache when its turn comes. No
size that a CPU reports tells where the best distance lies: of GEMV with 4-bit weights it is 24 KiB on a Zen 5, and 2 to
8 KiB on an Emerald Rapids, which has as large an L1; there 24 KiB cost 8 to 15 % of a token. Where main memory is slow,
lines that are asked for into L1 occupy its few fill buffers for long: there it pays to ask for them into L2 before. So
every candidate reads as much memory in turn, and the fastest one is taken. Results are the same for all of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from llvmlite import binding

from meshkernels.kernels import host


class Distances(NamedTuple):
    """Bytes from what is read to what is prefetched.

    Attributes:
        near: into L1.
        far: into L2; 0: what is being read, and so is there.
    """

    near: int
    far: int


CANDIDATES = tuple(Distances(near << 10, far << 10) for near, far in (
    (2, 0), (4, 0), (8, 0), (16, 0), (24, 0), (48, 0), (1, 6), (2, 6), (2, 16)))
#: Times that each is measured; the shortest counts: what else runs on the machine only adds to it.
ROUNDS = 5
#: Threads that measured at the same time would disturb each other.
_measuring = Lock()


def distances(kind: str, folder: Path | None, read: Callable[[Distances], object]) -> Distances:
    """The best distances, from the file of an earlier measurement or by a new one, which takes some tenths of a second.

    Args:
        kind: what is read, a part of the name under which the result is kept.
        folder: where it is kept; None: nowhere.
        read: reads what no cache holds, prefetching so far ahead.

    Returns:
        One of `CANDIDATES`.
    """
    key = f"{binding.get_host_cpu_name()} {host.caches()} {host.simd()} {kind}"
    with _measuring:
        known = _known(folder)
        if key not in known:
            found = fastest(read)
            known = _known(folder) | {key: found}
            if folder is not None:
                _keep(folder, known)
    return known[key]


def fastest(read: Callable[[Distances], object], candidates: Sequence[Distances] = CANDIDATES,
            rounds: int = ROUNDS) -> Distances:  # fmt: skip
    """The candidate whose fastest call was fastest; they are called in turn, after a call that counts for none."""
    seconds = dict.fromkeys(candidates, float("inf"))
    read(candidates[0])
    for _ in range(rounds):
        for each in candidates:
            begin = time.perf_counter()
            read(each)
            seconds[each] = min(seconds[each], time.perf_counter() - begin)
    return min(candidates, key=seconds.__getitem__)


def _file(folder: Path) -> Path:
    return folder / "prefetch.json"


def _known(folder: Path | None) -> dict[str, Distances]:
    """What is kept, but for what is no result of ours."""
    if folder is None:
        return {}
    try:
        found = json.loads(_file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or cut short
        return {}
    kept = found.items() if isinstance(found, dict) else ()
    return {key: Distances(*each) for key, each in kept if isinstance(each, list) and tuple(each) in CANDIDATES}


def _keep(folder: Path, known: dict[str, Distances]) -> None:
    """Replace the file as a whole: a process that reads it meanwhile finds the old one or the new one."""
    mine = _file(folder).with_suffix(f".{os.getpid()}")
    with suppress(OSError):  # no room, or not permitted: the next process measures again
        try:
            mine.write_text(json.dumps(known, indent=1), encoding="utf-8")
            mine.replace(_file(folder))
        finally:
            mine.unlink(missing_ok=True)
