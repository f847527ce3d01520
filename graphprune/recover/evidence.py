"""How much the model's output loses when one group alone is cut, to put the curves of all groups on one scale.

Layer errors do not tell how much they matter at the end. So each group is cut alone at a few widths, the layers that
read it get the best weights for what stays, and the output is compared with the original's; the group's curve is
bent, as a power of itself, to go through these points.

Source: Xu et al., "Efficient Joint Optimization of Layer-Adaptive Weight Pruning", ICCV 2023 (output distortions of
single layers add up).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from graphprune.calibration.layers import Layer, layers, matrix, stored
from graphprune.calibration.store import Store
from graphprune.coupling.cut import Cut
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.model import Array, Graph
from graphprune.graph.onnx import load
from graphprune.graph.run import CannotRun, Runner
from graphprune.importance.curve import Curve
from graphprune.importance.obs import Grams, compensated, covariance, shiftable
from graphprune.recover.contents import content, exchange
from graphprune.recover.error import float_outputs, relative_error
from graphprune.rewrite.onnx import rewrite

SHARES = (0.25, 0.5, 0.8)  # the last for groups that lose most: what a layer alone says is too little there
_POWERS = (0.5, 2.0)
_ONWARD = (0.1, 8.0)  # powers beyond the second point
_TINY = 1e-9
_HELD = 256 << 20  # bytes of the original's outputs in memory, what is more lies in files


@dataclass(frozen=True)
class Point:
    """A group cut alone.

    Attributes:
        group: Its name.
        removed: Units that left.
        error: Squared error of the outputs relative to their variance.
    """

    group: str
    removed: int
    error: float


@dataclass
class Evidence:
    """Measures groups one by one on an ONNX model, by making the smaller one.

    Args:
        deps: The dependency graph.
        grams: Gram matrices of its layers; of layers that are left out the weights stay as they are.
        feeds: Inputs to compare outputs on, the same in every pass.
        threads: Threads of onnxruntime, 0 for its default.
    """

    deps: DependencyGraph
    grams: Grams
    feeds: Iterable[Mapping[str, Array]]
    threads: int = 0

    def __post_init__(self) -> None:
        self._layers = {x.name: x for x in layers(self.deps.source)}
        self._wanted, self._feeds, self._places = Store(_HELD), 0, list[str]()
        for made in self._original():
            self._places = [str(i) for i in range(len(made))]
            for place, array in zip(self._places, made, strict=True):
                self._wanted.put(place, self._feeds, array)
            self._feeds += 1

    def measure(self, units: Array) -> float:
        """Error of the outputs when some units leave and the layers that read them make up for it."""
        return self.error(self.deps.cut(np.asarray(units, np.int32)))

    def error(self, cut: Cut) -> float:
        """The same for a cut; infinite where its model does not run."""
        wanted = ([self._wanted.get(n, feed) for n in self._places] for feed in range(self._feeds))
        try:
            return relative_error(wanted, self._outputs(cut))
        except CannotRun:
            return np.inf

    def _original(self) -> Iterable[list[Array]]:
        """Per feed the float outputs of the original."""
        origin = self.deps.source.origin
        return _outputs(Runner(origin.source, threads=self.threads), self.feeds, origin)

    def _outputs(self, cut: Cut) -> Iterable[list[Array]]:
        """Per feed the float outputs without what is cut, made up for."""
        small = load(rewrite(cut))
        found = {layer.name: layer for layer in layers(small)}
        for full, weight, shift in self.compensations(cut):
            layer = found.get(full.name)
            if layer is not None:
                box = cut.box(full.weight, weight.ndim)
                exchange(small, layer.weight, box.take(weight))
                _shift(cut, small, layer, full, shift)
        return _outputs(Runner(small.source, threads=self.threads), self.feeds, small)

    def compensations(self, cut: Cut) -> Iterator[tuple[Layer, Array, Array]]:
        """For every layer that reads something cut its best weight, zero there, and what its bias has to add.

        Weights have their stored, full shape; there is one number to add per output.
        """
        for full in self._layers.values():
            kept = cut.kept(full.input, full.linear.axis)
            shape = self.deps.source.values[full.input].shape
            if kept is None or shape is None or (full.name, full.linear.slot) not in self.grams:
                continue
            stored_weight = self.deps.source.weights[full.weight]
            weight = matrix(full, stored_weight.read())
            groups, inputs, _ = weight.shape
            per = shape[full.linear.axis] // groups
            taps = inputs // per
            if len(np.unique(kept // per)) != groups:
                continue  # whole groups of a grouped convolution left
            gram = self.grams[full.name, full.linear.slot]
            rows = {
                g: ((kept[kept // per == g] % per)[:, None] * taps + np.arange(taps)).ravel() for g in range(groups)
            }
            mean = gram.sums / max(gram.count, 1)
            made, shift = compensated(weight, mean, covariance(gram, centred=shiftable(full)), rows)
            yield full, stored(full, made, stored_weight.shape), shift.reshape(-1)


def summand(layer: Layer) -> tuple[str, int] | None:
    """The tensor that takes what is added to a layer's output, and with which sign; None where there is none."""
    if layer.biased:
        return layer.bias, 1
    if layer.norm is not None and not layer.bias:
        return layer.norm.mean, -1
    return None


def _shift(cut: Cut, small: Graph, layer: Layer, full: Layer, shift: Array) -> None:
    """Put what a layer has to add into its bias, or take it from the mean of the BatchNormalization behind it."""
    found = summand(layer)
    if found is None:
        return
    name, sign = found
    values = cut.deps.source.values
    stays = cut.kept(full.made, len(values[full.made].shape or ()) + full.linear.out_axis)
    flat = shift if stays is None else shift[stays]
    old = content(small, name)
    exchange(small, name, old + sign * flat.reshape(old.shape))


def bent(
    deps: DependencyGraph,
    curves: Sequence[Curve],
    evidence: Evidence,
    *,
    shares: Sequence[float] = SHARES,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[Curve], list[Point]]:
    """Curves in units of output error, and what was measured.

    Args:
        deps: The dependency graph of the curves.
        curves: One for each group.
        evidence: Measures cuts.
        shares: Shares of a group's units to measure at.
        progress: Called with the name of each group.
    """
    points: list[Point] = []
    out: list[Curve] = []
    for place, (group, curve) in enumerate(zip(deps.groups, curves, strict=True)):
        progress(f"{group.name} {place + 1}/{len(deps.groups)}")
        mine = [Point(group.name, m, evidence.measure(curve.order[:m])) for m in counts(group.size, shares)]
        points += mine
        out.append(through(curve, [p for p in mine if np.isfinite(p.error)]))
    return out, points


def count(size: int, share: float) -> int:
    """Units that leave a group at a share of it: one at least, and one stays; 0 for a single unit."""
    return min(max(1, round(share * size)), size - 1)


def counts(size: int, shares: Iterable[float]) -> list[int]:
    """How many units leave a group at some shares, each number once."""
    return sorted({count(size, s) for s in shares} - {0})


def through(curve: Curve, points: Sequence[Point]) -> Curve:
    """A power of the curve through the first two points, in the mean of the logarithms, then others through the next.

    Without points, more than any other.
    """
    if not points:
        return Curve(curve.order, np.full(len(curve.loss), 1e3) * (np.arange(len(curve.loss)) > 0))
    shape = curve.loss / max(float(curve.loss[-1]), _TINY)
    floor = np.linspace(0, 1e-3, len(shape))  # a layer that sees no loss says nothing of the others
    shape = np.maximum(shape, floor)
    x = np.log([max(float(shape[p.removed]), _TINY) for p in points[:2]])
    y = np.log([max(p.error, _TINY) for p in points[:2]])
    power = float(np.clip((y[-1] - y[0]) / (x[-1] - x[0]), *_POWERS)) if len(x) > 1 and x[-1] > x[0] else 1.0
    scale = float(np.exp(np.mean(y - power * x)))
    loss = scale * shape**power
    for before, point in pairwise(points[1:]):
        _onward(loss, shape, before.removed, point)
    return Curve(curve.order, np.maximum.accumulate(loss))


def _onward(loss: Array, shape: Array, start: int, point: Point) -> None:
    """Let a curve go through one more point, as another power of its shape from where it starts; changed in place."""
    grows = np.log(shape[start:] / max(shape[start], _TINY))
    further = float(grows[point.removed - start])
    if further > 0 and loss[start] > 0:
        power = np.clip(np.log(max(point.error, _TINY) / loss[start]) / further, *_ONWARD)
        loss[start:] = loss[start] * np.exp(power * grows)


def _outputs(runner: Runner, feeds: Iterable[Mapping[str, Array]], graph: Graph) -> Iterator[list[Array]]:
    """The float outputs, feed by feed."""
    places = float_outputs(graph)
    return ([np.asarray(made[i]) for i in places] for made in map(runner, feeds))
