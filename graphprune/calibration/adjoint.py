"""The gradient graph of an ONNX model: it runs the model, then back from its outputs to chosen points.

At every point a zero of the tensor's sizes is added, onnx-ad differentiates the model with respect to these zeros, and
they are taken out again. What is wanted of each gradient is summed up inside the graph, so that no gradient of a whole
tensor leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphprune.calibration import (  # noqa: F401 - they register their rules
    adjoint_conv,
    adjoint_layout,
    adjoint_pointwise,
    adjoint_reduce,
)
from graphprune.calibration.adjoint_integers import refuse_rounding, straight_through
from graphprune.calibration.adjoint_rules import NoGradient, in_place
from graphprune.calibration.points import Point, Wanted
from graphprune.errors import InputError
from graphprune.graph.infer import infer
from graphprune.graph.model import Array, Graph
from graphprune.graph.scopes import all_values, source_nodes
from graphprune.graph.types import Shape

MEND = "use a criterion without gradients (--criterion l2), or perturbation"
_PREFIX = "adj_"
_MODERN, _OPSET, _MODERN_IR = 16, 18, 8  # sums in ScatterND came with 16
_HELD = 1024  # larger stored tensors stay out of onnx-ad's way


@dataclass(frozen=True, slots=True)
class Adjoint:
    """A gradient graph.

    Attributes:
        model: Inputs are those of the model and a seed per head; outputs are what is wanted, in order.
        seeds: Name of the input that takes the gradient of the loss by each head, of the head's sizes and one more 1.
    """

    model: ir.Model
    seeds: tuple[str, ...]


def adjoint(
    graph: Graph,
    heads: Sequence[str],
    wanted: Sequence[Wanted],
    shapes: Mapping[str, Shape],
    model: ir.Model | None = None,
) -> Adjoint:
    """Build the gradient graph at fixed input sizes.

    Args:
        graph: The model; its nodes at the points stand in the main graph.
        heads: Values that the loss reads.
        wanted: What to sum up.
        shapes: Sizes of the inputs.
        model: What to differentiate in the place of the graph's own model: a variant with the same nodes and more.

    Raises:
        InputError: onnx-ad is not there, or an operator on the way has no gradient.
    """
    model = _sized(graph.source if model is None else model, shapes)
    values = {v.name or "": v for v in all_values(model)}
    nodes = dict(source_nodes(model))  # before others come in
    passed = straight_through(model)
    points = list(dict.fromkeys(w.point for w in wanted))
    inserted = _zeros(model, nodes, points)
    behind = {nodes[p.node].outputs[p.output]: a for p, (_, a) in inserted.items() if p.output is not None}
    ends = [passed.get(values[h], values[h]) for h in heads]
    ends = [behind.get(v, v) for v in ends]
    model.graph.outputs.clear()
    model.graph.outputs.extend(ends)
    held = _unloaded(model)
    names = [v.name or "" for v in ends]
    try:
        refuse_rounding([z for z, _ in inserted.values()], ends)
        made = _reversed(model, [z.name or "" for z, _ in inserted.values()], names)
    except NoGradient as error:
        raise InputError(f"{graph.name}: {error}; {MEND}") from None
    _loaded(made, held)
    found = {v.name or "": v for v in all_values(made)}
    made.graph.outputs.clear()
    tensors = _taken_out(made, found, [(z.name or "", a.name or "") for z, a in inserted.values()])
    reducer = _Reducer(made)
    for number, want in enumerate(wanted):
        zero, added = inserted[want.point]
        grad = found[_PREFIX + (zero.name or "")]
        made.graph.outputs.append(reducer(number, want, tensors[added.name or ""], grad, added))
    seeds = tuple(_PREFIX + n for n in names)
    RemoveUnusedNodesPass()(made)  # gradients by weights that nobody asked for, and what came after the heads
    return Adjoint(made, seeds)


def _sized(source: ir.Model, shapes: Mapping[str, Shape]) -> ir.Model:
    """A clone in which every value says its sizes."""
    model: ir.Model = source.clone()
    facts = infer(model, shapes)
    for value in all_values(model):
        shape, dtype = facts.shapes.get(value.name or ""), facts.dtypes.get(value.name or "", 0)
        if value.const_value is None and shape is not None and min(shape, default=0) >= 0 and dtype:
            value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType(dtype))
    return model


def _zeros(
    model: ir.Model, nodes: Mapping[str, ir.Node], points: Sequence[Point]
) -> dict[Point, tuple[ir.Value, ir.Value]]:
    """Add an input of zeros at every point; returns them with the sums."""
    out = {}
    for number, point in enumerate(points):
        node = nodes[point.node]
        value = node.inputs[point.slot] if point.output is None else node.outputs[point.output]
        assert value is not None
        dtype = value.dtype if value.dtype is not None or value.const_value is None else value.const_value.dtype
        if value.shape is None or dtype is None:
            raise InputError(
                f"node {point.node}: the sizes of {value.name} are not known, so it has no gradient; {MEND}"
            )
        zero = ir.Value(name=f"graphprune_zero_{number}", shape=value.shape, type=ir.TensorType(dtype))
        model.graph.inputs.append(zero)
        users = list(value.uses())
        add = ir.node("Add", [value, zero], name=f"graphprune_point_{number}")
        added = add.outputs[0]
        added.name, added.shape, added.type = f"graphprune_at_{number}", value.shape, zero.type
        if point.output is None:
            model.graph.insert_before(node, add)
            node.replace_input_with(point.slot, added)
        else:
            model.graph.insert_after(node, add)
            for user, slot in users:
                user.replace_input_with(slot, added)
        out[point] = zero, added
    return out


def _unloaded(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Turn large stored float tensors into inputs; returns their content."""
    held = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.size <= _HELD or not tensor.dtype.is_floating_point():
            continue
        held[name] = tensor
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        del model.graph.initializers[name]
        value.const_value = None
        if not value.is_graph_input():
            model.graph.inputs.append(value)
    return held


def _loaded(model: ir.Model, held: Mapping[str, ir.TensorProtocol]) -> None:
    for value in list(model.graph.inputs):
        if value.name in held:
            model.graph.inputs.remove(value)
            value.const_value = held[value.name or ""]
            model.graph.register_initializer(value)


def _reversed(model: ir.Model, inputs: list[str], heads: Sequence[str]) -> ir.Model:
    try:
        import onnx_ad
    except ImportError:
        raise NoGradient("gradients need the package onnx-ad: pip install 'graphprune[gradients]'") from None
    try:
        with in_place():
            made: onnx.ModelProto = onnx_ad.reverse(
                _modern(model), inputs=inputs, outputs=list(heads), prefix=_PREFIX, dim="seeds", layout="onnx"
            )
    except onnx_ad.UnsupportedOperator as error:
        raise NoGradient(" ".join(str(error).split())) from None
    return ir.from_proto(made)


def _modern(model: ir.Model) -> onnx.ModelProto:
    """The model at an opset that has what gradients are made of, as far as it can be brought there."""
    proto: onnx.ModelProto = ir.to_proto(model)
    if model.graph.opset_imports.get("", _OPSET) >= _MODERN:
        return proto
    try:
        proto.ir_version = max(proto.ir_version, _MODERN_IR)
        return onnx.version_converter.convert_version(proto, _OPSET)
    except Exception:  # it knows no foreign operators, and not all old ones
        return proto


def _taken_out(model: ir.Model, found: Mapping[str, ir.Value], pairs: Sequence[tuple[str, str]]) -> dict[str, ir.Value]:
    """Read the tensors themselves where their sums with zeros were read; returns them by the name of the sum."""
    tensors = {}
    for zero, added in pairs:
        total, nothing = found[added], found[zero]
        add = total.producer()
        assert add is not None
        tensor = add.inputs[0]
        assert tensor is not None
        for slot in (0, 1):
            add.replace_input_with(slot, None)
        total.replace_all_uses_with(tensor)
        nothing.replace_all_uses_with(tensor)
        model.graph.remove(add)
        model.graph.inputs.remove(nothing)
        tensors[added] = tensor
    for added, tensor in tensors.items():  # a sum may have been the tensor of another one
        while tensor.name in tensors:
            tensor = tensors[tensor.name]  # noqa: PLW2901
        tensors[added] = tensor
    return tensors


class _Reducer:
    """Appends the sums to a gradient graph."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.opset = model.graph.opset_imports.get("", 1)

    def __call__(self, number: int, want: Wanted, tensor: ir.Value, grad: ir.Value, added: ir.Value) -> ir.Value:
        """The wanted sum, a float32 output."""
        assert added.shape is not None
        shape = [int(n) for n in added.shape.numpy()]
        value = self.node("Reshape", f"bare_{number}", grad, self.ints(f"sizes_{number}", shape))
        if want.what == "product":
            value = self.node("Mul", f"product_{number}", tensor, value)
        elif want.what in ("square", "mean_square"):
            value = self.node("Mul", f"square_{number}", value, value)
        if want.axes is not None:
            value = self.summed(number, value, shape, want.axes)
            if want.what == "squared_sum":
                value = self.node("Mul", f"squared_{number}", value, value)
            if want.what in ("mean_square", "squared_sum"):
                share = math.prod(shape[a] for a in want.axes) / max(math.prod(shape), 1)
                value = self.node("Mul", f"mean_{number}", value, self.scalar(f"share_{number}", share, added))
        if added.dtype != ir.DataType.FLOAT:
            value = self.node("Cast", f"float_{number}", value, to=ir.DataType.FLOAT.value)
        value.type = ir.TensorType(ir.DataType.FLOAT)
        return value

    def summed(self, number: int, value: ir.Value, shape: list[int], axes: tuple[int, ...]) -> ir.Value:
        """The sum over all axes but some; over contiguous ones first and alone, which is much faster."""
        last = axes[-1] + 1 if axes else 0
        tail = int(np.prod(shape[last:], dtype=np.int64))
        if tail > 1:
            value = self.node("Reshape", f"tail_{number}", value, self.ints(f"tail_to_{number}", [*shape[:last], tail]))
            value = self.reduced(f"tail_{number}", value, [last])
        else:
            value = self.node("Reshape", f"tail_{number}", value, self.ints(f"tail_to_{number}", shape[:last]))
        gone = [a for a in range(last) if a not in axes]
        return self.reduced(f"rest_{number}", value, gone) if gone else value

    def reduced(self, name: str, value: ir.Value, axes: list[int]) -> ir.Value:
        """The sum over some axes."""
        if self.opset >= 13:
            return self.node("ReduceSum", f"sum_{name}", value, self.ints(f"axes_{name}", axes), keepdims=0)
        return self.node("ReduceSum", f"sum_{name}", value, axes=axes, keepdims=0)

    def ints(self, name: str, entries: Sequence[int]) -> ir.Value:
        """A stored vector of integers."""
        return self.stored(name, np.array(entries, np.int64))

    def scalar(self, name: str, number: float, like: ir.Value) -> ir.Value:
        """A stored number of the type of another value."""
        assert like.dtype is not None
        return self.stored(name, np.array(number, like.dtype.numpy()))

    def stored(self, name: str, array: Array) -> ir.Value:
        """A new initializer."""
        tensor = ir.Tensor(array, name=f"graphprune_{name}")
        shape, dtype = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
        value = ir.Value(name=tensor.name, shape=shape, type=dtype, const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def node(self, op: str, name: str, *inputs: ir.Value, **attrs: int | list[int]) -> ir.Value:
        made = ir.node(op, list(inputs), attrs or None)
        made.outputs[0].name = made.name = f"graphprune_{name}"
        self.model.graph.append(made)
        return made.outputs[0]
