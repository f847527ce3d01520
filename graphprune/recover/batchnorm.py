"""Takes the statistics of every BatchNormalization anew from what the pruned layers in front of it give.

Source: Ye et al., "Rethinking the Smaller-Norm-Less-Informative Assumption in Channel Pruning of Convolution Layers",
ICLR 2018, and Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020 (adaptive
batch normalisation).
"""

from __future__ import annotations

import numpy as np

from graphprune.calibration.layers import Norm, norms
from graphprune.calibration.normal import Real
from graphprune.calibration.store import Store
from graphprune.calibration.walks import Walking, walk, walk_origin
from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array
from graphprune.recover.contents import exchange
from graphprune.recover.paired import Job, LayerError, changed


def reestimate(job: Job) -> list[LayerError]:
    """Give every BatchNormalization that reads something changed the mean and variance of what it reads, in place.

    Where the file has none, because they are folded into the layers in front, nothing is done.

    Args:
        job: What to work on; all positions are looked at, nothing is drawn.
    """
    cut, small, samples = job.cut, job.small, job.samples
    moved = changed(cut, small)
    todo = [n for n in norms(small) if n.node.inputs[0] in moved]
    if not todo:
        job.progress("no BatchNormalization reads anything that changed")
        return []
    report = []
    with Store(job.held) as store:
        dense, pruned = walk_origin(cut.deps.source, samples, store), walk(small, samples, store)
        for norm in todo:
            if dense.makes(norm.made):
                dense.want(norm.made)
        for place, norm in enumerate(todo):
            job.progress(f"{norm.node.name} {place + 1}/{len(todo)}")
            pruned.run_to(norm.made)
            before = _error(cut, norm, dense, pruned)
            mean, variance = _statistics(pruned, norm)
            exchange(small, norm.mean, mean)
            exchange(small, norm.variance, variance)
            after = _error(cut, norm, dense, pruned)
            report.append(LayerError(norm.node.name, before, after, 0.0))
            dense.release(norm.made)
    return report


def _statistics(pruned: Walking, norm: Norm) -> tuple[Real, Real]:
    """Mean and variance per channel of what a BatchNormalization reads, over all feeds."""
    name, count = norm.node.inputs[0], 0
    total: Real = np.zeros(1)
    for data in pruned.value(name):
        rows = _rows(data)
        count += rows.shape[1]
        total = total + rows.sum(axis=1, dtype=np.float64)
    mean = total / max(count, 1)
    square: Real = np.zeros(1)
    for data in pruned.value(name):
        square = square + ((_rows(data) - mean[:, None]) ** 2).sum(axis=1, dtype=np.float64)
    return mean, square / max(count, 1)


def _rows(data: Array) -> Array:
    """Channels first, all else behind, float64."""
    return np.moveaxis(np.asarray(data, np.float64), 1, 0).reshape(data.shape[1], -1)


def _error(cut: Cut, norm: Norm, dense: Walking, pruned: Walking) -> float:
    """Squared error of the output against the original's, relative to its energy."""
    if not dense.makes(norm.made):
        return float("nan")
    dense.run_past(norm.made)
    off = energy = 0.0
    for now, whole in zip(pruned.peek(norm.made), dense.value(norm.made), strict=True):
        wanted = cut.box(norm.made, whole.ndim).take(np.asarray(whole, np.float64))
        off += float(((np.asarray(now, np.float64) - wanted) ** 2).sum())
        energy += float(((_rows(wanted) - _rows(wanted).mean(axis=1, keepdims=True)) ** 2).sum())
    return off / max(energy, 1e-30)
