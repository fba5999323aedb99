"""Chat templates: genuine ones render as Hugging Face renders them, hostile ones end in one line and soon."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from datetime import datetime
from pathlib import Path

import pytest

from meshkernels.files import chat
from meshkernels.files.checkpoint import WeightsError

ROOT = Path(__file__).resolve().parents[2]
TURNS = [{"role": "user", "content": "Hello, how are you?"},
         {"role": "assistant", "content": "I'm doing great. How can I help you today?"},
         {"role": "user", "content": " I'd like to show off how chat templating works! "}]
SYSTEM = {"role": "system", "content": "Be brief."}

# Templates as their models publish them, and what the documentation of the model says that they give.
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}")
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
    "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}"
    "\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}")
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
    "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ "
    "raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + "
    "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")
LLAMA31 = """{{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim }}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
A, B, C = (turn["content"] for turn in TURNS)
RENDERED = {
    "chatml": (CHATML, [SYSTEM, *TURNS], "<|im_start|>system\nBe brief.<|im_end|>\n"
               f"<|im_start|>user\n{A}<|im_end|>\n<|im_start|>assistant\n{B}<|im_end|>\n"
               f"<|im_start|>user\n{C}<|im_end|>\n<|im_start|>assistant\n"),
    "llama3": (LLAMA3, [SYSTEM, *TURNS], "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
               f"<|start_header_id|>user<|end_header_id|>\n\n{A}<|eot_id|>"
               f"<|start_header_id|>assistant<|end_header_id|>\n\n{B}<|eot_id|>"
               f"<|start_header_id|>user<|end_header_id|>\n\n{C.strip()}<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "mistral": (MISTRAL, TURNS, f"<s>[INST] {A} [/INST]{B}</s>[INST] {C} [/INST]"),
    "zephyr": (ZEPHYR, [SYSTEM, *TURNS[:1]], f"<|system|>\nBe brief.</s>\n<|user|>\n{A}</s>\n<|assistant|>\n"),
    "llama2": (LLAMA2, [SYSTEM, *TURNS], f"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{A} [/INST] {B} </s>"
               f"<s>[INST] {C.strip()} [/INST]"),
    "llama31": (LLAMA31, [SYSTEM, {"role": "assistant", "tool_calls": [{"function": {
        "name": "find", "arguments": {"what": "<é & 'ü'>", "n": [1, None]}}}]}],
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: DATE\n\nBe brief.<|eot_id|>"
        '{"name": "find", "parameters": {"what": "<é & \'ü\'>", "n": [1, null]}}<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n"),
}


def render(template: str, messages: object = (), **variables: object) -> str:
    """As Hugging Face calls a template, which names the tools even where there are none."""
    given = {"messages": list(messages), "add_generation_prompt": True, "tools": None, "documents": None,
             "bos_token": "<s>", "eos_token": "</s>", **variables}
    return chat.render(template, given, "m.gguf")


@pytest.mark.parametrize("name", RENDERED)
def test_genuine_templates(name):
    template, messages, expected = RENDERED[name]
    today = datetime.now()
    if name == "llama31":  # it finds that tools are defined, as None
        expected = expected.replace("DATE", today.strftime("%d %b %Y"))
    assert render(template, messages) == expected


@pytest.mark.parametrize("template, expected", [
    ("{% for i in [1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}"
     "{% endfor %}", "13"),
    ("  {% if true %}\n  x\n  {% endif %}\ny\n", "  x\ny"),  # trim_blocks, lstrip_blocks, the last line's end
    ("{{ x | tojson }}{{ {'b': '<', 'a': 1} | tojson(sort_keys=true, indent=1) }}", '"<é>"{\n "a": 1,\n "b": "<"\n}'),
    ("{% generation %}{{ x }}{% endgeneration %}!", "<é>!"),
    ("{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
    ("{{ strftime_now('%Y') | length }}", "4"),
    ("{{ nobody }}{{ x.nothing }}{% if nobody is defined %}!{% endif %}", ""),
    ("{{ '🦙' }}", "🦙"),
])
def test_what_hugging_face_offers(template, expected):
    assert render(template, x="<é>") == expected


#: template, what the message says after "the chat template (tokenizer.chat_template) "
HOSTILE = [
    ("a\n\n{% if %}", "fails in line 3: TemplateSyntaxError: .*Expected an expression"),
    ("a\n{{ messages[0].x.y }}", r"fails in line 2: UndefinedError: "),
    ("{{ raise_exception('\x1b[31mroles must\nalternate') }}",
     r"fails in line 1: TemplateError: '\\x1b\[31mroles must\\nalternate'"),
    ("{{ raise_exception('a' * 100000) }}", r"fails in line 1: TemplateError: 'a{50,}\.\.\.a{50,}'"),
    ("{{ ''.__class__.__mro__ }}", "fails in line 1: SecurityError: "),
    ("{{ raise_exception.__globals__.sys }}", "fails in line 1: SecurityError: "),
    ("{{ messages.append(1) }}", "fails in line 1: SecurityError: "),
    ("{{ 1 / 0 }}", "fails in line 1: ZeroDivisionError: 'division by zero'"),
    ("{{ 'a' + 1 }}", "fails in line 1: TypeError: "),
    ("{{ 'a' | nofilter }}", "fails in line 1: TemplateAssertionError: "),
    ("{% include '/etc/passwd' %}", "fails in line 1: TypeError: "),
    ("{% break %}", "fails: SyntaxError: "),
    ("{{ '\\ud800' }}", "fails: UnicodeEncodeError: "),
    ("{{ nobody | tojson }}", "fails in line 1: TypeError: "),
    ("{{ strftime_now(1) }}", "fails in line 1: TypeError: "),
    ("{{ 10 ** 5000 }}", "fails"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails in line 1: RecursionError: "),
    ("{{ " + "(" * 100_000 + ")" * 100_000 + " }}", "fails: RecursionError: "),
    ("{{ " + "not " * 50_000 + "1 }}", "fails: RecursionError: "),
    ("{% if 1 %}" * 5000 + "{% endif %}" * 5000, "fails: RecursionError: "),
    ("{{ range(10 ** 9) }}", "fails in line 1: OverflowError: "),
    ("{{ 'a' | center(3000000000) }}", "needs more than 512 MiB of memory"),
    ("{{ 'a' * 10 ** 10 }}", "needs more than 512 MiB of memory"),
    ("{{ [1] * 10 ** 10 }}", "needs more than 512 MiB of memory"),
    ("{{ '%999999999d' % 1 }}", "needs more than 512 MiB of memory"),
    ("{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}", "writes more than 4194304 characters"),
    ("{{ 'a' * 5000000 }}", "writes more than 4194304 characters"),
    ("x" * (1 << 20) + "x", "has 1048577 characters, the limit is 1048576"),
]
ENDLESS = ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ lipsum(n=100000) }}",
           "{{ 7 ** (9 ** 9) }}", "{{ " + "1+" * 200_000 + "1 }}"]


def _refusal(template: str) -> str:
    with pytest.raises(WeightsError) as refusal:
        render(template)
    message = str(refusal.value)
    assert message.startswith("m.gguf: the chat template (tokenizer.chat_template) ") and message.isprintable()
    return message.split(") ", 1)[1]


@pytest.mark.parametrize("template, message", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_templates_are_one_line(template, message):
    if message.startswith("needs more") and sys.platform != "linux":
        pytest.skip("only Linux limits a process's memory")
    assert re.match(message, _refusal(template))


@pytest.mark.parametrize("template", ENDLESS, ids=range(len(ENDLESS)))
def test_endless_templates_are_ended(template, monkeypatch):
    monkeypatch.setattr(chat, "CPU_SECONDS", 1)
    assert _refusal(template).startswith("computes for more than 1 s")


def test_the_clock_ends_what_the_processor_time_does_not(monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.5)
    assert _refusal(ENDLESS[0]).startswith("was not rendered after 0.5 s")


@pytest.mark.parametrize("program, message", [
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended the process that renders it by SIGKILL"),
    ("raise SystemExit(3)", "ended the process that renders it with code 3"),
    ("raise MemoryError", "needs more than"),
    ("print('{')", "was answered with "),
])
def test_a_child_that_dies_is_one_line(program, message, monkeypatch):
    monkeypatch.setattr(chat, "_program", lambda: program)
    assert _refusal("a").startswith(message)


def test_no_interpreter(monkeypatch):
    monkeypatch.setattr(chat.sys, "executable", None)
    assert _refusal("a").startswith("cannot be rendered: Python does not start")


def _children(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the child in /proc")
def test_ctrl_c_leaves_no_child_behind():
    script = f"from meshkernels.files import chat; chat.render({ENDLESS[0]!r}, {{}})"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 60
        while not (children := _children(process.pid)) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
        assert children and not any(Path(f"/proc/{child}").exists() for child in children)
    finally:
        process.kill()


@pytest.mark.parametrize("flags", [(), ("-I", "-S")])
def test_out_of_an_archive_and_without_site_packages(tmp_path, flags):
    """The child finds its program and Jinja where the parent has them, whatever way that is."""
    import jinja2
    import markupsafe

    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        for name in ("errors", "files/chat", "files/chat_child"):
            archive.write(ROOT / "meshkernels" / f"{name}.py", f"meshkernels/{name}.py")
        for package in ("meshkernels", "meshkernels/files"):
            archive.writestr(f"{package}/__init__.py", "")
    paths = {str(Path(module.__file__).parents[1]) for module in (jinja2, markupsafe)}
    script = (f"import sys; sys.path[:0] = [{str(tmp_path / 'lib.zip')!r}, *{sorted(paths)!r}]; "
              "from meshkernels.files import chat; assert 'lib.zip' in chat.__file__; "
              "print(chat.render('{{ a }}', {'a': 'b'}))")
    done = subprocess.run([sys.executable, *flags, "-c", script], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": ""}, timeout=60)
    assert (done.stdout, done.stderr) == ("b\n", "")
