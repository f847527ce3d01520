"""Finds the groups whose removal breaks a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphprune.coupling.cut import Cut
from graphprune.coupling.groups import DependencyGraph, Group


def culprits(deps: DependencyGraph, cut: Cut, passes: Callable[[Cut], bool]) -> list[Group]:
    """Groups that fail on their own share of the cut.

    Halves that fail together but pass apart are blamed as a whole.
    """
    groups = [g for g in deps.groups if cut.removed[g.units].any()]

    def fails(part: Sequence[Group]) -> bool:
        units = np.concatenate([g.units[cut.removed[g.units]] for g in part])
        return not passes(deps.cut(units))

    def search(part: Sequence[Group]) -> list[Group]:
        if not fails(part):
            return []
        if len(part) == 1:
            return list(part)
        middle = len(part) // 2
        found = search(part[:middle]) + search(part[middle:])
        return found or list(part)

    return search(groups) if groups else []
