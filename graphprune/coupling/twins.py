"""PyTorch's operators by the names that ONNX has for the same thing, for what only looks at a network's structure."""

from __future__ import annotations

from dataclasses import replace

from graphprune.graph.model import Graph, Node

_ALIKE = {
    "add": "Add",
    "matmul": "MatMul",
    "bmm": "MatMul",
    "mm": "MatMul",
    "einsum": "Einsum",
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn_tanh": "RNN",
    "rnn_relu": "RNN",
    "relu": "Relu",
    "relu6": "Relu",
    "hardtanh": "Relu",
    "gelu": "Gelu",
    "silu": "Swish",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "elu": "Elu",
    "selu": "Selu",
    "celu": "Celu",
    "leaky_relu": "LeakyRelu",
    "prelu": "PRelu",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
    "mish": "Mish",
    "softplus": "Softplus",
}


def twin(node: Node, graph: Graph) -> Node:
    """A node of PyTorch's under the name, with the inputs and the attributes that the same has in ONNX; else itself."""
    if node.domain != "aten":
        return node
    family = node.op.partition(".")[0].removesuffix("_")
    if family == "linear":
        return replace(node, domain="", op="Gemm", attrs={"transB": 1})
    if family == "addmm":
        return replace(node, domain="", op="Gemm", inputs=(*node.inputs[1:], node.inputs[0]), attrs={})
    if family == "baddbmm":
        return replace(node, domain="", op="MatMul", inputs=node.inputs[1:], attrs={})
    if family.startswith("conv"):
        return replace(node, domain="", op="Conv", attrs={"group": node.attrs.get("groups", 1)})
    if family == "scaled_dot_product_attention":
        four = len(graph.values[node.inputs[0]].shape or ()) == 4
        return replace(node, domain="", op="Attention" if four else "MatMul", inputs=node.inputs[:3], attrs={})
    return replace(node, domain="", op=_ALIKE[family]) if family in _ALIKE else node
