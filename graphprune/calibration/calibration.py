"""Statistics of the original model over calibration data, computed when they are asked for."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary, finalize

import numpy as np

from graphprune.calibration.cache import Digest, model_key
from graphprune.calibration.grams import Gram, Source
from graphprune.calibration.labels import class_head, classes_of
from graphprune.calibration.moments import Moments, MomentSums
from graphprune.calibration.passes import GramJob, Job, MomentJob, carry_out, dealt
from graphprune.calibration.sources import CHUNK_BYTES, channel_source, layer_source
from graphprune.calibration.values import HIDDEN, Values, values_of
from graphprune.coupling.groups import DependencyGraph
from graphprune.data.parts import Feeds
from graphprune.errors import InputError
from graphprune.graph.model import Array

Axes = int | tuple[int, ...]
Place = tuple[str, Axes]
Progress = Callable[[int, int], None]
_BESIDE = 1.35  # the runtime's memory over that of the values read: others, and what it asks for ahead
K = TypeVar("K", bound=Hashable)
J = TypeVar("J", bound=Job)


class Calibration:
    """Statistics of a model's values, streamed over data; nothing but the sums and one feed's values is held.

    Args:
        deps: The original model.
        samples: Feeds, a dictionary per run of the model. They have been checked against it.
        memory: Bytes for one pass over the data: sums, the values that one feed gives for them, and what it takes to
            run the model; what does not fit is summed in further passes. Results beyond half as many bytes are
            kept in files and mapped.
        seed: Seed of the positions that are drawn.
        positions: Positions per layer that Gram matrices are summed over at most, drawn evenly from all feeds; all
            when None.
        cache: Folder for sums; an interrupted calibration goes on from there.
        progress: Called after every feed with the number done and the number there are, over all passes of a call.
        threads: Threads of onnxruntime, 0 for its default.
        labels: Right classes of the samples in order, for criteria that can use them; by default those of the samples.

    Raises:
        InputError: There are no samples.
    """

    def __init__(
        self,
        deps: DependencyGraph,
        samples: Feeds,
        *,
        memory: int = 2 << 30,
        seed: int = 0,
        positions: int | None = None,
        cache: str | Path | None = None,
        progress: Progress = lambda done, total: None,  # noqa: ARG005
        threads: int = 0,
        labels: Array | None = None,
    ) -> None:
        if not len(samples):
            raise InputError(f"{deps.source.name}: there are no samples to calibrate with")
        self.deps, self.samples = deps, samples
        brought = getattr(samples, "labels", None) is not None and class_head(deps.source) is not None
        self.labels = classes_of(deps.source, samples) if labels is None and brought else labels  # type: ignore[arg-type]
        self.seed, self.threads, self.progress = seed, threads, progress
        self._memory, self._positions = memory, positions
        self._cache = Path(cache) if cache is not None else None
        self._moments: dict[Place, Moments] = {}
        self._grams: WeakValueDictionary[Hashable, Gram] = WeakValueDictionary()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0
        self._held = [0]  # bytes of results in memory that somebody still has

    def need_labels(self) -> Array:
        """The labels, for a criterion that cannot do without.

        Raises:
            InputError: There are none.
        """
        if self.labels is None:
            raise InputError(f"{self.deps.source.name}: the criterion needs labels: give them with --labels")
        return self.labels

    def readable(self, name: str) -> bool:
        """Whether a value can be read: it depends on the inputs and lies at the top level of the model."""
        return self._values.has(name)

    def moments(self, wanted: Collection[Place]) -> dict[Place, Moments]:
        """Moments per position of an axis, for several (value, axis) together.

        Args:
            wanted: Names of values with an axis, not negative; or with several axes, whose positions are told apart
                together.

        Raises:
            InputError: A value cannot be read, or the model does not run on the data.
        """
        todo = {p: self._moment_job(*p) for p in dict.fromkeys(wanted) if p not in self._moments}
        for jobs in self._passes(todo):
            self._moments.update({place: job.sums.result() for place, job in jobs})
        return {place: self._moments[place] for place in wanted}

    def grams(self, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], Gram]:
        """Gram matrices of what layers read, for several (node, input slot); all together, mapped where they are many.

        Slot 2 of a recurrent layer is what its R multiplies: the states one step before (of a GRU before its reset
        gate), with a matrix per direction.

        Raises:
            InputError: A node is unknown, sums in another way, or the model does not run on the data.
        """
        return {place: self._kept(place, gram) for place, gram in self.each_gram(wanted)}

    def each_gram(self, wanted: Collection[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], Gram]]:
        """As :meth:`grams`, one by one: what is dropped makes room for the next pass."""
        graph = self.deps.source
        nodes = {n.name: n for n in graph.nodes}
        sources: dict[tuple[str, int], Source] = {}
        for name, slot in wanted:
            if name not in nodes:
                raise InputError(f"{graph.name}: there is no node {name!r}")
            sources[name, slot] = layer_source(graph, nodes[name], slot)
        yield from self._each(sources)

    def channel_grams(self, wanted: Collection[Place]) -> dict[Place, Gram]:
        """Gram matrices between the positions of an axis, or of the product of several axes, for several values.

        Raises:
            InputError: A value cannot be read, or the model does not run on the data.
        """
        sources = {(name, axes): channel_source(self.deps.source, name, _tuple(axes)) for name, axes in wanted}
        return {place: self._kept(place, gram) for place, gram in self._each(sources)}

    # -- passes ------------------------------------------------------------------------------------------

    @cached_property
    def _values(self) -> Values:
        return values_of(self.deps.source, self.threads)

    @cached_property
    def _identity(self) -> tuple[str, ...]:
        """What tells this model and data from others."""
        first = Digest()
        first.add(next(iter(self.samples)))
        return model_key(self.deps.source), str(first), str(len(self.samples))

    def over(self, samples: Feeds) -> Calibration:
        """The same over other samples; nothing is cached."""
        return Calibration(
            self.deps,
            samples,
            memory=self._memory,
            seed=self.seed,
            positions=self._positions,
            progress=self.progress,
            threads=self.threads,
        )

    @cached_property
    def _growth(self) -> float:
        """How much larger values are than at the probe: by the inputs of the first feed."""
        probed = self.deps.source.input_shapes[0] if self.deps.source.input_shapes else {}
        feed = next(iter(self.samples))
        known = [n for n in feed if math.prod(probed.get(n, ()))]
        if not known:
            return 1.0
        return max(float(np.size(feed[n])) / math.prod(probed[n]) for n in known)

    @cached_property
    def _aside(self) -> int:
        """Bytes of a pass that neither sums nor values take: rows of a layer, and the weights where they are run."""
        return min(3 * CHUNK_BYTES + 2 * 4 * self.deps.source.parameters(), self._memory // 2)

    def _size(self, name: str) -> int:
        """Bytes that a value takes for a feed, about, with what the runtime holds beside it."""
        value = self.deps.source.values.get(name)
        shape = value.shape if value is not None else None
        return int(_BESIDE * 4 * math.prod(abs(n) for n in shape) * self._growth) if shape else 0

    def _moment_job(self, name: str, axes: Axes) -> MomentJob:
        return MomentJob(repr(("moments", name, _tuple(axes))), name, MomentSums(_tuple(axes)))

    def _each(self, sources: Mapping[K, Source]) -> Iterator[tuple[K, Gram]]:
        todo: dict[K, GramJob] = {}
        for place, source in sources.items():
            held = self._grams.get(place)
            if held is not None:
                yield place, held
            else:
                todo[place] = GramJob(repr(("gram", place)), source, self.seed, self._positions)
        for jobs in self._passes(todo):
            while jobs:
                place, job = jobs.pop(0)
                gram = job.sums.result()
                del job.sums, job
                self._grams[place] = gram
                yield place, gram
                del gram

    def _passes(self, todo: Mapping[K, J]) -> Iterator[list[tuple[K, J]]]:
        """Carry out jobs; those of every pass when it is done."""
        for job in todo.values():
            missing = [n for n in job.values if not self._values.has(n) and not n.endswith(HIDDEN)]
            if missing:
                raise InputError(f"{self.deps.source.name}: value {missing[0]!r} cannot be read from outside")
        places: dict[int, tuple[K, J]] = {id(job): (place, job) for place, job in todo.items()}
        groups = list(dealt(list(todo.values()), self._size, self._memory - self._aside))
        feeds = len(self.samples)
        cache = None if self._cache is None else (self._cache, self._identity)
        for number, jobs in enumerate(groups):
            step = partial(self._step, number * feeds, len(groups) * feeds)
            carry_out(jobs, self._values, self.samples, step, cache)
            yield [places[id(job)] for job in jobs]

    def _step(self, before: int, total: int, done: int) -> None:
        self.progress(before + done, total)

    def _kept(self, place: Hashable, gram: Gram) -> Gram:
        """The matrix in memory, or in a mapped file where there are many."""
        size = gram.matrix.nbytes
        held = self._held
        if held[0] + size <= self._memory // 2:
            held[0] += size
            finalize(gram, _give_back, held, size)
            return gram
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphprune-")
        self._files += 1
        path = Path(self._folder.name) / f"{self._files}.npy"
        np.save(path, gram.matrix, allow_pickle=False)
        mapped = replace(gram, matrix=np.load(path, mmap_mode="r"))
        self._grams[place] = mapped
        return mapped


def _give_back(held: list[int], size: int) -> None:
    held[0] -= size


def _tuple(axes: Axes) -> tuple[int, ...]:
    return axes if isinstance(axes, tuple) else (axes,)
