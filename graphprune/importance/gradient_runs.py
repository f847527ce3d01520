"""Running gradients of a loss over calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graphprune.calibration.gradients import Gradients, single
from graphprune.calibration.points import Wanted
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.model import Array
from graphprune.importance.losses import LOSSES, Look, scaled

_SCALING = 8  # samples that set the scale of each head


class Calibrated(Protocol):
    """What a criterion that needs data gets of it.

    Attributes:
        samples: Feeds, input names to arrays; iterated as often as needed, always the same.
        seed: Seed of whatever is drawn.
    """

    @property
    def samples(self) -> Iterable[Mapping[str, Array]]:
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
    gradients = Gradients(graph, wanted, threads=getattr(calibration, "threads", 0))
    draw, rng = LOSSES[loss], np.random.default_rng(calibration.seed)
    first = [gradients.outputs(feed) for feed in islice(single(graph, calibration.samples), _SCALING)]
    if not first:
        raise InputError(f"{graph.name}: there are no samples to take gradients on")
    scales = scaled(first)
    labels = _labels(calibration)
    for number, feed in enumerate(islice(single(graph, calibration.samples), limit)):
        outputs = first[number] if number < len(first) else gradients.outputs(feed)
        for _ in range(probes):
            yield gradients(feed, draw(Look(gradients.heads, outputs, scales, rng, labels(number))))


def _labels(calibration: Calibrated) -> Callable[[int], NDArray[np.int64] | None]:
    """The labels of a sample by its number, None where the data brings none."""
    given = getattr(calibration, "labels", None)
    if given is None:
        return lambda number: None  # noqa: ARG005
    array = np.asarray(given)

    def look(number: int) -> NDArray[np.int64]:
        if number >= len(array):
            raise InputError(f"there are {len(array)} labels for more samples; give one per sample")
        return np.asarray(array[number], np.int64)

    return look
