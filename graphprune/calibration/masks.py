"""A model with a multiplier per unit at every place where nodes sum over it, all of them in one more input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.algebra.axis import Ids
from graphprune.calibration.points import Wanted
from graphprune.graph.model import Graph
from graphprune.graph.scopes import source_nodes

MASKS = "graphprune_masks"


def named_clone(graph: Graph) -> ir.Model:
    """A clone whose nodes carry the names of the neutral graph, so that they keep them when others come in."""
    model: ir.Model = graph.source.clone()
    for name, node in list(source_nodes(model)):
        node.name = name
    return model


def with_masks(graph: Graph, wanted: Sequence[Wanted], labels: Sequence[Ids], count: int) -> ir.Model:
    """The model with the input ``MASKS``, float32 of shape (count,); entry 0 has to be 1.

    Args:
        graph: An ONNX model.
        wanted: Places; their axes are those along which units lie.
        labels: Per place the units of every position, the columns last, 0 for none.
        count: Number of unit ids.
    """
    return _Masker(graph, count).model_with(wanted, labels)


class _Masker:
    def __init__(self, graph: Graph, count: int) -> None:
        self.graph, self.model = graph, named_clone(graph)
        self.nodes = {node.name or "": node for node in self.model.graph}
        self.opset = self.model.graph.opset_imports.get("", 1)
        self.masks = ir.Value(name=MASKS, shape=ir.Shape([count]), type=ir.TensorType(ir.DataType.FLOAT))
        self.model.graph.inputs.append(self.masks)
        self.made = 0

    def model_with(self, wanted: Sequence[Wanted], labels: Sequence[Ids]) -> ir.Model:
        """The model, masked everywhere."""
        for want, units in zip(wanted, labels, strict=True):
            self.mask(want, units)
        return self.model

    def mask(self, want: Wanted, units: Ids) -> None:
        """Multiply what one input of a node reads."""
        node = self.nodes[want.point.node]
        value = node.inputs[want.point.slot]
        facts = self.graph.values[self.graph_input(want)]
        assert value is not None
        assert facts.shape is not None
        assert want.axes is not None
        factor: ir.Value | None = None
        for column in np.moveaxis(units, -1, 0):
            one = self.node(node, "Gather", [self.masks, self.ints(column)], axis=0)
            factor = one if factor is None else self.node(node, "Mul", [factor, one])
        assert factor is not None
        lengths = units.shape[:-1]
        moving = [facts.dynamic[a] or facts.shape[a] != n for a, n in zip(want.axes, lengths, strict=True)]
        if any(moving):
            factor = self.repeated(node, factor, value, want.axes, lengths)
        sizes = [1] * len(facts.shape)
        for axis, length, moves in zip(want.axes, lengths, moving, strict=True):
            sizes[axis] = -1 if moves else length
        factor = self.node(node, "Reshape", [factor, self.ints(np.array(sizes))])
        dtype = ir.DataType[facts.dtype.upper()]
        if dtype != ir.DataType.FLOAT:
            factor = self.node(node, "Cast", [factor], to=dtype.value)
        node.replace_input_with(want.point.slot, self.node(node, "Mul", [value, factor]))

    def graph_input(self, want: Wanted) -> str:
        """Name of the value at a place."""
        return next(n for n in self.graph.nodes if n.name == want.point.node).inputs[want.point.slot]

    def repeated(
        self, at: ir.Node, factor: ir.Value, value: ir.Value, axes: tuple[int, ...], lengths: tuple[int, ...]
    ) -> ir.Value:
        """The factor again and again, where the axis of blocks is a multiple as long: batch times heads."""
        sizes = self.node(at, "Gather", [self.node(at, "Shape", [value]), self.ints(np.array(axes))], axis=0)
        return self.node(at, "Tile", [factor, self.node(at, "Div", [sizes, self.ints(np.array(lengths))])])

    def node(self, at: ir.Node, op: str, inputs: Sequence[ir.Value], **attrs: Any) -> ir.Value:
        """A new node in front of another."""
        self.made += 1
        made = ir.node(op, list(inputs), attrs or None, name=f"graphprune_mask_{self.made}")
        made.outputs[0].name = made.name
        self.model.graph.insert_before(at, made)
        return made.outputs[0]

    def ints(self, entries: Ids) -> ir.Value:
        """A stored tensor of integers."""
        self.made += 1
        tensor = ir.Tensor(np.asarray(entries, np.int64), name=f"graphprune_mask_{self.made}")
        value = ir.Value(
            name=tensor.name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(ir.DataType.INT64),
            const_value=tensor,
        )
        self.model.graph.register_initializer(value)
        return value
