"""Diagonal of the Hessian of the loss by the masks of units, by Hutchinson's estimator.

Source: Yu et al., "Hessian-Aware Pruning and Optimal Neural Implant", WACV 2022, which ranks by the trace over the
weights of a group times their squared norm. A mask scales all coupled weights of its unit at once, so that half of its
diagonal entry is that second-order loss with no part of it left out.

The product of the Hessian with random signs is a difference of gradients at masks slightly off 1 either way. The loss
is the divergence from the original's outputs, or the cross entropy where the data brings labels. The estimate of a unit
carries noise from its whole row, so that it takes thousands of samples where ``fisher`` takes hundreds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphprune.calibration.gradients import Masks, gradients_of, single
from graphprune.calibration.masks import MASKS
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.gradient_runs import Calibrated, each_sample, labels_of, scales_of, together
from graphprune.importance.losses import Look, divergence, prediction
from graphprune.importance.unit_gradients import finished, masked

_STEP = 0.02  # of the masks; the gradient's curvature over it is small, its rounding smaller
_PROBES = 2


def hessian(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """Half the absolute second derivative of the loss by a unit's mask, by random signs on all masks."""
    graph, places = deps.source, masked(deps)
    if not places.whole.any():
        return finished(deps, np.zeros(places.count))
    masks_at = Masks(places.wanted, places.labels, places.count)
    gradients = gradients_of(graph, places.wanted, threads=getattr(calibration, "threads", 0), masks=masks_at)
    labels, rng = labels_of(calibration), np.random.default_rng(calibration.seed)
    ones = np.ones(places.count, np.float32)
    scales = scales_of((f, gradients.outputs({**f, MASKS: ones})) for f in single(graph, calibration.samples))
    total, count = np.zeros(places.count), 0
    number = 0
    for feed in each_sample(graph, calibration):
        original = gradients.outputs({**feed, MASKS: ones})
        size = together(feed, original)
        for _ in range(_PROBES):
            signs = (2 * rng.integers(0, 2, places.count) - 1).astype(np.float32)
            ends = []
            for step in (_STEP, -_STEP):
                masks = ones + np.float32(step) * signs
                masks[0] = 1.0
                given = {**feed, MASKS: masks}
                look = Look(gradients.heads, gradients.outputs(given), scales, rng, labels(number, size))
                seeds = prediction(look) if look.labels is not None else divergence(look, original)[1]
                ends.append(places.units(gradients(given, seeds)) / masks)
            total += signs * (ends[0] - ends[1]) / (2 * _STEP)
            count += size
        number += size
    return finished(deps, np.abs(total) / (2 * max(count, 1)))
