"""Distance from the other filters: one near the geometric median can be replaced by the rest.

Source: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR
2019; the sum of the distances to all other filters stands for the distance to their median.
"""

from __future__ import annotations

import numpy as np

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.producers import Matrix, producers
from graphprune.importance.slices import Scores, Slice, Slices

_ROWS = 1024


def fpgm(deps: DependencyGraph, seed: int) -> Slices:  # noqa: ARG001 - criteria share one signature
    """Sum of the distances from the weights that make a unit to those of all other units of its group."""
    made = producers(deps, shifts=False)
    return Slices(
        [
            Slice(group.units[:, None], _distances(matrix))
            for group, matrices in zip(deps.groups, made, strict=True)
            for matrix in matrices
        ]
    )


def _distances(matrix: Matrix) -> Scores:
    """For every row the sum of its distances to all rows."""
    centred = matrix - matrix.mean(axis=0)  # the same distances, with less to cancel
    squares = np.einsum("ij,ij->i", centred, centred).astype(np.float64)
    out = np.zeros(len(matrix))
    for lo in range(0, len(matrix), _ROWS):
        hi = lo + _ROWS
        square = squares[lo:hi, None] + squares[None] - 2.0 * (centred[lo:hi] @ centred.T)
        out[lo:hi] = np.sqrt(np.maximum(square, 0.0)).sum(axis=1)
    return out
