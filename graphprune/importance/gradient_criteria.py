"""Criteria that take gradients or perturb the model, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.fisher import empirical_fisher, fisher, gauss_newton
from graphprune.importance.gradient_runs import Calibrated
from graphprune.importance.hessian import hessian
from graphprune.importance.perturbation import perturbation
from graphprune.importance.taylor import taylor, taylor_ema

GRADIENTS: Mapping[str, Callable[[DependencyGraph, Calibrated], NDArray[np.float64]]] = {
    "taylor": taylor,
    "taylor-ema": taylor_ema,
    "empirical-fisher": empirical_fisher,
    "fisher": fisher,
    "gauss-newton": gauss_newton,
    "hessian": hessian,
    "perturbation": perturbation,
}
"""Functions (deps, calibration) → scores per unit id, NaN for units that no gradient reaches."""
