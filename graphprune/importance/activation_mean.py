"""The mean size of a unit's activations.

Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017 (mean
activation as a baseline); absolute values, so that it serves activations of both signs.
"""

from __future__ import annotations

from graphprune.calibration import Calibration
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.activations import measured
from graphprune.importance.slices import Slices


def activation_mean(deps: DependencyGraph, calibration: Calibration) -> Slices:
    """Mean absolute value of a unit's activations where layers read them."""
    return measured(deps, calibration, lambda m: m.mean_abs)
