"""Bytes of stored weights on every core, against a count of the elements that lie on it, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from llama_reference import tiny
from storages import SUPPORTED, InStorage

from meshkernels import Mesh
from meshkernels.errors import WeightsError
from meshkernels.kernels.resident import Coded, stored
from meshkernels.llm import Layout, Llama, decode_plan, prefill_plan
from meshkernels.llm.footprint import Footprint, tile_bytes
from meshkernels.llm.weights import storages

CONFIG = tiny(8, 4, 32, dim=256, ffn=512, vocab=70)
MIXED = ("Q4_K", "Q6_K", "Q4_0")
#: By hand, from the formats: bits of each plane of codes; numbers of a block and bytes of its scale and minimum;
#: numbers of a group and its factors, of which each takes a byte once it is unpacked.
TYPES = {
    "F32": ((32,), 1, 0, 1, 0), "F16": ((16,), 1, 0, 1, 0), "BF16": ((16,), 1, 0, 1, 0),
    "Q8_0": ((8,), 32, 2, 1, 0), "Q4_0": ((4,), 32, 2, 1, 0), "Q4_1": ((4,), 32, 4, 1, 0),
    "Q5_0": ((4, 1), 32, 2, 1, 0), "Q5_1": ((4, 1), 32, 4, 1, 0),
    "Q2_K": ((2,), 256, 4, 16, 2), "Q3_K": ((2, 1), 256, 2, 16, 1), "Q4_K": ((4,), 256, 4, 32, 2),
    "Q5_K": ((4, 1), 256, 4, 32, 2), "Q6_K": ((4, 2), 256, 2, 16, 1)}


def by_element(layout: Layout, phase: str, source: InStorage, block: int) -> np.ndarray:
    """``(rows, cols)`` bytes of a block's matrices: every core's elements, and the blocks and groups they are from."""
    c, mesh, found = layout.config, layout.mesh, np.zeros(layout.mesh.shape, int)

    def numbered(*names: str) -> tuple[list[np.ndarray], list[str]]:
        """Matrices whose elements say where they are from: 1 + (tensor, row, column) as one number."""
        shapes = [source.tensor(f"blk.{block}.{name}.weight").shape for name in names]
        return ([1 + (i << 40) + (np.arange(rows)[:, None] << 20) + np.arange(columns)
                 for i, (rows, columns) in enumerate(shapes)],
                [source.stored(f"blk.{block}.{name}.weight").storage.name for name in names])

    def add(matrix: np.ndarray, kinds: list[str], across: bool) -> None:
        """Cut ``(inputs, outputs)``, inputs along x where ``across``, and count each core's."""
        parts = mesh.shape[::-1] if across else mesh.shape
        tall = layout.dim if phase == "prefill" and len(matrix) == c.dim else len(matrix)
        wide = layout.dim if phase == "prefill" and matrix.shape[1] == c.dim else matrix.shape[1]
        h, w = -(-tall // parts[0]), -(-wide // parts[1])
        for i in range(parts[0]):
            for j in range(parts[1]):
                held = matrix[i * h : (i + 1) * h, j * w : (j + 1) * w]
                y, x = (j, i) if across else (i, j)
                found[y, x] += count(held[held > 0] - 1, kinds)

    def count(held: np.ndarray, kinds: list[str]) -> int:
        total = 0
        of = np.array(kinds)[held >> 40]
        for kind in set(kinds):
            mine = held[of == kind]
            planes, length, scales, group, factors = TYPES[kind]
            total += sum(-(-len(mine) * bits // 8) for bits in planes)
            where, column = mine >> 20, mine & (1 << 20) - 1
            total += scales * len(set(zip(where, column // length)))
            total += factors * len(set(zip(where, column // group))) if factors else 0
        return total

    across = phase == "decode"
    for names, arrange in ((("attn_q", "attn_k", "attn_v"), layout.fuse_qkv), (("ffn_up", "ffn_gate"), layout.fuse_ffn),
                           (("attn_output",), layout.arrange_out), (("ffn_down",), layout.arrange_down)):
        matrices, kinds = numbered(*names)
        add(arrange(*matrices), kinds, across and len(names) == 1)
    return found


@pytest.mark.parametrize("kinds", [*[(each,) for each in SUPPORTED], MIXED], ids="+".join)
def test_every_core_has_its_codes_and_every_scale_that_they_need(kinds):
    source = InStorage(CONFIG, *kinds)
    for grid in ((3, 5), (7, 12)):
        layout = Layout(CONFIG, Mesh(*grid))
        for plan in (decode_plan(layout, 9), prefill_plan(layout, 9)):
            found = Footprint.of(plan, storages(source))
            expected = [by_element(layout, plan.phase, source, block) for block in range(CONFIG.blocks)]
            assert all(np.array_equal(*each) for each in zip(found.blocks, expected))
            core = np.unravel_index((sum(expected) + found.table).argmax(), grid)
            kept = plan.resident(2, storages(source))
            assert (kept["weights"], kept["table"]) == (sum(expected)[core], found.table[core])


def test_the_third_tile_of_twelve_keeps_two_scales_by_hand():
    """LLaMA3-8B on 360 x 360: rows of 4096 inputs in tiles of 12, blocks of 32: the third has numbers 24 to 35."""
    found = tile_bytes("Q4_0", np.arange(4096), np.ones(14336, bool), (360, 360))
    assert found.shape == (360, 360) and found[0, 0] == 40 * (12 // 2 + 2) and found[2, 0] == 40 * (12 // 2 + 2 * 2)
    assert not found[342:].any() and found[341, 0] == 40 * (4 // 2 + 2)  # 4 are left for the last
    assert found[0, 358] == 16 * 8 and not found[0, 359]


@pytest.mark.parametrize("kind", SUPPORTED)
def test_a_whole_matrix_is_what_the_kernels_keep_but_for_padding(kind):
    matrix = InStorage(CONFIG, kind).stored("blk.0.ffn_up.weight")  # 512 x 256, in panels of 64 columns
    kept = stored([Coded(matrix.storage.name, matrix.data.reshape(512, -1))], np.arange(512), np.arange(256))
    found = int(tile_bytes(kind, np.arange(256), np.ones(512, bool), (1, 1))[0, 0])
    assert found <= kept.nbytes <= found + 64 * 8


def test_a_head_of_its_own_is_counted_beside_the_embedding():
    tied, untied = InStorage(CONFIG, "Q5_0"), InStorage(CONFIG, "Q5_0", tied=False)
    plan = decode_plan(Layout(CONFIG, Mesh(2)), 9)
    # 128 x 35 of Q5_0 on a core: 5 bits, and of every output 4 blocks' scales
    assert plan.resident(2, storages(tied))["table"] == 128 * 35 * 5 // 8 + 35 * 4 * 2
    assert plan.resident(2, storages(untied))["table"] == 2 * plan.resident(2, storages(tied))["table"]


def test_a_second_tile_is_stored_alike():
    """Of MeshGEMM's two tiles of a weight one is resident: the other adds its stored bytes to the buffers."""
    source = InStorage(CONFIG, "Q8_0")
    plan = prefill_plan(Layout(CONFIG, Mesh(4)), 4)
    plain, stored = ({line.name: line.work.buffers for line in plan.ledger(storages=kinds)}
                     for kinds in (None, storages(source)))
    k, n = 512 // 4, 256 // 4  # of the down projection
    assert plain["down"] - stored["down"] == 2 * k * n - (k * n + n * (k // 32) * 2)
    assert plain["score"] == stored["score"]


@pytest.mark.parametrize(("name", "message"), [("x.weight", "none of a 'llama' model"), (None, "no tensor 'blk.1")])
def test_a_source_with_other_tensors_is_refused(name, message):
    source = InStorage(CONFIG, "F16")
    if name is None:
        del source._tensors["blk.1.ffn_up.weight"]
    else:
        source._tensors[name] = np.ones(3, np.float32)
    with pytest.raises(WeightsError, match=message):
        Llama(source, 2)


def test_a_placed_model_says_its_types():
    source = InStorage(CONFIG, "Q5_1")
    assert set(Llama(source, 3).storages.values()) == {"Q5_1", "F32"}
    assert set(Llama(source, 3, dtype="float16").storages.values()) == {"F16"}
