"""How often a unit is zero.

Source: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures", 2016
(average percentage of zeros).
"""

from __future__ import annotations

from graphprune.calibration import Calibration
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.activations import measured
from graphprune.importance.slices import Slices


def apoz(deps: DependencyGraph, calibration: Calibration) -> Slices:
    """Share of a unit's activations that are not zero where layers read them."""
    return measured(deps, calibration, lambda m: 1.0 - m.zero)
