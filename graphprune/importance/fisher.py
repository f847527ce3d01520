"""Second-order scores from squared gradients of single samples by the masks of units.

Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018 (a mask goes from 1 to 0, so
half its diagonal entry of the Fisher or Gauss-Newton matrix is the loss to second order); Liu et al., "Group Fisher
Pruning for Practical Network Compression", ICML 2021 (coupled places are summed before squaring); Hutchinson, "A
stochastic estimator of the trace of the influence matrix", 1989 (random signs).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.gradient_runs import Calibrated
from graphprune.importance.unit_gradients import finished, unit_gradients


def empirical_fisher(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """Half the mean squared gradient by a unit's mask, with the labels, else with the model's own most likely class."""
    return _squared(deps, calibration, "prediction", 1)


def fisher(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """Half the mean squared gradient by a unit's mask, with labels that the model draws from its own prediction.

    Outputs that are no classes count with their relative squared error.
    """
    return _squared(deps, calibration, "fisher", 2)


def gauss_newton(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """Half the mean squared derivative of the outputs by a unit's mask, relative to the outputs, by random signs."""
    return _squared(deps, calibration, "feature", 2)


def _squared(deps: DependencyGraph, calibration: Calibrated, loss: str, probes: int) -> NDArray[np.float64]:
    total, count = np.zeros(deps.state.store.count), 0
    for gradient in unit_gradients(deps, calibration, loss, probes=probes):
        total += np.square(gradient)
        count += 1
    return finished(deps, total / (2 * max(count, 1)))
