"""Some of the feeds of a collection: those to learn from and those that judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Protocol

from graphprune.graph.model import Array

Feed = Mapping[str, Array]
_HELD = 8  # every eighth feed judges


class Feeds(Protocol):
    """A sized collection of feeds that gives the same each time."""

    def __len__(self) -> int:
        """Number of feeds."""
        ...

    def __iter__(self) -> Iterator[Feed]:
        """All feeds."""
        ...


class Part:
    """Feeds at some places of a collection.

    Args:
        samples: The collection.
        places: Which of its feeds.
    """

    def __init__(self, samples: Feeds, places: frozenset[int]) -> None:
        self._samples, self._places = samples, places

    @property
    def name(self) -> str:
        """What the collection is called."""
        return str(getattr(self._samples, "name", "the data"))

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Feed]:
        return (feed for k, feed in enumerate(self._samples) if k in self._places)


def divided(samples: Feeds) -> tuple[Part, Part]:
    """Feeds to learn from, and every eighth and the last to judge by; a single feed does both."""
    count = len(samples)
    judges = frozenset(k for k in range(count) if k % _HELD == _HELD - 1 or k == count - 1)
    return Part(samples, frozenset(range(count)) - judges if count > 1 else judges), Part(samples, judges)


def first(feeds: Feeds, samples: int, *, least: int = 1) -> list[Feed]:
    """About so many samples from the start, as whole feeds, ``least`` of them in any case."""
    return list(islice(feeds, max(least, samples // max(rows(next(iter(feeds))), 1))))


def rows(feed: Feed) -> int:
    """Samples in a feed: the most along the first axis of any input."""
    return max((len(a) for a in feed.values() if a.ndim), default=1)
