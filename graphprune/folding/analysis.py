"""Which units are dead, and what a given removal can fold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from graphprune.algebra import Axis
from graphprune.coupling.cut import Cut, Mask
from graphprune.coupling.fold import Fold
from graphprune.coupling.groups import DependencyGraph
from graphprune.folding.bounds import Bounds, propagate
from graphprune.folding.interval import Flags, Interval
from graphprune.folding.known import Known
from graphprune.folding.sums import Sum, Sums
from graphprune.graph.model import Array, Node
from graphprune.rules.context import Site


class Folding:
    """What the stored numbers of a model prove; made once per dependency graph."""

    def __init__(self, deps: DependencyGraph) -> None:
        self.deps = deps
        self.known = Known(deps.source)
        self.bounds = propagate(deps.source, self.known)
        self.sums = Sums(deps, self.known)
        self._summed = np.zeros(deps.state.store.count, bool)
        for place in self.sums.all:
            axis = self._axis(place.tensor, place.axis)
            if axis is not None and axis.units is not None:
                self._summed[axis.units.ravel()] = True
        self._summed[0] = False

    def settle(self, removed: Mask) -> Mask:
        """The part of a removal that changes no output: bool per unit id.

        Starts from the whole and takes back, until nothing is left to object, every position that something which
        stays may read: a position is lost without a trace where it is zero, where all that reads it is lost as
        well, or where it is a constant that the reader can take over.
        """
        removed = removed & self._summed  # of what nothing sums, nothing is proved
        for tensor, axis in self.sums.restricted:
            _restore(self._axis(tensor, axis), slice(None), removed)
        while True:
            before = int(removed.sum())
            for place in reversed(self.sums.all):
                self._take_back(place, removed)
            if int(removed.sum()) == before:
                return removed

    def _take_back(self, place: Sum, removed: Mask) -> None:
        axis = self._axis(place.tensor, place.axis)
        gone = _gone(axis, removed)
        if axis is None or gone is None:
            return
        ruling = self.sums.judge(place, gone, self.bounds, lambda name, a: self._stays(name, a, removed))
        lost = gone & ~ruling.fold.free
        for number, positions in enumerate(ruling.wanting.values()):
            lost[positions] = False
            if not number:  # a carrier; the next round sees it, it may do for other groups as well
                _restore(axis, positions[:1], removed)
        _restore(axis, np.flatnonzero(lost), removed)

    def _axis(self, tensor: str, axis: int) -> Axis | None:
        axes = self.deps.types.get(tensor)
        return axes[axis] if axes is not None and axis < len(axes) else None

    def _stays(self, tensor: str, axis: int, removed: Mask) -> Flags | None:
        gone = _gone(self._axis(tensor, axis), removed)
        return None if gone is None else ~gone

    # -- a given removal -----------------------------------------------------------------------------------

    def folded(self, cut: Cut) -> Cut:
        """The cut with the constants of its removed positions folded where they can be."""
        if not self._anything(cut):
            return cut
        masks = _Masks(self, cut)
        propagate(self.deps.source, masks.known, masks)
        return replace(cut, folds=tuple(masks.folds), _memo={})

    def _anything(self, cut: Cut) -> bool:
        """Whether any removed position is a constant other than zero."""
        for place in self.sums.all:
            kept, found = cut.kept(place.tensor, place.axis), self.bounds.get(place.tensor)
            if kept is None or found is None or (place.tensor, place.axis) in cut.deps.ragged:
                continue
            own = found.along(place.axis, (self.deps.source.values[place.tensor].shape or ())[place.axis])
            other = own.constant & (own.lo != 0)
            other[kept] = False
            if other.any():
                return True
        return False


class _Masks:
    """Bounds in the masked reference of a cut, and the folds found on the way."""

    def __init__(self, folding: Folding, cut: Cut) -> None:
        self.cut = cut
        self.folds: list[Fold] = []
        self._masked: dict[tuple[str, int], tuple[int, Flags]] = {}
        sites = list(_sites(folding.deps))
        self._restricted = {
            site.node for site, name in sites if site.mode == "restrict" and cut.kept(name, site.axis) is not None
        }
        self._ragged = {site.node for site, name in sites if (name, site.axis) in cut.deps.ragged}
        self.known = Known(folding.deps.source, self._restricted | _masked_weights(folding, cut))
        sums = Sums(cut.deps, self.known)
        self._sums = sums
        self._places: dict[str, list[Sum]] = {}
        for place in sums.all:
            self._places.setdefault(place.node.name, []).append(place)

    def enter(self, node: Node, bounds: Bounds) -> None:
        """Decide which removed operands of a node are read as they are."""
        for place in self._places.get(node.name, []) if node.name not in self._ragged else []:
            gone = self._gone(place.tensor, place.axis)
            if gone is None:
                continue
            fold = self._sums.judge(place, gone, bounds, self._stays).fold
            for slot, axis in fold.sites:
                self._masked[node.name, slot] = axis, gone & ~fold.free
            if fold.free.any():
                self.folds.append(fold)

    def read(self, node: Node, slot: int, found: Interval | None) -> Interval | None:
        """Masked positions are zero."""
        axis, masked = self._masked.get((node.name, slot), (0, None))
        if found is None or masked is None:
            return found
        return found.put(axis, masked, 0.0, 0.0)

    def write(self, node: Node, slot: int, made: Interval) -> Interval:
        """Where a node runs on kept positions only, nothing is known of the others.

        Nor of anything where every block is masked in its own way.
        """
        if node.name in self._ragged:
            return Interval(np.full_like(made.lo, -np.inf), np.full_like(made.hi, np.inf))
        if node.name in self._restricted:
            for axis in range(len(made.shape)):
                gone = self._gone(node.outputs[slot], axis)
                if gone is not None:
                    made = made.put(axis, gone, -np.inf, np.inf)
        return made

    def _gone(self, tensor: str, axis: int) -> Flags | None:
        stays = self._stays(tensor, axis)
        return None if stays is None else ~stays

    def _stays(self, tensor: str, axis: int) -> Flags | None:
        kept = self.cut.kept(tensor, axis)
        if kept is None:
            return None
        out = np.zeros((self.cut.deps.source.values[tensor].shape or ())[axis], bool)
        out[kept] = True
        return out


def _sites(deps: DependencyGraph) -> Iterator[tuple[Site, str]]:
    nodes = {n.name: n for n in deps.source.nodes}
    for site in deps.sites:
        yield site, nodes[site.node].inputs[site.slot]


def _masked_weights(folding: Folding, cut: Cut) -> set[str]:
    """Nodes that sum a stored tensor over positions that leave: what they give is no longer what it was."""
    known = folding.known
    return {
        place.node.name
        for place in folding.sums.all
        if all(n in known for n in place.node.inputs if n) and cut.kept(place.tensor, place.axis) is not None
    }


def _gone(axis: Axis | None, removed: Mask) -> Flags | None:
    """Removed positions of an axis, None when there are none."""
    if axis is None or axis.units is None:
        return None
    gone = removed[axis.units].any(axis=1)
    return np.asarray(gone) if gone.any() else None


def _restore(axis: Axis | None, positions: Array | slice, removed: Mask) -> None:
    if axis is not None and axis.units is not None:
        removed[axis.units[positions].ravel()] = False
