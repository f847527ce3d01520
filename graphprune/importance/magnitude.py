"""Group magnitude: the norm of everything that leaves with a unit.

Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (filter norms); Fang et al., "DepGraph:
Towards Any Structural Pruning", CVPR 2023 (summed over all coupled parameters).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.slices import Slices
from graphprune.importance.weights import axis_sums, power_slices


def l2(deps: DependencyGraph, seed: int) -> Slices:  # noqa: ARG001 - criteria share one signature
    """Euclidean norm over all coupled weight slices of a unit."""
    return Slices(power_slices(deps, power=2), np.sqrt)


def l1(deps: DependencyGraph, seed: int) -> Slices:  # noqa: ARG001
    """Sum of absolute values over all coupled weight slices of a unit."""
    return Slices(power_slices(deps, power=1))


def nearly_zero(deps: DependencyGraph, share: float) -> NDArray[np.bool_]:
    """Units with a slice of a matrix, kernel or norm's scale below ``share`` of the largest slice along its axis."""
    scales = {n.inputs[1] for n in deps.source.nodes if n.op.endswith("Normalization") and len(n.inputs) > 1}
    out = np.zeros(deps.state.store.count, bool)
    for name, sums in axis_sums(deps, power=2):
        if len(deps.source.weights[name].shape) < 2 and name not in scales:
            continue
        for axis, per_position in sums.items():
            labels = deps.types[name][axis]
            assert labels is not None
            assert labels.units is not None
            small = np.sqrt(per_position) < share * np.sqrt(per_position.max(initial=0.0))
            out[labels.units[small].ravel()] = True
    out[0] = False
    return out
