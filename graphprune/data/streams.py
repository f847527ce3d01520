"""Samples from Python: lists, datasets, iterables, loaders, generators and calibration data readers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphprune.data.records import Feed, Read, Records, Size, Spool, as_record, rows_of, size_of
from graphprune.data.wanted import Layout, not_finite
from graphprune.errors import InputError


def from_python(source: Any, layout: Layout, limit: int | None, seed: int, name: str = "") -> Records:
    """Samples of any Python object that gives items; see :func:`graphprune.data.samples` for what an item is.

    Args:
        source: A generator function or another function without arguments, a calibration data reader, a sequence or
            dataset, or an iterable.
        layout: What the graph takes.
        limit: Samples that will be taken at most; what goes by only once gives its first ones.
        seed: Seed of the draw from a sequence.
        name: What it is, for messages. A function with a name here is called once.

    Raises:
        InputError: It gives no items, or one does not fit.
    """
    if inspect.isgeneratorfunction(source) and not name:
        return Calls(source, layout, limit, _named(source))
    name = name or _named(source)
    if _is_function(source):
        made = _called(source, name)
        if _is_function(made):
            raise InputError(f"{name}: gives a function; it has to give samples")
        return from_python(made, layout, limit, seed, name)
    if callable(getattr(source, "get_next", None)):
        return spooled(iter(source.get_next, None), layout, limit, name)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return sequence(source, layout, limit, seed, name)
    if hasattr(source, "__iter__"):
        return spooled(source, layout, limit, name)
    raise InputError(
        f"{type(source).__name__} is no source of samples; give a path, arrays, an iterable, a generator function or a"
        " calibration data reader"
    )


def _is_function(source: Any) -> bool:
    """Whether samples come from calling it: a function, or the class of a reader."""
    gives = hasattr(source, "get_next") or hasattr(source, "__iter__")
    return callable(source) and (isinstance(source, type) or not gives)


def _named(source: Any) -> str:
    return f"data from {getattr(source, '__name__', type(source).__name__)}"


def spooled(items: Iterable[Any], layout: Layout, limit: int | None, name: str) -> Spool:
    """The first samples of something that may go by only once, on a temporary file.

    Raises:
        InputError: An item does not fit, or the user's code fails.
    """
    spool = Spool(name)
    for arrays, size in _records(items, layout, limit, name):
        spool.append(arrays, size)
    return spool


def sequence(items: Any, layout: Layout, limit: int | None, seed: int, name: str) -> Records:
    """Samples of something with a length and items by number; of more than enough, some drawn with the seed.

    A list or tuple stays where it is; what other things give is put on a temporary file.

    Raises:
        InputError: An item does not fit, or the user's code fails.
    """
    many = len(items)
    order = range(many) if limit is None else np.random.default_rng(seed).permutation(many).tolist()
    drawn = ((k, items[k]) for k in order)
    if not isinstance(items, list | tuple):
        return spooled((item for _, item in drawn), layout, limit, name)
    picked: list[int] = []
    count = 0
    for k, item in drawn:
        picked.append(k)
        count += _record(item, layout, f"{name}: item {k}")[1].rows
        if limit is not None and count >= limit:
            break
    return Items(items, sorted(picked), layout, name)


class Items:
    """Items of a list that are samples or batches.

    Args:
        items: The list.
        picked: Numbers of those to take.
        layout: What the graph takes.
        name: What they are, for messages.
    """

    cheap = True

    def __init__(self, items: Sequence[Any], picked: Sequence[int], layout: Layout, name: str) -> None:
        self.name, self._layout = name, layout
        self._items, self._numbers = [items[k] for k in picked], list(picked)
        read = self.reader()
        self.sizes = [size_of(read(k), layout, self.where(k, 0)) for k in range(len(picked))]

    def reader(self) -> Read:
        """Reads any item."""
        return lambda k: as_record(self._items[k], self._layout, self.where(k, 0))

    def where(self, record: int, row: int) -> str:
        """See :class:`Records`."""
        inside = f", sample {row}" if row else ""
        return f"{self.name}: item {self._numbers[record]}{inside}"


class Calls:
    """What a generator function gives, called again for every pass; it has to give the same.

    Args:
        function: It, without arguments.
        layout: What the graph takes.
        limit: Samples to take at most.
        name: What they are, for messages.
    """

    cheap = False  # checked at the first call

    def __init__(self, function: Callable[[], Iterator[Any]], layout: Layout, limit: int | None, name: str) -> None:
        self.name, self._function, self._layout, self._limit = name, function, layout, limit
        self.sizes: list[Size] = [size for _, size in self._pass()]

    def _pass(self) -> Iterator[tuple[Feed, Size]]:
        return _records(_called(self._function, self.name), self._layout, self._limit, self.name)

    def reader(self) -> Read:
        """Reads items in ascending order."""
        items = enumerate(self._pass())
        held: list[Any] = [-1, {}]

        def read(record: int) -> Mapping[str, Any]:
            while held[0] < record:
                number, (arrays, size) = next(items, (-1, ({}, None)))
                if number < 0 or size != self.sizes[number]:
                    raise InputError(
                        f"{self.name}: gives other samples when it is called again; draw with a fixed seed"
                    )
                held[:] = number, arrays
            return held[1]  # type: ignore[no-any-return]

        return read

    def where(self, record: int, row: int) -> str:
        """See :class:`Records`."""
        return f"{self.name}: item {record}, sample {row}"


def _records(items: Iterable[Any], layout: Layout, limit: int | None, name: str) -> Iterator[tuple[Feed, Size]]:
    """Items as records, checked, up to a number of samples; a fixed batch is filled."""
    step, count = layout.batch or 1, 0
    for k, item in enumerate(_guarded(items, name)):
        arrays, size = _record(item, layout, f"{name}: item {k}")
        left = -(-limit // step) * step - count if limit is not None else size.rows
        if size.rows > left:
            arrays, size = dict(rows_of(arrays, slice(0, left))), Size(left, size.key)
        _check(arrays, f"{name}: item {k}")
        yield arrays, size
        count += size.rows
        if limit is not None and count >= limit and (size.whole or not count % step):
            return


def _record(item: Any, layout: Layout, where: str) -> tuple[Feed, Size]:
    arrays = as_record(item, layout, where)
    return arrays, size_of(arrays, layout, where)


def _check(arrays: Mapping[str, Any], where: str) -> None:
    for name, array in arrays.items():
        found = not_finite(array)
        if found is not None:
            raise InputError(f"{where}: {name} holds {found[0]} (row {found[1]})")


def _guarded(items: Iterable[Any], name: str) -> Iterator[Any]:
    """Items; an error in the user's code is told as such.

    Raises:
        InputError: It fails.
    """
    try:
        yield from items
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise InputError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _called(function: Callable[[], Any], name: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise InputError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
