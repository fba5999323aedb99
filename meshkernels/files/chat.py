"""Chat templates: a program that comes in a model file, rendered where it can do no harm.

    template, messages --JSON--> child process (sandbox, limits) --JSON--> text

Jinja's sandbox keeps a template from the machine, but not from its time and memory: ``'a'|center(3000000000)`` is
one call that no hook interrupts. So each rendering is a process of its own, with limits that the system enforces.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from meshkernels.errors import WeightsError, shown

#: CPU seconds of one rendering, start of Python included. A genuine one takes 0.2 s.
CPU_SECONDS = 5
#: Seconds on the clock, for what waits instead of computing: long enough for a machine that is busy or swaps.
SECONDS = 30
#: Address space of the child in bytes. Python and Jinja take 40 MiB of it.
MEMORY_BYTES = 512 << 20
#: Characters that a rendering may have: a text of a million tokens.
CHARACTERS = 4 << 20
#: Characters that a template may have: the longest genuine ones have some 20,000.
TEMPLATE_CHARACTERS = 1 << 20


def render(template: str, variables: Mapping[str, Any], file: str = "the model file") -> str:
    """The text that a template makes of its variables.

    Args:
        template: Jinja source, as ``tokenizer.chat_template`` holds it.
        variables: what it may use; anything that JSON can say.
        file: whose template it is, for the messages.

    Returns:
        The text.

    Raises:
        WeightsError: if it is no template, fails, refuses the variables, or passes a limit of this module.
    """
    def refused(why: str) -> str:
        return (f"{file}: the chat template (tokenizer.chat_template) {why}; a prompt written out in the model's "
                "format needs none")

    if len(template) > TEMPLATE_CHARACTERS:
        raise WeightsError(refused(f"has {len(template)} characters, the limit is {TEMPLATE_CHARACTERS}"))
    request = {"path": _jinja_path(), "template": template, "variables": dict(variables), "characters": CHARACTERS}
    command = [sys.executable or "", "-I", "-S", "-B", "-c", _program(), str(CPU_SECONDS), str(MEMORY_BYTES)]
    try:
        done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise WeightsError(refused(f"was not rendered after {SECONDS} s")) from None
    except OSError as error:
        raise WeightsError(refused(f"cannot be rendered: Python does not start ({error})")) from error
    if done.returncode:
        raise WeightsError(refused(_death(done.returncode, done.stderr)))
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise WeightsError(refused(f"was answered with {shown(done.stdout)}, which is no JSON")) from None
    if "text" in answer:
        return answer["text"]
    raise WeightsError(refused(_failure(**answer)))


def _failure(error: str, message: str, line: int | None) -> str:
    if error == "OutputLimit":
        return f"writes more than {CHARACTERS} characters"
    if error == "MemoryError":
        return f"needs more than {MEMORY_BYTES >> 20} MiB of memory"
    where = "" if line is None else f" in line {line}"
    return f"fails{where}: {error}: {shown(message)}"


def _death(code: int, stderr: bytes) -> str:
    if -code == getattr(signal, "SIGXCPU", None):
        return f"computes for more than {CPU_SECONDS} s"
    last = (stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    if last.startswith("MemoryError"):
        return _failure("MemoryError", "", None)
    try:
        how = f"by {signal.Signals(-code).name}"
    except ValueError:
        how = f"with code {code}"
    return f"ended the process that renders it {how} ({shown(last)})"


@cache
def _program() -> str:
    return importlib.resources.files("meshkernels.files").joinpath("chat_child.py").read_text(encoding="utf-8")


@cache
def _jinja_path() -> list[str]:
    """Folders of Jinja and what it needs: the child, which starts without site packages, looks nowhere else."""
    found = (importlib.util.find_spec(name) for name in ("jinja2", "markupsafe"))
    return sorted({str(Path(spec.origin).parent.parent) for spec in found if spec is not None and spec.origin})
