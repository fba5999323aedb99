"""Matrices and models in every storage type of a GGUF file, with what the ``gguf`` package decodes them to."""

from __future__ import annotations

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from llama_reference import Synthetic

from meshkernels.files.checkpoint import SUPPORTED
from meshkernels.files.gguf_file import Stored

#: Where a block of 256 numbers has its float16 scales; all its other bits may be anything.
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def encoded(values: np.ndarray, storage: str, seed: int = 0) -> Stored:
    """A matrix stored as a type: its own numbers, or (blocks of 256) any bits with scales of such numbers' size."""
    kind = GGMLQuantizationType[storage]
    if storage not in SCALES:
        data = gguf.quants.quantize(np.ascontiguousarray(values, np.float32), kind)
        return Stored(values.shape, kind, np.ascontiguousarray(data).view(np.uint8).reshape(len(values), -1))
    random, (block, size) = np.random.default_rng(seed), gguf.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (len(values), values.shape[1] // block, size), np.uint8)
    for at in SCALES[storage]:
        scale = random.uniform(-1, 1, data.shape[:2]) * np.abs(values).mean() / 500
        data[..., at : at + 2] = scale.astype(np.float16)[..., None].view(np.uint8)
    return Stored(values.shape, kind, data.reshape(len(values), -1))


class InStorage(Synthetic):
    """A synthetic model whose matrices are stored as a type, or as one of several by turns."""

    def __init__(self, config, *storages: str, seed: int = 0, tied: bool = True):
        super().__init__(config, seed, tied)
        matrices = [name for name in self.names if self._tensors[name].ndim == 2]
        self.encoded = {name: encoded(self._tensors[name], storages[i % len(storages)], i)
                        for i, name in enumerate(matrices)}

    def tensor(self, name: str) -> np.ndarray:
        found = self.encoded.get(name)
        return self._tensors[name] if found is None else found.dequantised().astype(np.float32)

    def stored(self, name: str) -> Stored:
        return self.encoded[name]


class Widened:
    """The same model, every number as float32."""

    def __init__(self, source):
        self.config, self.names, self.tensor = source.config, source.names, source.tensor


__all__ = ["SUPPORTED", "InStorage", "Widened", "encoded"]
