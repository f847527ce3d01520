"""What removing units costs in quality: one curve per group, which every allocation minimises the sum of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.importance.curve import Curve

__all__ = ["Curve", "curves_of", "fits"]


def curves_of(deps: DependencyGraph, scores: NDArray[np.float64]) -> list[Curve]:
    """The curve of every group, in the order of ``deps.groups``, from scores per unit id."""
    return [Curve.of_scores(group.units, scores) for group in deps.groups]


def fits(curve: Curve, group: Group) -> bool:
    """Whether a curve orders exactly the units of a group."""
    return len(curve.order) == group.size and np.array_equal(np.sort(curve.order), np.sort(group.units))
