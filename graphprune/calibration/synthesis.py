"""Samples made for a model without data: its BatchNormalizations find the statistics in them that they hold.

Source: Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, and Haroush et
al., "The Knowledge Within: Methods for Data-Free Model Compression", CVPR 2020 (gradient descent on the inputs towards
the running means and variances). It starts from the noise that comes nearest: white, or smooth like pictures (Baradad
et al., "Learning to See by Looking at Noise", NeurIPS 2021). Without such layers it stays at noise, as OBSPA has it
(Wang et al., "Structurally Prune Anything", 2024).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprune.calibration.adam import Adam
from graphprune.calibration.adjoint import MEND
from graphprune.calibration.gradients import gradients_of
from graphprune.calibration.heads import Head
from graphprune.calibration.layers import norms
from graphprune.calibration.noise import SMOOTHNESS, smooth
from graphprune.calibration.points import Point, Wanted, outer_nodes
from graphprune.data.drawn import Random
from graphprune.data.records import Feed, Read, Records, Size, Spool
from graphprune.data.sources import MADE, Made
from graphprune.data.wanted import Layout
from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph

NAME = "synthetic"
_LEAST, _MOST = 32, 256  # samples where no number is given
_TOGETHER = 64  # samples whose statistics are looked at together, at most
_HELD = 1 << 29  # bytes that BatchNormalizations of such samples read
_WORK = 2e9  # numbers read by BatchNormalizations in all steps, of about 20 ns each
_STEPS = (20, 40)
_RATE = 0.1  # of Adam, in units of the root mean square of the noise
_BLIND = 1.5  # smoothness of pictures that no statistics speak of
_TINY = 1e-8
_FLOOR = 0.1  # of a layer's root mean variance: channels that vary less are not measured more exactly
Real = NDArray[np.float32]


def synthetic(graph: Graph, layout: Layout, count: int | None, seed: int) -> Records:
    """Samples whose activations have the means and variances of the model's BatchNormalizations; else noise.

    Args:
        graph: The model, of a file or a module.
        layout: What it takes.
        count: Samples; as many as take about a minute when None, 256 at most.
        seed: Seed of the noise.
    """
    return Synthetic(graph, layout, count, seed)


MADE[NAME] = Made(synthetic, slow=True)


@dataclass(frozen=True, slots=True)
class _Aim:
    """What a BatchNormalization says of its input, per channel."""

    value: str
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


class Synthetic:
    """Samples, made some dozens at a time when the first of them is read, and kept on a temporary file.

    Args:
        graph: The model.
        layout: What it takes.
        count: Samples; see :func:`synthetic`.
        seed: Seed of the noise.
    """

    name = NAME
    cheap = False

    def __init__(self, graph: Graph, layout: Layout, count: int | None, seed: int) -> None:
        self._graph, self._seed = graph, seed
        self._aims = list(_aims(graph))
        size = sum(_elements(graph, a.value) for a in self._aims)
        wanted = _MOST if not size else int(np.clip(_WORK // (size * _STEPS[1]), _LEAST, _MOST))
        self._noise = Random(graph, layout, wanted if count is None else count, seed)
        self.sizes: list[Size] = self._noise.sizes
        rows = layout.batch or 1
        together = int(np.clip(_HELD // max(4 * size, 1), 1, _TOGETHER))
        self._step = max(1, together // rows)
        self._steps = int(np.clip(_WORK // max(size * rows * len(self.sizes), 1), *_STEPS))
        self._join = layout.batch == 0
        self._forget()

    def _forget(self) -> None:
        self._fit: _Fit | None = None
        self._spool = Spool(self.name)
        self._place: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        gone = ("_fit", "_spool", "_place")
        return {k: v for k, v in self.__dict__.items() if k not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def reader(self) -> Read:
        """Reads any sample, and makes it with its neighbours when it is the first of them."""

        def read(record: int) -> Feed:
            if record not in self._place:
                first = record - record % self._step
                for place, made in enumerate(self._batch(first), first):
                    self._place[place] = len(self._spool.sizes)
                    self._spool.append(made, self.sizes[place])
            return self._spool.read(self._place[record])

        return read

    def where(self, record: int, row: int) -> str:
        """See :class:`Records`."""
        return self._noise.where(record, row)

    def _batch(self, first: int) -> list[Feed]:
        """Neighbouring samples, from one number on."""
        draw = self._noise.reader()
        drawn = [dict(draw(k)) for k in range(first, min(first + self._step, len(self.sizes)))]
        if not self._join:
            return self._made(drawn)
        whole = {n: np.concatenate([d[n] for d in drawn]) if a.ndim else a for n, a in drawn[0].items()}
        (made,) = self._made([whole])
        return [{n: a[k : k + 1] if a.ndim else a for n, a in made.items()} for k in range(len(drawn))]

    def _made(self, feeds: list[Feed]) -> list[Feed]:
        try:
            self._fit = self._fit or _Fit(self._graph, self._aims, self._steps)
            return self._fit(feeds)
        except InputError as error:
            raise InputError(f"{NAME} samples cannot be made: {str(error).removesuffix(f'; {MEND}')}") from None


class _Fit:
    """Brings inputs near to what BatchNormalizations expect.

    Args:
        graph: The model.
        aims: What they expect.
        steps: Steps of gradient descent.

    Raises:
        InputError: An operator in front of a BatchNormalization has no gradient.
    """

    def __init__(self, graph: Graph, aims: Sequence[_Aim], steps: int) -> None:
        self._aims, self._steps = aims, steps
        self._places = {n: p for n in graph.inputs if (p := list(_read(graph, n))) and _moves(graph, n)}
        wanted = [Wanted(p, None, "gradient") for places in self._places.values() for p in places]
        self._run = None
        if self._aims and wanted:
            ends = [Head(a.value, a.value, "plain", 1) for a in self._aims]
            self._run = gradients_of(graph, wanted, ends=ends)

    def __call__(self, feeds: list[Feed]) -> list[Feed]:
        """Other inputs in the place of white noise: where nothing says how they are, pictures become smooth."""
        if self._run is None:
            return [f | {n: smooth(f[n], _BLIND) for n in self._places if f[n].ndim > 3} for f in feeds]
        starts = [[{**f, **{n: smooth(f[n], a) for n in self._places}} for f in feeds] for a in SMOOTHNESS]
        losses = [self._loss(self._values(s))[0] for s in starts]
        return self._descended(starts[int(np.argmin(losses))])

    def _values(self, feeds: Sequence[Feed]) -> list[list[Real]]:
        assert self._run is not None
        return [self._run.outputs(feed) for feed in feeds]

    def _loss(self, values: Sequence[Sequence[Real]]) -> tuple[float, list[list[Real]]]:
        """How far means and deviations are off, and the gradient of that by the values; lists per feed, then aim."""
        total, seeds = 0.0, [list[Real]() for _ in values]
        for k, aim in enumerate(self._aims):
            loss, parts = _off(aim, [v[k] for v in values])
            total += loss / len(self._aims)
            for mine, part in zip(seeds, parts, strict=True):
                mine.append(part / np.float32(len(self._aims)))
        return total, seeds

    def _descended(self, feeds: list[Feed]) -> list[Feed]:
        """The best inputs on the way downhill."""
        assert self._run is not None
        best, least, adam = feeds, np.inf, defaultdict[tuple[int, str], Adam](lambda: Adam(_TINY))
        for step in range(self._steps + 1):
            loss, seeds = self._loss(self._values(feeds))
            if loss < least:
                best, least = feeds, loss
            if step == self._steps or not np.isfinite(loss):
                break
            rate = _RATE * 0.5 * (1 + math.cos(math.pi * step / self._steps))
            made = [self._run(feed, s) for feed, s in zip(feeds, seeds, strict=True)]
            feeds = [
                feed | {n: _moved(feed[n], rate * adam[k, n](grad)) for n, grad in self._gradients(found)}
                for k, (feed, found) in enumerate(zip(feeds, made, strict=True))
            ]
        return best

    def _gradients(self, found: Sequence[NDArray[np.float64]]) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Per input the sum over the places where it is read."""
        place = 0
        for name, places in self._places.items():
            yield name, np.sum(found[place : place + len(places)], axis=0)
            place += len(places)


def _moved(value: Array, down: NDArray[np.float64]) -> Array:
    return np.asarray((value.astype(np.float64) - down).astype(value.dtype))


def _aims(graph: Graph) -> Iterator[_Aim]:
    """What every BatchNormalization outside control flow expects of what it reads."""
    outer = outer_nodes(graph)
    for norm in norms(graph):
        stored = all(graph.weights[n].origin != "shape" for n in (norm.mean, norm.variance))
        if stored and norm.node.name in outer and norm.node.inputs[0] not in graph.inputs:
            mean, variance = (graph.weights[n].read().astype(np.float64) for n in (norm.mean, norm.variance))
            least = _FLOOR**2 * float(variance.mean()) + norm.epsilon
            yield _Aim(norm.node.inputs[0], mean, np.sqrt(np.maximum(variance, least)))


def _elements(graph: Graph, name: str) -> int:
    """Numbers per sample of a value."""
    return math.prod((graph.values[name].shape or ())[1:])


def _read(graph: Graph, name: str) -> Iterator[Point]:
    outer = outer_nodes(graph)
    for node in graph.nodes:
        if node.name in outer:
            yield from (Point(node.name, slot) for slot, given in enumerate(node.inputs) if given == name)


def _moves(graph: Graph, name: str) -> bool:
    value = graph.values[name]
    return bool(value.shape) and value.dtype in ("float", "float16", "bfloat16", "double")


def _off(aim: _Aim, values: Sequence[Real]) -> tuple[float, list[Real]]:
    """Mean over channels of the squared errors of mean and deviation in units of the deviation; its gradients."""
    axes = [a for a in range(values[0].ndim) if a != 1]
    count = sum(v.size // v.shape[1] for v in values)
    mean = sum(v.sum(axis=tuple(axes), dtype=np.float64) for v in values) / count
    across = [-1 if a == 1 else 1 for a in range(values[0].ndim)]
    centred = [v - mean.reshape(across).astype(np.float32) for v in values]
    spread = np.sqrt(sum(np.square(c).sum(axis=tuple(axes), dtype=np.float64) for c in centred) / count + _TINY)
    a, b = (mean - aim.mean) / aim.deviation, (spread - aim.deviation) / aim.deviation
    scale = 2 / (len(mean) * count * aim.deviation)
    shift, slope = (scale * a).reshape(across), (scale * b / spread).reshape(across)
    parts = [np.asarray(shift + slope * c, np.float32) for c in centred]
    return float(np.mean(a * a + b * b)), parts
