"""First-order Taylor scores: how much the loss changes when a unit is switched off, to first order.

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019 (the squared gradient of a gate
behind every unit, averaged over batches); the running average as in pruning loops that accumulate |weight · gradient|.

The loss is the cross entropy to the labels that come with the data, else to the model's own most likely class; for
models that do not end in classes half the mean square of the outputs, so that a unit counts that adds to them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.gradient_runs import Calibrated
from graphprune.importance.unit_gradients import finished, unit_gradients

_BATCH = 32
_MEMORY = 0.9


def taylor(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """Squared gradient of the loss by a unit's mask, mean over batches of 32 samples."""
    total, count = np.zeros(deps.state.store.count), 0
    for batch in _batches(deps, calibration):
        total += np.square(batch)
        count += 1
    return finished(deps, total / max(count, 1))


def taylor_ema(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """Running average (0.9) of the absolute gradient of the loss by a unit's mask, over batches of 32 samples."""
    average, weight = np.zeros(deps.state.store.count), 0.0
    for batch in _batches(deps, calibration):
        average = _MEMORY * average + (1 - _MEMORY) * np.abs(batch)
        weight = _MEMORY * weight + 1 - _MEMORY
    return finished(deps, average / max(weight, 1e-12))


def _batches(deps: DependencyGraph, calibration: Calibrated) -> Iterator[NDArray[np.float64]]:
    """Mean gradient by every unit's mask over batches of samples; the last batch may be smaller."""
    total, count = np.zeros(deps.state.store.count), 0
    for gradient in unit_gradients(deps, calibration, "prediction"):
        total += gradient
        count += 1
        if count == _BATCH:
            yield total / count
            total, count = np.zeros_like(total), 0
    if count:
        yield total / count
