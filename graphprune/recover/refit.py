"""Re-fits the weights that stay, layer after layer, on the inputs that the pruned layers in front really give."""

from __future__ import annotations

import numpy as np

from graphprune.calibration.layers import Layer, layers, matrix, stored
from graphprune.calibration.normal import Normal
from graphprune.calibration.recurrent import Recurrent, recurrents
from graphprune.calibration.store import Store
from graphprune.calibration.unfold import outputs, unfold
from graphprune.calibration.walks import walk, walk_origin
from graphprune.graph.bypass import stand_ins
from graphprune.graph.model import Array, Graph
from graphprune.recover.paired import Job, LayerError, Pair, changed, held_back
from graphprune.recover.recurrent import RecurrentPair, refit_recurrent
from graphprune.recover.ridge import fit

_ROWS = 48  # positions per unknown of a layer that are enough
_WORK = 5e10  # products of a Gram matrix up to which more positions are looked at
_DEAD = 1e-12


def refit(job: Job) -> list[LayerError]:
    """Fit the weights of a pruned model anew, in place.

    Args:
        job: What to work on; the seed draws the positions that are looked at.
    """
    cut, small, samples = job.cut, job.small, job.samples
    moved = changed(cut, small)
    report = []
    with Store(job.held) as store:
        dense, pruned = walk_origin(cut.deps.source, samples, store, states=True), walk(small, samples, store)
        meant = stand_ins(cut.deps.source).keys()
        open_ = (x for x in _in_order(small) if moved & _read(x) or meant & set(_aims(x)))
        todo = [x for x in open_ if all(dense.makes(n) for n in _aims(x))]
        for layer in todo:
            for name in (*_aims(layer), *(layer.read if isinstance(layer, Recurrent) else ())):
                dense.want(name)
        for place, layer in enumerate(todo):
            job.progress(f"{layer.name} {place + 1}/{len(todo)}")
            if isinstance(layer, Recurrent):
                pruned.run_to(next(n for n in layer.node.outputs if n))
                dense.run_past(layer.states)
                report.append(refit_recurrent(RecurrentPair(cut, small, layer, dense, pruned)))
            else:
                pruned.run_to(layer.linear.node.outputs[0])
                pair = Pair(cut, small, layer, dense, pruned)
                dense.run_past(pair.aim)
                report.append(_refit_layer(pair, job.seed + place))
            for name in (*_aims(layer), *(layer.read if isinstance(layer, Recurrent) else ())):
                dense.release(name)
    return report


def _in_order(graph: Graph) -> list[Layer | Recurrent]:
    """All layers that can be fitted, in graph order."""
    place = {node.name: k for k, node in enumerate(graph.nodes)}
    return sorted([*layers(graph), *recurrents(graph)], key=lambda x: place[x.name])


def _read(layer: Layer | Recurrent) -> set[str]:
    """Values whose change calls for a fit; of a recurrent layer its own states are among them."""
    if isinstance(layer, Recurrent):
        return {*layer.read, *layer.node.outputs} - {""}
    return {layer.input, layer.other} - {""}


def _aims(layer: Layer | Recurrent) -> list[str]:
    """Values of the original that the fit may aim at."""
    if isinstance(layer, Recurrent):
        return list(dict.fromkeys(n for n in (layer.states, *layer.node.outputs) if n))
    return list(dict.fromkeys(n for n in (layer.behind, layer.total) if n))


def _refit_layer(pair: Pair, seed: int) -> LayerError:
    layer = pair.layer
    weight = matrix(layer, pair.read(layer.weight))
    groups, _, outs = weight.shape
    had = np.asarray(pair.read(layer.bias), np.float64) if layer.biased else np.zeros(groups * outs)
    bias = had.reshape(groups, outs)
    train, held = _sums(pair, weight, seed)
    free = layer.biased or layer.norm is not None
    found = fit(train, held, weight, bias, free_bias=free)
    energy = max(float((held.yy - held.y**2 / max(held.count, 1)).sum()), 1e-30)
    if found.after < found.before:
        pair.write(layer.weight, stored(layer, found.weight, pair.small.weights[layer.weight].shape))
        if layer.biased:
            pair.write(layer.bias, found.bias)
        elif layer.norm is not None:  # what a bias would add is taken from the mean
            mean = np.asarray(pair.read(layer.norm.mean), np.float64)
            pair.write(layer.norm.mean, mean - found.bias.ravel())
    return LayerError(layer.name, found.before / energy, found.after / energy, found.strength)


def _sums(pair: Pair, weight: Array, seed: int) -> tuple[Normal, Normal]:
    """Normal equations to fit and those to judge by."""
    layer, feeds = pair.layer, pair.pruned.feeds
    groups, inputs, outs = weight.shape
    train, held = Normal.empty(groups, inputs, outs), Normal.empty(groups, inputs, outs)
    rng = np.random.default_rng(seed)
    kernel = pair.small.weights[layer.weight].shape[2:] if "Conv" in layer.linear.node.key else ()
    limit = int(max(_WORK / (groups * inputs**2), _ROWS * inputs)) // max(feeds, 1) + 1
    back = _Back(pair)
    for place, (data, target) in enumerate(zip(pair.pruned.value(layer.input), pair.wanted(), strict=True)):
        total = target.size // (groups * outs)
        rows = np.sort(rng.choice(total, limit, replace=False)) if total > limit else None
        x = unfold(layer.linear, np.asarray(data, np.float32), kernel, rows)
        y = back(outputs(layer.linear, target, rows))
        judge = held_back(place, feeds, rng, x.shape[1])
        held.add(x[:, judge], y[:, judge])
        train.add(x[:, ~judge], y[:, ~judge])
    return train, held


class _Back:
    """What a layer has to give so that the BatchNormalization behind it gives what is wanted.

    Where it multiplies by nothing the layer has no say; such an output should be zero.
    """

    def __init__(self, pair: Pair) -> None:
        self._factor, self._summand = (np.ones(1), np.zeros(1))
        if pair.layer.norm is not None:
            self._factor, self._summand = pair.affine(pair.layer.norm)
            self._factor = np.where(np.abs(self._factor) < _DEAD, np.inf, self._factor)

    def __call__(self, wanted: Array) -> Array:
        """Wanted values (groups, positions, outputs of a group) in front of the BatchNormalization."""
        if len(self._factor) == 1 and self._factor[0] == 1:
            return wanted
        shape = (len(wanted), 1, wanted.shape[2])
        return np.asarray((wanted - self._summand.reshape(shape)) / self._factor.reshape(shape), np.float32)
