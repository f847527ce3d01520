"""Drives the rules over a graph, once, in topological order."""

from __future__ import annotations

from graphprune import rules
from graphprune.algebra import Axis, Reason
from graphprune.graph.model import Graph, Node, Value
from graphprune.rules.context import Relate, State, Unsupported
from graphprune.rules.kinds import opaque

_INPUT = "its width is the model's interface"
_NO_RULE = {"com.microsoft.nchwc": "{} holds its weights laid out in blocks for one processor"}


def propagate(graph: Graph) -> State:
    """Label every axis of every tensor.

    Forward order suffices: relations only merge, bind or freeze units, and those act on all earlier labels.
    Graph inputs and outputs are frozen. A node without a rule freezes what it touches.
    """
    state = State(graph)
    for name in graph.inputs:
        state.types[name] = _frozen_axes(state, graph.values[name], "graph input")
    for node in graph.nodes:
        _relate(state, node)
    for name in graph.outputs:
        why = state.store.reason(Reason(name, "graph output", _INPUT))
        for axis in state.types.get(name) or ():
            if axis is not None:
                state.store.freeze(axis, why)
    return state


def _frozen_axes(state: State, value: Value, op: str) -> list[Axis | None]:
    why = state.store.reason(Reason(value.name, op, _INPUT))
    return [state.store.frozen(n, why) for n in value.shape or ()]


def _relate(state: State, node: Node) -> None:
    context = Relate(state, node)
    if all(o in state.graph.constants or o in state.graph.varying for o in node.outputs if o):
        return  # shape arithmetic: read as constants where it is used
    found = rules.find(node)
    if found is None:
        reason = _NO_RULE.get(node.domain, "there is no rule for {}").format(node.key)
    else:
        mark = len(state.sites), len(state.macs)
        try:
            found.relate(context)
        except Unsupported as error:
            reason = str(error)
            del state.sites[mark[0] :], state.macs[mark[1] :]
        else:
            return
    state.opaque[node.name] = reason
    opaque(context, reason)
