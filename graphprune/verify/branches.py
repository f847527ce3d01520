"""Every way through a model with If nodes: a branch that no input happens to take is run with its condition forced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import onnx_ir as ir

from graphprune.data.parts import Feed
from graphprune.graph.model import Array, Graph
from graphprune.graph.run import CannotRun, Runner
from graphprune.graph.scopes import graphs, nodes_of

_MOST = 64  # forced runs at most
Choice = Mapping[int, bool]


def walk_branches(
    graph: Graph, masked: ir.Model, pruned: ir.Model, inputs: Sequence[tuple[Feed, Feed]]
) -> tuple[list[tuple[list[Array], list[Array]]], str]:
    """Run both models with every branch forced in turn, each on its own of two feeds.

    A branch that the input sizes rule out is left alone: a squeeze of an axis that is wider, and the like. A way that
    the reference itself cannot go says nothing and is passed over.

    Returns:
        The outputs of both for every run, and words for the verdict: how many of the branches were run, "" for a
        model without any.

    Raises:
        CannotRun: The pruned model fails on a way that the reference goes.
    """
    choices = list(_choices(masked, graph))
    pairs: list[tuple[list[Array], list[Array]]] = []
    gone = 0
    for choice in choices[:_MOST]:
        before = len(pairs)
        with suppress(_NoWay):
            reference, candidate = _runner(masked, choice), Runner(_forced(pruned, choice))
            for feed, cut in inputs:
                with suppress(_NoWay):
                    pairs.append((_tried(reference, feed), candidate(cut)))
        gone += len(pairs) > before
    return pairs, f", {gone} of {len(choices)} branches" if choices else ""


class _NoWay(Exception):
    """The reference cannot go this way."""


def _runner(masked: ir.Model, choice: Choice) -> Runner:
    try:
        return Runner(_forced(masked, choice))
    except CannotRun:
        raise _NoWay from None


def _tried(reference: Runner, feed: Feed) -> list[Array]:
    try:
        return reference(feed)
    except CannotRun:
        raise _NoWay from None


def _ifs(model: ir.Model) -> list[ir.Node]:
    """If nodes in file order: the same in every rewritten form of a model."""
    return [n for n in nodes_of(model.graph) if n.op_type == "If" and n.domain in ("", "ai.onnx")]


def _choices(model: ir.Model, graph: Graph) -> Iterator[Choice]:
    """For both branches of every If that depends on data: conditions that lead there."""
    number = {id(node): k for k, node in enumerate(_ifs(model))}

    def inside(body: ir.Graph, way: Choice) -> Iterator[Choice]:
        for node in body:
            if id(node) not in number:
                for inner in graphs(node):
                    yield from inside(inner, way)
                continue
            known = _known(graph, node.inputs[0])
            for name, taken in (("then_branch", True), ("else_branch", False)):
                here = way if known else {**way, number[id(node)]: taken}
                if not known:
                    yield here
                if not known or known == {taken}:
                    yield from inside(node.attributes[name].as_graph(), here)

    yield from inside(model.graph, {})


def _known(graph: Graph, condition: ir.Value | None) -> set[bool]:
    """What the condition is at the probed sizes; nothing when it depends on data."""
    name = (condition.name or "") if condition is not None else ""
    fixed = graph.constant(name)
    return {bool(a.ravel()[0]) for a in ((fixed,) if fixed is not None else graph.varying.get(name, ()))}


def _forced(model: ir.Model, choice: Choice) -> ir.Model:
    """The model with the conditions of some If nodes replaced by constants."""
    clone = model.clone()
    nodes = _ifs(clone)
    for taken in (True, False):
        tensor = ir.Tensor(np.array(taken), name=f"graphprune_forced_{taken}")
        value = ir.Value(name=tensor.name, shape=ir.Shape(()), type=ir.TensorType(ir.DataType.BOOL), const_value=tensor)
        clone.graph.register_initializer(value)
        for k, forced in choice.items():
            if forced == taken:
                nodes[k].replace_input_with(0, value)
    return clone
