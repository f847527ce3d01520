"""Units sorted into kinds, and which kinds lie on which axes: what the search for free factors works on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphprune.algebra import Axis
from graphprune.algebra.axis import Ids
from graphprune.coupling.groups import DependencyGraph

Types = tuple[Axis | None, ...]


def _static(deps: DependencyGraph, axis: Axis | None) -> Axis | None:
    """What labels an axis: of a product with a dynamic factor, its last factor if that is the only one labelled.

    A batch that is laid out in front of the heads: position p of the axis has the labels of head p modulo heads.
    """
    if axis is None or not axis.parts:
        return axis
    labels = [deps.state.store.resolve(part) for part, _ in axis.parts]
    if axis.parts[-1][1] or any(x.units is not None for x in labels[:-1]):
        return axis
    return labels[-1]


class Kinds:
    """Units sorted into kinds: those of one group that label different positions in one column."""

    def __init__(self, deps: DependencyGraph) -> None:
        self.deps = deps
        self.count = deps.state.store.count
        self.types = {name: tuple(_static(deps, a) for a in axes) for name, axes in deps.types.items()}
        self.axes = {id(a): a for axes in self.types.values() for a in axes if a is not None and a.units is not None}
        self.group = np.full(self.count, -1, np.int32)
        place = np.arange(self.count)  # in the group's order
        for number, group in enumerate(deps.groups):
            self.group[group.units] = number
            place[group.units] = np.arange(group.size)
        self.of, self.total = self._sorted()
        order = np.lexsort((place, self.of))
        bounds = np.searchsorted(self.of[order], np.arange(self.total + 1))
        self.members: list[Ids] = [
            order[lo:hi].astype(np.int32) for lo, hi in pairwise(bounds)
        ]  # kind 0 is "no unit" and all that labels nothing
        self.on = {key: self._found_on(axis) for key, axis in self.axes.items()}
        self.inside = self._inside()
        self.tensors, self.holders = self._patterns()
        self._complete: dict[tuple[int, int], set[int]] = {}

    def _sorted(self) -> tuple[NDArray[np.intp], int]:
        """Kind of every unit id, 0 for none, and one more than the highest."""
        starts: list[Ids] = []
        ends: list[Ids] = []
        used = np.zeros(self.count, bool)
        for axis in self.axes.values():
            assert axis.units is not None
            for column in axis.units.T:
                ids = np.unique(column[column > 0])
                used[ids] = True
                ids = ids[np.argsort(self.group[ids], kind="stable")]
                same = self.group[ids[1:]] == self.group[ids[:-1]]
                starts.append(ids[:-1][same])
                ends.append(ids[1:][same])
        links = (np.concatenate(starts), np.concatenate(ends)) if starts else (np.zeros(0, np.int32),) * 2
        shape = (self.count, self.count)
        _, label = connected_components(coo_array((np.ones(len(links[0]), np.int8), links), shape=shape))
        of = np.zeros(self.count, np.intp)
        _, of[used] = np.unique(label[used], return_inverse=True)
        of[used] += 1
        return of, int(of.max()) + 1

    def _found_on(self, axis: Axis) -> set[int]:
        assert axis.units is not None
        return set(np.unique(self.of[axis.units]).tolist()) - {0}

    def _inside(self) -> set[int]:
        """Kinds that share positions with another kind."""
        out: set[int] = set()
        for axis in self.axes.values():
            assert axis.units is not None
            held = axis.units > 0
            both = held.sum(axis=1) > 1
            if both.any():
                out.update(np.unique(self.of[axis.units[both]]).tolist())
        return out - {0}

    def _patterns(self) -> tuple[dict[int, dict[tuple[int, ...], tuple[str, Types]]], dict[int, list[str]]]:
        """For each kind the tensors that hold it: one for every distinct row of axes, and all of them."""
        patterns: dict[int, dict[tuple[int, ...], tuple[str, Types]]] = {}
        holders: dict[int, list[str]] = {}
        for name, axes in self.types.items():
            key = tuple(id(a) for a in axes)
            for kind in self._on_tensor(axes):
                patterns.setdefault(kind, {}).setdefault(key, (name, axes))
                holders.setdefault(kind, []).append(name)
        return patterns, holders

    def _on_tensor(self, axes: Types) -> set[int]:
        return set().union(*(self.kinds_on(a) for a in axes))

    def group_name(self, kind: int) -> str:
        """The group of a kind."""
        number = int(self.group[self.members[kind][0]])
        return self.deps.groups[number].name if number >= 0 else ""

    def candidates(self) -> Iterator[int]:
        """Kinds of two or more units with companions on every tensor; those that vary fastest first."""
        found: list[tuple[float, int]] = []
        moving = {
            int(k)
            for axes in self.deps.types.values()
            for axis in axes
            for part, _ in (axis.parts if axis is not None else ())
            if (units := self.deps.state.store.resolve(part).units) is not None
            for k in np.unique(self.of[units])
        }
        for kind, patterns in self.tensors.items():
            if len(self.members[kind]) < 2 or kind in moving or not self.group_name(kind):
                continue
            if kind in self.inside or all(len(self._on_tensor(axes)) > 1 for _, axes in patterns.values()):
                found.append((-self._pace(kind), kind))
        return (kind for _, kind in sorted(found))

    def _pace(self, kind: int) -> float:
        """Share of neighbouring positions that differ in the kind's unit, where it shares an axis."""
        axis = self._shared_axis(kind)
        return 0.0 if axis is None else self._changes(axis, kind)

    def innermost(self, kind: int) -> bool:
        """Whether another kind that shares its axis varies more slowly: the kind lies inside blocks."""
        axis = self._shared_axis(kind)
        if axis is None or kind not in self.inside:
            return False
        mine = self._changes(axis, kind)
        return any(self._changes(axis, other) < mine for other in self.on[id(axis)] - {kind})

    def _shared_axis(self, kind: int) -> Axis | None:
        """The first axis that the kind shares with another."""
        found = (
            a
            for _, axes in self.tensors[kind].values()
            for a in axes
            if kind in (on := self.kinds_on(a)) and len(on) > 1
        )
        return next(found, None)

    def kinds_on(self, axis: Axis | None) -> set[int]:
        """Kinds of which some unit lies on an axis."""
        return self.on.get(id(axis), set())

    def _changes(self, axis: Axis, kind: int) -> float:
        assert axis.units is not None
        unit = np.where(self.of[axis.units] == kind, axis.units, 0).max(axis=1)
        return float((np.diff(unit) != 0).mean()) if axis.n > 1 else 0.0

    def complete(self, axis: Axis, kind: int) -> set[int]:
        """Kinds of which one unit stands at every position of an axis, or of a kind where that is on the axis."""
        on = self.kinds_on(axis)
        key = (id(axis), kind if kind in on else 0)
        if key not in self._complete:
            assert axis.units is not None
            of = self.of[axis.units]
            of = of[(of == kind).any(axis=1)] if kind in on else of
            self._complete[key] = {k for k in on - {kind} if ((of == k).sum(axis=1) == 1).all()}
        return self._complete[key]
