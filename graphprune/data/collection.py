"""Samples: a sized collection of feeds that can be gone through again and gives the same each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice

import numpy as np

from graphprune.data.records import Feed, Records, Size, rows_of, total
from graphprune.data.wanted import LABELS, Layout, not_finite
from graphprune.errors import InputError
from graphprune.graph.model import Array

BATCH = 32
Piece = tuple[int, slice | Array]  # a record and some of its rows


class Samples:
    """Feeds for a graph, the same in every pass.

    ``len`` is the number of feeds. Nothing is held in memory but one feed at a time. Where the source is a file or a
    folder, the collection can be pickled.

    Args:
        records: Where they come from.
        layout: What the graph takes.
        limit: Samples to take at most: of more, this many are drawn with the seed, and stay in their order.
        batch: Samples per feed where the batch is free.
        seed: Seed of the draw.

    Attributes:
        name: What they are, for messages.
        count: Number of samples: rows along the batch; feeds where there is none, or where they came whole.

    Raises:
        InputError: There are none, or (where that can be checked at once) a value is NaN or infinite.
    """

    def __init__(self, records: Records, layout: Layout, limit: int | None, batch: int, seed: int) -> None:
        if limit is not None and limit < 1:
            raise InputError(f"{limit} samples: there must be at least one")
        if batch < 1:
            raise InputError(f"{batch} samples per feed: there must be at least one")
        self.name, self._records, self._layout = records.name, records, layout
        self._sizes = records.sizes
        chosen = _drawn(total(self._sizes), limit, seed) if layout.batch == 0 else None
        self._rows = list(_rows(self._sizes, chosen))
        self._limit, self._seed = limit, seed
        self._plan = self._grouped(batch)
        if not self._plan:
            raise InputError(f"{self.name}: {self._too_few()}")
        self.count = sum(map(self._counted, self._plan))
        if records.cheap:
            for _ in self:
                pass

    def _too_few(self) -> str:
        few = total(self._sizes)
        if not few:
            return "there are no samples"
        return (
            f"{' and '.join(self._layout.names)} has {few} samples, the model's batch is fixed at {self._layout.batch}"
        )

    def _counted(self, feed: tuple[Piece, ...]) -> int:
        """Samples in a feed."""
        if self._sizes[feed[0][0]].whole:
            return 1
        return sum(rows.stop - rows.start if isinstance(rows, slice) else len(rows) for _, rows in feed)

    def _grouped(self, batch: int) -> list[tuple[Piece, ...]]:
        """Pieces of every feed; where the batch is not free, feeds are drawn instead of samples."""
        fixed = self._layout.batch != 0
        made = list(_grouped(self._sizes, self._rows, self._layout.batch or batch, fixed))
        if not fixed or self._limit is None:
            return made
        order = np.random.default_rng(self._seed).permutation(len(made))
        before = np.cumsum([0, *(self._counted(made[k]) for k in order)])
        return [made[k] for k in np.sort(order[before[:-1] < self._limit])]

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Feed]:
        return self._feeds(self._plan)

    @cached_property
    def labels(self) -> Array | None:
        """What the data says to be right, one entry per sample in the order of the feeds; None without labels.

        Raises:
            InputError: Labels of different samples have different sizes.
        """
        found = [feed[LABELS] for feed in self._whole(self._plan) if LABELS in feed]
        if not found:
            return None
        single = not self.batched
        if len({a.shape[0 if single else 1 :] for a in found}) > 1:
            raise InputError(f"{self.name}: labels of different samples have different sizes")
        return np.stack(found) if single else np.concatenate(found)

    @property
    def batched(self) -> bool:
        """Whether axis 0 of every input is the batch."""
        return self._layout.batch is not None

    def in_feed(self, number: int) -> int:
        """Samples in one of the feeds."""
        return self._counted(self._plan[number])

    def head(self, feeds: int, batch: int | None = None) -> list[Feed]:
        """The first few feeds.

        Args:
            feeds: How many.
            batch: Samples per feed where the batch is free; as in the others when None.
        """
        return list(islice(self._feeds(self._plan if batch is None else self._grouped(batch)), feeds))

    def require(self, count: int, purpose: str) -> None:
        """Make sure that there are enough samples for something.

        Raises:
            InputError: There are fewer than ``count``.
        """
        if self.count < count:
            few = "only one sample" if self.count == 1 else f"only {self.count} samples"
            raise InputError(f"{self.name}: {few}; {purpose} needs at least {count}")

    def _feeds(self, plan: Sequence[tuple[Piece, ...]]) -> Iterator[Feed]:
        return ({n: a for n, a in feed.items() if n != LABELS} for feed in self._whole(plan))

    def _whole(self, plan: Sequence[tuple[Piece, ...]]) -> Iterator[Feed]:
        """Feeds with their labels."""
        read = self._records.reader()
        for pieces in plan:
            parts: dict[str, list[Array]] = {}
            for record, rows in pieces:
                for name, array in rows_of(read(record), None if self._sizes[record].whole else rows):
                    self._check(name, array, record, rows)
                    parts.setdefault(name, []).append(array)
            yield {name: _joined(arrays) for name, arrays in parts.items()}

    def _check(self, name: str, array: Array, record: int, rows: slice | Array) -> None:
        found = not_finite(array)
        if found is None:
            return
        what, row = found
        place = 0 if self._sizes[record].whole else row
        first = (rows.start or 0) + place if isinstance(rows, slice) else int(rows[min(place, len(rows) - 1)])
        where = self._records.where(record, first)
        mend = "" if what == "NaN" else "; give the largest finite number, such as -1e9 in a mask"
        raise InputError(f"{where}: {name} holds {what}{mend}")


def _joined(arrays: Sequence[Array]) -> Array:
    """Pieces as one array in memory of its own; strings as objects, as runtimes take them."""
    whole = np.concatenate(arrays) if len(arrays) > 1 and arrays[0].ndim else np.array(arrays[0], order="C")
    return whole.astype(object) if whole.dtype.kind == "U" else whole


def _drawn(count: int, limit: int | None, seed: int) -> Array | None:
    """Which samples to take, ascending; None for all."""
    if limit is None or limit >= count:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


def _rows(sizes: Sequence[Size], chosen: Array | None) -> Iterator[Piece]:
    """Records that have chosen samples, and which."""
    if chosen is None:
        yield from ((k, slice(0, s.rows)) for k, s in enumerate(sizes))
        return
    ends = np.cumsum([s.rows for s in sizes])
    home = np.searchsorted(ends, chosen, side="right")
    starts = np.concatenate([[0], ends[:-1]])
    records, first = np.unique(home, return_index=True)
    for k, rows in zip(records.tolist(), np.split(chosen, first[1:]), strict=True):
        yield k, rows - starts[k]


def _grouped(
    sizes: Sequence[Size],
    chosen: Sequence[Piece],
    step: int,
    fixed: bool,  # noqa: FBT001 - of one call
) -> Iterator[tuple[Piece, ...]]:
    """Neighbours with equal keys put together to feeds of ``step`` samples; ``fixed``: smaller ones are dropped."""
    pieces: list[Piece] = []
    room, key = step, None
    for record, rows in chosen:
        if sizes[record].whole or sizes[record].key != key:
            if pieces and not fixed:
                yield tuple(pieces)
            pieces, room, key = [], step, sizes[record].key
        if sizes[record].whole:
            yield ((record, rows),)
            continue
        start, stop = 0, sizes[record].rows if isinstance(rows, slice) else len(rows)
        while start < stop:
            end = min(stop, start + room)
            pieces.append((record, slice(start, end) if isinstance(rows, slice) else rows[start:end]))
            room -= end - start
            start = end
            if not room:
                yield tuple(pieces)
                pieces, room = [], step
    if pieces and not fixed:
        yield tuple(pieces)
