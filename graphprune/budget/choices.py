"""What the constraints leave to decide: the widths that each group, or class of groups of equal width, may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.budget.abreast import Counts, Part, abreast
from graphprune.budget.curves import Curve, fits
from graphprune.budget.selection import Bounds, equal_classes, width_bounds
from graphprune.budget.targets import Constraints
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.errors import InputError


@dataclass(frozen=True)
class Choice:
    """Groups that take one width together, mostly a single one, and the levels to choose from.

    Attributes:
        groups: The groups.
        curves: For each of them its units that may leave, and what is lost with them.
        removable: Units that each group has lost at each level, shape (levels, groups), ascending.
    """

    groups: tuple[Group, ...]
    curves: tuple[Curve, ...]
    removable: Counts

    @property
    def loss(self) -> NDArray[np.float64]:
        """What is lost at each level, shape (levels,)."""
        parts = [c.loss[n] for c, n in zip(self.curves, self.removable.T, strict=True)]
        out: NDArray[np.float64] = np.sum(parts, axis=0)
        return out

    @property
    def totals(self) -> Counts:
        """Units lost at each level over all groups, shape (levels,)."""
        out: Counts = self.removable.sum(axis=1)
        return out

    @property
    def last(self) -> NDArray[np.float64]:
        """What the last unit lost at each level is worth, 0 where none is, shape (levels,)."""
        parts = [np.append(0.0, c.slopes)[n] for c, n in zip(self.curves, self.removable.T, strict=True)]
        out: NDArray[np.float64] = np.max(parts, axis=0)
        return out

    def units(self, level: int) -> Ids:
        """The units that are gone at a level."""
        return np.concatenate([c.order[:n] for c, n in zip(self.curves, self.removable[level], strict=True)])


def choices(deps: DependencyGraph, curves: Sequence[Curve], constraints: Constraints, allowed: Mask) -> list[Choice]:
    """Everything there is to decide, in the order of the groups; groups without a choice are left out.

    Args:
        deps: The dependency graph.
        curves: A curve for each of its groups.
        constraints: Alignment, floors, ceilings and classes of equal width.
        allowed: bool per unit id, False where the user forbids removal.

    Raises:
        InputError: Constraints contradict each other.
        ValueError: A curve does not order the units of its group.
    """
    bounds, classes = width_bounds(deps, constraints.width), equal_classes(deps, constraints.equal)
    single: list[Part] = []
    for group, curve in zip(deps.groups, curves, strict=True):
        if not fits(curve, group):
            raise ValueError(f"the curve given for group {group.name} does not order its units")
        found = choice(group, curve, constraints, allowed, bounds.get(group.name))
        single.append((group, found.curves[0], found.removable[:, 0]))
    free = [part for part in single if part[0].name not in classes and part[0].name not in bounds]
    tied = [Choice(*part) for part in abreast(free, constraints.align)]
    apart = {group.name for c in tied for group in c.groups}
    decided = [*_joined([part for part in single if part[0].name not in apart], classes), *tied]
    order = {group.name: i for i, group in enumerate(deps.groups)}
    decided.sort(key=lambda c: order[c.groups[0].name])
    return [c for c in decided if len(c.removable) > 1 or c.removable.any()]


def choice(group: Group, curve: Curve, constraints: Constraints, allowed: Mask, bounds: Bounds | None = None) -> Choice:
    """What the constraints let a single group lose, of the units that are allowed.

    Raises:
        InputError: No width is left to it.
    """
    curve = curve.only(allowed)
    n = group.size
    least = max(constraints.min_channels, n - int(constraints.max_ratio * n), n - len(curve.order), 1)
    step = _step(group, constraints)
    kept = np.append(np.arange(step, n, step), n)
    kept = kept[(kept >= least) | (kept == n)]
    if bounds is not None:
        within = kept[(kept >= bounds.low) & (kept <= bounds.high)]
        if not within.size:
            widths = f"{kept[0]}" if len(kept) == 1 else f"{kept[0]} to {kept[-1]}, in steps of {step}"
            raise InputError(
                f"--width {bounds.text}: group {group.name} can keep {widths}; change --align, --min-channels,"
                " --max-ratio, --ignore or --only, or the widths asked for"
            )
        kept = within
    return Choice((group,), (curve,), (n - kept[::-1]).astype(np.int64)[:, None])


def _joined(single: Sequence[Part], classes: Mapping[str, tuple[str, str]]) -> Iterator[Choice]:
    """Groups of a class joined at the widths that all of them can take, at the place of the first."""
    members: dict[tuple[str, str], list[Part]] = {}
    for part in single:
        members.setdefault(classes.get(part[0].name, ("", part[0].name)), []).append(part)
    for (pattern, _), parts in members.items():
        kept = parts[0][0].size - parts[0][2]
        for group, _, removable in parts[1:]:
            kept = np.intersect1d(kept, group.size - removable)[::-1]
        if not kept.size:
            names = ", ".join(f"{g.name} ({g.size})" for g, _, _ in parts[:4])
            raise InputError(f"--equal {pattern}: no width suits all of {names}; see --align, --max-ratio and --ignore")
        removable = np.stack([g.size - kept for g, _, _ in parts], axis=1)
        yield Choice(tuple(g for g, _, _ in parts), tuple(c for _, c, _ in parts), removable)


def _step(group: Group, constraints: Constraints) -> int:
    """Units that make the width of the group's narrowest axis a multiple of the alignment, less for small groups."""
    step = constraints.align // gcd(constraints.align, group.rows)
    while step > 1 and step > constraints.max_step * group.size:
        step = (step + 1) // 2
    return step
