"""Chooses what to remove: the allocation that loses least under all limits, of those that every method finds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.budget.choices import Choice, choices
from graphprune.budget.curves import Curve, curves_of
from graphprune.budget.greedy import priced, ranked, uniform
from graphprune.budget.improve import best_of_all, improved
from graphprune.budget.infeasible import out_of_reach
from graphprune.budget.landscape import Landscape, Levels
from graphprune.budget.targets import Constraints
from graphprune.cost.model import CostModel
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph

ALLOCATIONS = ("auto", "solver", "global", "uniform")
_SECONDS = 60.0
_FEW = 1000  # combinations up to which all are tried
_ROUNDS = 20  # of giving back positions of axes that would be left empty


def solve(
    deps: DependencyGraph,
    scores: NDArray[np.float64],
    cost: CostModel,
    limits: Mapping[str, float],
    *,
    constraints: Constraints,
    allowed: Mask,
    ratio: float | None = None,
    curves: Sequence[Curve] | None = None,
    gone: Mask | None = None,
    allocation: str = "auto",
    seconds: float = _SECONDS,
) -> Ids:
    """Units to remove.

    Args:
        deps: The dependency graph.
        scores: Comparable score per unit id.
        cost: Its cost model.
        limits: Upper limits by name of a measure of ``cost``; all must hold.
        constraints: Alignment, floors, ceilings and classes of equal width.
        allowed: bool per unit id, False where the user forbids removal.
        ratio: Share of units every group loses at least; a limit that needs more takes more.
        curves: For every group of ``deps``, in their order, which units leave first and what is lost with them; None
            for the sums of the scores.
        gone: Units that an earlier, larger solution removed; every group loses at least as many.
        allocation: "uniform", the same share of every group; "global", one ranking of all units; "solver", the least
            loss of these two and of what linear and integer programs make of them; "auto", the solver where curves
            are given, whose losses were measured, else the ranking.
        seconds: Time limit of the solver; past it the best solution found so far is given.

    Raises:
        InfeasibleError: The limits cannot be met; the message names the best reachable and what is in the way.
        InputError: Constraints contradict each other.
        ValueError: A curve does not order the units of its group.
    """
    if allocation == "auto":
        allocation = "global" if curves is None else "solver"
    curves = curves_of(deps, scores) if curves is None else curves
    deadline, allowed = time.monotonic() + seconds, allowed.copy()
    for _ in range(_ROUNDS):
        found = choices(deps, curves, constraints, allowed)
        land = Landscape(found, cost, limits, deps.state.store.count)
        if not land.fits(land.floor):
            raise out_of_reach(deps, cost, limits, curves, constraints, allowed)
        removed = land.mask(_allocated(land, _base(found, ratio, gone), allocation, deadline))
        emptied = cost.emptied(removed)
        if not emptied:
            break
        for axis in emptied:  # units of several groups can take all of an axis between them: one position stays
            assert axis.units is not None
            when = land.leaves[axis.units].min(axis=1, where=axis.units > 0, initial=np.inf)
            allowed[axis.units[int(when.argmax())]] = False
    while emptied := cost.emptied(removed):
        for axis in emptied:
            assert axis.units is not None
            removed[axis.units.ravel()] = False
    return np.flatnonzero(removed).astype(np.int32)


def _allocated(land: Landscape, base: Levels, allocation: str, deadline: float) -> Levels:
    """Levels that meet all limits, by one of the methods or the best of all."""
    if not land.limits:
        return base
    if allocation != "solver":
        return (uniform if allocation == "uniform" else ranked)(land, base)
    if np.log(land.flat.sizes).sum() <= np.log(_FEW):
        return best_of_all(land, base)
    starts = ranked(land, base), uniform(land, base), priced(land, base, deadline)
    start = min(starts, key=land.loss)
    return improved(land, start, base, deadline=deadline)


def _base(found: Sequence[Choice], ratio: float | None, gone: Mask | None) -> Levels:
    """The levels that every allocation goes to at least."""
    out = np.zeros(len(found), np.int64)
    for v, choice in enumerate(found):
        if ratio is not None:
            wanted = ratio * sum(g.size for g in choice.groups)
            out[v] = int(np.abs(choice.totals - wanted).argmin())
        if gone is not None:
            counts = np.array([gone[g.units].sum() for g in choice.groups])
            enough = np.flatnonzero((choice.removable >= counts).all(axis=1))
            out[v] = max(out[v], enough[0] if len(enough) else len(choice.removable) - 1)
    return out
