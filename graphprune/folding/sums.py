"""Places where positions of an axis are summed, and what may leave them without a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graphprune.coupling.fold import Fold
from graphprune.coupling.groups import DependencyGraph
from graphprune.folding.bounds import FLOATS, per_position
from graphprune.folding.interval import Flags, Interval, Unbounded, exact
from graphprune.folding.known import Known
from graphprune.folding.linear import Linear, linear, reached
from graphprune.graph.model import Array, Node

_WEAK = 0.01  # a carrier's constant is at least this share of the largest that it takes over
Stays = Callable[[str, int], Flags | None]


@dataclass(frozen=True, slots=True)
class Sum:
    """One summed axis of a node, with all operands along it.

    Attributes:
        node: The node.
        slot: Input slot of the data.
        axis: Its summed axis.
        sites: (slot, axis) of every operand along it, the data first.
        linear: How a weight enters, None where it does not or is computed from data.
    """

    node: Node
    slot: int
    axis: int
    sites: tuple[tuple[int, int], ...]
    linear: Linear | None

    @property
    def tensor(self) -> str:
        """Name of the data."""
        return self.node.inputs[self.slot]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What may leave a sum.

    Attributes:
        fold: How it leaves; ``fold.free`` are the positions that may.
        wanting: Constant positions that need a carrier and have none, by group of the node.
    """

    fold: Fold
    wanting: Mapping[int, Array]


class Sums:
    """All places of a dependency graph where positions are summed."""

    def __init__(self, deps: DependencyGraph, known: Known) -> None:
        self.deps = deps
        self.known = known
        self._ragged = {tensor for tensor, _ in deps.ragged}
        nodes = {n.name: n for n in deps.source.nodes}
        self.restricted = [  # beside statistics: where zero is something else than the number, nothing is proved
            (nodes[s.node].inputs[s.slot], s.axis) for s in deps.sites if s.mode == "restrict" or s.fill >= 0
        ]
        self.all: list[Sum] = []
        grouped: dict[str, list[tuple[int, int]]] = {}
        for site in deps.sites:
            if site.mode == "zero" and site.fill < 0:
                grouped.setdefault(site.node, []).append((site.slot, site.axis))
        for name, sites in grouped.items():
            self.all.extend(self._of(nodes[name], list(dict.fromkeys(sites))))

    def _of(self, node: Node, sites: list[tuple[int, int]]) -> list[Sum]:
        if node.op not in ("MatMul", "Gemm"):
            return [Sum(node, slot, axis, ((slot, axis),), self._linear(node, slot)) for slot, axis in sites]
        data = 1 if node.inputs[0] in self.known and node.inputs[1] not in self.known else 0
        ordered = sorted(sites, key=lambda s: s[0] != data)
        return [Sum(node, data, ordered[0][1], tuple(ordered), self._linear(node, data))]

    def _linear(self, node: Node, slot: int) -> Linear | None:
        found = linear(self.deps.source, node, slot)
        return found if found is not None and node.inputs[found.weight] in self.known else None

    # -- judging -------------------------------------------------------------------------------------------

    def judge(self, place: Sum, gone: Flags, bounds: Mapping[str, Interval], stays: Stays) -> Ruling:
        """Which of the removed positions of a sum lose nothing, and how.

        Args:
            place: The sum.
            gone: Removed positions of its axis.
            bounds: Bounds of the data.
            stays: Kept positions of a tensor's axis, None for all.
        """
        own = self._bounds(bounds, place.tensor, place.axis, len(gone))
        free = gone & _zero(own)
        for slot, axis in place.sites[1:]:
            free |= gone & _zero(self._bounds(bounds, place.node.inputs[slot], axis, len(gone)))
        values = np.zeros(len(gone))
        plain = Ruling(Fold(place.node.name, place.slot, place.sites, free, values), {})
        found = place.linear
        if found is None or not (gone & ~free).any():
            return plain
        reach = self._reach(found, gone & ~free, stays)
        if reach is None:
            return plain
        free |= gone & ~reach
        constant = gone & ~free & own.constant
        if not constant.any() or found.weight == found.slot:
            return plain
        if found.even and self._has_place(found):
            free |= constant
            values[constant] = own.lo[constant]
            return plain
        return self._carried(place, gone, constant, own, plain.fold)

    def _bounds(self, bounds: Mapping[str, Interval], name: str, axis: int, size: int) -> Interval:
        if name in self.known:
            try:
                return exact(self.known.content(name)).along(axis, size)
            except Unbounded:
                pass
        return per_position(bounds, name, axis, size)

    def _reach(self, found: Linear, asked: Flags, stays: Stays) -> Flags | None:
        """Whether a position has a weight other than zero into an output that stays; asked positions only."""
        try:
            weight = found.canonical(self.known.content(found.node.inputs[found.weight]))
        except Unbounded:
            return None
        groups, inputs, outputs, _ = weight.shape
        kept = stays(*found.labels)
        into = np.ones((groups, outputs), bool) if kept is None else kept.reshape(groups, outputs)
        asked = asked.reshape(groups, inputs)
        reach = np.ones((groups, inputs), bool)
        for g in np.flatnonzero(asked.any(axis=1)):
            into_kept = reached(weight[g].swapaxes(0, 1), np.flatnonzero(into[g]))
            reach[g, asked[g]] = into_kept[asked[g]]
        return reach.ravel()

    def _has_place(self, found: Linear) -> bool:
        """Whether a constant can be added to the outputs."""
        node = found.node
        if found.bias == "input" and len(node.inputs) > 2 and node.inputs[2]:
            return self._stored(node.inputs[2])
        return found.bias != ""

    def _stored(self, name: str) -> bool:
        weight = self.deps.source.weights.get(name)
        return weight is not None and weight.origin != "fill" and weight.dtype.startswith(FLOATS)

    def _carried(self, place: Sum, gone: Flags, constant: Flags, own: Interval, fold: Fold) -> Ruling:
        """Let a kept constant position of each group carry the removed ones."""
        found = place.linear
        assert found is not None
        weight = found.node.inputs[found.weight]
        if not self._stored(weight) or weight in self._ragged:
            return Ruling(fold, {})
        groups = found.groups
        size = np.where(own.constant, np.abs(own.lo), 0.0).reshape(groups, -1)
        held, need = np.where(gone.reshape(groups, -1), 0.0, size), constant.reshape(groups, -1)
        largest = np.where(need, size, 0.0).max(axis=1)
        best = held.argmax(axis=1)
        power = held[np.arange(groups), best]
        able = (largest > 0) & (power >= _WEAK * largest)
        width = size.shape[1]
        carriers = np.where(able, np.arange(groups) * width + best, -1)
        taken = (need & able[:, None]).ravel()
        free, values = fold.free | taken, np.where(taken, own.lo, 0.0)
        carried = np.where(able, own.lo[np.maximum(carriers, 0)], 0.0)
        wanting = {
            int(g): g * width + np.flatnonzero(need[g])[np.argsort(-size[g][need[g]], kind="stable")]
            for g in np.flatnonzero((largest > 0) & ~able)
        }
        return Ruling(Fold(fold.node, fold.slot, fold.sites, free, values, carriers, carried), wanting)


def _zero(x: Interval) -> Flags:
    return np.asarray((x.lo == 0) & (x.hi == 0))
