"""What a criterion is, and how its raw scores become comparable across groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.importance import magnitude, random

Scores = NDArray[np.float64]
Criterion = Callable[[DependencyGraph, int], Scores]

CRITERIA: Mapping[str, Criterion] = {
    "l1": magnitude.l1,
    "l2": magnitude.l2,
    "random": random.random,
}


def raw_scores(deps: DependencyGraph, criterion: str | Criterion, seed: int) -> Scores:
    """What a criterion says of every unit id, in its own measure.

    Raises:
        InputError: The criterion is unknown, or the seed is negative.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: must be zero or more")
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise InputError(f"unknown criterion {criterion!r}; there are {', '.join(CRITERIA)}")
        criterion = CRITERIA[criterion]
    return criterion(deps, seed)


def score(deps: DependencyGraph, criterion: str | Criterion, seed: int) -> Scores:
    """Score of every unit, divided by the mean of its group so that one global ranking makes sense.

    Args:
        deps: The dependency graph.
        criterion: Name in CRITERIA, or a function (deps, seed) → raw scores per unit id.
        seed: Seed for criteria that draw.

    Returns:
        float64 array over unit ids; 1.0 is the average unit of a group.

    Raises:
        InputError: The criterion is unknown, or the seed is negative.
    """
    raw = raw_scores(deps, criterion, seed)
    out = np.zeros_like(raw)
    for group in deps.groups:
        mean = float(raw[group.units].mean())
        out[group.units] = raw[group.units] / mean if mean > 0 else 1.0
    return out
