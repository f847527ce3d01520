"""What a criterion says of coupled weights and activations, slice by slice, and how slices become one score a unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError

Scores = NDArray[np.float64]
AGGREGATES = ("sum", "mean", "max")


@dataclass(frozen=True, slots=True)
class Slice:
    """What one coupled axis of one tensor says of the units on it.

    Attributes:
        units: Unit ids by position, shape (…, k), 0 meaning none.
        values: Score of each position, float64 of shape (…).
    """

    units: Ids
    values: Scores


def _same(scores: Scores) -> Scores:
    return scores


@dataclass(frozen=True)
class Slices:
    """What a criterion says of every coupled axis.

    Attributes:
        parts: One entry per axis.
        finish: What is done to the scores of units once their slices are one number, such as a square root.
    """

    parts: Sequence[Slice]
    finish: Callable[[Scores], Scores] = _same

    def scores(self, count: int, how: str) -> Scores:
        """One score per unit id, NaN where no slice says anything.

        The positions of a unit on one axis are always summed; ``how`` says what is made of its axes.

        Args:
            count: Number of unit ids.
            how: One of "sum", "mean" and "max".

        Raises:
            InputError: There is no such way.
        """
        if how not in AGGREGATES:
            raise InputError(f"unknown aggregate {how!r}; there are {', '.join(AGGREGATES)}")
        total, members = np.zeros(count), np.zeros(count, np.int32)
        for part in self.parts:
            ids, sums = _per_unit(part)
            total[ids] = np.maximum(total[ids], sums) if how == "max" else total[ids] + sums
            members[ids] += 1
        if how == "mean":
            total /= np.maximum(members, 1)
        out = self.finish(total)
        out[members == 0] = np.nan
        return out


def _per_unit(part: Slice) -> tuple[Ids, Scores]:
    """The units of a slice, each once, with the sums over their positions."""
    width = part.units.shape[-1]
    flat = part.units.reshape(-1, width)
    values = np.broadcast_to(part.values.reshape(-1, 1), flat.shape)
    held = flat > 0
    ids, inverse = np.unique(flat[held], return_inverse=True)
    return ids, np.bincount(inverse, weights=values[held], minlength=len(ids)).astype(np.float64)


def labels(deps: DependencyGraph, name: str, axis: int) -> Ids | None:
    """Units per position of an axis (on a ragged one: per block and position) with the columns last, None without."""
    ragged = deps.ragged.get((name, axis))
    if ragged is not None:
        return ragged.units
    axes = deps.types.get(name) or ()
    found = axes[axis] if axis < len(axes) else None
    return None if found is None else found.units


def families(deps: DependencyGraph) -> NDArray[np.int32]:
    """Number of the group of every unit id, -1 for units of none."""
    out = np.full(deps.state.store.count, -1, np.int32)
    for number, group in enumerate(deps.groups):
        out[group.units] = number
    return out
