"""Which units only have to leave in equal number from every block.

The offsets in the groups of a convolution, the dims of heads, the offsets in the groups of a normalisation: their
labels say "offset j of all blocks at once", but no operator compares offset j of one block with offset j of another.
Their numbering inside a block is arbitrary then, and so is the choice of what leaves. A factor is free when

1. every tensor that holds it also holds the same kind of blocks, on one axis: the factor's own (their product) or
   another one (the factor's axis becomes ragged);
2. it is on one axis only, each of its units as often as the others beside everything else that labels the axis;
3. every operator that touches it treats it block by block, see :mod:`graphprune.coupling.pins`.

A choice per block is then a function of labels. Relations say that positions have equal sets of labels, so what held
for the old labels holds for the new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphprune.algebra import Axis
from graphprune.algebra.axis import Ids
from graphprune.coupling.factor import Factor, Place, even, numbered
from graphprune.coupling.groups import DependencyGraph
from graphprune.coupling.pins import Nodes

Types = tuple[Axis | None, ...]


@dataclass(frozen=True)
class Freedom:
    """Factors that may be cut differently in every block.

    Attributes:
        factors: Those that may.
        pinned: Names of groups that lie inside blocks and are cut alike in all, with the reason.
    """

    factors: tuple[Factor, ...]
    pinned: Mapping[str, str]


_Option = tuple[str, Types, int, dict[int, set[int]]]  # tensor, its axes, the factor's one, kinds of blocks by axis


class _Pinned(Exception):
    """A factor has to be cut alike in all blocks, for this reason."""


def free(deps: DependencyGraph) -> Freedom:
    """Find the factors of a graph that may be cut differently in every block."""
    kinds = _Kinds(deps)
    nodes = Nodes(deps)
    factors: list[Factor] = []
    pinned: dict[str, str] = {}
    inner: set[int] = set()  # kinds that are chosen per block can tell no blocks apart, and the other way round
    blocks: set[int] = set()
    for kind in kinds.candidates():
        if kind in blocks:
            continue
        try:
            factor, used = kinds.factor(kind, inner)
            if reason := nodes.obstacle(factor) or _clash(factors, factor):
                raise _Pinned(reason)
        except _Pinned as reason:
            if kinds.innermost(kind):
                pinned.setdefault(kinds.group_name(kind), str(reason))
            continue
        factors.append(factor)
        inner.add(kind)
        blocks.update(used)
    return Freedom(tuple(factors), {k: v for k, v in pinned.items() if all(f.group != k for f in factors)})


def _clash(factors: Iterable[Factor], new: Factor) -> str:
    """Why two factors cannot share a ragged axis: its blocks would lie on two other axes."""
    ragged = {(p.tensor, p.axis): p.block for p in new.places if not p.merged}
    for factor in factors:
        for p in factor.places:
            if not p.merged and ragged.get((p.tensor, p.axis), p.block) != p.block:
                return f"{p.tensor} holds two factors with blocks on different axes"
    return ""


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


class _Kinds:
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
        self.on = {key: self._kinds_on(axis) for key, axis in self.axes.items()}
        self.inside = self._inside()
        self.tensors = self._patterns()

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

    def _kinds_on(self, axis: Axis) -> set[int]:
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

    def _patterns(self) -> dict[int, dict[tuple[int, ...], tuple[str, Types]]]:
        """For each kind the tensors that hold it, one for every distinct row of axes."""
        out: dict[int, dict[tuple[int, ...], tuple[str, Types]]] = {}
        for name, axes in self.types.items():
            for kind in self._on_tensor(axes):
                out.setdefault(kind, {}).setdefault(tuple(id(a) for a in axes), (name, axes))
        return out

    def _on_tensor(self, axes: Types) -> set[int]:
        return set().union(*(self._on(a) for a in axes))

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
            a for _, axes in self.tensors[kind].values() for a in axes if kind in (on := self._on(a)) and len(on) > 1
        )
        return next(found, None)

    def _on(self, axis: Axis | None) -> set[int]:
        return self.on.get(id(axis), set())

    def _changes(self, axis: Axis, kind: int) -> float:
        assert axis.units is not None
        unit = np.where(self.of[axis.units] == kind, axis.units, 0).max(axis=1)
        return float((np.diff(unit) != 0).mean()) if axis.n > 1 else 0.0

    # -- one factor --------------------------------------------------------------------------------------

    def factor(self, kind: int, inner: set[int]) -> tuple[Factor, set[int]]:
        """The kind as a factor, and the kinds of its blocks.

        Raises:
            _Pinned: No blocks are common to all its places, or it is spread unevenly there.
        """
        options = [
            (name, axes, self._only_axis(name, axes, kind), self._options(axes, kind, inner))
            for name, axes in self.tensors[kind].values()
        ]
        common = self._common(options)
        blocks = {tuple(id(x) for x in axes): self._block_axis(name, axes, a, found, common)
                  for name, axes, a, found in options}  # fmt: skip
        for name, axes, a, _ in options:
            axis = axes[a]
            assert axis is not None
            if not even(axis, self.of == kind, numbered(self.members[kind], self.count)):
                raise _Pinned(f"{name} axis {a} holds some of it more often than the rest")
        places = tuple(
            Place(name, a, blocks[tuple(id(x) for x in axes)])
            for name, axes in self.types.items()
            for a, x in enumerate(axes)
            if x is not None and kind in self._on(x)
        )
        kinds = sorted(common)
        types = {p.tensor: self.types[p.tensor] for p in places}
        units = tuple(self.members[k] for k in kinds)
        return Factor(self.group_name(kind), self.members[kind], units, places, types, self.count), common

    def _common(self, options: Sequence[_Option]) -> set[int]:
        """Kinds of blocks that are beside the factor everywhere, on one axis of each tensor."""
        common: set[int] | None = None
        for name, axes, a, found in options:
            here = set().union(*found.values())
            common = here if common is None else common & here
            if not common:
                raise _Pinned(f"{name} axis {a} ({axes[a].n} positions) is shared by all blocks")  # type: ignore[union-attr]
        assert common is not None
        for name, _, a, found in options:
            best = max(found, key=lambda b: (self._size(found[b] & common), b == a))
            common &= found[best]
            if not common:
                raise _Pinned(f"{name} holds its blocks on several axes")
        return common

    def _only_axis(self, name: str, axes: Types, kind: int) -> int:
        found = [a for a, x in enumerate(axes) if kind in self._on(x)]
        if len(found) > 1:
            raise _Pinned(f"{name} holds it on axes {' and '.join(map(str, found))}")
        return found[0]

    def _options(self, axes: Types, kind: int, inner: set[int]) -> dict[int, set[int]]:
        """For each axis the kinds that tell blocks apart: one unit at every position (of the factor)."""
        out: dict[int, set[int]] = {}
        for a, axis in enumerate(axes):
            on = self._on(axis)
            if axis is None or axis.units is None:
                continue
            of = self.of[axis.units]
            rows = (of == kind).any(axis=1) if kind in on else np.ones(axis.n, bool)
            out[a] = {k for k in on - inner - {kind} if ((of[rows] == k).sum(axis=1) == 1).all()}
        return out

    def _size(self, kinds: set[int]) -> int:
        return int(np.prod([len(self.members[k]) for k in kinds], dtype=np.float64)) if kinds else 0

    def _block_axis(self, name: str, axes: Types, a: int, found: Mapping[int, set[int]], common: set[int]) -> int:
        """The axis that holds the blocks; no other may."""
        holders = [b for b, x in enumerate(axes) if common & self._on(x)]
        if len(holders) != 1 or not common <= found[holders[0]]:
            raise _Pinned(f"{name} holds its blocks on axes {' and '.join(map(str, holders))}, or in part")
        return holders[0] if a != holders[0] else a
