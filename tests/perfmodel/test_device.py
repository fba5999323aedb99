"""Device files: complete, in range, with a source each; loading refuses what is wrong by name."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

import perfmodel as pm
from perfmodel.device import FOLDER


def test_every_device_loads_and_every_number_has_unit_and_source():
    assert {"wse2", "wse3", "dojo", "blackhole", "wormhole", "a100", "host"} <= set(pm.devices())
    for name in pm.devices():
        loaded = pm.device(name)
        assert loaded.name == name
        for quantity in loaded.quantities.values():
            assert quantity.unit and quantity.source


def test_wse2_facts():
    wse2 = pm.device("wse2")
    assert (wse2.memory_per_core, wse2.colours, wse2.clock_hz, wse2.word_bytes) == (49152, 24, 1.1e9, 4)
    assert wse2.rows * wse2.cols <= wse2.cores


@pytest.mark.parametrize(("name", "stated"), [("wse2", 7.5e15), ("dojo", 9.06e15), ("blackhole", 387e12)])
def test_the_peak_is_what_the_vendor_states(name, stated):
    """Cerebras, Tesla at Hot Chips 34, Tenstorrent; it follows the clock of a changed device."""
    chip = pm.device(name)
    assert chip.peak_flops == pytest.approx(stated, rel=0.02)
    assert chip.replace(clock_hz=chip.clock_hz / 2).peak_flops == pytest.approx(chip.peak_flops / 2)


def test_a_peak_stated_beside_its_parts_must_agree_with_them(tmp_path):
    path, text = tmp_path / "mine.toml", (FOLDER / "wse2.toml").read_text()
    for value, agrees in ((7.5e15, True), (7.5e14, False)):
        path.write_text(f'{text}\n[peak_flops]\nvalue = {value}\nunit = "flop/s"\nsource = "a vendor"\n')
        if agrees:
            assert pm.device(path).peak_flops == pm.device("wse2").peak_flops
        else:
            with pytest.raises(pm.DataError, match=r"peak_flops = 7.5e\+14 contradicts"):
                pm.device(path)


def test_devices_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        pm.device("wse2").alpha = 0.0  # type: ignore[misc]


def test_unknown_device_names_the_nearest():
    with pytest.raises(pm.UnknownName, match=r"'wse4'.*known: .*wse2, wse3.*did you mean 'wse"):
        pm.device("wse4")


def test_own_file(tmp_path):
    text = (FOLDER / "wse2.toml").read_text().replace("value = 49152", "value = 65536")
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert pm.device(path).memory_per_core == 65536
    with pytest.raises(pm.DataError, match=r"absent\.toml"):
        pm.device(tmp_path / "absent.toml")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("value = 49152", "value = -1", "memory_per_core = -1 byte is outside"),
    ("value = 49152", "value = nan", "memory_per_core = nan is not a finite number"),
    ("value = 24\n", "value = 24.5\n", "colours = 24.5 is not a whole number"),
    ('unit = "hertz"', 'unit = "GHz"', "clock_hz is in 'GHz', expected 'hertz'"),
    ("[ramp]", "[rmap]", "needs ramp"),
    ('kind = "mesh"', 'kind = "torus"', "unknown kind in mine.toml 'torus'"),
])
def test_bad_files_are_refused(tmp_path, old, new, message):
    text = (FOLDER / "wse2.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(pm.ModelError, match=message):
        pm.device(path)


def test_import_loads_neither_scipy_nor_meshkernels():
    code = "import sys, perfmodel; print([m for m in ('scipy', 'meshkernels') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("text", "message"), [
    ('base = "own.toml"', "base = 'own.toml' is the file itself, or has it as its base"),
    ('base = "other.toml"', "other.toml: base = 'own.toml' is the file itself, or has it as its base"),
    ('base = "wse2"\nkind = "gpu"', "own.toml: kind = 'gpu', but its base wse2 is a mesh device"),
])  # fmt: skip
def test_a_base_that_is_none(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(text)
    (tmp_path / "other.toml").write_text('base = "own.toml"')
    with pytest.raises(pm.DataError, match=message):
        pm.device("own.toml")
    (tmp_path / "own.toml").write_text('base = "wse2"\nkind = "mesh"\nalpha = 2')
    assert pm.device("other.toml").alpha == 2 and pm.device("other.toml").base == "wse2"


def test_a_title_is_text():
    with pytest.raises(pm.DataError, match="title = 5 must be a string"):
        pm.device("wse2").replace(title=5)
