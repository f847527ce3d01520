"""What to say of limits that cannot be met: how far one gets, and which constraints are in the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from graphprune.budget.choices import choices
from graphprune.budget.curves import Curve
from graphprune.budget.targets import Constraints
from graphprune.cost.model import CostModel
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InfeasibleError, InputError

_NAMES = {
    "macs": "MACs",
    "params": "parameters",
    "bytes": "bytes of weights",
    "memory": "peak activation memory",
    "latency": "predicted nanoseconds of a run",
}


def out_of_reach(
    deps: DependencyGraph,
    cost: CostModel,
    limits: Mapping[str, float],
    curves: Sequence[Curve],
    constraints: Constraints,
    allowed: Mask,
) -> InfeasibleError:
    """The error for limits that the smallest allowed model exceeds.

    Costs fall with every unit, so that the smallest model is the best for each of them.
    """
    dense = {**_totals(cost, np.zeros(len(allowed), bool)), **cost.original}
    floor = _totals(cost, _smallest(deps, curves, constraints, allowed))
    broken = [name for name, limit in limits.items() if floor[name] > limit]
    lines = [
        f"{_NAMES.get(name, name)} {limit:,.0f} is out of reach: the best reachable is {floor[name]:,}"
        f" ({floor[name] / max(dense[name], 1):.1%} of the original)"
        for name, limit in limits.items()
        if name in broken
    ]
    held = [f"{_NAMES.get(name, name)} alone could go down to {floor[name]:,}" for name in limits if name not in broken]
    ways = []
    for option, relaxed, free in _relaxed(constraints, allowed):
        try:
            lower = _totals(cost, _smallest(deps, curves, relaxed, free))
        except InputError:
            continue
        name = broken[0] if broken else next(iter(limits))
        if lower[name] < floor[name]:
            ways.append((lower[name], f"{option} ({lower[name]:,} without it)"))
    binds = ", ".join(text for _, text in sorted(ways)) or "what the graph itself keeps whole, see analyze"
    return InfeasibleError("; ".join([*lines, *held, f"what binds: {binds}"]))


def _totals(cost: CostModel, removed: Mask) -> dict[str, int]:
    lengths = cost.kept(removed)
    return {name: measure.total(lengths) for name, measure in cost.measures.items()}


def _smallest(deps: DependencyGraph, curves: Sequence[Curve], constraints: Constraints, allowed: Mask) -> Mask:
    removed = np.zeros(len(allowed), bool)
    for choice in choices(deps, curves, constraints, allowed):
        removed[choice.units(len(choice.removable) - 1)] = True
    return removed


def _relaxed(constraints: Constraints, allowed: Mask) -> Iterator[tuple[str, Constraints, Mask]]:
    """Every constraint that was given or holds by default, with what is left without it."""
    if constraints.max_ratio < 1:
        yield f"--max-ratio {constraints.max_ratio:g}", replace(constraints, max_ratio=1.0), allowed
    if constraints.min_channels > 1:
        yield f"--min-channels {constraints.min_channels}", replace(constraints, min_channels=1), allowed
    if constraints.align > 1:
        yield f"--align {constraints.align}", replace(constraints, align=1), allowed
    if constraints.width:
        yield "--width", replace(constraints, width=()), allowed
    if constraints.equal:
        yield "--equal", replace(constraints, equal=()), allowed
    if constraints.ignore or constraints.only or not allowed.all():
        yield (
            "--ignore and --only"
            if constraints.ignore and constraints.only
            else ("--ignore" if constraints.ignore else "--only" if constraints.only else "groups that did not verify"),
            constraints,
            np.ones_like(allowed),
        )
