"""PyTorch's layers in the terms of ONNX's, so that one description of how they sum serves both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphprune.folding.linear import Linear, linear
from graphprune.graph.model import Graph, Node
from graphprune.rules.aten import per_axis

_CONVS = ("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
_GROWN = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def aten_linear(graph: Graph, node: Node, slot: int) -> Linear | None:
    """How a node of a traced module sums an input axis with a weight, None where it does so in another way.

    The node of what is returned is its twin in ONNX's terms, with the same inputs and outputs.
    """
    op = node.op.partition(".")[0]
    slots = node.attrs["slots"]
    weight = slots.get("weight")
    if op == "linear" and slot == 0 and isinstance(weight, int):
        return _product(graph, node, weight)
    if op in (*_CONVS, *_GROWN) and slot == 0 and isinstance(weight, int):
        return _convolution(graph, node, weight, grown=op in _GROWN or bool(node.attrs.get("transposed")))
    if op in ("matmul", "mm") and slot in (0, 1):
        return linear(graph, _twin(node, "MatMul", node.inputs, {}), slot)
    if op == "addmm" and slot in (1, 2):
        found = linear(graph, _twin(node, "MatMul", node.inputs[1:3], {}), slot - 1)
        return None if found is None else replace(found, slot=slot, weight=3 - slot)
    return None


def _twin(node: Node, op: str, inputs: Sequence[str], attrs: dict[str, object]) -> Node:
    return replace(node, op=op, domain="", inputs=tuple(inputs), attrs=attrs)


def _product(graph: Graph, node: Node, weight: int) -> Linear | None:
    """X · weightᵀ: a Gemm over the last axis of any number of axes."""
    shape = graph.values[node.inputs[0]].shape
    twin = _twin(node, "Gemm", (node.inputs[0], node.inputs[weight]), {"transB": 1})
    found = linear(graph, twin, 0)
    if found is None or shape is None or len(graph.values[node.inputs[weight]].shape or ()) != 2:
        return None
    return replace(found, axis=len(shape) - 1, weight=weight)


def _convolution(graph: Graph, node: Node, weight: int, *, grown: bool) -> Linear | None:
    dims = len(graph.values[node.inputs[weight]].shape or ()) - 2
    get = node.attrs.get
    attrs: dict[str, object] = {
        "group": int(get("groups", 1)),
        "strides": per_axis(get("stride"), dims, 1),
        "dilations": per_axis(get("dilation"), dims, 1),
    }
    padding = get("padding", 0)
    if isinstance(padding, str):
        attrs["auto_pad"] = "SAME_UPPER" if padding == "same" else "VALID"
    else:
        attrs["pads"] = per_axis(padding, dims, 0) * 2
    if grown:
        attrs["output_padding"] = per_axis(get("output_padding"), dims, 0)
    twin = _twin(node, "ConvTranspose" if grown else "Conv", (node.inputs[0], node.inputs[weight]), attrs)
    found = linear(graph, twin, 0)
    rank = len(graph.values[node.inputs[0]].shape or ())
    return None if found is None else replace(found, axis=rank - dims - 1, weight=weight)
