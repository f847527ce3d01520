"""A model's graphs as one: the main graph and those inside its control flow, every node and value named once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from graphprune.graph.custom import custom


def graphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a node holds, in the order of its attributes."""
    found: list[ir.Graph] = []
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            found.append(attr.as_graph())
        elif attr.type == ir.AttributeType.GRAPHS:
            found.extend(attr.as_graphs())
    return found


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and every graph inside it."""
    yield model.graph
    yield from model.graph.subgraphs()


def nodes_of(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes in an order in which everything is made before it is read: inner nodes stand in front of their owner."""
    for node in graph:
        for inner in graphs(node):
            yield from nodes_of(inner)
        yield node


def source_nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """All nodes with the unique names that the neutral graph uses for them."""
    taken: Counter[str] = Counter()
    for index, node in enumerate(nodes_of(model.graph)):
        name = node.name or f"{node.op_type}_{index}"
        taken[name] += 1
        yield name if taken[name] == 1 else f"{name}#{taken[name]}", node


def all_values(model: ir.Model) -> Iterator[ir.Value]:
    """Every named value of every graph, in order."""
    yield from _held(model.graph)
    for node in nodes_of(model.graph):
        for inner in graphs(node):
            yield from _held(inner)
        yield from (v for v in node.outputs if v.name)


def _held(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from (v for v in graph.inputs if v.name)
    yield from (v for v in graph.initializers.values() if not v.is_graph_input())


def initializers(model: ir.Model) -> Iterator[tuple[str, ir.Value]]:
    """Initializers of all graphs that hold content."""
    for graph in all_graphs(model):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value


def constant_tensor(node: ir.Node) -> ir.TensorProtocol:
    """Content of a Constant node, whichever attribute holds it."""
    for name, attr in node.attributes.items():
        if name == "value":
            return attr.as_tensor()
        if name in ("value_float", "value_floats"):
            return ir.tensor(np.array(attr.value, np.float32))
        if name in ("value_int", "value_ints"):
            return ir.tensor(np.array(attr.value, np.int64))
    return ir.tensor(np.array([], np.float32))


def tensor_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Sizes of a stored tensor."""
    return tuple(int(d) for d in tensor.shape if isinstance(d, int))


def one_scope(model: ir.Model) -> ir.Model:
    """The model with its local functions written out, but for registered ones, and no name used in two branches.

    Returns:
        The model itself where nothing had to be done, else a changed clone.
    """
    if _calls(model):
        model = model.clone()
        InlinePass(_written_out)(model)
    counts = Counter(v.name for v in all_values(model))
    if all(count == 1 for count in counts.values()):
        return model
    model = model.clone()
    _rename(list(all_values(model)), counts)
    return model


def _calls(model: ir.Model) -> bool:
    """Whether any node calls a function of the model."""
    written = {k for k, f in model.functions.items() if _written_out(f)}
    return bool(written) and any(n.op_identifier() in written for n in model.graph.all_nodes())


def _written_out(function: ir.Function) -> bool:
    """A registered operator is one node, whatever its body says."""
    return custom(function.domain, function.name) is None


def _rename(values: Sequence[ir.Value], counts: Counter[str | None]) -> None:
    """Number the second and further values of one name."""
    seen: Counter[str | None] = Counter()
    for value in values:
        name = value.name
        seen[name] += 1
        if seen[name] == 1:
            continue
        new = f"{name}_{seen[name]}"
        while counts[new]:
            new = f"{new}_"
        counts[new] += 1
        if value.const_value is not None:  # a tensor carries its name too, and is shared with the original
            tensor = value.const_value
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=new)
        value.name = new
