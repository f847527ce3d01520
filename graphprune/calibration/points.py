"""Places in a graph at which a gradient is taken, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphprune.graph.model import Graph
from graphprune.graph.scopes import source_nodes


@dataclass(frozen=True, slots=True)
class Point:
    """A tensor as one node sees it.

    Attributes:
        node: Name of the node in the neutral graph.
        slot: Input slot, or -1 - k for output number k.
    """

    node: str
    slot: int

    @property
    def output(self) -> int | None:
        """Number of the output, None for an input."""
        return -1 - self.slot if self.slot < 0 else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A sum over the gradient g of the loss at a point, where the tensor is x.

    Attributes:
        point: The place.
        axes: Axes of the tensor that stay, ascending; all others are summed over. None keeps all of them.
        what: "product" for the sum of x · g, which is the gradient of a multiplier per position; "square" for that
            of g²; "mean_square" for its mean; "gradient" for the sum of g; "squared_sum" for the square of that sum,
            divided by how many elements it has.
    """

    point: Point
    axes: tuple[int, ...] | None
    what: str = "product"


def outer_nodes(graph: Graph) -> set[str]:
    """Names of the nodes at which gradients can be taken: those outside control flow."""
    named = {node.name for node in graph.nodes if not node.boundary and not node.fused}
    if not isinstance(graph.source, ir.Model):
        return named
    return {name for name, node in source_nodes(graph.source) if node.graph is graph.source.graph and name in named}
