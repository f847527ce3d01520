"""What is left of every axis after some units are removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graphprune import rules
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
        """Kept positions of an axis, ascending; None when nothing is removed."""
        axes = self.deps.types.get(tensor)
        found = axes[axis] if axes is not None and axis < len(axes) else None
        if found is None or found.units is None:
            return None
        key = id(found)
        if key not in self._memo:
            gone = self.removed[found.units].any(axis=1)
            self._memo[key] = np.flatnonzero(~gone) if gone.any() else None
        return self._memo[key]

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
