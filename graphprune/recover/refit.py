"""Re-fits the weights that stay, layer after layer, on the inputs that the pruned layers in front really give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from graphprune.calibration.layers import Layer, layers, matrix, stored
from graphprune.calibration.normal import Normal
from graphprune.calibration.store import Store
from graphprune.calibration.unfold import outputs, unfold
from graphprune.calibration.walk import Walk
from graphprune.coupling.cut import Cut
from graphprune.data import Feed
from graphprune.graph.model import Array, Graph
from graphprune.recover.ridge import fit
from graphprune.rewrite.values import overwrite, stored_value

_HELD = 4  # every fourth feed judges the ridge
_ROWS = 48  # positions per unknown of a layer that are enough
_WORK = 5e10  # products of a Gram matrix up to which more positions are looked at


@dataclass(frozen=True)
class LayerError:
    """What a re-fit did for a layer.

    Attributes:
        layer: Name of the node.
        before: Error of its output against the original's, relative to its energy, on held-back data.
        after: The same after the fit.
        strength: Ridge relative to the mean energy of its inputs.
    """

    layer: str
    before: float
    after: float
    strength: float


def refit(
    cut: Cut,
    small: Graph,
    samples: Iterable[Feed],
    *,
    memory: int = 2 << 30,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[LayerError]:
    """Fit the weights of a pruned model anew, in place.

    Args:
        cut: The removal that led to it.
        small: The pruned model, loaded; the weights of its source are exchanged.
        samples: Calibration data.
        memory: Bytes of activations to hold; more goes to a temporary folder.
        seed: Seed of the positions that are looked at.
        progress: Called with the name of each layer.
    """
    todo = list(layers(small))
    dense_model, model = cut.deps.source.source, small.source
    report = []
    with Store(memory // 2) as store:
        dense = Walk(dense_model, samples, store)
        todo = [x for x in todo if _shared(dense, x)]
        for layer in todo:
            dense.want(layer.total or layer.made)
            dense.want(layer.made)
        pruned = Walk(model, samples, store)
        for place, layer in enumerate(todo):
            progress(f"{layer.name} {place + 1}/{len(todo)}")
            pruned.run_to(layer.linear.node.outputs[0])
            aim = layer.total if layer.total and pruned.has(layer.other) else layer.made
            dense.run_past(aim)
            report.append(_refit_layer(_Job(cut, small, layer, aim, dense, pruned, seed + place)))
            for name in (layer.made, layer.total):
                dense.release(name)
    return report


def _shared(dense: Walk, layer: Layer) -> bool:
    return dense.makes(layer.made) and (not layer.total or dense.makes(layer.total))


@dataclass(frozen=True)
class _Job:
    cut: Cut
    small: Graph
    layer: Layer
    aim: str
    dense: Walk
    pruned: Walk
    seed: int

    def pairs(self) -> Iterator[tuple[Array, Array]]:
        """Per feed what the layer reads and what it should make, both of the pruned model's sizes."""
        others = self.pruned.value(self.layer.other) if self.aim == self.layer.total else None
        for data, wanted in zip(self.pruned.value(self.layer.input), self.dense.value(self.aim), strict=True):
            target = self.cut.box(self.aim, wanted.ndim).take(np.asarray(wanted, np.float32))
            if others is not None:
                target = target - next(others)
            yield np.asarray(data, np.float32), target


def _refit_layer(job: _Job) -> LayerError:
    layer, small = job.layer, job.small
    kept = small.weights[layer.weight]
    content = kept.read()
    weight = matrix(layer, content)
    groups, inputs, outs = weight.shape
    had = small.weights[layer.bias].read() if layer.bias not in ("", "?") else None
    bias = np.zeros((groups, outs)) if had is None else np.asarray(had, np.float64).reshape(groups, outs)
    train, held = Normal.empty(groups, inputs, outs), Normal.empty(groups, inputs, outs)
    rng = np.random.default_rng(job.seed)
    kernel = kept.shape[2:] if "Conv" in layer.linear.node.key else ()
    limit = int(max(_WORK / (groups * inputs**2), _ROWS * inputs)) // max(job.pruned.feeds, 1) + 1
    for place, (data, target) in enumerate(job.pairs()):
        total = target.size // (groups * outs)
        rows = np.sort(rng.choice(total, limit, replace=False)) if total > limit else None
        x = unfold(layer.linear, data, kernel, rows)
        y = outputs(layer.linear, target, rows)
        if job.pruned.feeds >= 2 * _HELD:
            (held if place % _HELD == _HELD - 1 else train).add(x, y)
        else:
            back = rng.random(x.shape[1]) < 1 / _HELD
            held.add(x[:, back], y[:, back])
            train.add(x[:, ~back], y[:, ~back])
    free = had is not None
    found = fit(train, held, weight, bias, free_bias=free)
    energy = max(float((held.yy - held.y**2 / max(held.count, 1)).sum()), 1e-30)
    if found.after < found.before:
        overwrite(
            stored_value(small.source, kept.source), stored(layer, found.weight, kept.shape).astype(content.dtype)
        )
        if had is not None:
            name = small.weights[layer.bias].source
            overwrite(stored_value(small.source, name), found.bias.reshape(had.shape).astype(had.dtype))
    return LayerError(layer.name, found.before / energy, found.after / energy, found.strength)
