"""The attention that a unit's activations draw: their energy.

Source: Zhao, Jain and Zhao, "Adaptive Activation-based Structured Pruning", 2022; the attention of a map is the mean of
the p-th power of its absolute values (Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017), p = 2.
"""

from __future__ import annotations

from graphprune.calibration import Calibration
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.activations import measured
from graphprune.importance.slices import Slices


def activation_attention(deps: DependencyGraph, calibration: Calibration) -> Slices:
    """Mean square of a unit's activations where layers read them."""
    return measured(deps, calibration, lambda m: m.mean_square)
