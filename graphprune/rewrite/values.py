"""Where values stand in the graphs of a model, and what is recorded of them."""

from __future__ import annotations

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
