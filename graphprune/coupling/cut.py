"""What is left of every axis after some units are removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graphprune import rules
from graphprune.coupling.box import Box
from graphprune.coupling.fold import Fold
from graphprune.graph.model import Node
from graphprune.rules.edit import Change, Edit, Kept

if TYPE_CHECKING:
    from graphprune.coupling.groups import DependencyGraph

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """Kept positions of every axis after some units are removed.

    Attributes:
        deps: Where the labels come from.
        removed: bool per unit id: True where the unit is removed.
        folds: Constants of removed positions that the layers reading them take over.
    """

    deps: DependencyGraph
    removed: Mask
    folds: tuple[Fold, ...] = ()
    _memo: dict[int, Kept | None] = field(default_factory=dict, repr=False)

    def kept(self, tensor: str, axis: int) -> Kept | None:
        """Kept positions of an axis, ascending; None when nothing is removed.

        On a ragged axis they are right in number only: which ones stay differs from block to block, see ``ragged``.
        """
        axes = self.deps.types.get(tensor)
        found = axes[axis] if axes is not None and axis < len(axes) else None
        if found is None or found.units is None:
            return None
        key = id(found)
        if key not in self._memo:
            gone = self.removed[found.units].any(axis=1)
            self._memo[key] = np.flatnonzero(~gone) if gone.any() else None
        return self._memo[key]

    def ragged(self, tensor: str, axis: int) -> tuple[int, Kept] | None:
        """Of a ragged axis the block axis and the kept positions for each of its positions, shape (n, m).

        None when the axis is not ragged or nothing is removed from it.
        """
        found = self.deps.ragged.get((tensor, axis))
        if found is None:
            return None
        key = id(found)
        if key not in self._memo:
            gone = self.removed[found.units].any(axis=2)
            counts = gone.sum(axis=1)
            assert (counts == counts[0]).all(), "every block keeps the same number"
            order = np.argsort(gone, axis=1, kind="stable")
            self._memo[key] = order[:, : gone.shape[1] - int(counts[0])] if counts[0] else None
        kept = self._memo[key]
        return None if kept is None else (found.block, kept)

    def box(self, tensor: str, rank: int) -> Box:
        """What is kept of a tensor of ``rank`` axes; empty when nothing is removed."""
        axes = {a: k for a in range(rank) if (k := self.kept(tensor, a)) is not None}
        ragged = {a: r for a in axes if (r := self.ragged(tensor, a)) is not None}
        return Box(axes, ragged)

    @property
    def folded(self) -> int:
        """Number of constants that the layers reading them take over."""
        return sum(fold.count for fold in self.folds)

    def ratio(self, tensor: str, axis: int) -> tuple[int, int]:
        """For a dynamic axis that is a product: new over old size of its static factors; (1, 1) otherwise."""
        axes = self.deps.types.get(tensor)
        found = axes[axis] if axes is not None and axis < len(axes) else None
        old = new = 1
        for part, dynamic in found.parts if found is not None else ():
            units = self.deps.state.store.resolve(part).units
            if not dynamic and units is not None:
                old *= part.n
                new *= int((~self.removed[units].any(axis=1)).sum())
        return new, old

    def moved(self, tensor: str, axis: int) -> bool:
        """Whether a dynamic axis is a product in which something is removed."""
        new, old = self.ratio(tensor, axis)
        return new != old

    def touched(self, tensor: str) -> bool:
        """Whether any axis of a tensor loses positions."""
        axes = self.deps.types.get(tensor) or ()
        return any(self.kept(tensor, a) is not None or self.moved(tensor, a) for a in range(len(axes)))

    def io(self) -> dict[str, dict[int, list[int]]]:
        """Removed positions per axis of the graph inputs and outputs that shrink."""
        graph, out = self.deps.source, {}
        for name in (*graph.inputs, *graph.outputs):
            shape = graph.values[name].shape or ()
            gone = {
                a: np.setdiff1d(np.arange(n), kept).tolist()
                for a, n in enumerate(shape)
                if (kept := self.kept(name, a)) is not None
            }
            if gone:
                out[name] = gone
        return out

    def edit(self, node: Node) -> Change | None:
        """What the node's rule changes in it, None when nothing."""
        found = rules.find(node)
        if found is None or found.edit is None:
            return None
        if not any(self.touched(name) for name in (*node.inputs, *node.outputs) if name):
            return None
        edit = Edit(self.deps.source, node, self.kept, self.ratio)
        found.edit(edit)
        return edit.change
