"""Leaving summands out of sums: ``x + f(x)`` becomes ``x``, and what only ``f`` needed goes with it.

The result is a model of its own, in which widths can be cut like in any other. It says which graph it came from, so
that it can be compared with that: the original with the summand set to zero gives the same outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.model import Bypass, Graph, Node
from graphprune.graph.onnx import reread
from graphprune.graph.scopes import graphs, nodes_of, source_nodes

SUMS = {"Add": (0, 1), "Sum": None, "Sub": (1,)}
"""Operators with the operands that may be left out; None for any of them."""


def bypassed(graph: Graph, chosen: Iterable[Bypass]) -> Graph:
    """The graph without some summands; those that were left out before stay out.

    Args:
        graph: The graph of an ONNX model.
        chosen: The summands. One inside another that goes as well has no effect of its own.

    Raises:
        InputError: The model has no such sum, or nothing would be left of it.
    """
    every = tuple(dict.fromkeys([*graph.bypassed, *chosen]))
    if not every:
        return graph
    origin = graph.origin
    return replace(reread(bypassed_model(origin, every), origin), bypassed=every, whole_graph=origin)


def bypassed_model(graph: Graph, chosen: Iterable[Bypass]) -> ir.Model:
    """The model of a whole graph without some summands, see :func:`bypassed`."""
    if not isinstance(graph.source, ir.Model):
        raise InputError(f"{graph.name}: branches can be bypassed in ONNX files only; export the module")
    model: ir.Model = graph.source.clone()
    named = list(source_nodes(model))
    for name, node in named:
        node.name = name  # so that nodes keep the names that statistics, plans and messages know them by
    nodes = dict(named)
    slots: dict[str, set[int]] = {}
    for bypass in chosen:
        _check(graph, nodes.get(bypass.node), bypass)
        slots.setdefault(bypass.node, set()).add(bypass.slot)
    for name, gone in slots.items():
        if nodes[name].graph is not None:
            _leave_out(nodes[name], gone)
    return model


def _check(graph: Graph, node: ir.Node | None, bypass: Bypass) -> None:
    """Refuse a bypass of another model.

    Raises:
        InputError: There is no such sum.
    """
    if (
        node is None
        or node.op_type not in SUMS
        or node.domain not in ("", "ai.onnx")
        or node.outputs[0].name != bypass.value
        or [v.name for v in node.inputs[bypass.slot : bypass.slot + 1] if v is not None] != [bypass.branch]
        or (node.op_type == "Sub" and not bypass.slot)
    ):
        raise InputError(f"{graph.name}: the plan bypasses a branch at {bypass.node}, which is no such sum here")


def _leave_out(node: ir.Node, slots: set[int]) -> None:
    """Take operands away from a sum; a sum of one is no sum any more.

    Raises:
        InputError: Nothing would be left of the sum.
    """
    left = [v for k, v in enumerate(node.inputs) if k not in slots]
    gone = [v for k, v in enumerate(node.inputs) if k in slots and v is not None]
    if not left or left[0] is None:
        raise InputError(f"all operands of {node.name} would be left out")
    out = node.outputs[0]
    if len(left) == 1 and not out.is_graph_output():
        for user, slot in list(out.uses()):
            user.replace_input_with(slot, left[0])
        _remove(node)
        return
    if len(left) == 1:
        node.op_type = "Identity"
    for slot, value in enumerate(left):
        node.replace_input_with(slot, value)
    node.resize_inputs(len(left))
    _drop_unused(gone)


def _remove(node: ir.Node) -> None:
    """Take a node away, with its graphs and what only they and it needed."""
    read = [v for v in node.inputs if v is not None]
    for graph in graphs(node):
        for inner in nodes_of(graph):
            for slot, value in enumerate(inner.inputs):
                if value is not None:
                    read.append(value)
                    inner.replace_input_with(slot, None)
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)
    _drop_unused(read)


def _drop_unused(values: list[ir.Value]) -> None:
    """Remove the makers of values that nothing reads, and so on."""
    for value in dict.fromkeys(values):
        if value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        maker = value.producer()
        if maker is None:
            if value.is_initializer() and value.graph is not None:
                del value.graph.initializers[value.name or ""]
        elif maker.graph is not None and not any(o.uses() or o.is_graph_output() for o in maker.outputs):
            _remove(maker)


def main_nodes(graph: Graph) -> set[str]:
    """Names of the nodes outside control flow, where summands can be left out; none for a traced module."""
    if not isinstance(graph.source, ir.Model):
        return set()
    return {name for name, node in source_nodes(graph.source) if node.graph is graph.source.graph}


def rerouted(graph: Graph) -> dict[str, set[str]]:
    """Values that are read in the place of others, each with all that its readers read in the original."""
    if graph.whole_graph is None:
        return {}
    meant: dict[str, set[str]] = {}
    whole = {n.name: n for n in graph.whole_graph.nodes}
    for node in graph.nodes:
        if node.name in whole:
            for mine, theirs in _operands(node, whole[node.name], graph.bypassed):
                meant.setdefault(mine, set()).add(theirs)
    kept = {*graph.inputs, *graph.weights, *graph.constants, *graph.varying, ""}
    return {mine: found for mine, found in meant.items() if mine not in kept and found != {mine}}


def stand_ins(graph: Graph) -> dict[str, str]:
    """Values of a graph that everything reads in the place of one other value of the original, with that one's name.

    What is in front of a bypassed branch is read as what was behind it; so it should become like that. A Relu that
    only Relus read passes this on to what it reads.
    """
    out = {mine: next(iter(found)) for mine, found in rerouted(graph).items() if len(found) == 1}
    out = {mine: name for mine, name in out.items() if mine not in graph.outputs}
    users: dict[str, list[Node]] = {}
    for node in graph.nodes if out else ():
        for name in {*node.inputs, *node.captures}:
            users.setdefault(name, []).append(node)
    for node in reversed(graph.nodes if out else ()):
        meant, read = out.get(node.outputs[0]), node.inputs[0] if node.inputs else ""
        passed = node.op == "Relu" and all(u.op == "Relu" for u in users.get(node.outputs[0], ()))
        if meant and passed and users[read] == [node] and read not in graph.outputs:
            out[read] = meant
    return out


def _operands(node: Node, whole: Node, every: Iterable[Bypass]) -> Iterator[tuple[str, str]]:
    """The operands of a node, each with what it read there in the original."""
    gone = {b.slot for b in every if b.node == node.name}
    theirs = [name for slot, name in enumerate(whole.inputs) if slot not in gone]
    if node.op == "Identity" and gone:
        return  # a graph output that the sum made
    if len(theirs) == len(node.inputs):
        yield from zip(node.inputs, theirs, strict=True)
    yield from zip(node.captures, whole.captures, strict=False)
