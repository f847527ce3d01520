"""The layers of a graph whose weights can be fitted anew, each with its bias and the value to aim at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from graphprune.calibration.unfold import unfolds
from graphprune.folding.linear import Linear, linear
from graphprune.graph.model import Graph, Node

_FLOATS = ("float", "double", "float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Layer:
    """A product with a stored weight.

    Attributes:
        linear: How the node sums its input.
        weight: Name of the stored weight.
        bias: Name of the stored bias, "" when there is none.
        made: Value behind the bias.
        total: Output of the Add that puts ``made`` on a residual stream, "" when there is none.
        other: What is added there.
    """

    linear: Linear
    weight: str
    bias: str
    made: str
    total: str = ""
    other: str = ""

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.linear.node.name

    @property
    def input(self) -> str:
        """What the layer reads."""
        return self.linear.node.inputs[self.linear.slot]


def layers(graph: Graph) -> Iterator[Layer]:
    """All layers of a graph that can be fitted, in graph order."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in {*node.inputs, *node.captures}:
            readers.setdefault(name, []).append(node)
    uses = Counter(w.source for n in graph.nodes for i in n.inputs if (w := graph.weights.get(i)) is not None)
    for node in graph.nodes:
        found = _linear(graph, node)
        if found is None or not unfolds(found):
            continue
        weight = graph.weights.get(node.inputs[found.weight])
        if weight is None or weight.origin not in ("initializer", "constant") or weight.dtype not in _FLOATS:
            continue
        if uses[weight.source] == 1 and node.times == 1:
            yield _layer(graph, found, readers, uses)


def _linear(graph: Graph, node: Node) -> Linear | None:
    slots = (0, 1) if node.key == "MatMul" else (0,)
    for slot in slots:
        if len(node.inputs) > 1 and node.inputs[1 - slot] in graph.weights:
            return linear(graph, node, slot)
    return None


def _layer(graph: Graph, found: Linear, readers: Mapping[str, list[Node]], uses: Counter[str]) -> Layer:
    node = found.node
    bias, made = "", node.outputs[0]
    if found.bias == "input":
        given = node.inputs[2] if len(node.inputs) > 2 else ""
        stored = graph.weights.get(given)
        bias = given if stored is not None and uses[stored.source] == 1 else "" if not given else "?"
    elif (add := _only_add(graph, readers, made)) is not None:
        stored = graph.weights.get(add[1])
        width = graph.values[made].shape
        if stored is not None and uses[stored.source] == 1 and width is not None:
            n = width[len(width) + found.out_axis]
            if found.out_axis == -1 and stored.shape == (n,):
                bias, made = add[1], add[0].outputs[0]
    add = _only_add(graph, readers, made)
    total, other = (add[0].outputs[0], add[1]) if add is not None and add[1] not in graph.weights else ("", "")
    if total and graph.values[total].shape != graph.values[made].shape:
        total, other = "", ""
    if total and graph.values[other].shape != graph.values[made].shape:
        total, other = "", ""
    return Layer(found, node.inputs[found.weight], bias, made, total, other)


def _only_add(graph: Graph, readers: Mapping[str, list[Node]], name: str) -> tuple[Node, str] | None:
    """The Add that alone reads a value, and its other operand."""
    found = readers.get(name, [])
    if name in graph.outputs or len(found) != 1 or found[0].key not in ("Add", "Sum") or len(found[0].inputs) != 2:
        return None
    a, b = found[0].inputs
    return (found[0], b if a == name else a) if a != b else None


def matrix(layer: Layer, stored: np.ndarray) -> np.ndarray:
    """A stored weight as float64 matrices (groups, inputs · taps, outputs)."""
    cube = layer.linear.canonical(np.asarray(stored, np.float64))
    groups, inputs, outs, taps = cube.shape
    return np.ascontiguousarray(cube.transpose(0, 1, 3, 2)).reshape(groups, inputs * taps, outs)


def stored(layer: Layer, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Matrices back in the form of the file."""
    probe = layer.linear.canonical(np.empty(shape, np.int8))
    groups, inputs, outs, taps = probe.shape
    cube = weight.reshape(groups, inputs, taps, outs).transpose(0, 1, 3, 2)
    return np.asarray(layer.linear.restored(cube)).reshape(shape)
