"""Optimal transport between few points, in numpy.

Source: Cuturi, "Sinkhorn Distances", NeurIPS 2013; Chizat et al., "Scaling Algorithms for Unbalanced Optimal Transport
Problems", Mathematics of Computation 2018 (marginals that are only leaned on).
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from graphprune.calibration.normal import Real

_ROUNDS = 500
_CLOSE = 1e-9


def plan(cost: Real, masses: Real, room: Real, *, blur: float = 0.02, lean: float = 0.02) -> Real:
    """How much of each source goes to each target.

    Args:
        cost: Cost per unit of mass, shape (sources, targets).
        masses: Mass of each source, positive; all of it is moved.
        room: Mass that each target should get, positive.
        blur: Weight of the plan's entropy, in units of cost.
        lean: Weight of the targets' divergence from their room, in units of cost; infinite to fill them exactly.

    Returns:
        Array (sources, targets) whose rows sum to the masses.
    """
    kernel = -cost / blur
    power = 1.0 if np.isinf(lean) else lean / (lean + blur)
    left, right = np.zeros(len(masses)), np.zeros(len(room))
    for _ in range(_ROUNDS):
        fitted = power * (np.log(room) - logsumexp(kernel + left[:, None], axis=0))
        moved, right = float(np.abs(fitted - right).max(initial=0)), fitted
        left = np.log(masses) - logsumexp(kernel + right[None], axis=1)
        if moved < _CLOSE:
            break
    return np.asarray(np.exp(kernel + left[:, None] + right[None]))
