"""Safetensors files: read by slices, written tensor by tensor, element types as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graphprune.coupling.box import Box
from graphprune.errors import InputError
from graphprune.graph.model import Array
from graphprune.rewrite.pieces import PIECE, pieces
from graphprune.rewrite.replay import Shape, Stored

# Bits per element; what is smaller than a byte can be copied but not cut.
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
_NO_CHANNELS = {"BOOL", "I32", "U32", "I64", "U64"}
_LIMIT = 100 << 20  # bytes of a header, as in the reference implementation


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a safetensors file.

    Attributes:
        name: Its name.
        dtype: Element type as the file names it.
        shape: Sizes.
        path: The file.
        start: Where its bytes begin in the file.
    """

    name: str
    dtype: str
    shape: Shape
    path: Path
    start: int

    @property
    def bytes(self) -> int:
        """Bytes it takes."""
        return prod(self.shape) * BITS[self.dtype] // 8

    @property
    def stored(self) -> Stored:
        """Its sizes, and whether it may hold channels."""
        return Stored(self.shape, self.dtype not in _NO_CHANNELS)

    def rows(self, first: int, last: int) -> Array:
        """Positions of axis 0 as unsigned integers of the element's size."""
        size = BITS[self.dtype] // 8
        row = prod(self.shape[1:])
        got = np.fromfile(self.path, f"u{size}", (last - first) * row, offset=self.start + first * row * size)
        if got.size != (last - first) * row:
            raise InputError(f"{self.path}: the file ends within {self.name}")
        return got.reshape(last - first, *self.shape[1:])

    def raw(self) -> Iterator[memoryview]:
        """Its bytes, piece by piece."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.bytes
            while left:
                piece = file.read(min(left, PIECE))
                if not piece:
                    raise InputError(f"{self.path}: the file ends within {self.name}")
                left -= len(piece)
                yield memoryview(piece)


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor on its way into a new file.

    Attributes:
        name: Its name there.
        dtype: Element type.
        shape: Sizes there.
        content: Makes its bytes, piece by piece.
    """

    name: str
    dtype: str
    shape: Shape
    content: Callable[[], Iterator[Any]]

    @property
    def bytes(self) -> int:
        """Bytes it takes."""
        return prod(self.shape) * BITS[self.dtype] // 8


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file in the order of their bytes, and its metadata; only the header is read.

    Raises:
        InputError: The file is missing, truncated, or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header, start = _header(path, file, size)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    metadata = header.pop("__metadata__", {})
    try:
        tensors = [_tensor(path, name, entry, start) for name, entry in header.items()]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a safetensors file (bad header entry: {error})") from None
    tensors.sort(key=lambda t: t.start)
    end = start
    for tensor in tensors:
        if tensor.start != end:
            raise InputError(f"{path}: not a safetensors file (the bytes of {tensor.name} are out of place)")
        end += tensor.bytes
    if end != size:
        cause = f"{end - size:,} bytes are missing; it is truncated" if end > size else "bytes follow the last tensor"
        raise InputError(f"{path}: not a whole safetensors file ({cause})")
    return {t.name: t for t in tensors}, metadata if isinstance(metadata, dict) else {}


def _header(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if start[:7] == b"version":
        raise InputError(f"{path}: a Git LFS pointer, not the file itself; fetch it with git lfs pull")
    if len(start) < 8 or not 2 <= length <= min(_LIMIT, size - 8):
        raise InputError(f"{path}: not a safetensors file, or truncated in its header")
    try:
        header = json.loads(file.read(length))
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise InputError(f"{path}: not a safetensors file (its header is no JSON)") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: not a safetensors file (its header is no JSON object)")
    return header, 8 + length


def _tensor(path: Path, name: str, entry: Any, start: int) -> Tensor:
    dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in BITS:
        raise InputError(f"{path}: {name} has the unknown element type {dtype}")
    if any(not isinstance(n, int) or n < 0 for n in (*shape, first, last)):
        raise ValueError(f"sizes of {name}")
    tensor = Tensor(name, dtype, shape, path, start + first)
    if prod(shape) * BITS[dtype] % 8 or last - first != tensor.bytes:
        raise ValueError(f"size of {name}")
    return tensor


def cut(tensor: Tensor, box: Box | None) -> Kept:
    """What is kept of a tensor.

    Raises:
        InputError: It would be cut within bytes.
    """
    if not box:
        return Kept(tensor.name, tensor.dtype, tensor.shape, tensor.raw)
    if BITS[tensor.dtype] % 8:
        raise InputError(f"{tensor.path}: {tensor.name} packs several {tensor.dtype} into a byte and cannot be cut")
    size = BITS[tensor.dtype] // 8
    shape = tuple(box.shape(tensor.shape))

    def content() -> Iterator[Array]:
        yield from pieces(tensor.rows, tensor.shape, size, box)

    return Kept(tensor.name, tensor.dtype, shape, content)


def write(path: Path, tensors: list[Kept], metadata: Mapping[str, str]) -> int:
    """Write a file: the header first, then tensor by tensor.

    Args:
        path: Where.
        tensors: What, in the order of their bytes; wide elements should come first so that all are aligned.
        metadata: Texts for the header.

    Returns:
        Bytes of all tensors.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for t in tensors:
        header[t.name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [end, end + t.bytes]}
        end += t.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for t in tensors:
            before = file.tell()
            for piece in t.content():
                file.write(piece)
            assert file.tell() - before == t.bytes, t.name
    return end
