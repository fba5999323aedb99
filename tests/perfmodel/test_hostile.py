"""Values that no problem has, and files that nobody checked: one `ModelError` that names value and range, at once."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

import perfmodel as pm
from perfmodel import counts, counts_reduce, files
from perfmodel.__main__ import main
from perfmodel.device import FOLDER

WSE2, LLAMA = pm.device("wse2"), pm.model("llama3-8b")

#: what is no whole number of at least 1, or none that float64 holds
NO_SIZE = [0, -1, 2**64 - 1, 2**70, 10**5000, 1e19, math.inf, -math.inf, math.nan, 5760.5, True, None, "8", b"8", 1j,
           [], [[1], [1, 2]], {}, object(), np.array([4, 0]), np.float32("nan"), np.array(["a"]), np.datetime64(1, "s")]

DOORS = {
    "gemm M": lambda v: pm.gemm(WSE2, v, 8, 8, grid=4),
    "gemm K": lambda v: pm.gemm(WSE2, 8, v, 8, grid=4, algorithm="gemm_t"),
    "gemm N": lambda v: pm.gemm(WSE2, 8, 8, v, grid=4, algorithm="summa"),
    "gemm grid": lambda v: pm.gemm(WSE2, 8, 8, 8, grid=v),
    "gemm rows": lambda v: pm.gemm(WSE2, 8, 8, 8, grid=(v, 4)),
    "gemv M": lambda v: pm.gemv(WSE2, v, 8, grid=4),
    "gemv cols": lambda v: pm.gemv(WSE2, 8, 8, grid=(4, v)),
    "allreduce words": lambda v: pm.allreduce(WSE2, v, cores=4),
    "allreduce cores": lambda v: pm.allreduce(WSE2, 4, cores=v),
    "reduce words": lambda v: pm.reduce(WSE2, v, cores=4),
    "reduce cores": lambda v: pm.reduce(WSE2, 4, cores=v),
    "prefill tokens": lambda v: pm.prefill(WSE2, LLAMA, tokens=v, grid=480),
    "prefill grid": lambda v: pm.prefill(WSE2, LLAMA, tokens=64, grid=v),
    "decode context": lambda v: pm.decode(WSE2, LLAMA, context=v, grid=480),
    "decode a100": lambda v: pm.decode(WSE2, LLAMA, context=v, grid=480, system="a100x8"),
    "decode t10 grid": lambda v: pm.decode(WSE2, LLAMA, context=64, grid=v, system="t10"),
    "generate prompt": lambda v: pm.generate(WSE2, LLAMA, prompt=v, new=2, prefill_grid=480, decode_grid=480),
    "generate new": lambda v: pm.generate(WSE2, LLAMA, prompt=9, new=v, prefill_grid=480, decode_grid=480),
    "capacity grid": lambda v: pm.capacity(WSE2, LLAMA, grid=v),
    "pipeline tokens": lambda v: pm.pipeline(WSE2, LLAMA, tokens=v, grid=360, storage="Q4_0"),
    "pipeline grid": lambda v: pm.pipeline(WSE2, LLAMA, tokens=64, grid=v),
    "pipeline batch": lambda v: pm.pipeline(WSE2, LLAMA, tokens=64, grid=360, storage="Q4_0", batch=v),
    "pipeline regions": lambda v: pm.pipeline(WSE2, LLAMA, tokens=64, grid=360, regions=v if v is not None else 0),
    "best_grid tokens": lambda v: pm.best_grid(WSE2, LLAMA, phase="prefill", tokens=v),
    "best_groups cores": lambda v: pm.best_groups(WSE2, v),
    "best_groups words": lambda v: pm.best_groups(WSE2, 8, words=v),
    "best_gemv M": lambda v: pm.best_gemv(WSE2, v, 8),
    "energy count": lambda v: pm.energy(WSE2, 1.0, count=v),
    "counts M": lambda v: counts.gemm("meshgemm", v, 8, 8, 4),
    "counts rows": lambda v: counts.gemm("summa", 8, 8, 8, v, 4),
    "counts cores": lambda v: counts_reduce.allreduce("ktree", v, 8, groups=1),
    "counts groups": lambda v: counts_reduce.allreduce("ktree", 8, 8, groups=v),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_door_takes_what_is_no_size(door):
    for value in NO_SIZE:
        if door == "counts groups" and isinstance(value, list):
            continue  # a list has a number for each level
        with pytest.raises(pm.ModelError) as refusal:
            DOORS[door](value)
        assert "must be" in str(refusal.value) or "groups" in str(refusal.value), (value, refusal.value)
        assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("value", [2**34, 2**45, 2**53])
@pytest.mark.parametrize("door", sorted(set(DOORS) - {"allreduce words", "reduce words", "best_groups words",
                                                     "energy count", "decode a100", "counts M"}))
def test_what_is_too_large_is_refused_before_anything_is_held(door, value):
    with pytest.raises(pm.ModelError):
        DOORS[door](value)


def test_large_cubes_are_refused_by_their_true_bytes():
    """2^34 on 660^2: two buffers each of A and B and one of C, tiles of (2^34 / 660)^2 elements of 2 bytes."""
    for n in (2**31, 2**34, 2**53):
        need = 2 * 5 * float(-(-n // 660)) ** 2
        with pytest.raises(pm.DoesNotFit, match=r"needs (\d+) bytes per core") as refusal:
            pm.gemm(WSE2, n, n, n, grid=660)
        assert float(str(refusal.value).split(" needs ")[1].split()[0]) == pytest.approx(need)


def test_the_largest_sizes_give_finite_numbers():
    for system in ("a100x1", "a100x8", "a100x16"):
        for predict in (lambda s: pm.prefill(WSE2, LLAMA, tokens=2**53, grid=None, system=s),
                        lambda s: pm.decode(WSE2, LLAMA, context=2**53, grid=None, system=s)):
            found = predict(system)
            assert math.isfinite(found.cycles) and found.cycles >= found.lower_bound
    assert pm.generate(WSE2, LLAMA, prompt=1, new=2**20, system="a100x8").cycles > 0
    with pytest.raises(pm.ModelError, match="new = 2147483648 must be at most 1048576"):
        pm.generate(WSE2, LLAMA, prompt=1, new=2**31, system="a100x8")
    assert pm.reduce(WSE2, 4, cores=1, algorithm="ring").cycles >= 0


def test_numpy_integers_and_whole_floats_are_sizes():
    sizes = (8, 8.0, np.int8(8), np.uint64(8), np.float32(8))
    assert len({float(pm.gemm(WSE2, n, n, n, grid=np.int16(4)).cycles) for n in sizes}) == 1


@pytest.mark.parametrize("call", [
    lambda: pm.gemm("wse9", 8, 8, 8, grid=4), lambda: pm.gemm(None, 8, 8, 8, grid=4),  # type: ignore[arg-type]
    lambda: pm.prefill(WSE2, 8, tokens=8, grid=480),  # type: ignore[arg-type]
    lambda: pm.prefill(pm.device("a100"), LLAMA, tokens=8, grid=1), lambda: pm.prefill("host", LLAMA, tokens=8),
    lambda: pm.decode(WSE2, LLAMA, context=8, grid=480, system=["t10"]),  # type: ignore[arg-type]
    lambda: pm.gemm(WSE2, [8, 8], [8, 8, 8], 8, grid=4), lambda: pm.gemm(WSE2, 8, 8, 8, grid=4, algorithm=7),
    lambda: pm.decode(WSE2, LLAMA, context=[8, 9, 10], grid=[480, 481]),
    lambda: pm.gemv(WSE2, 8, 8, grid=8, groups=[1, 2, 3.5]), lambda: pm.device(["wse2"]), lambda: pm.model(7),
    lambda: pm.measurements({}), lambda: pm.fit("wse2_decod"), lambda: pm.fit(7),
    lambda: pm.measurements({"P": [[1], [1, 2]], "cycles": [1.0]}), lambda: pm.measurements({"P": object()}),
    lambda: pm.gemm(WSE2, 8, 8, 8, grid=4, constants={"beat": "x"}), lambda: WSE2.replace(alpha=None),
    lambda: pm.time({"rows": 2, "cols": 2, "steps": 10**9}, WSE2), lambda: pm.time(None, WSE2),
    lambda: pm.sweep(WSE2, None, alpha=[1]), lambda: pm.sensitivity(7),  # type: ignore[arg-type]
    lambda: pm.need(WSE2, LLAMA, tokens_per_s=-1), lambda: pm.shift(WSE2, 8, steps=1, grid=4),  # type: ignore[arg-type]
    lambda: pm.matmul("n150", 64, 64, 64, fidelity="HiFi5"), lambda: pm.matmul("n150", 64, 64, 64, storage="L2"),
    lambda: pm.fit(pm.measurements("wse2_decode"), fix={"beta": math.nan}),
    lambda: pm.fit(pm.measurements("wse2_decode"), drop=("gamma",)),
    lambda: pm.measurements("wse2_decode", "wse3"), lambda: pm.measurements("wse3_meshgemm", "a100"),
    lambda: pm.best_grid(WSE2, LLAMA, phase="decode", tokens=8, grids=[24.5]),
    lambda: pm.best_grid(WSE2, LLAMA, phase="decode", tokens=8, grids="480"),
    lambda: pm.energy("wse9", 1.0), lambda: pm.energy(WSE2, "1"), lambda: pm.energy(WSE2, 1e300),  # type: ignore[arg-type]
    lambda: pm.Model("x", 8, 8, 1, 1, 1, 8, 0), lambda: pm.Model("x", 2**40, 8, 1, 1, 1, 8, 8),
    lambda: pm.Model("x", 8, 8, 1, 2**20, 1, 2**20, 8), lambda: pm.Model("x", 8.0, 8, 1, 1, 1, 8, 8),  # type: ignore[arg-type]
])  # fmt: skip
def test_arguments_of_another_kind(call):
    with pytest.raises(pm.ModelError):
        call()


# ------------------------------------------------------------------------------------------------------- files

DEVICE = (FOLDER / "wse2.toml").read_bytes()
BENCHMARKS = {"benchmarks": [{"name": f"b{n}", "stats": {"median": 1e-5 + n / 2e10}, "extra_info": {"flops": n}}
                             for n in (1e4, 1e6, 1e8)]}
DIMENSIONS = {"dim": 64, "ffn": 128, "layers": 2, "heads": 4, "vocab": 100}
SWEEP = (FOLDER.parent / "data" / "wse3_meshgemm.csv").read_bytes()
COMMANDS = {"d.toml": "predict gemm --device d.toml --grid 4 --shape 8 8 8",
            "m.json": "predict prefill --model m.json --grid 480 --tokens 64",
            "m.toml": "predict prefill --model m.toml --grid 480 --tokens 64",
            "s.csv": "fit s.csv", "b.json": "fit b.json --device-out out.toml"}


def bench(**changes) -> bytes:
    entry = {**BENCHMARKS["benchmarks"][0], **changes}
    return json.dumps({"benchmarks": [entry, *BENCHMARKS["benchmarks"]]}).encode()


def dimensions(**changes) -> bytes:
    return json.dumps({**DIMENSIONS, **changes}).encode()


ANY = {"empty": b"", "blank": b" \n", "not UTF-8": b"\xff\xfe\x00P", "zero bytes": b"\x00" * 100}
JSON = {"list": b"[1]", "number": b"7", "string": b'"x"', "null": b"null", "nest": b"[" * 100_000, "NaN": b"NaN",
        "nested objects": b'{"a":' * 50_000, "digits": b"9" * 5000, "halved": b'{"dim": 6'}
HOSTILE = {
    "d.toml": ANY | {
        "kind list": DEVICE.replace(b'kind = "mesh"', b'kind = ["mesh"]'),
        "kind table": DEVICE.replace(b'kind = "mesh"', b"kind = {a = 1}"),
        "bool": DEVICE.replace(b"value = 49152", b"value = true"),
        "string": DEVICE.replace(b"value = 49152", b'value = "49152"'),
        "huge": DEVICE.replace(b"value = 49152", b"value = 0x" + b"f" * 5000),
        "digits": DEVICE.replace(b"value = 49152", b"value = " + b"9" * 5000),
        "infinite": DEVICE.replace(b"value = 49152", b"value = inf"),
        "name": DEVICE.replace(b'name = "wse2"', b"name = 7"),
        "source": DEVICE.replace(b'unit = "hertz"\nsource = ', b'unit = "hertz"\nsource = 1 #'),
        "estimated": DEVICE + b'estimated = "no"\n', "unit": DEVICE.replace(b'unit = "hertz"', b"unit = []"),
        "odd word": DEVICE.replace(b'value = 4\nunit = "byte"', b'value = 1\nunit = "byte"'),
        "nest": b"a = " + b"[" * 10_000, "dotted": b"a." * 100_000 + b"a = 1", "large": b"#" * 100_000,
        "few cores": DEVICE.replace(b"value = 850000", b"value = 850"), "other": b"x = 1",
    },
    "m.json": ANY | JSON | {
        "zero": dimensions(dim=0), "bool": dimensions(layers=True), "float": dimensions(ffn=128.0),
        "string": dimensions(dim="64"), "negative": dimensions(heads=-4), "huge": dimensions(vocab=2**70),
        "list": dimensions(dim=[64]), "name": dimensions(name=["a"]), "extra": dimensions(colour=1),
        "odd": dimensions(heads=5), "infinite": b'{"dim": Infinity}', "no dims": b"{}",
        "published": b'{"hidden_size": "x", "num_attention_heads": 0}',
    },
    "m.toml": ANY | {"date": b"dim = 1979-05-27", "none": b"[dim]", "not TOML": b"dim == 3"},
    "s.csv": ANY | {
        "long field": SWEEP + b"4,4,4," + b"1" * 200_000 + b",9\n", "twice": SWEEP.replace(b"K,N", b"K,K,N"),
        "duplicate": b"P,M,K,N,cycles,P\n4,4,4,4,9,5\n",
        "short row": SWEEP + b"4,4\n", "long row": SWEEP + b"4,4,4,4,9,9\n", "huge": SWEEP + b"4,1e300,4,4,9\n",
        "zero byte": SWEEP.replace(b"2637.40", b"2\x00637"), "quote": SWEEP + b'4,4,"4,4,9\n',
        "large tile": SWEEP + b"1,9000000000,4,4,900\n", "overflow": SWEEP + b"4,4,4,4,1e999\n",
        "denormal": SWEEP + b"4,4,4,4,5e-324\n", "columns": b",".join(b"c%d" % i for i in range(5000)) + b"\n1\n",
        "rows": b"P,M,K,N,cycles\n" + b"4,4,4,4,900\n" * 30_000, "header only": b"P,M,K,N,cycles\n",
    },
    "b.json": ANY | JSON | {
        "no stats": bench(stats=None), "stats list": bench(stats=[]), "no median": bench(stats={}),
        "NaN": bench(stats={"median": math.nan}), "infinite": bench(stats={"median": math.inf}),
        "negative": bench(stats={"median": -1.0}), "bool": bench(stats={"median": True}),
        "string": bench(stats={"median": "1"}), "huge": bench(stats={"median": 10**400}),
        "flops": bench(extra_info={"flops": "many"}), "zero flops": bench(extra_info={"flops": 0}),
        "bytes": bench(extra_info={"flops": 1e5, "bytes": -1}), "info": bench(extra_info=[]), "name": bench(name=3),
        "entry": b'{"benchmarks": [7]}', "entries": b'{"benchmarks": {"a": 1}}', "nothing": b'{"benchmarks": []}',
        "mystery": b'{"Benchmarks": []}', "absurd rate": json.dumps({"benchmarks": [
            {"name": "b", "stats": {"median": 1.0}, "extra_info": {"flops": n}} for n in (1e25, 1e27, 1e29)]}).encode(),
    },
}


def refused(command: str, capsys) -> str:
    """The one line of a refusal."""
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("perfmodel: ") and "Traceback" not in err
    return err


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in HOSTILE.items() for case in cases])
def test_hostile_files_are_refused_in_a_line_that_names_them(name, case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(HOSTILE[name][case])
    line = refused(COMMANDS[name], capsys)
    assert name in line or name.split(".")[0] in line
    assert not (tmp_path / "out.toml").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_regular_file(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "no file" in refused(COMMANDS[name], capsys)
    (tmp_path / name).mkdir()
    assert "not a regular file" in refused(COMMANDS[name], capsys)
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    assert "not a regular file" in refused(COMMANDS[name], capsys)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    assert "not a regular file" in refused(COMMANDS[name], capsys)
    (tmp_path / name).unlink()
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no disk
    assert "larger than" in refused(COMMANDS[name], capsys)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(name)
    refused(COMMANDS[name], capsys)


def test_good_files_pass(tmp_path, monkeypatch, capsys):
    """The same commands on the files from which the hostile ones are made."""
    monkeypatch.chdir(tmp_path)
    good = {"d.toml": DEVICE, "m.json": dimensions(), "s.csv": b"\xef\xbb\xbf" + SWEEP,
            "m.toml": "\n".join(f"{key} = {value}" for key, value in DIMENSIONS.items()).encode(),
            "b.json": json.dumps(BENCHMARKS).encode()}
    for name, data in good.items():
        (tmp_path / name).write_bytes(data)
        assert main(COMMANDS[name].split()) == 0, capsys.readouterr().err
    assert pm.device(tmp_path / "out.toml").name == "out"


def test_a_device_file_is_written_for_any_name(tmp_path, capsys):
    source = tmp_path / "b.json"
    source.write_bytes(json.dumps(BENCHMARKS).encode())
    odd = tmp_path / 'a"b\\c\n\udcff.toml'
    assert main(["fit", str(source), "--device-out", str(odd)]) == 0
    assert pm.device(odd).name == 'a"b\\c__'
    for target in (tmp_path, tmp_path / "no" / "x.toml", "/dev/full"):
        capsys.readouterr()
        assert main(["fit", str(source), "--device-out", str(target)]) == 2
        assert "cannot write" in capsys.readouterr().err


def test_limits_on_files_leave_room():
    """Every packaged file takes less than a fifth of what is read."""
    for path in FOLDER.parent.rglob("*.toml"):
        if path.name != "parameters.toml":
            assert path.stat().st_size < files.LARGEST_TOML / 5
