"""One pass over the data that sums several things, and how things are dealt out to passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from graphprune.calibration.cache import Checkpoint, Digest
from graphprune.calibration.grams import GramSums, Source
from graphprune.calibration.moments import MomentSums
from graphprune.calibration.values import Values
from graphprune.data.parts import Feeds
from graphprune.graph.model import Array


@dataclass
class MomentJob:
    """Moments of a value.

    Attributes:
        key: What it is, for the cache.
        name: The value.
        sums: The sums.
    """

    key: str
    name: str
    sums: MomentSums

    bytes = 0

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values it reads."""
        return (self.name,)

    def add(self, values: Mapping[str, Array], feed: int, feeds: int) -> None:  # noqa: ARG002 - jobs are alike
        """See what a feed gave."""
        self.sums.add(values[self.name])


@dataclass
class GramJob:
    """A Gram matrix.

    Attributes:
        key: What it is, for the cache and for the draw of positions.
        source: Where its rows come from.
        seed: Seed of the draw.
        positions: Positions to sum over at most, None for all.
        sums: The sums, once the pass begins.
    """

    key: str
    source: Source
    seed: int
    positions: int | None
    sums: GramSums = field(init=False)

    @property
    def bytes(self) -> int:
        """Bytes of its sums."""
        return self.source.bytes

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values it reads."""
        return self.source.values

    def add(self, values: Mapping[str, Array], feed: int, feeds: int) -> None:
        """See what a feed gave, at some of its positions where there are too many."""
        limit = None if self.positions is None else -(-self.positions // feeds)
        rng = np.random.default_rng([self.seed, feed, *self.key.encode()])
        for rows in self.source.chunks(values, rng, limit):
            self.sums.add(rows)


Job = MomentJob | GramJob


def dealt(jobs: Sequence[Job], sizes: Callable[[str], int], memory: int) -> Iterator[list[Job]]:
    """Jobs in passes whose sums and values fit beside the sums of the passes before, one job at least in each.

    Args:
        jobs: All jobs, in graph order.
        sizes: Bytes of a value for one feed.
        memory: Bytes of a pass; sums of earlier ones are held in half of it at most.
    """
    held: list[Job] = []
    names: set[str] = set()
    total, before = 0, 0
    for job in jobs:
        more = job.bytes + sum(sizes(n) for n in set(job.values) - names)
        if held and total + more > memory - min(before, memory // 2):
            yield held
            before += sum(j.bytes for j in held)
            held, names, total = [], set(), 0
            more = job.bytes + sum(sizes(n) for n in job.values)
        held.append(job)
        names.update(job.values)
        total += more
    if held:
        yield held


def carry_out(
    jobs: Sequence[Job],
    values: Values,
    samples: Feeds,
    step: Callable[[int], None],
    cache: tuple[Path, Sequence[str]] | None,
) -> None:
    """Run the model over all feeds, from where the cache stopped.

    Args:
        jobs: What to sum; their sums begin empty.
        values: The model.
        samples: The feeds.
        step: Called with the number of feeds done, after each.
        cache: Folder, and what tells this model and data from others.
    """
    for job in jobs:
        if isinstance(job, GramJob):
            job.sums = GramSums(job.source.groups, job.source.width)
    checkpoint, done, seen, state = None, 0, "", dict[str, Array]()
    if cache is not None:
        extra = [f"{j.key} {j.seed} {j.positions}" if isinstance(j, GramJob) else j.key for j in jobs]
        checkpoint = Checkpoint(cache[0], [*cache[1], *extra])
        done, seen, state = checkpoint.read()
        if done and _digest(samples, done) != seen:  # the same beginning, other data behind it
            done = 0
    if done:
        for place, job in enumerate(jobs):
            prefix = f"{place}/"
            job.sums.restore({k.removeprefix(prefix): a for k, a in state.items() if k.startswith(prefix)})
    state.clear()
    _run(jobs, values, samples, step, checkpoint, done)


def _run(
    jobs: Sequence[Job],
    values: Values,
    samples: Feeds,
    step: Callable[[int], None],
    checkpoint: Checkpoint | None,
    done: int,
) -> None:
    digest, total = Digest(), len(samples)
    run = values.reader([n for job in jobs for n in job.values]) if done < total else None
    for number, feed in enumerate(samples):
        if checkpoint is not None:
            digest.add(feed)
        if number >= done and run is not None:
            found = run(feed)
            for job in jobs:
                job.add(found, number, total)
            del found
            if checkpoint is not None and (number + 1 == total or checkpoint.due()):
                sums = {f"{p}/{k}": a for p, j in enumerate(jobs) for k, a in j.sums.state().items()}
                checkpoint.write(number + 1, str(digest), sums)
        step(number + 1)


def _digest(samples: Feeds, count: int) -> str:
    digest = Digest()
    for number, feed in enumerate(samples):
        if number == count:
            break
        digest.add(feed)
    return str(digest)
