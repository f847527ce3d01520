"""Samples from arrays: in memory, in .npz and .npy files (mapped, never unpickled), in folders of them."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from graphprune.data.records import Chain, Feed, Read, Records, Size, size_of
from graphprune.data.wanted import LABELS, Layout, Wanted, checked
from graphprune.errors import InputError
from graphprune.graph.model import Array

ENDINGS = (".npz", ".npy")


class Stack:
    """Samples stacked on axis 0 of arrays by input name.

    An array with the rank of its input has its samples along the batch. Where an input has no batch, or no free one,
    it may have an axis more: then each entry is a whole input.

    Args:
        arrays: They, checked in type.
        layout: What the graph takes.
        name: What they are, for messages.

    Raises:
        InputError: Sizes do not fit.
    """

    cheap = True

    def __init__(self, arrays: Mapping[str, Array], layout: Layout, name: str) -> None:
        self.name, self._layout = name, layout
        self._open(arrays)
        self.sizes: list[Size] = [size_of(self._part(k), layout, name) for k in range(self.count)]

    def _open(self, arrays: Mapping[str, Array]) -> None:
        """Find how each array is cut into ``count`` records: None for shared by all, 0 for an entry, else rows."""
        wanted = {w.name: w for w in self._layout.inputs} | {LABELS: Wanted("labels", "", None)}
        more = {n: a.ndim - len(s) for n, a in arrays.items() if (s := wanted[n].shape) is not None}
        for name, array in arrays.items():
            _fit(array, wanted[name], more.get(name, 0), self.name)
        lone = {n for n, d in more.items() if d == -1}
        self.arrays = {n: a[None] if n in lone else a for n, a in arrays.items()}
        entries = {n: len(arrays[n]) for n, d in more.items() if d == 1}
        self.step: dict[str, int | None] = {n: 0 if n in entries else None for n in arrays}
        self.count = 1
        if entries:
            self.count = next(iter(entries.values()))
            rows = {n: (wanted[n].shape or (1,))[0] or 1 for n, d in more.items() if d == 0 and wanted[n].shape}
            self._cut(rows, entries)
        elif self._layout.batch is None:
            fixed = {n: k for n, d in more.items() if d == 0 and (k := (wanted[n].shape or (None,))[0])}
            self.count = max((len(self.arrays[n]) // k for n, k in fixed.items()), default=1)
            free = {n for n, d in more.items() if d == 0 and wanted[n].shape and n not in fixed}
            self._cut({**fixed, **{n: max(1, len(self.arrays[n]) // max(1, self.count)) for n in free}}, {})
        if LABELS in arrays and (entries or self._layout.batch is None):
            self._cut({}, {LABELS: len(np.atleast_1d(arrays[LABELS]))})
            self.step[LABELS] = 0

    def _cut(self, rows: Mapping[str, int], entries: Mapping[str, int]) -> None:
        counts = {**entries, **{n: len(self.arrays[n]) / k for n, k in rows.items()}}
        if any(c != self.count for c in counts.values()):
            said = ", ".join(f"{n}: {len(self.arrays[n])}" for n in self.arrays if n in counts)
            raise InputError(f"{self.name}: the inputs have different numbers of samples ({said})")
        self.step |= rows

    def _part(self, k: int) -> Feed:
        out = {}
        for name, array in self.arrays.items():
            step = self.step[name]
            out[name] = array if step is None else np.asarray(array[k * step : (k + 1) * step] if step else array[k])
        return out

    def reader(self) -> Read:
        """Reads any record; a view, nothing is read from a file yet."""
        return self._part

    def where(self, record: int, row: int) -> str:
        """See :class:`Records`."""
        return f"{self.name}: sample {record if self.count > 1 else row}"


def _fit(array: Array, wanted: Wanted, more: int, where: str) -> None:
    """Check the sizes of an array with ``more`` axes than its input.

    Raises:
        InputError: They are not those of the input.
    """
    if wanted.shape is None:
        return
    skip = {1: 0, 0: 1, -1: 1}.get(more)
    rest = array.shape if more < 0 else array.shape[1:]
    if skip is None or not (wanted.fits(rest, skip) and (wanted.shape or more >= 0)):
        raise InputError(
            f"{where}: {wanted.name} has shape {array.shape}, the model's input is {wanted.text};"
            " samples are stacked on axis 0"
        )


class File(Stack):
    """Samples of a .npz or .npy file, mapped; the file is opened again where the object is unpickled.

    Args:
        path: The file.
        layout: What the graph takes.
        held: Whether it stays open between passes; one of many files must not.

    Raises:
        InputError: It cannot be read, or does not fit.
    """

    def __init__(self, path: Path, layout: Layout, *, held: bool = True) -> None:
        self._path, self._held = path, held
        super().__init__(self._arrays(layout), layout, str(path))
        if not held:
            self.arrays = {}

    def reader(self) -> Read:
        """Reads any record; a view, nothing is read from the file yet."""
        if self.arrays:
            return self._part
        opened = self if self._held else copy(self)
        opened._open(self._arrays(self._layout))
        return opened._part

    def _arrays(self, layout: Layout) -> dict[str, Array]:
        return named(read_file(self._path), layout, str(self._path))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": {}}


def named(found: Array | Mapping[str, Any], layout: Layout, where: str) -> dict[str, Array]:
    """Arrays by input name, checked in type.

    Raises:
        InputError: An input has none, or one of another type.
    """
    if isinstance(found, np.ndarray):
        if len(layout.inputs) != 1:
            raise InputError(
                f"{where}: {layout.model} has {len(layout.inputs)} inputs ({', '.join(layout.names)});"
                " give a .npz, or a dictionary, with an array for each"
            )
        found = {layout.names[0]: found}
    arrays = layout.pick(found, where)
    out = {w.name: checked(arrays[w.name], w, where) for w in layout.inputs}
    return out | {LABELS: layout.label(found, where)} if layout.labels else out


def folder(path: Path, files: list[Path], layout: Layout) -> Records:
    """Samples of all .npz and .npy files of a folder, one sample or one stack in each."""
    return Chain(str(path), [File(f, layout, held=False) for f in files])


# -- reading ---------------------------------------------------------------------------------------------


def read_file(path: Path) -> Array | dict[str, Array]:
    """The array or arrays of a .npy or .npz file, mapped.

    Raises:
        InputError: It cannot be read, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(npy.MAGIC_PREFIX))
            if start == npy.MAGIC_PREFIX:
                return _mapped(path, file, 0)
            return {i.filename.removesuffix(".npy"): _member(path, file, i) for i in zipfile.ZipFile(file).infolist()}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except Exception as error:  # whatever a broken file makes of the reader
        raise InputError(f"{path}: not a readable .npz or .npy file ({_said(error)})") from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _member(path: Path, file: IO[bytes], info: zipfile.ZipInfo) -> Array:
    """An array of an archive: mapped where it is stored as it is, else unpacked to a temporary file."""
    if info.compress_type == zipfile.ZIP_STORED:
        file.seek(info.header_offset)
        head = file.read(30)
        if head[:4] != b"PK\x03\x04":
            raise ValueError(f"{info.filename} is not where the archive says")
        start = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        return _mapped(path, file, start)
    unpacked = tempfile.TemporaryFile(prefix="graphprune-")  # noqa: SIM115 - lives as long as its mapping
    with zipfile.ZipFile(path) as archive, archive.open(info) as packed:
        while block := packed.read(1 << 22):
            unpacked.write(block)
    return _mapped(path, unpacked, 0)


def _mapped(path: Path, file: IO[bytes], start: int) -> Array:
    """The array whose .npy text begins at a place of a file.

    Raises:
        InputError: It holds Python objects.
        ValueError: It is no array, or shorter than its header says.
    """
    file.seek(start)
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise InputError(f"{path}: holds Python objects; pickled objects are refused, save plain arrays")
    if not np.prod(shape, dtype=np.int64):
        return np.empty(shape, dtype)
    order = "F" if fortran else "C"
    return np.memmap(file, dtype, "r", file.tell(), shape, order)  # type: ignore[call-overload,no-any-return]
