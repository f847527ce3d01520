"""Ranks offsets inside each block, where every block may keep its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphprune.coupling.fibres import Chosen, fibred, fine
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.base import Criterion, raw_scores

if TYPE_CHECKING:
    from graphprune.calibration import Calibration


def ranked(
    deps: DependencyGraph,
    criterion: str | Criterion,
    seed: int,
    *,
    calibration: Calibration | None = None,
    aggregate: str = "sum",
) -> DependencyGraph:
    """The dependency graph whose unit r of each free factor is the r-th least important offset of every block.

    Args:
        deps: A dependency graph.
        criterion: Name of a criterion or a function, see :func:`graphprune.importance.score`; it is asked for the
            score of every offset of every block.
        seed: Seed for criteria that draw.
        calibration: Statistics over data, for criteria that look at data.
        aggregate: What is made of the coupled slices of a unit.
    """
    if not deps.fibres.factors:
        return fibred(deps, ())
    view, labels = fine(deps)
    raw = raw_scores(view, criterion, seed, calibration=calibration, aggregate=aggregate)
    if len(raw) < view.state.store.count:  # a criterion with a table of its own says nothing about single offsets
        return fibred(deps, ())
    chosen = []
    for factor, units in labels:
        order = np.argsort(raw[units], axis=1, kind="stable")
        chosen.append(Chosen(factor, np.argsort(order, axis=1)))
    return fibred(deps, chosen)
