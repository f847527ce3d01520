"""What every source of samples is turned into: records of one or more rows, read one by one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np

from graphprune.data.wanted import LABELS, Layout, Wanted, checked, label_array
from graphprune.errors import InputError
from graphprune.graph.model import Array

Feed = dict[str, Array]
Read = Callable[[int], Mapping[str, Array]]
MOST_BYTES = 16 << 30  # of a temporary file


@dataclass(frozen=True, slots=True)
class Size:
    """What is known of a record without reading it.

    Attributes:
        rows: Samples in it.
        key: Records with equal keys may be put together in a feed: sizes without axis 0, and what has no axis 0.
        whole: Whether it is a feed as it is, and counts as one sample.
    """

    rows: int
    key: Hashable
    whole: bool = False


class Records(Protocol):
    """Records in a fixed order.

    Attributes:
        name: What they are, for messages.
        sizes: One per record.
        cheap: Whether reading all of them costs little, so that their values are checked at once.
    """

    name: str
    sizes: list[Size]
    cheap: bool

    def reader(self) -> Read:
        """A function that reads record by record, asked in ascending order: arrays of the rank of each input."""

    def where(self, record: int, row: int) -> str:
        """A sample's place, for messages."""


def size_of(arrays: Mapping[str, Array], layout: Layout, where: str) -> Size:
    """Rows and key of a record.

    Raises:
        InputError: Inputs have different numbers of samples.
    """
    key = tuple((n, a.shape[1:] if a.ndim else a.tobytes()) for n, a in arrays.items())
    if layout.batch is None:
        return Size(1, key, whole=True)
    lengths = {n: len(a) for n, a in arrays.items() if a.ndim}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{n}: {k}" for n, k in lengths.items())
        raise InputError(f"{where}: the inputs have different numbers of samples ({said})")
    rows = next(iter(lengths.values()))
    return Size(1, key, whole=True) if layout.batch and rows == layout.batch else Size(rows, key)


def as_record(item: Any, layout: Layout, where: str) -> Feed:
    """One thing that a user hands over as arrays by input name, each with the rank of its input.

    A mapping goes by name. A tuple or list is the inputs in order; what comes after them (labels) is left out. For a
    model with several inputs the first of a pair may itself be a mapping or a tuple. An array is the only input. An
    array with one axis less than its input is one sample.

    Raises:
        InputError: It does not fit the inputs.
    """
    found = _by_name(item, layout, where)
    arrays = {w.name: checked(found[w.name], w, where) for w in layout.inputs}
    out = {w.name: _ranked(arrays[w.name], w, layout, where) for w in layout.inputs}
    if layout.labels:
        label = _label(item, layout, where)
        lone = layout.batch is not None and any(out[n].ndim > arrays[n].ndim for n in out)
        out[LABELS] = label[None] if lone else label
    return out


def _label(item: Any, layout: Layout, where: str) -> Array:
    """What an item says beside the inputs."""
    if hasattr(item, "keys") and hasattr(item, "__getitem__"):
        return layout.label({k: item[k] for k in item.keys()}, where)  # noqa: SIM118
    count = len(layout.names)
    if isinstance(item, list | tuple) and item:
        inner = item[0]
        count = 1 if hasattr(inner, "keys") or (count > 1 and isinstance(inner, tuple)) else count
        if len(item) > count:
            return label_array(item[count], where)
    raise InputError(f"{where}: has no label; give pairs (input, label), or a mapping with {layout.labels[0]!r}")


def _by_name(item: Any, layout: Layout, where: str) -> dict[str, Any]:
    if hasattr(item, "keys") and hasattr(item, "__getitem__"):
        return layout.pick({k: item[k] for k in item.keys()}, where)  # noqa: SIM118 - mappings of other libraries
    names = layout.names
    if isinstance(item, list | tuple) and item and not isinstance(item[0], bool | int | float | str):
        inner = item[0]
        if hasattr(inner, "keys") or (len(names) > 1 and isinstance(inner, tuple)):
            return _by_name(inner, layout, where)
        if isinstance(item, tuple) or not isinstance(inner, list):
            if len(item) < len(names):
                raise InputError(f"{where}: {len(item)} arrays for the {len(names)} inputs {', '.join(names)}")
            return dict(zip(names, item, strict=False))
    if len(names) > 1:
        raise InputError(
            f"{where}: one {type(item).__name__} for the {len(names)} inputs {', '.join(names)}; give a dictionary by"
            " name, or a tuple in this order"
        )
    return {names[0]: item}


def _ranked(array: Array, wanted: Wanted, layout: Layout, where: str) -> Array:
    if wanted.shape is None:
        return array
    lone = array.ndim == len(wanted.shape) - 1
    made = array[None] if lone else array
    skip = 1 if layout.batch and made.ndim == len(wanted.shape) else 0  # any number of rows makes feeds of that size
    if not (made.ndim == len(wanted.shape) and wanted.fits(made.shape[skip:], skip)):
        raise InputError(
            f"{where}: {wanted.name} has shape {array.shape}, the model's input is {wanted.text}"
            + (", or one axis less for a single sample" if wanted.shape else "")
        )
    return made


class Spool:
    """Records on a temporary file, which goes away with the object.

    Args:
        name: What they are, for messages.
    """

    cheap = False  # checked when written

    def __init__(self, name: str) -> None:
        self.name = name
        self.sizes: list[Size] = []
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="graphprune-")  # noqa: SIM115 - lives as long as this
        self._index: list[dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]]] = []

    def append(self, arrays: Mapping[str, Array], size: Size) -> None:
        """Write a record.

        Raises:
            InputError: The disk is full, or the data is larger than a temporary file may be.
        """
        entry = {}
        try:
            end = self._file.seek(0, os.SEEK_END)
            for name, array in arrays.items():
                entry[name] = (end, array.dtype, array.shape)
                end += self._file.write(np.ascontiguousarray(array).tobytes())
        except OSError as error:
            raise InputError(
                f"{self.name}: cannot be kept in {tempfile.gettempdir()} ({error.strerror}); take fewer samples, or set"
                " TMPDIR to a larger disk"
            ) from None
        if end > MOST_BYTES:
            raise InputError(f"{self.name}: more than {MOST_BYTES >> 30} GiB; say how many samples to take")
        self.sizes.append(size)
        self._index.append(entry)

    def read(self, record: int) -> Feed:
        """A record's arrays."""
        out = {}
        for name, (start, dtype, shape) in self._index[record].items():
            self._file.seek(start)
            count = int(np.prod(shape, dtype=np.int64))
            out[name] = np.frombuffer(self._file.read(count * dtype.itemsize), dtype).reshape(shape)
        return out

    def reader(self) -> Read:
        """Reads any record."""
        return self.read

    def where(self, record: int, row: int) -> str:
        """See :class:`Records`."""
        return f"{self.name}: sample {row + sum(s.rows for s in self.sizes[:record])}"


class Kept:
    """Records that cost something to make: made once, then read from a temporary file.

    Args:
        made: The records.
    """

    cheap = False

    def __init__(self, made: Records) -> None:
        self._made = made
        self.name, self.sizes = made.name, made.sizes
        self._forget()

    def _forget(self) -> None:
        self._spool = Spool(self.name)
        self._place: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"made": self._made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["made"])  # type: ignore[misc]

    def reader(self) -> Read:
        """Makes a record at its first reading."""
        make = self._made.reader()

        def read(record: int) -> Mapping[str, Array]:
            if record in self._place:
                return self._spool.read(self._place[record])
            arrays = make(record)
            self._place[record] = len(self._spool.sizes)
            self._spool.append(arrays, self.sizes[record])
            return arrays

        return read

    def where(self, record: int, row: int) -> str:
        """See :class:`Records`."""
        return self._made.where(record, row)


class Chain:
    """Records of several sources, one after the other.

    Args:
        name: What they are together, for messages.
        parts: The sources.
    """

    def __init__(self, name: str, parts: Sequence[Records]) -> None:
        self.name, self._parts = name, tuple(parts)
        self.cheap = all(p.cheap for p in parts)
        self.sizes: list[Size] = [s for p in parts for s in p.sizes]
        self._home = [(p, k) for p, part in enumerate(parts) for k in range(len(part.sizes))]

    def reader(self) -> Read:
        """Opens a source when its turn comes and lets go of the one before."""
        current: list[Any] = [-1, None]

        def read(record: int) -> Mapping[str, Array]:
            part, k = self._home[record]
            if current[0] != part:
                current[:] = part, self._parts[part].reader()
            return current[1](k)  # type: ignore[no-any-return]

        return read

    def where(self, record: int, row: int) -> str:
        """See :class:`Records`."""
        part, k = self._home[record]
        return self._parts[part].where(k, row)


def rows_of(arrays: Mapping[str, Array], rows: slice | Array | None) -> Iterator[tuple[str, Array]]:
    """Some rows of a record; None for all."""
    for name, array in arrays.items():
        yield name, array if rows is None or not array.ndim else array[rows]


def total(sizes: Iterable[Size]) -> int:
    """Samples in all records."""
    return sum(s.rows for s in sizes)
