"""``python -m meshkernels generate``: what it prints, what it refuses, and how it stops."""

import io
import json

import pytest
from gguf_files import write
from llama_reference import NumpyLlama, Synthetic, tiny

from meshkernels import Mesh, files
from meshkernels.__main__ import main
from meshkernels.errors import MeshError
from meshkernels.llm import Llama, cli, load, summary
from meshkernels.llm.layout import Layout
from meshkernels.llm.sampling import Sampler
from meshkernels.llm.summary import prediction_lines


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    write(path, Synthetic(tiny(6, 3, dim=32, vocab=300, context=80), seed=1))
    return str(path)


def generate(*arguments: str) -> int:
    return main(["generate", *arguments])


def test_json_is_one_object_with_the_greedy_tokens_of_numpy(small, capsys):
    assert generate("abc é", "--model", small, "--grid", "3x4", "--new", "8", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    checkpoint = files.load(small)
    assert out["prompt_ids"] == checkpoint.tokenizer.encode("abc é")
    reference, text = NumpyLlama(checkpoint), list(out["prompt_ids"])
    for token in out["new_ids"]:
        reference.reset()
        assert token == reference.forward(text).argmax()
        text.append(token)
    assert out["text"] == checkpoint.tokenizer.decode(out["new_ids"], skip_special=True)
    assert out["compile_seconds"] > 0 and out["prefill_seconds"] > 0 and out["tokens_per_s"] > 0
    mesh = out["mesh"]
    assert (mesh["rows"], mesh["cols"], mesh["all_reduces_per_block"]) == (3, 4, 10)
    for phase in ("prefill", "token"):
        assert all(mesh[phase][key] > 0 for key in (
            "steps", "critical_hops", "words", "peak_bytes_per_core", "all_reduces"))
    assert mesh["token"]["tokens"] == len(text) - 1 and mesh["hand_over"]["words"] > 0
    collectives = [c for line in mesh["token"]["block"] for c in line["collectives"]]
    assert len(collectives) == 10 and {"op": "max", "axis": "y", "words": 6} in collectives  # 6 heads in one strip


def test_text_streams_and_ends_with_the_summary(small, capsys):
    assert generate("abc", "--model", small, "--grid", "3", "--prefill-grid", "2x3", "--new", "4", "--ledger") == 0
    out = capsys.readouterr().out
    assert out.startswith("abc")
    for part in ("tokens/s", "prefill of 1", "2x3", "redistribution", "all-reduces", "bytes/core", "add y: 1"):
        assert part in out


@pytest.mark.parametrize("device, code", [((), 2), (("--device", "none"), 0)])
def test_device_none_takes_any_grid(small, monkeypatch, device, code):
    def too_large(*_):
        raise MeshError("does not fit")

    monkeypatch.setattr(cli, "fit_fabric", too_large)
    assert generate("abc", "--model", small, "--grid", "2", *device, "--new", "2") == code


def test_progress_is_a_bar_of_blocks_on_a_terminal_alone(small, capsys, monkeypatch):
    generate("abc", "--model", small, "--grid", "2", "--new", "2")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    generate("abc", "--model", small, "--grid", "2", "--new", "2")
    err = capsys.readouterr().err
    assert "prefill:" in err and "0/2" in err and err.endswith("\r")
    generate("abc", "--model", small, "--grid", "2", "--new", "2", "--json")
    assert capsys.readouterr().err == ""


def test_a_note_is_printed_once():
    fits = {"needs_bytes_per_core": {"prefill": 10, "token": 9}, "memory_per_core": 10}
    predicted = {name: {"prefill_tokens_per_s": 2.0, "tokens_per_s": None, "notes": ["alike", *own], **fits}
                 for name, own in (("wse2", ()), ("wse3", ("its own",)))}
    assert prediction_lines({"predicted": predicted}).splitlines() == [
        "predicted on wse2: prefill 2 tokens/s, decode has no prediction",
        "predicted on wse3: prefill 2 tokens/s, decode has no prediction",
        "  note (wse2, wse3): alike", "  note (wse3): its own"]


def test_what_a_wafer_cannot_hold_has_no_rate(tmp_path, capsys):
    path = tmp_path / "large.gguf"
    write(path, Synthetic(tiny(4, 2, 32, dim=128, vocab=300, context=80)), storage="F16")
    assert generate("abc", "--model", str(path), "--grid", "2", "--new", "2", "--json") == 0
    mesh = json.loads(capsys.readouterr().out)["mesh"]
    for device in ("wse2", "wse3"):
        found = mesh["predicted"][device]
        assert found["tokens_per_s"] is found["prefill_tokens_per_s"] is None and not found["notes"]
        peaks = {name: mesh[name]["peak_bytes_per_core"] for name in ("prefill", "token")}
        assert found["needs_bytes_per_core"] == peaks
    needs = mesh["token"]["peak_bytes_per_core"]
    assert f"decode does not fit ({needs:,} bytes a core, there are 49,152)" in prediction_lines(mesh)
    arguments = ("abc", "--model", str(path), "--new", "2", "--device", "wse2", "--json")
    assert generate(*arguments, "--grid", "2") == 2  # the same verdict
    assert generate(*arguments, "--grid", "8") == 0
    assert json.loads(capsys.readouterr().out)["mesh"]["predicted"]["wse2"]["tokens_per_s"] > 0


def test_memory_is_reported(small, capsys):
    assert generate("abc", "--model", small, "--grid", "2", "--new", "2", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    assert out["stored_bytes"] < out["resident_bytes"]
    assert generate("abc", "--model", small, "--grid", "2", "--new", "2") == 0
    assert "MB resident" in capsys.readouterr().out


def test_sampling_is_repeatable(small, capsys):
    texts = []
    for _ in range(2):
        generate("abc", "--model", small, "--grid", "2", "--temperature", "1", "--top-p", "0.9", "--seed", "3",
                 "--json")
        texts.append(json.loads(capsys.readouterr().out)["new_ids"])
    assert texts[0] == texts[1]


def test_several_texts_are_those_of_single_runs(small, capsys):
    common = ("--model", small, "--grid", "2", "--new", "5", "--temperature", "1", "--json")
    assert generate("abc", *common, "--batch", "3", "--seed", "4") == 0
    samples = json.loads(capsys.readouterr().out)
    assert generate("abc", "ab é", "x", *common, "--seed", "4") == 0
    prompts = json.loads(capsys.readouterr().out)
    for number in range(3):
        for many, prompt in ((samples, "abc"), (prompts, ("abc", "ab é", "x")[number])):
            assert generate(prompt, *common, "--seed", str(4 + number)) == 0
            alone = json.loads(capsys.readouterr().out)
            assert many["texts"][number] == {key: alone[key] for key in ("prompt_ids", "new_ids", "text", "ended_by")}
    assert samples["new_ids"] == samples["texts"][0]["new_ids"] and "texts" not in alone
    assert samples["mesh"]["texts"] == 3
    one, three = (each["mesh"]["token"]["peak_bytes_per_core"] for each in (alone, samples))
    # two caches more: 2 bytes, 2 blocks, keys and values, 3 heads of 6 features (4 on a column, 2 padded), 3 entries
    assert three - one == 2 * 2 * 2 * 2 * 3 * 4 * 3


def test_several_texts_are_printed_when_they_are_there_or_streamed_as_json(small, capsys):
    arguments = ("abc", "ab", "--model", small, "--grid", "2", "--new", "4")
    assert generate(*arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("[0] abc") and "\n\n[1] ab" in out and "2 prompts with 2 tokens" in out
    assert generate(*arguments, "--json-stream") == 0
    *lines, last = map(json.loads, capsys.readouterr().out.splitlines())
    for number, text in enumerate(last["texts"]):
        mine = [line for line in lines if line["number"] == number]
        assert [line["id"] for line in mine] == text["new_ids"]
        assert "".join(line["text"] for line in mine) == text["text"].rstrip("\ufffd")


def test_a_prompt_that_is_computed_once_counts_once(small, capsys):
    assert generate("abc", "--batch", "3", "--model", small, "--grid", "2", "--new", "2") == 0
    assert "host: prompt of 1 tokens in" in capsys.readouterr().out


def test_a_cache_that_is_full_takes_no_text_away(small, capsys, monkeypatch):
    monkeypatch.setattr(cli, "fit_to", lambda *_, **__: 1400)
    assert generate("abc", "x", "--model", small, "--grid", "1", "--device", "wse2", "--new", "40") == 2
    out, err = capsys.readouterr()
    assert out.startswith("[0] abc") and "\n\n[1] x" in out and "would hold" in err and err.count("\n") == 1
    monkeypatch.setattr(Sampler, "__call__", lambda self, logits, text: 7)
    assert generate("abc", "--model", small, "--grid", "1", "--device", "wse2", "--new", "40") == 2
    out, err = capsys.readouterr()
    assert set(out.removeprefix("abc")) == {files.load(small).tokenizer.decode([7]), "\n"} and out.endswith("\n")
    assert "would hold" in err and err.count("\n") == 1
    assert generate("abc", "x", "-m", small, "--grid", "1", "--device", "wse2", "-n", "40", "--json-stream") == 2
    assert {json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()} == {0, 1}


def test_an_interrupted_batch_prints_what_there_is(small, capsys, monkeypatch):
    decode, calls = Llama._decoded, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 6:  # the second of the third round
            raise KeyboardInterrupt
        return decode(self, *arguments)

    monkeypatch.setattr(Llama, "_decoded", interrupted)
    assert generate("abc", "--batch", "2", "--model", small, "--grid", "2", "--new", "9", "--json") == 130
    out = json.loads(capsys.readouterr().out)
    assert [len(text["new_ids"]) for text in out["texts"]] == [3, 3] and out["ended_by"] == "interrupt"


def test_a_text_that_has_ended_is_not_interrupted(small, capsys, monkeypatch):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    end = next(iter(files.load(small).tokenizer.stop))
    first = files.load(small).tokenizer.encode("x")
    monkeypatch.setattr(Sampler, "__call__", lambda self, logits, text: end if text[:1] == first else 7)
    monkeypatch.setattr(Llama, "_decoded", interrupted)
    assert generate("abc", "x", "--model", small, "--grid", "2", "--new", "9", "--json") == 130
    out = json.loads(capsys.readouterr().out)
    assert [(text["new_ids"], text["ended_by"]) for text in out["texts"]] == [
        ([7], "interrupt"), ([end], "end of text")]  # fmt: skip


def test_several_texts_have_a_bar_of_tokens_on_a_terminal_alone(small, capsys, monkeypatch):
    arguments = ("abc", "x", "--model", small, "--grid", "2", "--new", "3")
    assert generate(*arguments) == 0 and capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert generate(*arguments) == 0
    err = capsys.readouterr().err
    assert "generate:" in err and "0/3" in err and err.endswith("\r") and "prefill" not in err
    assert generate(*arguments, "--json-stream") == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments, message", [
    (("abc", "--batch", "0"), "--batch 0: at least 1 text"),
    (("abc", "x", "--batch", "3"), "--batch 3 and 2 prompts"),
    (("-", "-"), "stdin (-) can be read once"),
    (("--chat", "--batch", "2"), "need a prompt"),
    (("abc", "--batch", str(10**9)), "tokens take"),
    (("abc", ""), "prompt [1] is empty"),
    (("abc", "b" * 70), "prompt [1] has 70 tokens and 40 are to follow, the model's context is 80: --new 10 at most"),
    (("",), "the prompt is empty"),
    (("a" * 81,), "context is 80"),
    (("abc", "--new", "90"), "context is 80"),
    (("abc", "--new", "0"), "--new 0"),
    (("abc", "--top-p", "0"), "top_p = 0.0"),
    (("abc", "--temperature", "-1"), "temperature = -1.0"),
    (("abc", "--temperature", "nan"), "temperature nan"),
    (("abc", "--temperature", "inf"), "temperature inf"),
    (("abc", "--seed", "-1"), "--seed -1"),
    (("abc", "--top-k", "-1"), "top_k = -1"),
    (("abc", "--min-p", "2"), "min_p = 2.0"),
    (("abc", "--repeat-penalty", "0"), "repeat_penalty = 0.0"),
    ((), "no prompt"),
    (("--chat", "--json"), "need a prompt"),
    (("abc", "--new", str(2**70)), "context is 80"),
    (("abc", "--cache", "ring"), "shift, concat"),
    (("abc", "--dtype", "int8"), "float32, float16"),
    (("abc", "--chat"), "no chat template"),
    (("abc" * 20, "--device", "wse2", "--grid", "1"), "the limit is "),
    (("abc", "--grid", "3000"), "a grid of 3000 x 3000 cores does not fit wse3, which has 1170 x 755"),
    (("abc", "--prefill-grid", "4x751", "--device", "wse2"), "a grid of 4 x 751 cores does not fit wse2"),
    (("abc", "--device", "wse9"), "wse9"),
    (("abc", "--grid", "600"), "a grid of 600 x 600 cores, score: a product on 600 x 200 cores takes 600 steps"),
])  # fmt: skip
def test_refusals_are_one_line_and_not_zero(small, capsys, arguments, message):
    assert generate(*arguments, "--model", small) != 0
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and "Traceback" not in captured.err


@pytest.mark.parametrize("grid", ["0", "3x", "2x2x2", "many", "100000", "9" * 5000, "-3", "2.5"])
def test_impossible_grids(small, capsys, grid):
    with pytest.raises(SystemExit) as stop:
        generate("abc", "--model", small, "--device", "none", "--grid", grid)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "no grid" in err and err.count("\n") == 1


def test_grids_whose_padded_weights_exceed_this_machine(small, capsys, monkeypatch):
    """On 8 x 9 cores 96 hidden features are padded to 144, on 97 x 89 to 8633; the limit is what 24 x 24 need."""
    checkpoint = files.load(small)
    layout = Layout(checkpoint.config, Mesh(24))
    padded = 4 * 32 * max(24 * sum(layout.qkv), layout.out, 2 * layout.ffn)
    stored = sum(4 * checkpoint.tensor(name).size for name in checkpoint.names)
    monkeypatch.setattr(summary, "physical_memory", lambda: 2 * (stored + padded))
    assert generate("abc", "--model", small, "--device", "none", "--grid", "24", "--new", "1", "--json") == 0
    capsys.readouterr()
    assert generate("abc", "--model", small, "--device", "none", "--grid", "97x89", "--new", "1", "--json") == 2
    assert "a grid of 97 x 89 cores takes" in capsys.readouterr().err


def test_json_stream_has_a_line_for_each_token_and_the_whole_at_last(small, capsys):
    arguments = ("abc", "-m", small, "--grid", "2", "-n", "5")
    assert generate(*arguments, "--json-stream") == 0
    *tokens, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert [token["id"] for token in tokens] == whole["new_ids"] and len(tokens) == 5
    assert "".join(token["text"] for token in tokens) == whole["text"].rstrip("\ufffd")
    assert all(token.keys() == {"id", "text"} for token in tokens)  # a number is of several texts


def test_text_is_printed_when_its_characters_are_whole(small, capsys, monkeypatch):
    ids = files.load(small).tokenizer.encode("é—x")  # a character of two bytes, one of three
    assert len(ids) == 6
    monkeypatch.setattr(Sampler, "__call__", lambda self, logits, text: ids[len(text) - 1])  # after a prompt of one
    assert generate("abc", "-m", small, "--grid", "2", "-n", "6", "--json-stream") == 0
    *tokens, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert [token["text"] for token in tokens] == ["", "é", "", "", "—", "x"]
    assert generate("abc", "-m", small, "--grid", "2", "-n", "6") == 0
    assert capsys.readouterr().out.startswith("abcé—x\n\nhost: ")


def test_a_dash_reads_stdin_and_control_tokens_are_text_unless_asked(small, capsys, monkeypatch):
    found = []
    for special in ((), ("--special",)):
        monkeypatch.setattr("sys.stdin", io.StringIO("ab<|end|>"))
        assert generate("-", "-m", small, "--grid", "2", "-n", "1", "--json", *special) == 0
        found.append(json.loads(capsys.readouterr().out)["prompt_ids"])
    assert 0 not in found[0] and found[1][-1] == 0


def test_a_conversation_ends_with_the_input_and_an_answer_with_ctrl_c(tmp_path, capsys, monkeypatch):
    path = tmp_path / "chat.gguf"
    template = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}a"
    write(path, Synthetic(tiny(6, 3, dim=32, vocab=300, context=80), seed=1), chat_template=template)
    lines, prompts, prefill = ["ab", "", "<|end|>c", EOFError], [], Llama.prefill

    def read(_):
        if (line := lines.pop(0)) is EOFError:
            raise EOFError
        return line

    def watched(self, tokens):
        prompts.append(list(tokens))
        if len(prompts) == 2:
            raise KeyboardInterrupt
        return prefill(self, tokens)

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(Llama, "prefill", watched)
    assert generate("--chat", "-m", str(path), "--grid", "2", "-n", "3") == 0
    tokenizer = files.load(path).tokenizer
    first = capsys.readouterr().out.split("\n\n")[0]
    assert tokenizer.decode(prompts[0]) == "uaba"
    assert tokenizer.decode(prompts[1]) == f"uaba{first}u<|end|>ca" and 0 not in prompts[1]


def test_answers_of_a_conversation_go_on_with_one_run_of_random_numbers(tmp_path, capsys, monkeypatch):
    path = tmp_path / "chat.gguf"
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    write(path, Synthetic(tiny(6, 3, dim=32, vocab=300, context=80), seed=1), chat_template=template)
    lines = iter(["ab", "ab", "c"])

    def read(_):
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", read)
    assert generate("--chat", "-m", str(path), "--grid", "2", "-n", "4", "--temperature", "2", "--seed", "5") == 0
    model, sampler, asked, printed = load(str(path), 2), Sampler(2.0, seed=5), "", ""
    for line in ("ab", "ab", "c"):
        text = model.tokenizer.encode(asked := asked + line)
        new, logits = [], model.prefill(text)
        for _ in range(4):
            new.append(sampler(logits, text + new))
            if new[-1] in model.tokenizer.stop:
                break
            logits = model.decode(new[-1])
        answer = model.tokenizer.decode(new, skip_special=True)
        asked, printed = asked + answer, printed + answer.rstrip("\ufffd") + "\n\n"
    assert capsys.readouterr().out == printed + "\n"


def test_interrupt_prints_what_there_is(small, capsys, monkeypatch):
    decode, calls = Llama.decode, []

    def interrupted(self, token):
        calls.append(token)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return decode(self, token)

    monkeypatch.setattr(Llama, "decode", interrupted)
    assert generate("abc", "--model", small, "--grid", "2", "--new", "30", "--json") == 130
    out = json.loads(capsys.readouterr().out)
    assert out["ended_by"] == "interrupt" and len(out["new_ids"]) == 4


def test_interrupt_before_the_first_token(small, capsys, monkeypatch):
    def interrupted(self, tokens):
        raise KeyboardInterrupt

    monkeypatch.setattr(Llama, "prefill", interrupted)
    assert generate("abc", "--model", small, "--grid", "2") == 130
    assert "interrupted before the first token" in capsys.readouterr().err


@pytest.mark.parametrize("cache", ["shift", "concat"])
def test_a_text_that_outgrows_a_core_is_refused_before_anything_is_placed(tmp_path, capsys, monkeypatch, cache):
    path = tmp_path / "long.gguf"
    write(path, Synthetic(tiny(4, 2, 32, dim=32, vocab=300, context=10**6)))
    arguments = ("abc", "-m", str(path), "--grid", "4", "--device", "wse2", "--cache", cache)
    assert generate(*arguments, "-n", "500000") == 2
    refusal = capsys.readouterr().err
    assert f"decode up to 500000 tokens ({cache})" in refusal and refusal.count("\n") == 1
    room = int(refusal.split("room for ")[1].split(" tokens")[0])
    monkeypatch.setattr(cli, "Llama", None)  # TypeError: all checks are passed
    with pytest.raises(TypeError):
        generate(*arguments, "-n", str(room))  # the prompt has one token, the last new one is not decoded
    assert generate(*arguments, "-n", str(room + (4 if cache == "shift" else 1))) == 2


def test_cache_overflow_during_generation_names_core_bytes_and_limit(small, capsys, monkeypatch):
    monkeypatch.setattr(cli, "fit_to", lambda *_, **__: 700)
    assert generate("abc", "--model", small, "--grid", "1", "--device", "wse2", "--new", "40") != 0
    assert "core (0, 0) would hold" in capsys.readouterr().err
