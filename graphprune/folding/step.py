"""What a transfer function sees: one node and the bounds of its inputs; and the table of these functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.folding.interval import Interval, Unbounded, exact, unknown
from graphprune.graph.model import Array, Graph, Node

if TYPE_CHECKING:
    from graphprune.folding.known import Known

Outcome = Interval | list[Interval | None]
Transfer = Callable[["Step"], Outcome]
_TABLE: dict[str, Transfer] = {}


def bounds(*ops: str) -> Callable[[Transfer], Transfer]:
    """Register a function that gives the bounds of an operator's outputs from those of its inputs."""

    def register(transfer: Transfer) -> Transfer:
        _TABLE.update(dict.fromkeys(ops, transfer))
        return transfer

    return register


def transfer_of(node: Node) -> Transfer | None:
    """The transfer function of a node's operator, if there is one."""
    return _TABLE.get(node.key)


class Step:
    """One node on the way through the graph.

    Args:
        graph: The neutral graph.
        node: The node.
        known: Contents of stored tensors and of what is computed from them alone.
        read: Bounds of an input slot that is computed from data, None when nothing is known.
    """

    def __init__(self, graph: Graph, node: Node, known: Known, read: Callable[[int], Interval | None]) -> None:
        self.graph = graph
        self.node = node
        self.known = known
        self._read = read

    def has(self, slot: int) -> bool:
        """Whether input ``slot`` is given."""
        return slot < len(self.node.inputs) and bool(self.node.inputs[slot])

    def x(self, slot: int) -> Interval:
        """Bounds of an input; of a stored tensor, its values."""
        name = self.node.inputs[slot]
        if name in self.known:
            return exact(self.known.content(name))
        found = self._read(slot)
        return unknown(len(self.shape(slot))) if found is None else found

    def content(self, slot: int) -> Array | None:
        """Values of an input that does not depend on data, None otherwise."""
        return self.known.content(self.node.inputs[slot]) if self.has(slot) and self.is_known(slot) else None

    def is_known(self, slot: int) -> bool:
        """Whether an input does not depend on data."""
        return self.node.inputs[slot] in self.known

    def ints(self, slot: int) -> list[int] | None:
        """Fixed integer content of an input as a flat list."""
        array = self.graph.constant(self.node.inputs[slot]) if self.has(slot) else None
        return None if array is None else [int(v) for v in array.ravel()]

    def shape(self, slot: int) -> tuple[int, ...]:
        """Sizes of an input at the first probe.

        Raises:
            Unbounded: Its rank is unknown.
        """
        return self._shape(self.node.inputs[slot])

    def out_shape(self, slot: int = 0) -> tuple[int, ...]:
        """Sizes of an output at the first probe.

        Raises:
            Unbounded: Its rank is unknown.
        """
        return self._shape(self.node.outputs[slot])

    def _shape(self, name: str) -> tuple[int, ...]:
        value = self.graph.values.get(name)
        if value is None or value.shape is None:
            raise Unbounded(f"the rank of {name} is unknown")
        return value.shape

    def dynamic(self, slot: int) -> tuple[bool, ...]:
        """Which axes of an input follow the input size."""
        return self.graph.values[self.node.inputs[slot]].dynamic

    def dtype(self) -> str:
        """Element type of the first output."""
        return self.graph.values[self.node.outputs[0]].dtype

    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute value or ``default``; strings as text."""
        value = self.node.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def evaluate(self, *values: Array | None) -> Array | None:
        """The node's own operator on other values, None where it has no answer."""
        found = self.known.run(self.node, values)
        return None if found is None else np.asarray(found[0], np.float64)
