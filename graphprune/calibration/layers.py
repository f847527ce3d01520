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
_STORED = ("initializer", "constant")


@dataclass(frozen=True)
class Norm:
    """A BatchNormalization with fixed statistics.

    Attributes:
        node: The node.
        scale: Name of the stored factors.
        bias: Name of the stored summands.
        mean: Name of the stored means.
        variance: Name of the stored variances.
        epsilon: What is added to the variances.
    """

    node: Node
    scale: str
    bias: str
    mean: str
    variance: str
    epsilon: float

    @property
    def made(self) -> str:
        """Its output."""
        return self.node.outputs[0]


@dataclass(frozen=True)
class Layer:
    """A product with a stored weight.

    Attributes:
        linear: How the node sums its input.
        weight: Name of the stored weight.
        bias: Name of the stored bias, "" when there is none.
        made: Value behind the bias.
        total: Output of the Add that puts the layer on a residual stream, "" when there is none.
        other: What is added there.
        norm: The BatchNormalization that alone reads ``made``, None when there is none.
    """

    linear: Linear
    weight: str
    bias: str
    made: str
    total: str = ""
    other: str = ""
    norm: Norm | None = None

    @property
    def behind(self) -> str:
        """Value behind the bias and the BatchNormalization."""
        return self.made if self.norm is None else self.norm.made

    @property
    def biased(self) -> bool:
        """Whether the bias is stored and read by nobody else."""
        return self.bias not in ("", "?")

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
        if weight is None or weight.origin not in _STORED or weight.dtype not in _FLOATS:
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
    norm = _only_norm(graph, readers, uses, made, found.out_axis)
    behind = made if norm is None else norm.made
    add = _only_add(graph, readers, behind)
    total, other = (add[0].outputs[0], add[1]) if add is not None and add[1] not in graph.weights else ("", "")
    if total and any(graph.values[n].shape != graph.values[behind].shape for n in (total, other)):
        total, other = "", ""
    return Layer(found, node.inputs[found.weight], bias, made, total, other, norm)


def norms(graph: Graph) -> Iterator[Norm]:
    """All BatchNormalizations whose four stored tensors nobody else reads, in graph order."""
    uses = Counter(w.source for n in graph.nodes for i in n.inputs if (w := graph.weights.get(i)) is not None)
    for node in graph.nodes:
        if (found := _norm(graph, uses, node)) is not None:
            yield found


def _norm(graph: Graph, uses: Counter[str], node: Node) -> Norm | None:
    if node.key != "BatchNormalization" or node.attrs.get("training_mode", 0) or node.times != 1:
        return None
    stored = [graph.weights.get(n) for n in node.inputs[1:5]]
    if any(w is None or uses[w.source] != 1 or w.origin not in _STORED or w.dtype not in _FLOATS for w in stored):
        return None
    scale, bias, mean, variance = node.inputs[1:5]
    return Norm(node, scale, bias, mean, variance, float(node.attrs.get("epsilon", 1e-5)))


def _only_norm(
    graph: Graph, readers: Mapping[str, list[Node]], uses: Counter[str], name: str, out_axis: int
) -> Norm | None:
    """The BatchNormalization that alone reads a value, along the axis of a layer's outputs."""
    found, shape = readers.get(name, []), graph.values[name].shape
    if name in graph.outputs or len(found) != 1 or shape is None or len(shape) + out_axis != 1:
        return None
    return _norm(graph, uses, found[0]) if found[0].inputs[0] == name else None


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
