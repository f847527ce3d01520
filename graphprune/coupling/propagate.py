"""Drives the rules over a graph, once, in topological order."""

from __future__ import annotations

import numpy as np

from graphprune import rules
from graphprune.algebra import Reason, eq, index
from graphprune.coupling.interface import freeze_outputs, label_inputs
from graphprune.graph.model import Graph, Node
from graphprune.rules.context import Relate, State, Unsupported
from graphprune.rules.kinds import opaque

_NO_RULE = {"com.microsoft.nchwc": "{} holds its weights laid out in blocks for one processor"}


def propagate(graph: Graph, free: frozenset[str] = frozenset()) -> State:
    """Label every axis of every tensor.

    Forward order suffices: relations only merge, bind or freeze units, and those act on all earlier labels.
    Graph inputs and outputs are frozen, but for those named in ``free``. A node without a rule freezes what it
    touches.
    """
    state = State(graph)
    label_inputs(state, free)
    for node in graph.nodes:
        _relate(state, node)
    _equate(state)
    _keep_whole(state)
    _keep_unread(state)
    freeze_outputs(state, free)
    return state


def _equate(state: State) -> None:
    """Tie axes whose sizes the source says with one number."""
    why = state.store.reason(Reason("", "", "the module says this size and others with one number"))
    for places in state.graph.equal:
        found = [axes[a] for name, a in places if (axes := state.types.get(name)) is not None]
        axes_here = [axis for axis in found if axis is not None]
        for axis in axes_here[1:]:
            eq(state.store, axes_here[0], axis, why)


def _keep_whole(state: State) -> None:
    """Freeze what something outside the graph reads."""
    for name in state.graph.whole:
        why = state.store.reason(Reason(name, "", "training reads it with layers that evaluation does not run"))
        for axis in state.types.get(name) or ():
            if axis is not None and not axis.frozen:
                state.store.freeze(axis, why)


def _keep_unread(state: State) -> None:
    """Freeze what inputs of other sizes may read."""
    for name, axis, positions in state.graph.unread:
        axes = state.types.get(name)
        labels = axes[axis] if axes else None
        if labels is not None and not labels.frozen:
            why = state.store.reason(Reason(name, "", "these inputs do not reach it, longer ones may"))
            state.store.freeze(index(state.store, labels, np.array(positions)), why)


def _relate(state: State, node: Node) -> None:
    context, mend = Relate(state, node), ""
    if all(o in state.graph.constants or o in state.graph.varying for o in node.outputs if o):
        return  # shape arithmetic: read as constants where it is used
    found = rules.find(node)
    if found is None:
        reason = _NO_RULE.get(node.domain, "there is no rule for {}").format(node.key)
        mend = _register(node.key) if node.domain and node.domain not in _NO_RULE else ""
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
    opaque(context, reason, mend)


def _register(key: str) -> str:
    return f"say what it couples: graphprune.register({key!r}, like=...), see docs/custom-operators.md"
