"""Stored tensors that reach their reader through nodes that only rearrange them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from graphprune.graph.model import Array, Graph, Node

_SAME = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_FLOATS = ("float", "double", "float16", "bfloat16", "float32", "float64")
_STORED = ("initializer", "constant")


@dataclass(frozen=True)
class View:
    """A stored tensor as its reader sees it.

    Attributes:
        name: The stored tensor.
        steps: From the stored tensor on, the order of the axes (Transpose) and the sizes afterwards.
    """

    name: str
    steps: tuple[tuple[tuple[int, ...] | None, tuple[int, ...]], ...] = ()

    def seen(self, array: Array) -> Array:
        """Stored content as the reader sees it."""
        for order, shape in self.steps:
            array = array.transpose(order) if order is not None else array.reshape(shape)
        return array

    def stored(self, array: Array, shape: tuple[int, ...]) -> Array:
        """What the reader sees as stored content of some shape."""
        sizes = [shape, *(after for _, after in self.steps[:-1])]
        for (order, _), before in zip(reversed(self.steps), reversed(sizes), strict=True) if self.steps else ():
            array = array.transpose(np.argsort(order)) if order is not None else array.reshape(before)
        return array


class Views:
    """All such tensors of a graph.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in {*node.inputs, *node.captures} - {""}:
                self.readers.setdefault(name, []).append(node)
        self._uses = Counter(w.source for n in graph.nodes for i in n.inputs if (w := graph.weights.get(i)) is not None)
        self._views: dict[str, View] = {}
        for node in graph.nodes:
            if node.key in (*_SAME, "Transpose") and node.times == 1 and not node.fused:
                self._follow(node)

    def _follow(self, node: Node) -> None:
        shape, given = self._graph.values[node.outputs[0]].shape, self._graph.values[node.inputs[0]]
        made = self._graph.values[node.outputs[0]]
        view = self.of(node.inputs[0])
        if view is None or shape is None or any(made.dynamic) or made.dtype not in _FLOATS:
            return
        order = None
        if node.key == "Transpose":
            order = tuple(int(a) for a in node.attrs.get("perm") or reversed(range(len(given.shape or ()))))
        self._views[node.outputs[0]] = View(view.name, (*view.steps, (order, shape)))

    def held(self, name: str) -> bool:
        """Whether a value is stored, or rearranged from what is stored, whoever else reads it."""
        return name in self._graph.weights or name in self._views

    def of(self, name: str) -> View | None:
        """The stored tensor behind a value that can be changed for one reader: nobody else reads any of it."""
        if name in self._views:
            return self._views[name] if len(self.readers.get(name, ())) == 1 else None
        weight = self._graph.weights.get(name)
        if weight is None or weight.origin not in _STORED or weight.dtype not in _FLOATS:
            return None
        return View(name) if self._uses[weight.source] == 1 and name not in self._graph.outputs else None
