"""Running gradients of a loss over calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graphprune.calibration.gradients import gradients_of, single
from graphprune.calibration.points import Wanted
from graphprune.coupling.groups import DependencyGraph
from graphprune.data.parts import Feeds
from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph
from graphprune.importance.losses import LOSSES, Look, scaled

_SCALING = 8  # samples that set the scale of each head


class Calibrated(Protocol):
    """What a criterion that needs data gets of it.

    Attributes:
        samples: Feeds, input names to arrays; iterated as often as needed, always the same.
        seed: Seed of whatever is drawn.
    """

    @property
    def samples(self) -> Feeds:
        """Feeds."""

    @property
    def seed(self) -> int:
        """Seed."""


def measured(
    deps: DependencyGraph,
    calibration: Calibrated,
    wanted: Sequence[Wanted],
    loss: str,
    *,
    probes: int = 1,
    limit: int | None = None,
) -> Iterator[list[NDArray[np.float64]]]:
    """What is wanted of the gradient, for every sample and probe.

    Args:
        deps: The dependency graph.
        calibration: Samples, seed, and labels if there are any.
        wanted: What to sum up.
        loss: Name in LOSSES.
        probes: Draws per sample, for losses that draw.
        limit: Samples to use at most.

    Raises:
        InputError: There are no samples, or an operator has no gradient.
    """
    graph = deps.source
    gradients = gradients_of(graph, wanted, threads=getattr(calibration, "threads", 0))
    draw, rng = LOSSES[loss], np.random.default_rng(calibration.seed)
    scales = scales_of((feed, gradients.outputs(feed)) for feed in single(graph, calibration.samples))
    labels = labels_of(calibration)
    number = 0
    for feed in each_sample(graph, calibration):
        outputs = gradients.outputs(feed)
        size = together(feed, outputs)
        for _ in range(probes):
            seeds = draw(Look(gradients.heads, outputs, scales, rng, labels(number, size)))
            for part in apart(seeds, size):
                yield gradients(feed, part)
        number += size
        if limit is not None and number >= limit:
            return


def each_sample(graph: Graph, calibration: Calibrated) -> Iterator[dict[str, Array]]:
    """Samples one by one where the batch axis is free, else feeds; reports progress after every feed."""
    feeds = calibration.samples
    total, report = len(feeds), getattr(calibration, "progress", None)
    for done, feed in enumerate(feeds, 1):
        yield from single(graph, [feed])
        if report is not None:
            report(done, total)


def together(feed: Mapping[str, Array], outputs: Sequence[Array]) -> int:
    """How many samples a run takes: the length of axis 0, if all inputs and heads agree about it."""
    sizes = {a.shape[0] if a.ndim else 0 for a in (*feed.values(), *outputs)}
    return max(sizes.pop(), 1) if len(sizes) == 1 else 1


def apart(seeds: Sequence[NDArray[np.float32]], size: int) -> Iterator[list[NDArray[np.float32]]]:
    """The seeds of every sample by itself, those of the others being zero."""
    if size == 1:
        yield list(seeds)
        return
    for k in range(size):
        parts = [np.zeros_like(s) for s in seeds]
        for part, seed in zip(parts, seeds, strict=True):
            part[k] = seed[k]
        yield parts


def scales_of(runs: Iterable[tuple[Mapping[str, Array], list[NDArray[np.float32]]]]) -> list[float]:
    """The scale of every head, from the first runs: feeds and what the heads were.

    Raises:
        InputError: There are no samples.
    """
    first = list(islice(runs, _SCALING))
    if not first:
        raise InputError("there are no samples to take gradients on")
    if not all(np.isfinite(y).all() for _, outputs in first for y in outputs):
        raise InputError("the model's outputs on the samples are NaN or infinite: no loss can be taken of them")
    return scaled([outputs for _, outputs in first], sum(together(feed, outputs) for feed, outputs in first))


def labels_of(calibration: Calibrated) -> Callable[[int, int], NDArray[np.int64] | None]:
    """The labels of some samples, by the number of the first and how many; None where the data brings none."""
    given = getattr(calibration, "labels", None)
    if given is None:
        return lambda first, count: None  # noqa: ARG005
    array = np.asarray(given)

    def look(first: int, count: int) -> NDArray[np.int64]:
        if first + count > len(array):
            raise InputError(f"there are {len(array)} labels for more samples; give one per sample")
        return np.asarray(array[first : first + count], np.int64)

    return look
