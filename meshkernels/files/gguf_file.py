"""The GGUF file format: one pass over a header that nobody trusts, and a memory map of the tensors.

    "GGUF" | version | tensors | keys | (key, type, value) ... | (name, dims, storage, offset) ... | padding | data

Every count and length is compared with the file before it is used, every string is decoded, every tensor lies inside
the file and over no other. The reader of the ``gguf`` package does none of this, and keeps a NumPy array per array
element (2 s for a vocabulary of 49,152); the package names the types and dequantises.

References:
    The GGUF file format: ggml, ``docs/gguf.md``.
"""

from __future__ import annotations

import mmap
import os
import reprlib
import stat
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from meshkernels.errors import MissingExtra, WeightsError

try:
    import gguf
    from gguf import GGMLQuantizationType, GGUFValueType
except ImportError as missing:
    raise MissingExtra("llm", missing) from None

# No model comes near these; with them, a hostile header costs a few seconds and a few hundred MB at most.
#: Bytes before the tensors' data; LLaMA 3 has 8 MB.
MAX_HEADER = 2**27
#: Keys, and tensors; LLaMA 3.1 405B has 1,138 tensors.
MAX_ENTRIES = 2**16
#: Items of all arrays together; 256,000 tokens with their types, scores and merges are 1,300,000.
MAX_ITEMS = 2**22

#: Storage types of tensors that are read.
SUPPORTED = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K")
#: The format's little-endian numbers.
_NUMBERS = {
    GGUFValueType.UINT8: "<u1", GGUFValueType.INT8: "<i1", GGUFValueType.UINT16: "<u2", GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4", GGUFValueType.INT32: "<i4", GGUFValueType.UINT64: "<u8", GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4", GGUFValueType.FLOAT64: "<f8", GGUFValueType.BOOL: "?",
}

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80


def show(value: Any) -> str:
    """A value from a file in one short line."""
    return " ".join(_brief.repr(value).split())


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in the file.

    Attributes:
        shape: as NumPy has it, the reverse of the file's list: ``(out_features, in_features)``.
        storage: how its numbers are stored.
        data: ``(*shape[:-1], bytes of a row)`` bytes, mapped.
    """

    shape: tuple[int, ...]
    storage: GGMLQuantizationType
    data: np.ndarray

    def dequantised(self, rows: Any = slice(None)) -> np.ndarray:
        """Float32 numbers, of all or of some rows. What is NaN or infinite in the file stays so, without a warning."""
        with np.errstate(invalid="ignore", over="ignore"):
            return gguf.dequantize(self.data[rows], self.storage)


class GGUFFile:
    """A GGUF file, checked from end to end as far as the format goes.

    Attributes:
        name: the file's name.
        metadata: key -> int, float, bool, str, or list of one of these, in file order.
        tensors: name -> tensor, in file order.

    Raises:
        WeightsError: the file cannot be read, or breaks the format; the message names what, where and the limit.
    """

    def __init__(self, path: Path):
        self.name = path.name
        self._map = _mapped(path)
        self._at = self._items = 0
        self._read_version()
        tensors, keys = (self._number("<Q", f"the number of {what}") for what in ("tensors", "keys"))
        self.metadata: dict[str, Any] = {}
        for i in range(self._entries(keys, 13, "keys")):
            key = self._string(f"key {i}")
            if key in self.metadata:
                raise self._refusal(f"key {show(key)} appears twice")
            self.metadata[key] = self._value(key)
        infos = {}
        for i in range(self._entries(tensors, 32, "tensors")):
            name = self._string(f"the name of tensor {i}")
            if name in infos:
                raise self._refusal(f"tensor {show(name)} appears twice")
            infos[name] = self._tensor_info(show(name))
        self.tensors = self._place(infos)

    def release(self) -> None:
        """Give back the pages of the map that were read."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not everywhere
            self._map.madvise(mmap.MADV_DONTNEED)

    def _refusal(self, reason: str) -> WeightsError:
        return WeightsError(f"{self.name}: {reason}")

    # ---------------------------------------------------------------------------------------------- single values
    def _take(self, length: int, what: str) -> int:
        """Go past the next ``length`` bytes; returns where they begin."""
        begin, self._at = self._at, self._at + length
        if self._at > len(self._map):
            raise self._truncated(self._at, what)
        if self._at > MAX_HEADER:
            raise self._refusal(f"{what} ends at byte {self._at} of the header, at most {MAX_HEADER} are read")
        return begin

    def _truncated(self, end: int, what: str) -> WeightsError:
        found = len(self._map)
        return WeightsError(f"{self.name} is truncated: {found} bytes found, at least {end} expected by {what}")

    def _number(self, format: str, what: str) -> int:
        return struct.unpack_from(format, self._map, self._take(struct.calcsize(format), what))[0]

    def _string(self, what: str) -> str:
        length = self._number("<Q", what)
        begin = self._take(length, what)
        try:
            return str(self._map[begin : self._at], "utf-8")
        except UnicodeDecodeError as error:
            raise self._refusal(f"{what} is not UTF-8: {show(error.object)} ({error.reason})") from error

    def _entries(self, count: int, least: int, what: str) -> int:
        """A number of entries of at least ``least`` bytes each, compared with what is left of the file."""
        if self._at + count * least > len(self._map):
            raise self._truncated(self._at + count * least, f"its {count} {what}")
        if count > MAX_ENTRIES:
            raise self._refusal(f"{count} {what}, at most {MAX_ENTRIES} are read")
        return count

    # ------------------------------------------------------------------------------------------------- the header
    def _read_version(self) -> None:
        magic = self._map[:4]
        if magic != b"GGUF":
            raise WeightsError(f"{self.name} is not a GGUF file (it starts with {magic!r}, not b'GGUF')")
        self._at = 4
        version = self._number("<I", "the version")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "big"), "little")
            order = f" (or {swapped}, big-endian)" if swapped < version else ""
            raise self._refusal(f"GGUF version {version}{order}; versions 2 and 3, little-endian, are read")

    def _value(self, key: str) -> Any:
        what = show(key)
        kind = self._kind(what)
        if kind == GGUFValueType.STRING:
            return self._string(what)
        if kind != GGUFValueType.ARRAY:
            return self._numbers(kind, 1, what)[0]
        kind = self._kind(what)
        count = self._number("<Q", what)
        if kind == GGUFValueType.ARRAY:
            raise self._refusal(f"{what} is an array of arrays; arrays of numbers and of strings are read")
        least = 8 if kind == GGUFValueType.STRING else np.dtype(_NUMBERS[kind]).itemsize
        if self._at + count * least > len(self._map):
            raise self._truncated(self._at + count * least, f"the {count} items of {what}")
        self._items += count
        if self._items > MAX_ITEMS:
            raise self._refusal(f"arrays of {self._items} items up to {what}, at most {MAX_ITEMS} are read")
        if kind == GGUFValueType.STRING:
            return [self._string(what) for _ in range(count)]
        return self._numbers(kind, count, what)

    def _kind(self, what: str) -> GGUFValueType:
        number = self._number("<I", what)
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self._refusal(f"{what} has value type {number}, known: 0 to {max(GGUFValueType)}") from None

    def _numbers(self, kind: GGUFValueType, count: int, what: str) -> list[Any]:
        dtype = np.dtype(_NUMBERS[kind])
        begin = self._take(count * dtype.itemsize, what)
        numbers = np.frombuffer(self._map, np.uint8, count * dtype.itemsize, begin)
        if kind == GGUFValueType.BOOL and count and numbers.max() > 1:
            raise self._refusal(f"{what} = {numbers.max()} is no boolean, those are stored as 0 or 1")
        return numbers.view(dtype).tolist()

    # ------------------------------------------------------------------------------------------------ the tensors
    def _tensor_info(self, name: str) -> tuple[tuple[int, ...], GGMLQuantizationType, int]:
        """Shape, storage, and offset in the data."""
        rank = self._number("<I", f"the rank of {name}")
        if not 1 <= rank <= 4:
            raise self._refusal(f"tensor {name} has {rank} dimensions, 1 to 4 are possible")
        shape = tuple(self._number("<Q", f"the shape of {name}") for _ in range(rank))[::-1]
        if 0 in shape:
            raise self._refusal(f"tensor {name} has shape {shape}: it is empty")
        kind = self._number("<I", f"the storage of {name}")
        offset = self._number("<Q", f"the offset of {name}")
        try:
            return shape, GGMLQuantizationType(kind), offset
        except ValueError:
            raise self._refusal(f"tensor {name} is stored as type {kind}, which is not known; supported: "
                                f"{', '.join(SUPPORTED)}") from None

    def _alignment(self) -> int:
        value = self.metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if type(value) is not int or not 8 <= value <= 2**24 or value & (value - 1):
            raise self._refusal(f"general.alignment = {show(value)}; a power of two from 8 to 2^24 is expected")
        return value

    def _place(self, infos: dict[str, tuple[tuple[int, ...], GGMLQuantizationType, int]]) -> dict[str, Stored]:
        """Map every tensor: inside the file, aligned, each where the one before it ends (as ggml demands too)."""
        alignment = self._alignment()
        data = -(-self._at // alignment) * alignment
        bytes_ = np.frombuffer(self._map, np.uint8)
        tensors, expected = {}, 0
        for name, (shape, storage, offset) in infos.items():
            label = f"tensor {show(name)} of shape {shape}, {storage.name}, at offset {offset}"
            block, size = gguf.GGML_QUANT_SIZES[storage]
            if shape[-1] % block:
                raise self._refusal(f"{label}: rows are stored in blocks of {block}")
            if offset != expected:
                raise self._refusal(f"{label}: it must be at offset {expected}, where the tensors before it end (at a "
                                    f"multiple of general.alignment = {alignment})")
            rows = (*shape[:-1], shape[-1] // block * size)
            begin = data + offset
            end = begin + prod(rows)
            if end > len(self._map):
                raise self._truncated(end, label)
            tensors[name] = Stored(shape, storage, bytes_[begin:end].reshape(rows))
            expected = -(-(end - data) // alignment) * alignment
        return tensors


def _mapped(path: Path) -> mmap.mmap:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before opening: a pipe would wait for its writer
            kind = "a directory" if path.is_dir() else "no regular file"
            raise WeightsError(f"cannot read {path}: it is {kind}")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise WeightsError(f"{path.name} is not a GGUF file: it is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a null byte in the path
        raise WeightsError(f"cannot read {str(path)!r}: {error}") from error
