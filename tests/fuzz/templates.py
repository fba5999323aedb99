# ruff: noqa: E501  (the templates are what they are)
"""Chat templates: genuine ones give their text; those that take time or memory, reach out, or fail are refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from tests.fuzz import child, generate, judge, ready
from tests.fuzz.gguf_fields import put
from tests.fuzz.gguf_writer import tiny_file, vocabulary

QUICK = 28

#: Of published models, shortened, with the text that they give for one message "hi" of the user.
GENUINE = [
    ("chatml", "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
     "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
     "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
    ("system", "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ 'S: you help\n' }}"
     "{% endif %}{{ message.role ~ ': ' ~ message.content | trim }}{% endfor %}", "S: you help\nuser: hi"),
    ("mistral", "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
     "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
     "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}"
     "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}", "<|end|>[INST] hi [/INST]"),
    ("llama3", "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start|>' + message['role']"
     " + '\n\n'+ message['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
     "{% endif %}{{ content }}{% endfor %}", "<|end|><|start|>user\n\nhi<|eot|>"),
    ("namespace", "{%- set ns = namespace(found=false) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
     "{%- set ns.found = true -%}{%- endif -%}{%- endfor -%}{{ ns.found }} {{ messages | length }}", "True 1"),
    ("json", "{{ messages[0] | tojson }}", '{"role": "user", "content": "hi"}'),
    ("tools", "{% if tools is defined and tools %}T{% endif %}{% if not tools %}none {% endif %}{{ messages[-1]['content'] }}",
     "none hi"),
    ("macro", "{% macro say(m) %}{{ m.role }}={{ m.content }}{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
     "user=hi"),
    ("slices", "{{ messages[0:1][0]['content'].split('i')[0] }}{{ messages[0].content[::-1] }}{{ 'x' * 3 }}", "hihxxx"),
    ("loop controls", "{% for m in messages * 3 %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}", "hihi"),
]  # fmt: skip
#: Endless, huge, reaching out, or failing: all must be refused.
HOSTILE = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
    "{{ lipsum(n=100000) }}", "{{ 'a' | center(3000000000) }}", "{{ 'a'.center(3000000000) }}", "{{ 'a' * 3000000000 }}",
    "{{ 'a'.ljust(2000000000) ~ 'b' }}", "{{ [0] * 2000000000 }}", "{{ (1,) * 2000000000 }}", "{{ '%2000000000d' | format(1) }}",
    "{{ '%.2000000000f' % 1 }}", "{{ '{:2000000000}'.format(1) }}", "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ 9 ** 9 ** 9 }}", "{{ 10 ** 100000000 % 7 }}", "{{ 2 ** 40000000 }}", "{{ 1 << 10000000000 }}",
    "{% set ns = namespace(a='aaaaaaaa') %}{% for _ in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace(a=[0]) %}{% for _ in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}{{ ns.a | length }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "{{ range(99999) | map('string') | join | wordwrap(1) }}",
    "{{ ('a ' * 100000) | urlize }}{{ ('<a' * 10000000) | striptags }}", "{{ messages | batch(3000000000, 'x') | list }}",
    "{{ 'a' | indent(2000000000) }}{{ 'a\nb' | indent(2000000000) }}", "{{ range(99999) | slice(99999) | list }}",
    "{% for a in range(99999) %}{{ range(99999) | list | sort | length }}{% endfor %}", "{{ 'a' | replace('', 'b' * 99999999) }}",
    "{{ ().__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}", "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}", "{{ self.__init__.__globals__ }}", "{{ lipsum.__globals__['os'] }}",
    "{{ messages.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ strftime_now.__globals__ }}",
    "{{ messages | attr('__class__') }}",
    "{{ namespace.__init__ }}", "{{ joiner.__init__.__globals__ }}", "{% include '/etc/passwd' %}",
    "{% extends 'x' %}", "{% from 'x' import y %}", "{% import 'os' as os %}", "{{ messages.append(1) }}",
    "{{ messages[0].update({}) }}", "{{ raise_exception('no') }}", "{{ raise_exception('two\nlines \x1b[2J') }}",
    "{{ raise_exception() }}", "{{ raise_exception(1, 2) }}", "{{ raise_exception('x' * 90000) }}", "{{ nothing.of.it }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}",
    "{{ messages[7].role }}", "{{ 'a' + 1 }}", "{{ none() }}", "{{ messages | nofilter }}",
    "{{ messages is notest }}", "{% if %}", "{{", "{% for %}", "{% endfor %}", "{{ 'a", "{% unknown %}", "{{ '\\ud800' }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "{% if 1 %}" * 300 + "{% endif %}" * 300, "{{ " + "-" * 20000 + "1 }}",
    "{{ " + "+".join(["1"] * 20000) + " }}", "{{ '" + "a" * 200000 + "' }}", "a" * 3000000, "", "{{ '' }}", "{# only this #}",
    "{{ '9' * 100000 | int }}",
    "{{ messages | tojson(indent=1000000000) }}", "{{ [[]] | sum(start=[]) | random }}",
    "{% call messages() %}{% endcall %}", "{{ strftime_now('%Y' * 1000000) }}", "{{ strftime_now(1) }}", "{{ strftime_now('\\x00') }}",
]  # fmt: skip
#: Neither is a fault of the file: some of these give text, some do not.
EITHER = ["{{ ('9' * 100000) | int }}", "{{ messages | first | list | map('upper') | map('int', base=99) | list }}",
          "{{ messages | map(attribute='__class__') | list }}", "{{ messages | sort(attribute='zzz') }}",
          "{{ messages | groupby('x') }}", "{{ strftime_now('%Y-%m-%d') }}", "{{ '%c' | format(0) }}", "{{ range(50) | join }}", "{{ dict(a=1) | urlencode }}",
          "{% generation %}{{ 1 }}{% endgeneration %}", "{{ messages | pprint }}", "{{ cycler('a', 'b').next() }}",
          "{% set x %}abc{% endset %}{{ x }}", "{% filter upper %}abc{% endfilter %}", "{% raw %}{{ }}{% endraw %}",
          "{{ 10000000000 | filesizeformat }}", "{% autoescape true %}{{ '<' }}{% endautoescape %}", "{% do 1 %}a", "{{ 'é\x00\x07' }}",
          "{% trans %}a{% endtrans %}", "{% debug %}", "{{ caller }}a", "{{ loop }}a", "{{ self }}", "{{ messages }}"]  # fmt: skip
VALUES = ("messages", "messages[0].content", "'a'", "''", "0", "-1", "3000000000", "2 ** 64", "1e308", "none", "true", "[]", "{}",
          "range(99999)", "nothing", "bos_token", "lipsum", "cycler", "self", "'a' * 1000000", "(1, 2)", "'%s' * 1000")  # fmt: skip
FILTERS = ["abs", "attr", "batch", "capitalize", "center", "default", "dictsort", "escape", "filesizeformat", "first", "float", "forceescape", "format", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "pprint", "random", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "slice", "sort", "string", "striptags", "sum", "title", "tojson", "trim", "truncate", "unique", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"]
METHODS = ("split", "join", "replace", "format", "center", "zfill", "expandtabs", "encode", "items", "count", "translate",
           "format_map", "rjust", "bit_length", "to_bytes", "hex")  # fmt: skip


def invented(random: np.random.Generator) -> str:
    """Filters and methods of extreme values, in loops."""

    def value() -> str:
        return VALUES[random.integers(len(VALUES))]

    def call(name: str) -> str:
        return f"{name}({', '.join(value() for _ in range(random.integers(4)))})"

    text = value()
    for _ in range(random.integers(1, 5)):
        if random.random() < 0.6:
            text = f"({text} | {call(FILTERS[random.integers(len(FILTERS))])})"
        elif random.random() < 0.5:
            text = f"({text}).{call(METHODS[random.integers(len(METHODS))])}"
        else:
            text = f"({text} {('+', '-', '*', '**', '//', '%', '~', 'in', '<')[random.integers(9)]} {value()})"
    text = "{{ " + text + " }}"
    for _ in range(random.integers(3)):
        text = "{% for x in " + value() + " %}" + text + "{% endfor %}"
    return text


def case(number: int, random: np.random.Generator):
    first = [("genuine", text, answer) for _, text, answer in GENUINE] + [("hostile", text, None) for text in HOSTILE] + [
        ("either", text, None) for text in EITHER]  # fmt: skip
    if number < len(first):
        kind, text, answer = first[np.random.default_rng(1).permutation(len(first))[number]]
    else:
        kind, text, answer = "either", invented(random), None
    return f"{kind} {text!r:.150}", _check(f"template-{number}", kind, text, answer)


def _check(name: str, kind: str, text: str, answer: str | None) -> Callable[[], str]:
    def check() -> str:
        path, file = ready.folder() / f"{name}.gguf", tiny_file()
        put("tokenizer.chat_template", "str", text.encode("utf-8", "surrogatepass"))(file)
        path.write_bytes(file.encoded()[0])
        try:
            outcome = child.command("meshkernels", generate.arguments(path, "--chat", prompt="hi"), memory=2 << 30)
            own = kind == "hostile" and b"the prompt " not in outcome.err  # which may be empty, or too long, with any file
            end = judge.verdict(outcome, (path.name,) if own else ())
            judge.require(outcome.peak < 1 << 30, f"{outcome.peak >> 20} MB resident")
            judge.require(kind != "hostile" or end == "refused", f"accepted: {outcome.out[:200]!r}")
            if answer is not None and end == "refused" and len(answer) > 74:
                return end  # the tiny model's context is short
            judge.require(answer is None or end == "accepted", f"refused: {outcome.err[-300:]!r}")
            if answer is not None:
                found = spelled(json.loads(outcome.out)["prompt_ids"])
                judge.require(found == answer, f"{found!r} instead of {answer!r}")
            return end
        finally:
            path.unlink(missing_ok=True)

    return check


def spelled(ids: list[int]) -> str:
    """Token ids as text: the bytes that the vocabulary's symbols stand for."""
    words = vocabulary(300)
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    byte = dict(zip(words[1:257], [*plain, *others]))
    raw = b"".join(words[i].encode() if words[i].startswith("<|") else bytes(byte[c] for c in words[i]) for i in ids)
    return raw.decode()
