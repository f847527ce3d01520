"""Tensors that are mapped files: their pages go back to the system once they have been used."""

from __future__ import annotations

import ctypes
import mmap
import sys
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor


class Pages:
    """Memory known to be mapped from files and never written to, so that letting go of it loses nothing."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._advise = ctypes.CDLL(None).madvise if sys.platform == "linux" else None

    def add(self, tensor: Tensor) -> None:
        """The storage of a tensor is such memory."""
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            self._sizes[storage.data_ptr()] = storage.nbytes()

    def release(self, tensor: Tensor) -> None:
        """Give back the pages of a tensor's storage; they are read again when needed."""
        self.release_at(tensor.untyped_storage().data_ptr())

    def release_at(self, address: int) -> None:
        """Give back the pages of the storage that begins at an address; nothing where none is known to."""
        size = self._sizes.get(address)
        if size and self._advise is not None:
            first = address // mmap.PAGESIZE * mmap.PAGESIZE
            self._advise(ctypes.c_void_p(first), ctypes.c_size_t(address + size - first), mmap.MADV_DONTNEED)


class Writer:
    """A file that ``torch.save`` writes to; pages of mapped tensors are given back behind it.

    Args:
        file: The file.
        pages: What is mapped.
    """

    def __init__(self, file: BinaryIO, pages: Pages) -> None:
        self._file, self._pages = file, pages

    def write(self, data: memoryview) -> int:
        """Write, and let go of the memory written from."""
        count = self._file.write(data)
        self._pages.release_at(np.frombuffer(data, np.uint8).ctypes.data)
        return count

    def flush(self) -> None:
        """Write what is buffered."""
        self._file.flush()


def mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The content of a file as a tensor."""
    return torch.from_file(str(path), shared=False, size=prod(shape), dtype=dtype).reshape(shape)
