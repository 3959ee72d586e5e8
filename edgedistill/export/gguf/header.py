"""The header of a GGUF file, read without trust: every size is held against the file's length before it is used.

The `gguf` package's reader hangs on a 49-byte file that claims an array of 2⁶³ items, so it is not used for files that
come from elsewhere. Layout: ggml-org/ggml, docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgedistill.errors import IntegrityError

MAGIC = b"GGUF"
LONGEST = 256 << 20
MOST_ITEMS = 4_000_000
"""Of one array, and of keys and tensors: sixteen times the largest vocabulary there is."""
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor: `shape` as in PyTorch, slowest dimension first; `offset` counted from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    bytes: int

    @property
    def width(self) -> int:
        """Numbers in a row, which blocks of quantized numbers must divide."""
        return self.shape[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Metadata and the list of tensors."""

    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    file_bytes: int

    @property
    def architecture(self) -> str:
        """The family, by llama.cpp's name for it."""
        return str(self.metadata.get("general.architecture", ""))

    def of_family(self, key: str) -> Any:
        """A value whose key begins with the family's name, or None."""
        return self.metadata.get(f"{self.architecture}.{key}")


def read(path: Path) -> Header:
    """Reads a header; nothing of the tensors' data.

    Raises:
        IntegrityError: not a GGUF file, or one whose sizes and counts cannot be true.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path).header()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}", hint="it must be a file") from error


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = path.stat().st_size

    def header(self) -> Header:
        if self._bytes(4) != MAGIC:
            raise self._wrong("it does not begin with GGUF")
        version = self._number("<I")
        if version not in {2, 3}:
            raise self._wrong(f"version {version} is not 2 or 3, or it is big-endian")
        count, pairs = self._count("tensors", 24), self._count("keys", 13)
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._string()
            if key in metadata:
                raise self._wrong(f"the key {key[:60]!r} is there twice")
            metadata[key] = self._value(self._number("<I"))
        listed = [self._tensor() for _ in range(count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            raise self._wrong(f"its alignment {alignment!r} is no power of two")
        start = -(-self._file.tell() // alignment) * alignment
        return Header(
            version=version,
            metadata=metadata,
            tensors=tuple(self._placed(start, *one) for one in listed),
            alignment=alignment,
            file_bytes=self._size,
        )

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        dimensions = self._number("<I")
        if not 1 <= dimensions <= 4:
            raise self._wrong(f"the tensor {name[:60]!r} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
        return name, shape, self._number("<I"), self._number("<Q")

    def _placed(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
        try:
            known = GGMLQuantizationType(kind)
            block, size = GGML_QUANT_SIZES[known]
        except (ValueError, KeyError) as error:
            raise self._wrong(f"the tensor {name[:60]!r} has the unknown type {kind}") from error
        if shape[-1] % block:
            raise self._wrong(f"the tensor {name[:60]!r} has rows of {shape[-1]} in blocks of {block}")
        length = math.prod(shape) // block * size
        if length == 0 or start + offset + length > self._size:
            raise self._wrong(f"the tensor {name[:60]!r} of {length} bytes does not lie in its {self._size}")
        return TensorInfo(name=name, shape=shape, type=known, offset=start + offset, bytes=length)

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            raise self._wrong(f"a value has the unknown type {kind}")
        inner = self._number("<I")
        if inner == STRING:
            return [self._string() for _ in range(self._count("strings in an array", 8))]
        if inner not in SCALARS:
            raise self._wrong(f"an array has items of type {inner}")
        form = SCALARS[inner]
        count = self._count("items of an array", struct.calcsize(form))
        return list(struct.unpack(f"<{count}{form[1:]}", self._bytes(count * struct.calcsize(form))))

    def _count(self, of: str, least: int) -> int:
        """A count of things that take at least so many bytes each."""
        count = int(self._number("<Q"))
        if count > MOST_ITEMS or count * least > self._size - self._file.tell():
            raise self._wrong(f"it claims {count} {of} and is {self._size} bytes long")
        return count

    def _string(self) -> str:
        length = int(self._number("<Q"))
        return self._bytes(length).decode("utf-8", errors="replace")

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _bytes(self, count: int) -> bytes:
        at = self._file.tell()
        if count > self._size - at or at + count > LONGEST:
            raise self._wrong(f"it ends, or its header grows too long, before {count} bytes at {at}")
        return self._file.read(count)

    def _wrong(self, why: str) -> IntegrityError:
        return IntegrityError(f"{self._path} is not a sound GGUF file: {why}", hint="make or copy it again")
