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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.coupling.factor import Factor, Place, even, numbered
from graphprune.coupling.groups import DependencyGraph
from graphprune.coupling.kinds import Kinds, Types
from graphprune.coupling.pins import Nodes


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
    kinds = Kinds(deps)
    nodes = Nodes(deps)
    factors: list[Factor] = []
    pinned: dict[str, str] = {}
    inner: set[int] = set()  # kinds that are chosen per block can tell no blocks apart, and the other way round
    blocks: set[int] = set()
    for kind in kinds.candidates():
        if kind in blocks:
            continue
        try:
            factor, used = _factor(kinds, kind, inner)
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


def _factor(kinds: Kinds, kind: int, inner: set[int]) -> tuple[Factor, set[int]]:
    """The kind as a factor, and the kinds of its blocks.

    Raises:
        _Pinned: No blocks are common to all its places, or it is spread unevenly there.
    """
    options = [
        (name, axes, _only_axis(kinds, name, axes, kind), _options(kinds, axes, kind, inner))
        for name, axes in kinds.tensors[kind].values()
    ]
    common = _common(kinds, options)
    blocks = {tuple(id(x) for x in axes): _block_axis(kinds, name, axes, found, common)
              for name, axes, _, found in options}  # fmt: skip
    local = numbered(kinds.members[kind], kinds.count)
    for axis, name, a in {id(axes[a]): (axes[a], name, a) for name, axes, a, _ in options}.values():
        assert axis is not None
        if not even(axis, local, len(kinds.members[kind])):
            raise _Pinned(f"{name} axis {a} holds some of it more often than the rest")
    places = []
    for name in kinds.holders[kind]:
        axes = kinds.types[name]
        a = next(a for a, x in enumerate(axes) if kind in kinds.kinds_on(x))
        places.append(Place(name, a, blocks[tuple(id(x) for x in axes)]))
    types = {p.tensor: kinds.types[p.tensor] for p in places}
    units = tuple(kinds.members[k] for k in sorted(common))
    return Factor(kinds.group_name(kind), kinds.members[kind], units, tuple(places), types, kinds.count), common


def _common(kinds: Kinds, options: Sequence[_Option]) -> set[int]:
    """Kinds of blocks that are beside the factor everywhere, on one axis of each tensor."""
    common: set[int] | None = None
    for name, axes, a, found in options:
        here = set().union(*found.values())
        common = here if common is None else common & here
        if not common:
            raise _Pinned(f"{name} axis {a} ({axes[a].n} positions) is shared by all blocks")  # type: ignore[union-attr]
    assert common is not None
    for name, _, a, found in options:
        best = max(found, key=lambda b: (_size(kinds, found[b] & common), b == a))
        common &= found[best]
        if not common:
            raise _Pinned(f"{name} holds its blocks on several axes")
    return common


def _only_axis(kinds: Kinds, name: str, axes: Types, kind: int) -> int:
    found = [a for a, x in enumerate(axes) if kind in kinds.kinds_on(x)]
    if len(found) > 1:
        raise _Pinned(f"{name} holds it on axes {' and '.join(map(str, found))}")
    return found[0]


def _options(kinds: Kinds, axes: Types, kind: int, inner: set[int]) -> dict[int, set[int]]:
    """For each axis the kinds that tell blocks apart: one unit at every position (of the factor)."""
    return {
        a: kinds.complete(axis, kind) - inner
        for a, axis in enumerate(axes)
        if axis is not None and axis.units is not None
    }


def _size(kinds: Kinds, some: set[int]) -> int:
    return int(np.prod([len(kinds.members[k]) for k in some], dtype=np.float64)) if some else 0


def _block_axis(kinds: Kinds, name: str, axes: Types, found: Mapping[int, set[int]], common: set[int]) -> int:
    """The axis that holds the blocks; no other may."""
    holders = [b for b, x in enumerate(axes) if common & kinds.kinds_on(x)]
    if len(holders) != 1 or not common <= found[holders[0]]:
        raise _Pinned(f"{name} holds its blocks on axes {' and '.join(map(str, holders))}, or in part")
    return holders[0]
