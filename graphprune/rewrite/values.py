"""Where values stand in the graphs of a model, and what is recorded of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def home(node: ir.Node) -> ir.Graph:
    """The graph that a node stands in."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def replace_output(old: ir.Value, new: ir.Value) -> None:
    """Let a graph give out another value, if it gave out the old one."""
    maker = old.producer()
    if maker is not None and old.is_graph_output():
        outputs = home(maker).outputs
        outputs[:] = [new if value is old else value for value in outputs]


def forget_shape(value: ir.Value) -> None:
    """Drop the recorded sizes; what goes into or out of a body must keep its rank."""
    edge = value.is_graph_input() or value.is_graph_output()
    value.shape = ir.Shape([None] * len(value.shape)) if edge and value.shape is not None else None


def overwrite(value: ir.Value, array: np.ndarray) -> None:
    """Give a stored operand, an initializer or the output of a Constant, another content under the same name."""
    tensor, producer = ir.Tensor(array, name=value.name), value.producer()
    if producer is None:
        value.const_value = tensor
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
        return
    producer.attributes.clear()
    producer.attributes["value"] = ir.AttrTensor("value", tensor)
    if value.shape is not None:
        value.shape = ir.Shape(array.shape)


def stored_value(model: ir.Model, name: str) -> ir.Value:
    """The stored operand of a name: an initializer, or the output of a Constant."""
    found = model.graph.initializers.get(name)
    return found if found is not None else next(v for n in model.graph for v in n.outputs if v.name == name)
