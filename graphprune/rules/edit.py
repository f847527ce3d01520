"""What a rule changes in a node once positions are removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprune.graph.model import Array, Graph, Node

Kept = NDArray[np.int64]


COMPUTED = -2


@dataclass(slots=True)
class Change:
    """Edits of one node, in the terms of any file format.

    Attributes:
        attrs: Attributes to set; None removes one.
        consts: New constant for an input slot; entries COMPUTED keep what the graph computes there.
        scaled: Factor (numerator, denominator) of a COMPUTED entry, by (slot, entry).
        fixed: Entries of an output of sizes that stay what they were, by position.
        regrown: Entries of it that follow the input size, with the factor (numerator, denominator) that makes
            them what they were.
        gathers: (slot, axis, indices): read an input through a Gather first.
        op: The node becomes this operator (domain, type, inputs by slot of the old node).
    """

    attrs: dict[str, Any] = field(default_factory=dict)
    consts: dict[int, Array] = field(default_factory=dict)
    scaled: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    fixed: dict[int, int] = field(default_factory=dict)
    regrown: dict[int, tuple[int, int]] = field(default_factory=dict)
    gathers: list[tuple[int, int, Kept]] = field(default_factory=list)
    op: tuple[str, tuple[int, ...]] | None = None


class Edit:
    """The rewriting side of a rule for one node: kept positions in, a :class:`Change` out.

    Args:
        graph: The neutral graph.
        node: The node.
        kept: Kept positions of a tensor's axis, None when nothing is removed.
        ratio: For a dynamic axis that is a product: new over old size of its static factors.
    """

    def __init__(
        self,
        graph: Graph,
        node: Node,
        kept: Callable[[str, int], Kept | None],
        ratio: Callable[[str, int], tuple[int, int]],
    ) -> None:
        self.graph = graph
        self.node = node
        self._kept = kept
        self._ratio = ratio
        self.change = Change()

    def moved_out(self, axis: int, slot: int = 0) -> bool:
        """Whether a dynamic output axis changes its length relation to the input size."""
        new, old = self.out_ratio(axis, slot)
        return new != old

    def out_ratio(self, axis: int, slot: int = 0) -> tuple[int, int]:
        """New over old size of the static factors of a dynamic output axis."""
        return self._ratio(self.node.outputs[slot], axis)

    def in_ratio(self, slot: int, axis: int) -> tuple[int, int]:
        """New over old size of the static factors of a dynamic input axis."""
        return self._ratio(self.node.inputs[slot], axis)

    def kept(self, slot: int, axis: int) -> Kept | None:
        """Kept positions of an input axis, ascending; None when nothing is removed."""
        return self._kept(self.node.inputs[slot], axis % len(self.in_shape(slot)))

    def kept_out(self, axis: int, slot: int = 0) -> Kept | None:
        """Kept positions of an output axis; None when nothing is removed."""
        return self._kept(self.node.outputs[slot], axis)

    def in_shape(self, slot: int) -> tuple[int, ...]:
        """Original sizes of an input."""
        return self.graph.values[self.node.inputs[slot]].shape or ()

    def out_shape(self, slot: int = 0) -> tuple[int, ...]:
        """Original sizes of an output."""
        return self.graph.values[self.node.outputs[slot]].shape or ()

    def in_size(self, slot: int, axis: int) -> int:
        """New size of an input axis."""
        kept = self.kept(slot, axis)
        return self.in_shape(slot)[axis] if kept is None else len(kept)

    def out_sizes(self, slot: int = 0) -> list[int]:
        """New sizes of an output."""
        return [
            n if (kept := self.kept_out(a, slot)) is None else len(kept) for a, n in enumerate(self.out_shape(slot))
        ]

    def out_dynamic(self, slot: int = 0) -> tuple[bool, ...]:
        """Which axes of an output follow the input size."""
        return self.graph.values[self.node.outputs[slot]].dynamic

    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute value or ``default``."""
        return self.node.attrs.get(name, default)

    def has(self, slot: int) -> bool:
        """Whether input ``slot`` is given."""
        return slot < len(self.node.inputs) and bool(self.node.inputs[slot])

    def const(self, slot: int) -> Array | None:
        """Fixed content of an input."""
        return self.graph.constant(self.node.inputs[slot]) if self.has(slot) else None


def new_positions(kept: Kept, n: int) -> Kept:
    """Map from old to new positions, shape (n,); -1 for removed ones."""
    out = np.full(n, -1, np.int64)
    out[kept] = np.arange(len(kept))
    return out
