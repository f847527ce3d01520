"""A layer of the pruned model beside the same layer of the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from graphprune.calibration.layers import Layer, Norm
from graphprune.calibration.walks import Walking
from graphprune.coupling.cut import Cut
from graphprune.data.parts import Feed
from graphprune.graph.bypass import rerouted
from graphprune.graph.model import Array, Graph
from graphprune.recover.contents import content, exchange

HELD = 4  # every fourth feed judges a fit


@dataclass(frozen=True)
class LayerError:
    """What a step did for a layer.

    Attributes:
        layer: Name of the node.
        before: Error of its output against the original's, relative to its energy, on held-back data.
        after: The same after the step.
        strength: Ridge relative to the mean energy of its inputs.
    """

    layer: str
    before: float
    after: float
    strength: float


@dataclass(frozen=True)
class Job:
    """What a step of recovery works on.

    Attributes:
        cut: The removal that led to the pruned model.
        small: The pruned model, loaded; contents of stored tensors of its source are exchanged.
        samples: Calibration data.
        memory: Bytes that the step may take.
        seed: Seed of what is drawn.
        progress: Called with the name of what is being looked at.
    """

    cut: Cut
    small: Graph
    samples: Iterable[Feed]
    memory: int = 2 << 30
    seed: int = 0
    progress: Callable[[str], None] = lambda _: None

    @property
    def held(self) -> int:
        """Bytes of activations to hold, more goes to a temporary folder: a feed in work and its sums take the rest."""
        return self.memory // 8


@dataclass(frozen=True)
class Pair:
    """Both models at a layer.

    Attributes:
        cut: The removal.
        small: The pruned model, loaded.
        layer: The layer of the pruned model.
        dense: The original on its way, past the value to aim at.
        pruned: The pruned model on its way, in front of the layer.
    """

    cut: Cut
    small: Graph
    layer: Layer
    dense: Walking
    pruned: Walking

    @property
    def aim(self) -> str:
        """The value that should be as in the original: the residual sum where the rest of it is known."""
        layer = self.layer
        return layer.total if layer.total and self.pruned.has(layer.other) else layer.behind

    def wanted(self) -> Iterator[Array]:
        """Per feed what the layer should give behind its bias and BatchNormalization, of the pruned model's sizes."""
        others = self.pruned.value(self.layer.other) if self.aim == self.layer.total else None
        for whole in self.dense.value(self.aim):
            target = self.cut.box(self.aim, whole.ndim).take(np.asarray(whole, np.float32))
            yield target if others is None else target - next(others)

    def read(self, name: str) -> Array:
        """A stored tensor of the pruned model as it is now."""
        return content(self.small, name)

    def write(self, name: str, array: Array) -> None:
        """Exchange a stored tensor of the pruned model; its element type and shape stay."""
        exchange(self.small, name, array)

    def affine(self, norm: Norm) -> tuple[Array, Array]:
        """Factors and summands of a BatchNormalization, float64 per channel."""
        scale, bias, mean, variance = (
            np.asarray(self.read(n), np.float64) for n in (norm.scale, norm.bias, norm.mean, norm.variance)
        )
        factor = scale / np.sqrt(variance + norm.epsilon)
        return factor, bias - mean * factor


def changed(cut: Cut, small: Graph) -> set[str]:
    """Names of the pruned model's values that may not hold what is read there in the original, or lost positions."""
    out: set[str] = {n for n in small.inputs if cut.touched(n)} | rerouted(cut.deps.source).keys()
    for node in small.nodes:
        given = (*node.inputs, *node.captures)
        if any(n in out for n in given) or any(cut.touched(n) for n in (*given, *node.outputs) if n):
            out.update(n for n in node.outputs if n)
    return out


def held_back(place: int, feeds: int, rng: np.random.Generator, count: int) -> Array:
    """Which of a feed's positions judge: those of every fourth feed, or where feeds are few, of every feed some."""
    if feeds >= 2 * HELD:
        return np.full(count, place % HELD == HELD - 1)
    return np.asarray(rng.random(count) < 1 / HELD)
