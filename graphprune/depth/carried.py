"""What was measured of the groups of a model holds for those of the model without some branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.budget.planner import Planner
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.curve import Curve
from graphprune.importance.obs import Grams
from graphprune.recover.evidence import Evidence, bent
from graphprune.recover.judge import ordered


def same_units(old: DependencyGraph, new: DependencyGraph) -> Ids:
    """For every unit id of a graph the unit of another one at the same positions of its tensors; 0 where there is none.

    Args:
        old: The graph of the whole model.
        new: That of the model without some branches, whose nodes and tensors have the same names.
    """
    out = np.zeros(new.state.store.count, np.int32)
    torn = np.zeros(new.state.store.count, bool)
    for name, axes in new.types.items():
        for mine, theirs in zip(axes, old.types.get(name, ()), strict=False):
            if mine is None or theirs is None or mine.units is None or theirs.units is None:
                continue
            if mine.units.shape == theirs.units.shape:
                a, b = mine.units.ravel(), theirs.units.ravel()
                torn[a[(out[a] != 0) & (out[a] != b)]] = True
                out[a] = b
    out[torn] = 0
    out[0] = 0
    return out


def carried(old: DependencyGraph, curves: Sequence[Curve], new: DependencyGraph) -> list[Curve | None]:
    """The curves of the groups that both graphs have; None for groups that are other ones now."""
    known = same_units(old, new)
    owner = np.full(old.state.store.count, -1)
    for place, group in enumerate(old.groups):
        owner[group.units] = place
    out: list[Curve | None] = []
    for group in new.groups:
        was = known[group.units]
        places = np.unique(owner[was])
        if (was == 0).any() or len(places) != 1 or places[0] < 0:
            out.append(None)
            continue
        curve = curves[places[0]]
        back = dict(zip(was.tolist(), group.units.tolist(), strict=True))
        if len(back) < group.size or len(curve.order) != group.size:
            out.append(None)
            continue
        out.append(Curve(np.array([back[u] for u in curve.order.tolist()], np.int32), curve.loss))
    return out


def completed(
    deps: DependencyGraph, curves: Sequence[Curve | None], grams: Grams, evidence: Callable[[], Evidence]
) -> list[Curve]:
    """The curves with those measured anew that could not be carried over."""
    missing = [k for k, c in enumerate(curves) if c is None]
    if not missing:
        return [c for c in curves if c is not None]
    part = replace(deps, groups=tuple(deps.groups[k] for k in missing))
    given = ordered(part, grams, np.ones(deps.state.store.count))
    made = dict(zip(missing, bent(part, given, evidence())[0], strict=True))
    return [c if c is not None else made[k] for k, c in enumerate(curves)]


def carried_mask(old: DependencyGraph, gone: Mask, new: DependencyGraph) -> Mask:
    """The units of a graph that lie where the units of another one were removed."""
    known = same_units(old, new)
    return np.asarray(gone[known] & (known > 0))


def take_over(planner: Planner, gone: Mask) -> None:
    """Let a planner remove what a larger solution removed: these units come first in every group.

    Args:
        planner: The planner; its scores, curves and what is gone are changed.
        gone: Bool per unit id.
    """
    planner.gone = gone
    planner.scores[gone] = np.minimum(planner.scores[gone], 0.0) - 1.0
    if planner.curves is not None:
        first = [np.argsort(~gone[c.order], kind="stable") for c in planner.curves]
        planner.curves = [Curve(c.order[p], c.loss) for c, p in zip(planner.curves, first, strict=True)]
