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

import numpy as np

from graphprune.calibration.layers import Layer, layers, matrix, stored
from graphprune.calibration.store import Store
from graphprune.coupling.cut import Cut
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.model import Array, Graph
from graphprune.graph.onnx import load
from graphprune.graph.run import CannotRun, Runner
from graphprune.importance.curve import Curve
from graphprune.importance.obs import Grams, compensated, covariance
from graphprune.recover.contents import content, exchange
from graphprune.recover.error import float_outputs, relative_error
from graphprune.rewrite.onnx import rewrite

SHARES = (0.25, 0.5)
_POWERS = (0.5, 2.0)
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
    """Measures groups one by one.

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
        self._wanted, self._feeds = Store(_HELD), 0
        for made in _outputs(Runner(self.deps.source.source, threads=self.threads), self.feeds, self.deps.source):
            for place, array in enumerate(made):
                self._wanted.put(str(place), self._feeds, array)
            self._feeds += 1

    def measure(self, units: Array) -> float:
        """Error of the outputs when some units leave and the layers that read them make up for it."""
        return self.error(self.deps.cut(np.asarray(units, np.int32)))

    def error(self, cut: Cut) -> float:
        """The same for a cut; infinite where its model does not run."""
        small = load(rewrite(cut))
        for layer in layers(small) if self.grams else ():
            if layer.name in self._layers:
                self._compensate(cut, small, layer, self._layers[layer.name])
        places = [str(i) for i in range(len(float_outputs(self.deps.source)))]
        wanted = ([self._wanted.get(n, feed) for n in places] for feed in range(self._feeds))
        try:
            return relative_error(wanted, _outputs(Runner(small.source, threads=self.threads), self.feeds, small))
        except CannotRun:
            return np.inf

    def _compensate(self, cut: Cut, small: Graph, layer: Layer, full: Layer) -> None:
        kept = cut.kept(full.input, full.linear.axis)
        shape = self.deps.source.values[full.input].shape
        if kept is None or shape is None or (full.name, full.linear.slot) not in self.grams:
            return
        weight = matrix(full, self.deps.source.weights[full.weight].read())
        groups, inputs, _ = weight.shape
        per = shape[full.linear.axis] // groups
        taps = inputs // per
        if len(np.unique(kept // per)) != groups:
            return  # whole groups of a grouped convolution left
        gram = self.grams[full.name, full.linear.slot]
        rows = {g: ((kept[kept // per == g] % per)[:, None] * taps + np.arange(taps)).ravel() for g in range(groups)}
        mean = gram.sums / max(gram.count, 1)
        made, bias = compensated(weight, mean, covariance(gram, centred=bool(layer.bias)), rows)
        box = cut.box(full.weight, len(self.deps.source.weights[full.weight].shape))
        whole = stored(full, made, self.deps.source.weights[full.weight].shape)
        exchange(small, layer.weight, box.take(whole))
        if layer.biased:
            flat = bias.reshape(-1)
            stays = cut.kept(full.made, len(self.deps.source.values[full.made].shape or ()) + full.linear.out_axis)
            flat = flat if stays is None else flat[stays]
            old = content(small, layer.bias)
            exchange(small, layer.bias, old + flat.reshape(old.shape))


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
        counts = sorted({min(max(1, round(s * group.size)), group.size - 1) for s in shares} - {0})
        mine = [Point(group.name, m, evidence.measure(curve.order[:m])) for m in counts]
        points += mine
        out.append(through(curve, [p for p in mine if np.isfinite(p.error)]))
    return out, points


def through(curve: Curve, points: Sequence[Point]) -> Curve:
    """A power of the curve through the points, in the mean of the logarithms; without points, more than any other."""
    if not points:
        return Curve(curve.order, np.full(len(curve.loss), 1e3) * (np.arange(len(curve.loss)) > 0))
    shape = curve.loss / max(float(curve.loss[-1]), _TINY)
    floor = np.linspace(0, 1e-3, len(shape))  # a layer that sees no loss says nothing of the others
    shape = np.maximum(shape, floor)
    x = np.log([max(float(shape[p.removed]), _TINY) for p in points])
    y = np.log([max(p.error, _TINY) for p in points])
    power = float(np.clip((y[-1] - y[0]) / (x[-1] - x[0]), *_POWERS)) if len(x) > 1 and x[-1] > x[0] else 1.0
    scale = float(np.exp(np.mean(y - power * x)))
    return Curve(curve.order, np.maximum.accumulate(scale * shape**power))


def _outputs(runner: Runner, feeds: Iterable[Mapping[str, Array]], graph: Graph) -> Iterator[list[Array]]:
    """The float outputs, feed by feed."""
    places = float_outputs(graph)
    return ([np.asarray(made[i]) for i in places] for made in map(runner, feeds))
