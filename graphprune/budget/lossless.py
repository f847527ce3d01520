"""Chooses what may leave without changing any output."""

from __future__ import annotations

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.budget.choices import choice
from graphprune.budget.curves import Curve
from graphprune.budget.targets import Constraints
from graphprune.cost.model import CostModel
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import NothingToPruneError
from graphprune.folding.analysis import Folding
from graphprune.importance.magnitude import nearly_zero

NEARLY = 1e-6


def dead_units(deps: DependencyGraph, folding: Folding, allowed: Mask) -> Mask:
    """Bool per unit id: True for units that may all leave together without changing any output."""
    removed = np.zeros(deps.state.store.count, bool)
    for group in deps.groups:
        removed[group.units] = allowed[group.units]
    return folding.settle(removed)


def lossless_units(
    deps: DependencyGraph, folding: Folding, cost: CostModel, constraints: Constraints, allowed: Mask
) -> Ids:
    """All dead units, fewer where a width has to be aligned or an axis would be left empty.

    Raises:
        NothingToPruneError: There are none; the message counts channels that are nearly dead.
    """
    dead = dead_units(deps, folding, allowed)
    if not dead.any():
        raise NothingToPruneError(_none(deps))
    while True:
        chosen = _aligned(deps, cost, constraints, dead)
        settled = folding.settle(chosen)
        if np.array_equal(settled, chosen):
            break
        dead = settled
    if not chosen.any():
        raise NothingToPruneError(
            f"{deps.source.name}: no group has enough dead channels to reach a width that is allowed; lower --align"
        )
    return np.flatnonzero(chosen).astype(np.int32)


def _aligned(deps: DependencyGraph, cost: CostModel, constraints: Constraints, dead: Mask) -> Mask:
    """As many of the dead units of each group as its widths allow, one position of each axis left."""
    out = np.zeros_like(dead)
    nothing = np.zeros(len(dead))
    for group in deps.groups:
        found = choice(group, Curve.of_scores(group.units, nothing), constraints, dead)
        out[found.units(-1)] = True
    while emptied := cost.emptied(out):
        for axis in emptied:
            assert axis.units is not None
            out[axis.units[-1]] = False
    return out


def _none(deps: DependencyGraph) -> str:
    near = nearly_zero(deps, NEARLY)
    counts = [int(near[g.units].sum()) for g in deps.groups]
    total, groups = sum(counts), sum(1 for c in counts if c)
    text = f"{deps.source.name}: no dead channels: none is provably constant or ignored"
    if not total:
        return f"{text}, and none is nearly so"
    return (
        f"{text}; {total} of {deps.units} units in {groups} groups come close (a slice of their weights is below"
        f" {NEARLY:g} of the largest beside it), a target such as --ratio takes them first"
    )
