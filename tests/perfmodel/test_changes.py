"""A changed device keeps its calibration: what a field stands for scales with it, and nothing slower is faster."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import perfmodel as pm
from perfmodel import parameters
from perfmodel.__main__ import main
from perfmodel.counts import GEMMS
from perfmodel.device import RULES

WSE2, WSE3, N150, A100 = (pm.device(name) for name in ("wse2", "wse3", "n150", "a100"))

#: what is predicted on each device: every kernel, and the competitors that are stated in cycles of the device
WAFER = {
    "gemm": lambda chip: pm.gemm(chip, 1440, 1440, 1440, grid=240),
    "gemm, exposed": lambda chip: pm.gemm(chip, 720, 720, 720, grid=720, algorithm="cannon"),
    "summa": lambda chip: pm.gemm(chip, 1440, 1440, 1440, grid=(240, 180), algorithm="summa_relay"),
    "gemm_t": lambda chip: pm.gemm(chip, 1440, 1440, 1440, grid=240, algorithm="gemm_t"),
    **{f"{name}, no barrier": lambda chip, name=name: pm.gemm(chip, 480, 240, 480, grid=(24, 40), algorithm=name,
                                                              barrier=False) for name in GEMMS},
    "counts": lambda chip: pm.time({
        "rows": 4, "cols": 4, "steps": 2, "step_hops": [5, 7], "step_stages": [3, 4], "step_bytes": [96, 300],
        "step_products": [[[4, 4, 4]], [[1, 1, 1]]], "step_streams": [40, 0]}, chip),
    "gemv": lambda chip: pm.gemv(chip, 4096, 4096, grid=480),
    "allreduce": lambda chip: pm.allreduce(chip, 40, cores=480),
    "reduce": lambda chip: pm.reduce(chip, 4096, cores=512, group_size=32),
    "shift": lambda chip: pm.shift(chip, (8, 8), steps=64, grid=240),
    "prefill": lambda chip: pm.prefill(chip, "llama3-8b", tokens=2048, grid=480),
    "decode": lambda chip: pm.decode(chip, "llama3-8b", context=2048, grid=360),
    "t10": lambda chip: pm.decode(chip, "llama3-8b", context=2048, grid=360, system="t10"),
    "ladder": lambda chip: pm.prefill(chip, "llama3-8b", tokens=2048, grid=480, system="ladder"),
    "generate": lambda chip: pm.generate(chip, "llama3-8b", prompt=512, new=8, prefill_grid=480, decode_grid=360),
}
CARD = {
    "L1": lambda chip: pm.gemm(chip, 2048, 2048, 2048),
    "HiFi4": lambda chip: pm.gemm(chip, 2048, 2048, 3072, fidelity="HiFi4"),
    "DRAM": lambda chip: pm.gemm(chip, 512, 4096, 512, storage="DRAM"),
}

GPU = {
    "prefill": lambda chip: pm.prefill(chip, "llama3-8b", tokens=4096, system="a100x8"),
    "decode": lambda chip: pm.decode(chip, "qwen2-72b", context=4096, system="a100x16"),
    "one": lambda chip: pm.decode(chip, "llama3-8b", context=4096, system="a100x1"),
    "generate": lambda chip: pm.generate(chip, "llama3-8b", prompt=512, new=8, system="a100x8"),
}
CHIPS = ((WSE2, WAFER), (WSE3, WAFER), (N150, CARD), (A100, GPU))

#: fields of which more is slower; of all other rates less is; the rest changes no time
SLOWER_IF_LARGER = {"alpha", "beta", "ramp"}
SLOWER_IF_SMALLER = {"clock_hz", "link_words_per_cycle", "macs_per_cycle", "memory_bytes_per_cycle", "word_bytes",
                     "die_rows", "dram_bandwidth"}
NO_TIME = {"power_w", "memory_per_core", "colours", "cores", "rows", "cols"}
GPU_SLOWER_IF_SMALLER = {"peak_flops", "memory_bandwidth", "gpus_per_node", "link_bandwidth"}
GPU_NO_TIME = {"power_w", "memory_bytes"}


def fields(chip):
    return {field.name for field in dataclasses.fields(chip)} & set(RULES)


def slower(chip, field, factor):
    """The chip with a field worse by a factor, a count by whole ones."""
    value = getattr(chip, field)
    worse = value * factor if field in SLOWER_IF_LARGER else value / factor
    least = {"word_bytes": 2, "gpus_per_node": 1}
    return chip.replace(**{field: max(int(worse), least[field]) if field in least else worse})


def rates(chip):
    return sorted(fields(chip) & (GPU_SLOWER_IF_SMALLER if chip is A100 else SLOWER_IF_LARGER | SLOWER_IF_SMALLER))


def test_every_field_is_one_of_these():
    assert fields(WSE2) == SLOWER_IF_LARGER | SLOWER_IF_SMALLER | NO_TIME
    assert fields(A100) == GPU_SLOWER_IF_SMALLER | GPU_NO_TIME


def test_every_rate_changes_a_time():
    """A part a quarter as good shows in some prediction on some chip; otherwise it would be no field."""
    changed = {(chip is A100, field) for chip, cases in CHIPS for field in rates(chip) for predict in cases.values()
               if predict(slower(chip, field, 4.0)).seconds > predict(chip).seconds}
    assert changed == {(False, field) for field in SLOWER_IF_LARGER | SLOWER_IF_SMALLER} | {
        (True, field) for field in GPU_SLOWER_IF_SMALLER}


@pytest.mark.parametrize("factor", [1.01, 2.0, 7.3])
@pytest.mark.parametrize("field", sorted(SLOWER_IF_LARGER | SLOWER_IF_SMALLER | GPU_SLOWER_IF_SMALLER))
def test_a_slower_part_never_makes_anything_faster(field, factor):
    for chip, cases in CHIPS:
        if field not in rates(chip):
            continue
        changed = slower(chip, field, factor)
        for name, predict in cases.items():
            before, after = predict(chip), predict(changed)
            assert after.seconds >= before.seconds * (1 - 1e-12), (chip.name, name)


@pytest.mark.parametrize("field", ["rows", "cols", "cores"])
def test_a_smaller_device_makes_nothing_faster(field):
    for chip in (WSE2, WSE3):
        changed = chip.replace(**{field: int(0.985 * getattr(chip, field))})
        for name, predict in WAFER.items():
            assert predict(changed).seconds >= predict(chip).seconds, (chip.name, name)


@pytest.mark.parametrize("field", sorted(NO_TIME - {"rows", "cols", "cores"} | GPU_NO_TIME))
def test_power_and_memory_change_no_time(field):
    for chip, cases in CHIPS:
        if field in rates(chip) or field not in fields(chip):
            continue
        for factor in (2, 1.5):
            changed = chip.replace(**{field: int(getattr(chip, field) * factor)})
            for name, predict in cases.items():
                assert predict(changed).cycles == predict(chip).cycles, (chip.name, name)
    smaller = dataclasses.replace(WSE2, memory_per_core=WSE2.memory_per_core // 2, power_w=15001)
    assert WAFER["decode"](smaller).cycles == WAFER["decode"](WSE2).cycles


@pytest.mark.parametrize(("field", "term"), [("alpha", "alpha"), ("beta", "beta")])
def test_a_changed_field_scales_what_stands_for_it(field, term):
    """Twice the latency of a hop: twice the hops' share of ten all-reduces, and nothing else."""
    before, after = WAFER["decode"](WSE2), WAFER["decode"](WSE2.replace(**{field: 2 * getattr(WSE2, field)}))
    parts = [p.parts["communication"] for p in (before, after)]
    assert parts[1][term] == pytest.approx(2 * parts[0][term])
    assert after.cycles - before.cycles == pytest.approx(parts[0][term])
    assert not any("no kernel was measured" in note for note in after.notes)


def test_clock_and_vector_rate():
    """Half the clock: the same cycles, twice the time. Half the vector rate: beats take twice as long."""
    assert WAFER["gemm"](WSE2.replace(clock_hz=0.55e9)).seconds == pytest.approx(2 * WAFER["gemm"](WSE2).seconds)
    beats = [parameters.on(chip, "gemm").values for chip in (WSE2, WSE2.replace(macs_per_cycle=2))]
    assert beats[1] == {**beats[0], "beat": 2 * beats[0]["beat"]}


def test_changes_are_stated():
    changed = WSE2.replace(alpha=2, memory_per_core=96 * 1024)
    assert (changed.alpha, changed.memory_per_core, changed.base) == (2.0, 98304, "wse2")
    assert changed.quantity("alpha").value == 2 and "wse2 has 1" in changed.quantity("alpha").source
    assert changed.quantity("beta") == WSE2.quantity("beta")
    assert WSE2.replace() == WSE2


@pytest.mark.parametrize(("changes", "message"), [
    ({"alpha": -1}, "alpha = -1 cycle/hop is outside"), ({"alpha": 0}, "alpha"),
    ({"clock_hz": float("nan")}, "clock_hz"),
    ({"macs_per_cycle": float("inf")}, "macs_per_cycle"), ({"rows": 2000}, "more than its 850000 cores"),
    ({"memory_per_core": 1000.5}, "not a whole number"), ({"alhpa": 2}, "did you mean 'alpha'"),
    ({"beta": "5"}, "beta = '5' is not a finite number"), ({"peak_flops": 1e15}, "change one of those"),
    ({"name": 3}, "name = 3 must be a string"),
])
def test_unphysical_values_are_refused(changes, message):
    with pytest.raises(pm.ModelError, match=message):
        WSE2.replace(**changes)
    if changes.keys() <= {field.name for field in dataclasses.fields(WSE2)}:
        with pytest.raises(pm.ModelError, match=message):
            dataclasses.replace(WSE2, **changes)


def test_a_file_with_a_base(tmp_path):
    path = tmp_path / "wse2-fast.toml"
    path.write_text('base = "wse2"\nalpha = 2\n[beta]\nvalue = 30\nunit = "cycle/stage"\nsource = "a guess"\n')
    changed = pm.device(path)
    assert (changed.name, changed.base, changed.alpha, changed.beta) == ("wse2-fast", "wse2", 2.0, 30.0)
    assert changed.quantity("beta").source == "a guess"
    expected = WSE2.replace(alpha=2, beta=30)
    for name, predict in WAFER.items():
        assert predict(changed).cycles == predict(expected).cycles, name
    for text, message in (('base = "wse9"', "unknown device"), ('base = "wse2"\nalpha = -2', "outside"),
                          ('base = "wse2"\nalhpa = 2', "did you mean 'alpha'"),
                          ('base = "wse2"\npeak_flops = 1e15', "peak_flops of a mesh is cores x"),
                          ('base = "wse2"\n[alpha]\nvalue = 1\nunit = "mile"', "expected 'cycle/hop'"),
                          ('base = "wse2"\n[constants.gemn]\nbeat = 1', "unknown kernel"),
                          ('base = "wse2"\n[constants.gemm]\nbeet = 1', "did you mean 'beat'"),
                          ('base = "a100"\n[constants.gemm]\nbeat = 1', "belong to a mesh device")):
        path.write_text(text)
        with pytest.raises(pm.ModelError, match=message):
            pm.device(path)


def test_a_changed_file_of_a_packaged_device_keeps_its_constants(tmp_path):
    """WSE-3 with twice the SIMD width: its memory feeds no more than four multiply-accumulates a cycle."""
    from perfmodel.device import FOLDER

    path = tmp_path / "wse3.toml"
    path.write_text((FOLDER / "wse3.toml").read_text().replace("value = 8.0", "value = 16.0"))
    assert pm.gemm(pm.device(path), 720, 720, 720, grid=240).terms == pm.gemm(WSE3, 720, 720, 720, grid=240).terms


def test_set_on_the_command_line(capsys):
    command = "predict decode --device wse2 --set alpha=2 --set beta=30 --model llama3-8b --grid 360 --context 4096"
    assert main([*command.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = pm.decode(WSE2.replace(alpha=2, beta=30), "llama3-8b", context=4096, grid=360)
    assert found["cycles"] == pytest.approx(float(expected.cycles))
    assert expected.cycles > pm.decode(WSE2, "llama3-8b", context=4096, grid=360).cycles
    for wrong in ("alpha=-1", "alhpa=2", "alpha", "alpha=two"):
        with pytest.raises(SystemExit) if wrong in ("alpha", "alpha=two") else pytest.MonkeyPatch.context():
            assert main(["predict", "gemv", "--set", wrong, "--grid", "8", "--shape", "8", "8"]) == 2
        assert capsys.readouterr().err


def test_names_work_everywhere():
    llama = pm.model("llama3-8b")
    pairs = [
        (pm.gemm("wse3", 720, 720, 720, grid=240), pm.gemm(WSE3, 720, 720, 720, grid=240)),
        (pm.gemv("wse3", 720, 720, grid=240), pm.gemv(WSE3, 720, 720, grid=240)),
        (pm.reduce("wse2", 64, cores=16), pm.reduce(WSE2, 64, cores=16)),
        (pm.decode("wse2", "llama3-8b", context=64, grid=360), pm.decode(WSE2, llama, context=64, grid=360)),
        (pm.capacity("wse2", "llama3-8b", grid=360), pm.capacity(WSE2, llama, grid=360)),
        (pm.best_groups("wse2", 64).value, pm.best_groups(WSE2, 64).value),
        (pm.energy("wse2", 1.0), pm.energy(WSE2, 1.0)),
    ]
    assert all(of_name == of_object for of_name, of_object in pairs)


def test_a_gpu_of_ones_own():
    """Half the flop/s: the share of compute in a prefill doubles, and nothing else; 16 GB hold no 140 of the 72B."""
    whole, half = GPU["prefill"](A100), GPU["prefill"](A100.replace(peak_flops=A100.peak_flops / 2))
    assert half.seconds - whole.seconds == pytest.approx(whole.terms["compute"] / 1e9)
    assert any("fitted to the A100" in note for note in half.notes) and half.uncertainty >= whole.uncertainty
    beside = pm.prefill("wse2", "llama3-8b", tokens=4096, system="a100x8")
    assert beside.seconds == pytest.approx(whole.seconds)
    assert not any("scaled" in note for note in GPU["decode"](A100).notes)
    assert any("are 140 GB, a100x16 holds 16: " in note for note in GPU["decode"](A100.replace(memory_bytes=1e9)).notes)
    found = pm.sweep("a100", GPU["one"], memory_bandwidth=[1e12, 2.039e12])
    assert found.seconds[0] > found.seconds[1] == pytest.approx(GPU["one"](A100).seconds)
    for system in ("waferllm", "t10"):
        with pytest.raises(pm.ModelError, match="'a100' is no mesh of cores"):
            pm.decode(A100, "llama3-8b", context=8, grid=8, system=system)


def test_a_million_points_of_a_changed_device():
    chip, n = WSE3.replace(alpha=3), np.arange(1, 10**6 + 1) % 4000 + 1
    assert pm.gemv(chip, n, n, grid=600, groups=8).cycles.shape == (10**6,)
