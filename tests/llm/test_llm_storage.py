"""Models whose weights stay as their file stores them: the bits of a run with the same weights widened to float32."""

from __future__ import annotations

import pytest
from llama_reference import tiny
from storages import SUPPORTED, InStorage, Widened

from meshkernels import Mesh
from meshkernels.kernels import team
from meshkernels.llm import Llama, operations

CONFIG = tiny(8, 4, 32, dim=256, ffn=512, vocab=70)
MIXED = ("Q4_K", "Q4_K", "Q6_K")  # as files of type Q4_K_M mix them: q, k and v of two types in one operand


def logits(source, mesh, **options) -> bytes:
    model = Llama(source, mesh, **options)
    return b"".join(found.tobytes() for found in (
        model.prefill([3, 1, 60, 2, 9], every=True), model.decode(4), model.decode(7), model.prefill([5])))


@pytest.mark.parametrize("storages", [*[(each,) for each in SUPPORTED], MIXED], ids="+".join)
def test_bits_are_those_of_weights_widened_to_float32(storages, monkeypatch):
    monkeypatch.setattr(team, "_cores", lambda: 2)
    source = InStorage(CONFIG, *storages, tied=storages != MIXED)
    for mesh in (Mesh(1), Mesh(3), Mesh(7, 12)):
        expected = logits(Widened(source), mesh, threads=1)
        assert logits(source, mesh, threads=1) == logits(source, mesh, threads=2) == expected


def test_another_grid_for_prefill():
    source, options = InStorage(CONFIG, *MIXED), {"prefill_mesh": Mesh(5)}
    assert logits(source, 3, **options) == logits(Widened(source), 3, **options)


@pytest.mark.parametrize("storages", [("Q4_0",), MIXED, ("F32",)], ids="+".join)
def test_a_weight_widened_some_panels_at_a_time_has_the_same_bits(storages, monkeypatch):
    source = InStorage(CONFIG, *storages)
    for mesh in (Mesh(3), Mesh(7, 12)):
        whole = logits(source, mesh)
        for size in (1, 200_000):  # one panel of 64 columns, or some
            with monkeypatch.context() as patch:
                patch.setattr(operations, "SLAB", size)
                assert logits(source, mesh) == whole


def test_float16_storage_rounds_decoded_numbers():
    source, options = InStorage(CONFIG, "Q5_1"), {"dtype": "float16", "accumulate": "float16"}
    model = Llama(source, 3, **options)
    assert logits(source, 3, **options) == logits(Widened(source), 3, **options)
    assert [part.storage.name for part in model._decode.weights.operands[0, ("Wo",)].parts] == ["F16"]
