"""Gives the outputs of each layer the means, or the means and variances, that they have in the original.

Layers are looked at in graph order, each on what the corrected layers in front of it really give. The shift goes into
the bias of a layer, or into the BatchNormalization behind it; on a residual stream it is the sum that gets its mean
back. The factor goes into the rows of the weight, or into the BatchNormalization.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019 (means);
Jordan et al., "REPAIR: REnormalizing Permuted Activations for Interpolation Repair", ICLR 2023 (means and variances).
"""

from __future__ import annotations

import numpy as np

from graphprune.calibration.layers import Layer, layers, matrix, stored
from graphprune.calibration.normal import Normal, Real
from graphprune.calibration.store import Store
from graphprune.calibration.unfold import outputs
from graphprune.calibration.walks import walk, walk_origin
from graphprune.graph.model import Array
from graphprune.recover.paired import Job, LayerError, Pair, changed, held_back

_DEAD = 1e-6  # spread, relative to its size in the original, under which an output is constant


def correct_means(job: Job) -> list[LayerError]:
    """Shift the outputs of all layers to their means in the original, in place; a layer that would lose stays.

    Args:
        job: What to work on; the seed draws the positions that judge where there are few feeds.
    """
    return _corrected(job, scaled=False)


def correct_moments(job: Job) -> list[LayerError]:
    """Shift and scale the outputs of all layers to their means and variances in the original, in place.

    The variance comes first, as in the paper: this may raise the squared error of a layer, and is done all the same.

    Args:
        job: What to work on, see :func:`correct_means`.
    """
    return _corrected(job, scaled=True)


def _corrected(job: Job, *, scaled: bool) -> list[LayerError]:
    cut, small, samples = job.cut, job.small, job.samples
    moved = changed(cut, small)
    report = []
    with Store(job.held) as store:
        dense, pruned = walk_origin(cut.deps.source, samples, store), walk(small, samples, store)
        todo = [x for x in layers(small) if _open(x, moved) and dense.makes(x.behind)]
        for layer in todo:
            dense.want(layer.behind)
            if layer.total:
                dense.want(layer.total)
        for place, layer in enumerate(todo):
            job.progress(f"{layer.name} {place + 1}/{len(todo)}")
            pruned.run_to(layer.linear.node.outputs[0])
            pair = Pair(cut, small, layer, dense, pruned)
            dense.run_past(pair.aim)
            report.append(_correct(pair, job.seed + place, scaled=scaled))
            for name in {layer.behind, layer.total} - {""}:
                dense.release(name)
    return report


def _open(layer: Layer, moved: set[str]) -> bool:
    """Whether a layer's output may have changed, and a shift can be written somewhere."""
    return (layer.input in moved or layer.other in moved) and (layer.biased or layer.norm is not None)


def _correct(pair: Pair, seed: int, *, scaled: bool) -> LayerError:
    layer = pair.layer
    train, held = _sums(pair, seed)
    whole = train.plus(held)
    n = max(whole.count, 1)
    mean, aim = whole.x[:, 0] / n, whole.y[:, 0] / n
    factor = np.ones(len(mean))
    if scaled:
        factor = _factor(pair, whole)
    shift = aim - factor * mean
    first = train.count or 1
    tried = train.y[:, 0] / first - factor * train.x[:, 0] / first if train.count else shift
    before = held.error(np.ones((len(mean), 1, 1)), np.zeros((len(mean), 1)))
    after = held.error(factor[:, None, None], tried[:, None])
    energy = max(float((held.yy - held.y**2 / max(held.count, 1)).sum()), 1e-30)
    if not scaled and after >= before:
        return LayerError(layer.name, before / energy, before / energy, 0.0)
    _write(pair, factor, shift)
    return LayerError(layer.name, before / energy, after / energy, 0.0)


def _factor(pair: Pair, whole: Normal) -> Real:
    """Spread of the layer's own output in the original over the one it has now; 1 where it is constant."""
    n = max(whole.count, 1)
    now = whole.xx[:, 0, 0] / n - (whole.x[:, 0] / n) ** 2
    wanted = whole.yy[:, 0] / n - (whole.y[:, 0] / n) ** 2
    if pair.aim == pair.layer.total:
        wanted = _variance(pair)
    alive = (now > _DEAD * wanted) & (wanted > _DEAD * now)
    return np.sqrt(np.divide(wanted, now, where=alive, out=np.ones_like(now)))


def _variance(pair: Pair) -> Real:
    """Variances of what the layer alone makes in the original."""
    layer, sums = pair.layer, None
    for made in pair.dense.value(layer.behind):
        rows = _by_channel(layer, pair.cut.box(layer.behind, made.ndim).take(np.asarray(made, np.float32)))
        sums = Normal.empty(len(rows), 1, 1) if sums is None else sums
        sums.add(rows[..., None], rows[..., None])
    assert sums is not None
    n = max(sums.count, 1)
    return np.asarray(sums.yy[:, 0] / n - (sums.y[:, 0] / n) ** 2)


def _sums(pair: Pair, seed: int) -> tuple[Normal, Normal]:
    """What each output of the layer is now and should be: sums to fit on and sums to judge by, a group per output."""
    rng = np.random.default_rng(seed)
    train: Normal | None = None
    held: Normal | None = None
    for place, (now, target) in enumerate(zip(pair.pruned.peek(pair.layer.behind), pair.wanted(), strict=True)):
        x = _by_channel(pair.layer, np.asarray(now, np.float32))
        y = _by_channel(pair.layer, target)
        if train is None or held is None:
            train, held = Normal.empty(len(x), 1, 1), Normal.empty(len(x), 1, 1)
        back = held_back(place, pair.pruned.feeds, rng, x.shape[1])
        held.add(x[:, back, None], y[:, back, None])
        train.add(x[:, ~back, None], y[:, ~back, None])
    assert train is not None and held is not None
    return train, held


def _by_channel(layer: Layer, made: Array) -> Array:
    """An output as (outputs, positions)."""
    rows = outputs(layer.linear, made)
    return rows.transpose(0, 2, 1).reshape(-1, rows.shape[1])


def _write(pair: Pair, factor: Real, shift: Real) -> None:
    """Let the layer give factor times what it gave, plus shift."""
    layer = pair.layer
    if layer.norm is not None:
        pair.write(layer.norm.scale, factor * pair.read(layer.norm.scale))
        pair.write(layer.norm.bias, factor * pair.read(layer.norm.bias) + shift)
        return
    if not np.all(factor == 1):
        weight = matrix(layer, pair.read(layer.weight))
        groups, _, outs = weight.shape
        shape = pair.small.weights[layer.weight].shape
        pair.write(layer.weight, stored(layer, weight * factor.reshape(groups, 1, outs), shape))
    bias = pair.read(layer.bias)
    pair.write(layer.bias, (factor * bias.ravel().astype(np.float64) + shift).reshape(bias.shape))
