"""Quantised models: rounding is looked through where it only imitates integers, and refused where it is real."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from graphprune.calibration.adjoint_rules import NoGradient
from graphprune.graph.model import Array
from graphprune.graph.scopes import constant_tensor

_STANDARD = ("", "ai.onnx")
_ROUNDING = {
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulInteger",
    "ConvInteger",
}


def straight_through(model: ir.Model) -> dict[ir.Value, ir.Value]:
    """Clip tensors where they were rounded to integers and read back; returns what stands for what.

    The gradient of rounding is zero almost everywhere; taking it for one within the range of the integers is the
    straight-through estimator of Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013.
    The range has to be kept: quantisers drop a ReLU in front of integers that have no negative numbers.
    """
    replaced: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        if node.op_type != "DequantizeLinear" or node.domain not in _STANDARD or node.inputs[0] is None:
            continue
        maker = node.inputs[0].producer()
        if maker is None or maker.op_type != "QuantizeLinear" or maker.domain not in _STANDARD:
            continue
        bounds = _range(maker)
        before = maker.inputs[0]
        if bounds is None or before is None:
            continue
        clipped = _clipped(model, node, before, bounds)
        node.outputs[0].replace_all_uses_with(clipped, replace_graph_outputs=True)
        replaced[node.outputs[0]] = clipped
    return replaced


def _range(node: ir.Node) -> tuple[float, float] | None:
    """The numbers that the integers of a node stand for, None where they differ by channel or are not known."""
    scale = _content(node.inputs[1])
    zero_value = node.inputs[2] if len(node.inputs) > 2 else None
    zero = np.zeros(1) if zero_value is None else _content(zero_value)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    dtype = ir.DataType.UINT8 if zero_value is None else zero_value.dtype or ir.DataType.UINT8
    if zero_value is not None and zero_value.const_value is not None:
        dtype = zero_value.const_value.dtype
    if not dtype.is_integer():
        return None
    bits, signed = dtype.bitwidth, dtype.is_signed()
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    factor, offset = float(scale.ravel()[0]), float(zero.astype(np.float64).ravel()[0])
    return (low - offset) * factor, (high - offset) * factor


def _content(value: ir.Value | None) -> Array | None:
    if value is None:
        return None
    maker = value.producer()
    if value.const_value is not None:
        return value.const_value.numpy()
    return constant_tensor(maker).numpy() if maker is not None and maker.op_type == "Constant" else None


def _clipped(model: ir.Model, at: ir.Node, value: ir.Value, bounds: tuple[float, float]) -> ir.Value:
    opset, name = model.graph.opset_imports.get("", 1), f"graphprune_range_of_{at.outputs[0].name}"
    made = at.outputs[0]
    if opset < 11:
        node = ir.node("Clip", [value], {"min": bounds[0], "max": bounds[1]}, name=name)
    else:
        ends = []
        dtype = (made.dtype or ir.DataType.FLOAT).numpy()
        for place, bound in enumerate(bounds):
            tensor = ir.Tensor(np.array(bound, dtype), name=f"{name}_{place}")
            kind = ir.TensorType(tensor.dtype)
            end = ir.Value(name=tensor.name, shape=ir.Shape([]), type=kind, const_value=tensor)
            model.graph.register_initializer(end)
            ends.append(end)
        node = ir.node("Clip", [value, *ends], name=name)
    out = node.outputs[0]
    out.name, out.shape, out.type = name, made.shape, made.type
    model.graph.insert_before(at, node)
    return out


def refuse_rounding(starts: Iterable[ir.Value], ends: Sequence[ir.Value]) -> None:
    """Refuse a model in which integers lie between points and heads: gradients would silently be zero.

    Raises:
        NoGradient: A node rounds on the way.
    """
    behind: set[ir.Node] = set()
    front = [user.node for start in starts for user in start.uses()]
    while front:
        node = front.pop()
        if node not in behind:
            behind.add(node)
            front.extend(user.node for value in node.outputs for user in value.uses())
    seen: set[ir.Node] = set()
    makers = [end.producer() for end in ends]
    while makers:
        maker = makers.pop()
        if maker is None or maker in seen or maker not in behind:
            continue
        seen.add(maker)
        if maker.op_type in _ROUNDING or maker.op_type.startswith("QLinear"):
            raise NoGradient(f"{maker.op_type} (node {maker.name}) rounds to integers, which has no gradient")
        makers.extend(value.producer() for value in maker.inputs if value is not None)
