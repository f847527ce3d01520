"""Chooses what to remove: one global ranking, cut where the budget is met, then filled up to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import gcd

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.budget.curves import Curve, curves_of, fits
from graphprune.budget.targets import Constraints
from graphprune.cost.model import CostModel
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.errors import InfeasibleError

_CLOSE = 0.002  # unused share of a limit that is not worth filling
_ROUGH = 0.025  # unused share above which steps are traded between groups
_MAX_TRADERS = 40
_NAMES = {"bytes": "bytes of weights", "memory": "peak activation memory", "latency": "latency in nanoseconds"}


@dataclass(frozen=True, slots=True)
class Choice:
    """A group as the solver sees it.

    Attributes:
        curve: Its units that may leave, and what is lost with them.
        removable: Allowed numbers of removed units, ascending, beginning with 0.
    """

    curve: Curve
    removable: NDArray[np.int64]

    @property
    def order(self) -> Ids:
        """The units that may leave, first to leave first."""
        return self.curve.order

    def lost(self, count: int, more: int) -> float:
        """What is lost between two numbers of removed units."""
        return float(self.curve.loss[more] - self.curve.loss[count])


def solve(
    deps: DependencyGraph,
    scores: NDArray[np.float64],
    cost: CostModel,
    limits: Mapping[str, int],
    *,
    constraints: Constraints,
    allowed: Mask,
    ratio: float | None = None,
    curves: Sequence[Curve] | None = None,
) -> Ids:
    """Units to remove.

    Args:
        deps: The dependency graph.
        scores: Comparable score per unit id.
        cost: Its cost model.
        limits: Upper limits by cost name; all must hold.
        constraints: Alignment and floors.
        allowed: bool per unit id, False where the user forbids removal.
        ratio: Share of units every group loses at least; a limit that needs more takes more.
        curves: For every group of ``deps``, in their order, which units leave first and what is lost with them; None
            for the sums of the scores.

    Raises:
        ValueError: A curve does not order the units of its group.
        InfeasibleError: The limits cannot be met; the message names the best reachable.
    """
    curves = curves_of(deps, scores) if curves is None else curves
    choices = []
    for group, curve in zip(deps.groups, curves, strict=True):
        if not fits(curve, group):
            raise ValueError(f"the curve given for group {group.name} does not order its units")
        found = choice(group, curve, constraints, allowed)
        if len(found.removable) > 1:
            choices.append(found)
    problem = _Problem(choices, cost, limits, deps.state.store.count)
    base = [0] * len(choices)
    if ratio is not None:
        base = [_nearest(c.removable, ratio * len(c.order)) for c in choices]
    if limits:
        problem.check_floor()
        base = problem.fill(problem.cut(base), base)
    return problem.units(base)


def choice(group: Group, curve: Curve, constraints: Constraints, allowed: Mask) -> Choice:
    """What the constraints let a group lose, of the units that are allowed."""
    curve = curve.only(allowed)
    n = group.size
    least = max(constraints.min_channels, n - int(constraints.max_ratio * n), n - len(curve.order), 1)
    step = _step(group, constraints.align)
    kept = np.arange(step, n, step)
    kept = kept[kept >= least]
    removable = np.concatenate([[0], np.sort(n - kept)])
    return Choice(curve, removable.astype(np.int64))


def _step(group: Group, align: int) -> int:
    """Units that make the width of the group's narrowest axis a multiple of ``align``, less for small groups."""
    rows = min(m.rows for m in group.members)
    step = align // gcd(align, rows)
    while step > 1 and 2 * step > group.size:
        step = (step + 1) // 2
    return step


def _nearest(removable: NDArray[np.int64], wanted: float) -> int:
    return int(removable[np.abs(removable - wanted).argmin()])


class _Problem:
    """Counts of removed units per group, and the costs they give."""

    def __init__(self, choices: list[Choice], cost: CostModel, limits: Mapping[str, int], count: int) -> None:
        self.choices = choices
        self.cost = cost
        self.limits = limits
        self.count = count

    def units(self, counts: list[int]) -> Ids:
        """Removed units, without those that would empty an axis."""
        picked = [c.order[:n] for c, n in zip(self.choices, counts, strict=True)]
        removed = self._mask(np.concatenate(picked) if picked else np.zeros(0, np.int32))
        while emptied := self.cost.emptied(removed):
            for axis in emptied:
                assert axis.units is not None
                removed[axis.units.ravel()] = False
        return np.flatnonzero(removed).astype(np.int32)

    def _mask(self, units: Ids) -> Mask:
        removed = np.zeros(self.count, bool)
        removed[units] = True
        return removed

    def costs(self, counts: list[int]) -> dict[str, int]:
        lengths = self.cost.kept(self._mask(self.units(counts)))
        return {name: self.cost.measures[name].total(lengths) for name in self.limits}

    def fits(self, counts: list[int]) -> bool:
        costs = self.costs(counts)
        return all(costs[name] <= limit for name, limit in self.limits.items())

    def check_floor(self) -> None:
        """Refuse limits that the smallest allowed model exceeds."""
        floor = [int(c.removable[-1]) for c in self.choices]
        if not self.fits(floor):
            costs, dense = self.costs(floor), self.costs([0] * len(floor))
            lines = [
                f"{_NAMES.get(name, name)} {limit:,} is out of reach: the best reachable is {costs[name]:,}"
                f" ({costs[name] / max(dense[name], 1):.1%} of the original)"
                for name, limit in self.limits.items()
                if costs[name] > limit
            ]
            raise InfeasibleError("; ".join(lines) + "; loosen --max-ratio, --min-channels, --ignore or --align")

    def at(self, threshold: float, base: list[int]) -> list[int]:
        """Counts when every unit that scores below the threshold leaves, as far as allowed."""
        return [
            max(_nearest(c.removable, float(np.searchsorted(c.curve.slopes, threshold))), least)
            for c, least in zip(self.choices, base, strict=True)
        ]

    def cut(self, base: list[int]) -> list[int]:
        """Counts at the lowest threshold that meets all limits."""
        if self.fits(base):
            return base
        levels = np.unique(np.concatenate([c.curve.slopes for c in self.choices]))
        levels = np.append(levels, np.inf)
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            if self.fits(self.at(float(levels[middle]), base)):
                high = middle
            else:
                low = middle + 1
        counts = self.at(float(levels[low]), base)
        return counts if self.fits(counts) else [int(c.removable[-1]) for c in self.choices]

    def fill(self, counts: list[int], base: list[int]) -> list[int]:
        """Give back what the budget has room for, most important units first."""
        counts = list(counts)
        while not self._close(counts):
            options = sorted(
                (i for i, n in enumerate(counts) if n > base[i]),
                key=lambda i: -float(self.choices[i].curve.slopes[counts[i] - 1]),
            )
            if any(self._give_back(counts, i, base[i]) for i in options):
                continue
            if self._slack(counts) < _ROUGH or not self._trade(counts, base):
                break
        return counts

    def _trade(self, counts: list[int], base: list[int]) -> bool:
        """Swap a step of one group for a step of another, the swap that loses the least importance.

        For few, coarse groups, where no single step comes close to the limits.
        """
        best, lost, slack = None, float("inf"), self._slack(counts)
        if len(counts) > _MAX_TRADERS:
            return False
        for i, j in permutations(range(len(counts)), 2):
            less, more = self._stepped(counts, i, -1), self._stepped(counts, j, 1)
            if less is None or more is None or less < base[i]:
                continue
            trial = list(counts)
            trial[i], trial[j] = less, more
            loss = self.choices[j].lost(counts[j], more) - self.choices[i].lost(less, counts[i])
            if loss < lost and self.fits(trial) and self._slack(trial) < slack:
                best, lost = trial, loss
        if best is not None:
            counts[:] = best
        return best is not None

    def _stepped(self, counts: list[int], i: int, by: int) -> int | None:
        """The next allowed count of group i, None past its ends."""
        removable = self.choices[i].removable
        place = int(np.searchsorted(removable, counts[i])) + by
        return int(removable[place]) if 0 <= place < len(removable) else None

    def _give_back(self, counts: list[int], i: int, least: int) -> bool:
        """Restore one step of group i if the limits still hold."""
        lower = self._stepped(counts, i, -1)
        if lower is None or lower < least:
            return False
        before, counts[i] = counts[i], lower
        if self.fits(counts):
            return True
        counts[i] = before
        return False

    def _close(self, counts: list[int]) -> bool:
        return self._slack(counts) < _CLOSE

    def _slack(self, counts: list[int]) -> float:
        """Unused share of the tightest limit."""
        costs = self.costs(counts)
        return min(float(limit - costs[name]) / max(limit, 1) for name, limit in self.limits.items())
