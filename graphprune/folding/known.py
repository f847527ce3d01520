"""Values that do not depend on data: stored tensors, and what is computed from them alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

import onnx_ir as ir

from graphprune.folding.interval import Unbounded
from graphprune.graph.evaluate import Operators
from graphprune.graph.model import Array, Graph, Node
from graphprune.graph.scopes import source_nodes

_KEPT = 4  # computed contents held at a time: a dequantised weight is large and mostly read once


def _operators(graph: Graph) -> Operators:
    """What can be evaluated: the nodes of an ONNX model, none of another source."""
    model = graph.source
    if not isinstance(model, ir.Model):
        return Operators({}, {})
    return Operators(source_nodes(model), model.graph.opset_imports)


class Known:
    """Contents by value name, computed when they are asked for.

    A fill (ConstantOfShape in place of a weight) does not count: files without their weights are made of them.

    Args:
        graph: The neutral graph.
        masked: Names of nodes that do not see their inputs whole; what they give does not count either.
    """

    def __init__(self, graph: Graph, masked: Collection[str] = ()) -> None:
        self._graph = graph
        self._operators = _operators(graph)
        self._makers: dict[str, Node] = {}
        self._recent: OrderedDict[str, Array] = OrderedDict()
        fills = {n for n, w in graph.weights.items() if w.origin == "fill"}
        self._names = (set(graph.weights) | set(graph.constants)) - fills
        for node in graph.nodes:
            given = [n for n in node.inputs if n]
            fixed = given and all(n in self._names for n in given) and node.name not in masked
            if fixed and self._operators.runs(node.name):
                self._names.update(o for o in node.outputs if o)
                self._makers.update((o, node) for o in node.outputs if o not in graph.constants)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def content(self, name: str) -> Array:
        """The values of a known tensor.

        Raises:
            Unbounded: The reference operators cannot compute it.
        """
        stored = self._graph.constant(name)
        if stored is not None:
            return stored
        if name not in self._recent:
            node = self._makers[name]
            made = self._operators(node.name, [self.content(n) if n else None for n in node.inputs])
            if made is None:
                raise Unbounded(f"{node.key} {node.name} cannot be evaluated")
            for output, array in zip(node.outputs, made, strict=False):
                self._recent[output] = array
            while len(self._recent) > _KEPT + len(node.outputs):
                self._recent.popitem(last=False)
        self._recent.move_to_end(name)
        return self._recent[name]

    def run(self, node: Node, values: Sequence[Array | None]) -> list[Array] | None:
        """A node's operator on other values, None where the reference has no answer."""
        return self._operators(node.name, values) if self._operators.runs(node.name) else None
