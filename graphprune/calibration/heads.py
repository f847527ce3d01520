"""What a loss reads of a model: its float outputs, and in front of a final softmax or sigmoid what goes into it."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.errors import InputError
from graphprune.graph.model import Graph, Node

_FLOATS = ("float", "float16", "bfloat16", "double", "float32", "float64")
_KINDS = {
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "aten.softmax": "softmax",
    "aten.log_softmax": "softmax",
    "aten.sigmoid": "sigmoid",
}


@dataclass(frozen=True, slots=True)
class Head:
    """A value that a loss reads.

    Attributes:
        name: Its name.
        output: The graph output it belongs to.
        kind: "softmax" or "sigmoid" where that is what the model makes of it, else "plain".
        axis: For "softmax" its axis, not negative; else the last one.
    """

    name: str
    output: str
    kind: str
    axis: int


def heads(graph: Graph) -> tuple[Head, ...]:
    """The heads of all float outputs.

    Raises:
        InputError: No output is a float tensor.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs if name}
    floats = [n for n in graph.outputs if graph.values[n].dtype in _FLOATS and n in makers]
    if not floats:
        raise InputError(f"{graph.name}: no output is a float tensor that a loss could read")
    return tuple(_head(graph, makers, name) for name in floats)


def _head(graph: Graph, makers: dict[str, Node], output: str) -> Head:
    name = output
    while (node := makers.get(name)) is not None and node.key in ("Identity", "Cast", "aten.alias", "aten.to"):
        name = node.inputs[0]
    rank = len(graph.values[output].shape or ())
    if node is None or node.boundary or node.key not in _KINDS:
        return Head(output, output, "plain", max(rank - 1, 0))
    inner = node.inputs[0]
    kind, old = _KINDS[node.key], not node.domain and node.version < 13
    axis = int(node.attrs.get("dim" if node.domain else "axis", 1 if old else -1)) % max(rank, 1)
    if inner not in makers or (old and axis != rank - 1 and kind == "softmax"):
        return Head(output, output, "plain", max(rank - 1, 0))  # older ones normalise several axes at once
    return Head(inner, output, kind, axis)
