"""The layers of a graph whose weights can be fitted anew, each with its bias and the value to aim at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from graphprune.calibration.aten import aten_linear
from graphprune.calibration.unfold import unfolds
from graphprune.calibration.views import View, Views
from graphprune.folding.linear import Linear, linear
from graphprune.graph.model import Graph, Node

_ADDS = ("Add", "Sum", "aten.add.Tensor")
_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training")


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
        view: How the node sees the stored weight.
    """

    linear: Linear
    weight: str
    bias: str
    made: str
    total: str = ""
    other: str = ""
    norm: Norm | None = None
    view: View = field(default=View(""))

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
    views = Views(graph)
    for node in graph.nodes:
        found = _linear(graph, views, node)
        if found is None or not unfolds(found) or node.times != 1:
            continue
        view = views.of(node.inputs[found.weight])
        if view is not None and not (view.steps and "Conv" in node.key):
            yield _layer(graph, views, found, view)


def _linear(graph: Graph, views: Views, node: Node) -> Linear | None:
    if "slots" in node.attrs:
        return _aten(graph, views, node)
    slots = (0, 1) if node.key == "MatMul" else (0,)
    for slot in slots:
        if len(node.inputs) > 1 and views.held(node.inputs[1 - slot]):
            return linear(graph, node, slot)
    return None


def _aten(graph: Graph, views: Views, node: Node) -> Linear | None:
    """A node of a traced module in ONNX's terms, with the inputs that it has there."""
    if any(node.attrs.get(n, 1) != 1 for n in ("alpha", "beta")):
        return None
    for slot in range(min(len(node.inputs), 3)):
        found = aten_linear(graph, node, slot)
        if found is None or found.weight >= len(node.inputs) or not views.held(node.inputs[found.weight]):
            continue
        rank = len(graph.values[node.inputs[slot]].shape or ())
        if "Conv" in found.node.key and rank != len(graph.values[node.inputs[found.weight]].shape or ()):
            return None  # without a batch
        return replace(found, node=replace(found.node, inputs=node.inputs))
    return None


def _layer(graph: Graph, views: Views, found: Linear, view: View) -> Layer:
    node = found.node
    bias, made = "", node.outputs[0]
    if found.slot == 1 and len(node.inputs) == 3:  # PyTorch's addmm: bias, data, weight
        held = views.of(node.inputs[0]) if _per_output(graph, found, node.inputs[0]) else None
        bias = held.name if held is not None else "?"
    elif found.bias == "input":
        given = node.inputs[2] if len(node.inputs) > 2 else ""
        held = views.of(given) if given else None
        bias = held.name if held is not None else "" if not given else "?"
    if not bias and (add := _only_add(graph, views, made)) is not None and _per_output(graph, found, add[1]):
        held = views.of(add[1])
        if held is not None:
            bias, made = held.name, add[0].outputs[0]
    norm = _only_norm(graph, views, made, found.out_axis)
    behind = made if norm is None else norm.made
    add = _only_add(graph, views, behind)
    total, other = (add[0].outputs[0], add[1]) if add is not None and not views.held(add[1]) else ("", "")
    if total and any(graph.values[n].shape != graph.values[behind].shape for n in (total, other)):
        total, other = "", ""
    return Layer(found, view.name, bias, made, total, other, norm, view)


def _per_output(graph: Graph, found: Linear, name: str) -> bool:
    """Whether a value holds one number per output, for all positions."""
    made, shape = graph.values[found.node.outputs[0]].shape, graph.values[name].shape
    if made is None or shape is None or not -len(shape) <= found.out_axis or len(shape) > len(made):
        return False
    n = made[found.out_axis]
    return shape[found.out_axis] == n and math.prod(shape) == n


def norms(graph: Graph) -> Iterator[Norm]:
    """All BatchNormalizations whose four stored tensors nobody else reads, in graph order."""
    views = Views(graph)
    for node in graph.nodes:
        if (found := _norm(views, node)) is not None:
            yield found


def _norm(views: Views, node: Node) -> Norm | None:
    attrs = node.attrs
    if node.key == "BatchNormalization":
        names, epsilon, live = node.inputs[1:5], attrs.get("epsilon", 1e-5), attrs.get("training_mode", 0)
    elif node.key.startswith("aten.") and node.op.partition(".")[0] in _NORMS:
        slots = [attrs["slots"].get(n) for n in ("weight", "bias", "running_mean", "running_var")]
        if not all(isinstance(s, int) for s in slots):
            return None
        names, epsilon, live = (
            tuple(node.inputs[s] for s in slots),
            attrs.get("eps", 1e-5),
            attrs.get("training", False),
        )
    else:
        return None
    held = [views.of(n) for n in names]
    if live or node.times != 1 or any(v is None or v.steps for v in held):
        return None
    scale, bias, mean, variance = names
    return Norm(node, scale, bias, mean, variance, float(epsilon))


def _only_norm(graph: Graph, views: Views, name: str, out_axis: int) -> Norm | None:
    """The BatchNormalization that alone reads a value, along the axis of a layer's outputs."""
    found, shape = views.readers.get(name, []), graph.values[name].shape
    if name in graph.outputs or len(found) != 1 or shape is None or len(shape) + out_axis != 1:
        return None
    return _norm(views, found[0]) if found[0].inputs[0] == name else None


def _only_add(graph: Graph, views: Views, name: str) -> tuple[Node, str] | None:
    """The Add that alone reads a value, and its other operand."""
    found = views.readers.get(name, [])
    if name in graph.outputs or len(found) != 1 or found[0].key not in _ADDS or len(found[0].inputs) != 2:
        return None
    if found[0].attrs.get("alpha", 1) != 1:
        return None
    a, b = found[0].inputs
    return (found[0], b if a == name else a) if a != b else None


def matrix(layer: Layer, stored: np.ndarray) -> np.ndarray:
    """A stored weight as float64 matrices (groups, inputs · taps, outputs)."""
    cube = layer.linear.canonical(layer.view.seen(np.asarray(stored, np.float64)))
    groups, inputs, outs, taps = cube.shape
    return np.ascontiguousarray(cube.transpose(0, 1, 3, 2)).reshape(groups, inputs * taps, outs)


def stored(layer: Layer, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Matrices back in the form of the file."""
    probe = layer.linear.canonical(layer.view.seen(np.empty(shape, np.int8)))
    groups, inputs, outs, taps = probe.shape
    cube = weight.reshape(groups, inputs, taps, outs).transpose(0, 1, 3, 2)
    seen = np.asarray(layer.linear.restored(cube))
    return layer.view.stored(seen.reshape(layer.view.seen(np.empty(shape, np.int8)).shape), shape).reshape(shape)
