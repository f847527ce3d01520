"""Inner values worth comparing: what lies in front of an output that may hide differences.

A softmax that is one-hot or a sigmoid that is zero everywhere equals itself whatever the channels do, so the value
in front of it is compared as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array, Graph

_HIDING = {"Softmax", "LogSoftmax", "Hardmax", "Sigmoid", "HardSigmoid", "Tanh", "Clip", "ArgMax", "ArgMin", "TopK"}
_PASSING = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Transpose", "Flatten", "Dropout", "Slice"}


def inner_values(graph: Graph) -> dict[str, str]:
    """Outputs that may hide differences, each with the name of the value in front that does not."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    found: dict[str, str] = {}
    for output in graph.outputs:
        name = output
        node, hidden = makers.get(name), False
        while node is not None and node.op in _HIDING | _PASSING:
            hidden |= node.op in _HIDING
            name = node.inputs[0]
            node = makers.get(name)
        if hidden and node is not None and graph.values[name].dtype.startswith(("float", "bfloat", "double")):
            found[output] = name
    return found


def exposed(model: ir.Model, graph: Graph, names: Sequence[str]) -> ir.Model:
    """The model with inner values as further outputs."""
    if not names:
        return model
    clone = model.clone()
    values = {v.name: v for node in clone.graph for v in node.outputs}
    for name in names:
        value = values[name]
        value.type = ir.TensorType(ir.DataType[graph.values[name].dtype.upper()])
        value.shape = None
        clone.graph.outputs.append(value)
    return clone


def present(models: Sequence[ir.Model], names: Sequence[str]) -> list[str]:
    """The names that every model still computes."""
    known = [{v.name for node in m.graph for v in node.outputs} for m in models]
    return [n for n in names if all(n in k for k in known)]


def box(cut: Cut, name: str, array: Array) -> Array:
    """The kept positions of a full-width value."""
    return cut.box(name, array.ndim).take(array)
