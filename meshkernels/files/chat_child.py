"""The program in whose process one chat template is rendered; `meshkernels.files.chat` starts it and sets its limits.

It stands alone, because it is run as ``python -I -S -c <this text> <CPU seconds> <bytes of memory>``: one JSON
object comes in on stdin (``path``, ``template``, ``variables``, ``characters``), one goes out on stdout, with
``text``, or with ``error``, ``message`` and ``line``.

The environment is that of Hugging Face's ``apply_chat_template``, for which genuine templates are written.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any


def limit(cpu_seconds: int, memory_bytes: int) -> None:
    """Bind this process, as far as its system can."""
    try:
        import resource
    except ImportError:  # Windows: only the parent's clock binds
        return
    bounds = {resource.RLIMIT_CPU: (cpu_seconds, cpu_seconds + 1), resource.RLIMIT_AS: (memory_bytes, memory_bytes),
              resource.RLIMIT_CORE: (0, 0)}
    for which, (soft, hard) in bounds.items():
        allowed = resource.getrlimit(which)[1]
        if allowed != resource.RLIM_INFINITY:
            soft, hard = min(soft, allowed), min(hard, allowed)
        with suppress(OSError, ValueError):  # macOS knows RLIMIT_AS but sets none
            resource.setrlimit(which, (soft, hard))


def environment() -> Any:
    """Jinja as the authors of chat templates expect it, without a way out of it."""
    from jinja2 import nodes, pass_eval_context
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what the model said, for training; here it is only its body."""

        tags = {"generation"}  # noqa: RUF012  (as Extension declares it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        @pass_eval_context
        def _body(self, _context: Any, caller: Any) -> Any:
            return caller()

    def raise_exception(message: Any) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
               sort_keys: bool = False) -> str:  # Jinja's own escapes HTML
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    jinja.filters["tojson"] = tojson
    jinja.globals["raise_exception"] = raise_exception
    jinja.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return jinja


def answer(request: dict[str, Any]) -> bytes:
    """The rendered text, as JSON."""
    pieces, room = [], request["characters"]
    for piece in environment().from_string(request["template"]).generate(request["variables"]):
        room -= len(piece)
        if room < 0:
            return json.dumps({"error": "OutputLimit", "message": "", "line": None}).encode()
        pieces.append(piece)
    return json.dumps({"text": "".join(pieces)}, ensure_ascii=False).encode()  # no lone surrogate passes


def refusal(error: BaseException) -> bytes:
    """What went wrong, and where in the template, as JSON."""
    line, frame = getattr(error, "lineno", None), error.__traceback__
    message = str(getattr(error, "message", None) or error)
    if isinstance(error, SyntaxError):  # in the Python that Jinja makes of the template, whose lines are others
        line, message = None, error.msg
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return json.dumps({"error": type(error).__name__, "message": message[:1000], "line": line}).encode()


def main() -> None:
    """Render what stdin asks for; whatever a template does is an answer, or this process's death."""
    try:
        limit(*map(int, sys.argv[1:]))
        request = json.load(sys.stdin.buffer)
        sys.path += request["path"]
        out = answer(request)
    except Exception as error:
        out = refusal(error)
    sys.stdout.buffer.write(out)


if __name__ == "__main__":
    main()
