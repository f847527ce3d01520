"""Magnitude against what is at least as large in the same group, so that one global cut gives sensible widths.

Source: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021; over groups of coupled
channels as in Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from __future__ import annotations

import numpy as np

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.slices import Scores, Slices, families
from graphprune.importance.weights import power_slices


def lamp(deps: DependencyGraph, seed: int) -> Slices:  # noqa: ARG001 - criteria share one signature
    """Squared norm of a unit over the sum of those of its group that are not smaller; the largest unit has 1."""
    group = families(deps)
    return Slices(power_slices(deps, power=2), lambda squares: share_of_larger(squares, group))


def share_of_larger(squares: Scores, family: np.ndarray) -> Scores:
    """Each value over the sum of the values of its family that are not smaller, zero outside of every family.

    Args:
        squares: Values of at least zero, by unit id.
        family: Number of the family of every unit id, -1 for none.
    """
    out = np.zeros_like(squares)
    inside = np.flatnonzero(family >= 0)
    order = inside[np.lexsort((-squares[inside], family[inside]))]
    value, number = squares[order], family[order]
    for lo, hi in zip(*_bounds(number), strict=True):
        part = value[lo:hi]
        last = np.searchsorted(-part, -part, side="right") - 1  # equal values share one score
        total = np.cumsum(part)[last]
        out[order[lo:hi]] = part / np.where(total > 0, total, 1.0)
    return out


def _bounds(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cuts = np.flatnonzero(np.diff(number)) + 1
    return np.concatenate([[0], cuts]).astype(np.intp), np.concatenate([cuts, [len(number)]]).astype(np.intp)
