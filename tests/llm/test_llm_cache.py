"""The KV cache against entries moved one by one from row to row, and against its capacity by hand."""

import numpy as np
import pytest

import perfmodel
from meshkernels import Mesh
from meshkernels.files.checkpoint import Config
from meshkernels.llm import CacheOverflow, KVCache, Layout
from meshkernels.llm.cache import balanced

CONFIG = Config(blocks=2, dim=8, ffn=8, heads=2, kv_heads=1, head_dim=4, vocab=9, context=10_000)


def cache(rows: int, cols: int = 2, policy: str = "shift", limit: int | None = None) -> KVCache:
    return KVCache(Layout(CONFIG, Mesh(rows, cols)), policy, limit, itemsize=2)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_shift_moves_entries_between_neighbours_and_keeps_their_order(rows):
    kv, columns = cache(rows), [[] for _ in range(rows)]  # the oracle: a list of entries on each row of cores
    for entry in range(4 * rows + 3):
        gains, y = [entry], rows - 1
        while y > 0 and columns[y] and len(columns[y]) >= len(columns[y - 1]):
            columns[y].append(gains.pop())  # takes the newcomer in and passes its oldest on, upwards
            gains.append(columns[y].pop(0))
            y -= 1
        columns[y].append(gains.pop())
        assert kv.advance() == entry
        assert kv.occupancy.tolist() == [len(c) for c in columns]
        assert max(map(len, columns)) - min(map(len, columns)) <= 1
        assert [e for c in columns for e in c] == list(range(entry + 1))  # physical order is logical order
        assert kv.occupancy.tolist() == balanced(entry + 1, rows).tolist()


def test_level_rows_shift_all_at_once():
    kv = cache(4)
    for _ in range(8):
        kv.advance()
    before = kv.shifts
    kv.advance()
    assert kv.shifts - before == 3 and kv.occupancy.tolist() == [3, 2, 2, 2]


def test_concat_fills_the_last_row():
    kv = cache(4, policy="concat")
    for _ in range(5):
        kv.advance()
    assert kv.occupancy.tolist() == [0, 0, 0, 5] and kv.shifts == 0


@pytest.mark.parametrize("policy", ["shift", "concat"])
@pytest.mark.parametrize("rows, cols, limit", [(1, 1, 100), (3, 2, 100), (5, 4, 333), (7, 1, 1000)])
def test_capacity_measured_by_filling_equals_the_byte_budget(policy, rows, cols, limit):
    kv = cache(rows, cols, policy, limit)
    width = 2 * -(-4 // (2 * cols))  # features of the one head on a core: whole pairs, 4 features cut over cols
    per_entry = 2 * width * 2 * 2  # keys and values, blocks, bytes
    appended = 0
    with pytest.raises(CacheOverflow) as refusal:
        while True:
            kv.advance()
            appended += 1
    assert appended == (limit // per_entry) * (rows if policy == "shift" else 1)
    assert len(kv) == appended  # a refused entry leaves the cache as it was
    row = 0 if policy == "shift" else rows - 1
    for part in (f"core ({row}, 0)", f"{(limit // per_entry + 1) * per_entry} bytes", f"{limit} bytes"):
        assert part in str(refusal.value)


@pytest.mark.parametrize("rows", [1, 2])  # where whole pairs need no padding of a head
def test_measured_capacity_is_the_performance_models(rows):
    """perfmodel spreads fractions of an entry over the rows, as the published table does; a core holds whole ones."""
    chip = perfmodel.device("wse2")
    model = perfmodel.Model("tiny", CONFIG.dim, CONFIG.ffn, CONFIG.blocks, CONFIG.heads, CONFIG.kv_heads,
                            CONFIG.head_dim, CONFIG.vocab)
    for policy in ("shift", "concat"):
        expected = perfmodel.capacity(chip, model, grid=rows, cache=policy, regions=1)
        kv = cache(rows, rows, policy, chip.memory_per_core - expected.weight_bytes)
        with pytest.raises(CacheOverflow):
            while True:
                kv.advance()
        whole = int(expected.per_row)
        assert len(kv) == (rows * whole if policy == "shift" else expected.tokens)
        assert 0 <= expected.tokens - len(kv) < rows


def test_published_capacity_ratio():
    """LLaMA3-8B on 360 rows: 382 tokens by concatenation, 137,548 by shift (paper, Table 5): rows times as many."""
    full = balanced(360 * 382, 360)
    assert full.max() == full.min() == 382 and abs(full.sum() / 137_548 - 1) < 1e-3


def test_entries_survive_growth():
    kv = cache(3)
    for entry in range(700):
        place = kv.advance()
        for block in range(2):
            kv.text.keys[block, :, :, place], kv.text.values[block, :, place] = entry, -entry
    assert np.array_equal(kv.keys[1, 0, 0, :700], np.arange(700))
    assert np.array_equal(kv.values[0, 0, :700, 1], -np.arange(700))


def test_a_prompt_is_put_where_appending_would():
    kv, tokens = cache(4), 11
    keys = [np.random.default_rng(b).standard_normal((1, tokens, kv.layout.head)) for b in range(2)]
    kv.text = kv.filled(list(zip(keys, keys)))
    assert kv.occupancy.tolist() == balanced(tokens, 4).tolist()
    np.testing.assert_allclose(kv.keys[1, 0, :, :tokens], keys[1][0].T, rtol=1e-6)
    np.testing.assert_allclose(kv.values[1, 0, :tokens], keys[1][0], rtol=1e-6)


def test_unknown_policy_lists_the_known():
    with pytest.raises(ValueError, match="shift, concat"):
        cache(2, policy="ring")
