"""The variance of a unit's activations: a unit that hardly varies is a constant, which a bias can stand for.

Source: Polyak and Wolf, "Channel-Level Acceleration of Deep Face Representations", IEEE Access 2015.
"""

from __future__ import annotations

import numpy as np

from graphprune.calibration import Calibration
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.activations import measured
from graphprune.importance.slices import Slices


def activation_variance(deps: DependencyGraph, calibration: Calibration) -> Slices:
    """Standard deviation of a unit's activations where layers read them."""
    return measured(deps, calibration, lambda m: m.variance, np.sqrt)
