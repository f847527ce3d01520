"""Second-order scores from squared gradients of single samples by the masks of units.

A unit's mask goes from 1 to 0 when it is removed, so half of its diagonal entry of the Fisher or Gauss-Newton matrix
is the loss to second order: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018.
Coupled places are summed before squaring: Liu et al., "Group Fisher Pruning for Practical Network Compression", ICML
2021.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.gradient_runs import Calibrated
from graphprune.importance.unit_gradients import finished, unit_gradients


def empirical_fisher(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """With the labels of the data; without any, with the model's own most likely class."""
    return _squared(deps, calibration, "prediction", 1)


def fisher(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """With labels that the model draws from its own prediction: the true Fisher information, no labels needed.

    Outputs that are no classes count with their relative squared error.
    """
    return _squared(deps, calibration, "fisher", 2)


def gauss_newton(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """Diagonal of the Gauss-Newton matrix of the outputs' relative squared error, by random signs on the outputs.

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1989, applied to outputs.
    """
    return _squared(deps, calibration, "feature", 2)


def _squared(deps: DependencyGraph, calibration: Calibrated, loss: str, probes: int) -> NDArray[np.float64]:
    total, count = np.zeros(deps.state.store.count), 0
    for gradient in unit_gradients(deps, calibration, loss, probes=probes):
        total += np.square(gradient)
        count += 1
    return finished(deps, total / (2 * max(count, 1)))
