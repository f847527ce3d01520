"""PyTorch's recurrent layers: hidden units with all their gate rows."""

from __future__ import annotations

from graphprune.algebra import Axis
from graphprune.rules.aten import aten, given, slot, slots
from graphprune.rules.context import Relate, Unsupported

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_STAYS = "time, batch and directions cannot leave"


def _family(r: Relate) -> str:
    return next(name for name in _GATES if r.node.op.startswith(name))


@aten("lstm", "gru", "rnn_tanh", "rnn_relu", kind="RECURRENT")
def recurrent(r: Relate) -> None:
    """One label per hidden unit: its gate rows, its column and its state, alike in all layers and both directions."""
    if r.node.op.endswith("data"):
        raise Unsupported("packed sequences are not followed")
    family, weights = _family(r), slots(r, "params")
    gates, directions = _GATES[family], 2 if r.attr("bidirectional") else 1
    step = len(weights) // (int(r.attr("num_layers")) * directions)
    projected = step in (3, 5)
    hidden = r.frozen(r.shape(weights[0])[0] // gates, "the state is projected") if projected else None
    rank = r.rank(0)
    for a in range(rank - 1):
        r.freeze(0, a, _STAYS)
    state = r.axis(weights[1], 1)
    hidden = hidden or state
    rows = r.merge(r.frozen(gates, "gates cannot leave"), hidden)
    below = r.axis(0, -1)
    steps = 1
    for n in r.shape(0)[:-1]:
        steps *= n
    for k in range(0, len(weights), step):
        layer = k // step // directions
        group = weights[k : k + step]
        r.tie(group[0], 0, rows)
        r.tie(group[0], 1, below if layer == 0 else _both(r, state, directions))
        r.tie(group[1], 0, rows)
        r.tie(group[1], 1, state)
        for s in group[2:]:
            if r.rank(s) == 1:
                r.tie(s, 0, rows)
            else:  # the projection (P, H)
                r.tie(s, 0, state)
                r.tie(s, 1, hidden)
        r.contract(group[1], 1)
        _sum_below(r, group[0], layer)
        r.macs(steps * gates, hidden, r.axis(group[0], 1))
        r.macs(steps * gates, hidden, state)
    r.contract(0, -1)
    states = slots(r, "hx") if family == "lstm" else given(r, "hx")
    for i, s in enumerate(states):
        for a in range(r.rank(s) - 1):
            r.freeze(s, a, _STAYS)
        r.tie(s, -1, state if i == 0 else hidden)
    for k in range(len(r.node.outputs)):
        shape = r.output(k).shape or ()
        last = _both(r, state, directions) if k == 0 else state if k == 1 else hidden
        r.out([*(r.frozen(n, _STAYS) for n in shape[:-1]), last], k)


def _sum_below(r: Relate, weight: int, layer: int) -> None:
    """A layer sums over the states of the one below; the first one does over the input."""
    if layer:
        r.contract(weight, 1)


def _both(r: Relate, state: Axis, directions: int) -> Axis:
    """What a layer makes: the states of all directions, one after the other."""
    return state if directions == 1 else r.merge(r.frozen(directions, _STAYS), state)


@aten("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", kind="RECURRENT")
def cell(r: Relate) -> None:
    """One step: a hidden unit is its gate rows, its column and its state."""
    family = _family(r)
    w_in, w_state = slot(r, "w_ih"), slot(r, "w_hh")
    states = slots(r, "hx") if family == "lstm" else given(r, "hx")
    state = r.axis(w_state, 1)
    gates = _GATES[family]
    rows = r.merge(r.frozen(gates, "gates cannot leave"), state)
    r.tie(w_in, 1, r.axis(0, -1))
    for s in (w_in, w_state, *given(r, "b_ih", "b_hh")):
        r.tie(s, 0, rows)
    for s in states:
        for a in range(r.rank(s) - 1):
            r.tie(s, a, r.axis(0, a))
        r.tie(s, -1, state)
        r.contract(s, -1)
    r.contract(0, -1)
    axes = [*r.axes(0)[:-1], state]
    for k in range(len(r.node.outputs)):
        r.out(axes, k)
    r.macs(gates, *axes, r.axis(0, -1))
    r.macs(gates, *axes, state)
