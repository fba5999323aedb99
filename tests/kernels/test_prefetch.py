"""How far ahead is prefetched: the fastest of what is measured, kept for the next process, and no matter to any bit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from meshkernels.kernels import gemv, prefetch
from meshkernels.kernels.decoding import AHEAD
from meshkernels.kernels.gemv import Stated
from meshkernels.kernels.pack import columns
from meshkernels.kernels.prefetch import CANDIDATES, Distances, distances, fastest
from meshkernels.kernels.resident import Coded, stored
from meshkernels.kernels.storage import STORAGES


def reader(monkeypatch, seconds: dict[object, list[float]]):
    """Calls that take so long, one after the other, by a clock of their own."""
    now, left = [0.0], {each: list(times) for each, times in seconds.items()}
    monkeypatch.setattr(prefetch.time, "perf_counter", lambda: now[0])

    def read(ahead: object) -> None:
        now[0] += left[ahead].pop(0)

    return read


def test_the_shortest_time_counts_and_the_first_call_does_not(monkeypatch):
    read = reader(monkeypatch, {1: [0.1, 5, 3, 9], 2: [9, 2, 9], 4: [4, 4, 4]})
    assert fastest(read, (1, 2, 4), 3) == 2


def test_a_result_is_kept_for_the_next_process(tmp_path):
    calls = []
    first = distances("Q4_0", tmp_path, calls.append)
    assert first in CANDIDATES and len(calls) == 1 + prefetch.ROUNDS * len(CANDIDATES)
    assert distances("Q4_0", tmp_path, calls.append) == first and len(calls) == 1 + prefetch.ROUNDS * len(CANDIDATES)
    other = distances("F32", tmp_path, lambda ahead: None)
    (file,) = tmp_path.iterdir()
    assert sorted(json.loads(file.read_text()).values()) == sorted(map(list, [first, other]))


@pytest.mark.parametrize("junk", ["", "{", "[1]", "null", '{"a": 1}', "\udce4"])
def test_what_is_no_result_is_measured_again(tmp_path, junk):
    file, calls = tmp_path / "prefetch.json", []
    file.write_text(junk, errors="surrogateescape")
    assert distances("Q4_0", tmp_path, calls.append) in CANDIDATES and calls
    known = json.loads(file.read_text())
    for other in (4096, [1, 2], [[4096], 0], "24", None):  # of another version
        calls.clear()
        file.write_text(json.dumps(dict.fromkeys(known, other)))
        assert distances("Q4_0", tmp_path, calls.append) in CANDIDATES and calls


@pytest.mark.parametrize("folder", [None, "missing"])
def test_a_folder_that_cannot_be_written_costs_a_measurement(tmp_path, folder):
    for _ in range(2):
        calls = []
        assert distances("Q4_0", folder and tmp_path / folder, calls.append) in CANDIDATES and calls


@pytest.mark.parametrize("ahead", [Distances(0, 0), Distances(64, 1 << 40), Distances(1 << 40, 64), *CANDIDATES])
def test_no_distance_changes_a_bit(ahead):
    random = np.random.default_rng(0)
    W, x = random.standard_normal((96, 200), np.float32), random.standard_normal(96, np.float32)
    tree = np.array([0, 2, 0]), np.array([1, 3, 2]), np.array([0])
    found = []
    for each in (prefetch.CANDIDATES[0], ahead):
        stated, out = Stated(columns(W), 4, *tree, False, each), np.zeros(200, np.float32)
        assert tuple(stated.table[0, gemv.NEAR : gemv.SPANS]) == each
        gemv._work(stated.runs(1), stated.table, x, out, np.zeros(1, np.int64), False)
        found.append(out.tobytes())
    assert found[0] == found[1]
    np.testing.assert_allclose(np.frombuffer(found[0], np.float32), x.astype(float) @ W, rtol=1e-4, atol=1e-5)


def test_small_weights_are_not_measured(monkeypatch):
    monkeypatch.setattr(gemv, "_distances", lambda name, simd: asked.append(name) or CANDIDATES[0])
    asked = []
    for N, measured in ((64, []), (1024, ["F32"])):
        Stated(columns(np.ones((64, N), np.float32)), 1, *np.zeros((2, 0), np.int64), np.array([0]), False)
        assert asked == measured


def test_every_part_of_a_weight_has_its_own_distances(monkeypatch):
    random, kinds = np.random.default_rng(0), {"Q4_0": Distances(1, 2), "Q8_0": Distances(3, 4), "F16": Distances(5, 6)}
    monkeypatch.setattr(gemv, "_distances", lambda name, simd: kinds[name])
    blocks = []
    for name, rows in (("Q4_0", 8192), ("Q8_0", 8192), ("F16", 64)):  # the last stays in cache
        row_bytes = 64 // STORAGES[name].block * STORAGES[name].nbytes
        blocks.append(Coded(name, random.integers(0, 60, (rows, row_bytes), np.uint8)))
    W = stored(blocks, np.arange(2 * 8192 + 64), np.arange(64))
    stated = Stated(W, 1, *np.zeros((2, 0), np.int64), np.array([0]), False)
    assert stated.table[:, gemv.NEAR : gemv.SPANS].tolist() == [[1, 2], [3, 4], list(AHEAD)]


def measured(monkeypatch, reads: int):
    """What `_distances` of a small stream reads: first and last panel of each call."""
    calls = []
    monkeypatch.setattr(gemv, "_SLICE", 1 << 20)
    monkeypatch.setattr(gemv, "_STREAM", 5 << 20)
    monkeypatch.setattr(gemv, "_work", lambda runs, *rest: calls.append(tuple(runs)))
    monkeypatch.setattr(gemv.prefetch, "distances", lambda kind, folder, read: [read(AHEAD) for _ in range(reads)])
    gemv._distances.__wrapped__("Q4_0", "avx512")
    return calls


def test_a_slice_is_read_again_when_all_others_have_been(monkeypatch):
    calls = measured(monkeypatch, 11)
    each = calls[0][1]
    assert each * 147456 <= 1 << 20 < (each + 1) * 147456  # 4096 rows of 36 bytes
    assert calls == [(i % 5 * each, i % 5 * each + each) for i in range(11)]


def test_a_stream_is_made_when_it_is_read_and_not_before(monkeypatch):
    monkeypatch.setattr(gemv.memory, "aligned", lambda size, dtype: asked.append(size) or np.empty(size, dtype))
    asked = []
    measured(monkeypatch, 0)
    assert max(asked) < 1 << 20


def test_without_memory_for_the_stream_nothing_is_measured(monkeypatch):
    aligned = gemv.memory.aligned

    def none_left(size, dtype):
        if size > 1 << 20:
            raise MemoryError
        return aligned(size, dtype)

    monkeypatch.setattr(gemv.memory, "aligned", none_left)
    monkeypatch.setattr(gemv.prefetch, "distances", lambda kind, folder, read: read(AHEAD))
    assert gemv._distances.__wrapped__("Q4_0", "avx512") == AHEAD
