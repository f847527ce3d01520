"""How much of a unit's activations the stronger units of its group cannot say already.

Source: Wang et al., "COP: Customized Deep Model Compression via Regularized Correlation-Based Filter-Level Pruning",
IJCAI 2019 (redundancy as correlation of channels); of correlated channels the one that varies most stays.
"""

from __future__ import annotations

import numpy as np

from graphprune.calibration import Calibration
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.activations import Place, places
from graphprune.importance.similarity import nearest
from graphprune.importance.slices import Scores, Slice, Slices, families


def correlation(deps: DependencyGraph, calibration: Calibration) -> Slices:
    """Standard deviation of a unit's activations that is left beside the most correlated of the more varying ones."""
    family = families(deps)
    found = places(deps, calibration)
    grams = calibration.channel_grams([(p.name, p.axes) for p in found])
    parts = []
    for place in found:
        covariance = grams[place.name, place.axes].covariance()[0]
        parts += _left(place, covariance, family)
    return Slices(parts, np.sqrt)


def _left(place: Place, covariance: np.ndarray, family: np.ndarray) -> list[Slice]:
    """Per group on an axis the variance of each position that the others of the group do not explain.

    A position stands for one unit of the group; positions with the same other labels (the channels of one head, the
    offsets at one place) are compared with each other.
    """
    columns = place.units.reshape(-1, place.units.shape[-1])
    out = []
    for number, column in enumerate(columns.T):
        held = np.flatnonzero((column > 0) & (family[column] >= 0))
        if not len(held):
            continue
        others = np.delete(columns[held], number, axis=1)
        _, context = np.unique(np.column_stack([family[column[held]], others]), axis=0, return_inverse=True)
        values = np.zeros(len(column))
        for code in np.unique(context):
            here = held[context.ravel() == code]
            values[here] = _unexplained(covariance[np.ix_(here, here)])
        units = np.where((column > 0) & (family[column] >= 0), column, 0)
        out.append(Slice(units[:, None].astype(np.int32), values))
    return out


def _unexplained(covariance: np.ndarray) -> Scores:
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    closest = nearest(spread, lambda lo, hi: covariance[lo:hi], signed=False)
    return np.asarray(spread**2 * (1.0 - closest**2))
