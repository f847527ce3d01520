"""Random scores: the baseline that every criterion has to beat, and the tests' way of picking anything."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph


def random(deps: DependencyGraph, seed: int) -> NDArray[np.float64]:
    """Uniform scores in [0, 1), the same for the same seed."""
    return np.random.default_rng(seed).random(deps.state.store.count)
