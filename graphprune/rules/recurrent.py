"""Recurrent layers: hidden units with all their gate rows."""

from __future__ import annotations

from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit
from graphprune.rules.registry import rule

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def hidden_size(e: Edit) -> None:
    """The attribute follows the recurrent weight's last axis."""
    if e.kept(2, 2) is not None:
        e.change.attrs["hidden_size"] = e.in_size(2, 2)


@rule("LSTM", "GRU", "RNN", kind="RECURRENT", edit=hidden_size)
def recurrent(r: Relate) -> None:
    """W (D, gH, I), R (D, gH, H), B (D, 2gH), initial states (D, N, H), P (D, 3H): one label per hidden unit.

    Both directions share their hidden labels. With ``layout`` 1 the batch leads in X, states and outputs.
    """
    gates = _GATES[r.node.op]
    hidden = r.axis(2, 2)
    gate = r.frozen(gates, "gates cannot leave")
    r.tie(2, 1, r.merge(gate, hidden))
    r.tie(1, 1, r.merge(gate, hidden))
    r.tie(1, 2, r.axis(0, 2))
    if r.has(3):
        r.tie(3, 1, r.merge(r.frozen(2 * gates, "gates cannot leave"), hidden))
    for slot in (5, 6) if r.node.op == "LSTM" else (5,):
        if r.has(slot):
            _freeze_leading(r, slot)
            r.tie(slot, 2, hidden)
    if r.has(7):
        r.tie(7, 1, r.merge(r.frozen(3, "gates cannot leave"), hidden))
    for slot in (1, 2, 3, 7):
        if r.has(slot):
            r.freeze(slot, 0, "directions cannot leave")
    for a in (0, 1):
        r.freeze(0, a, "time and batch cannot leave")
    r.contract(0, 2)
    r.contract(2, 2)
    for slot in range(len(r.node.outputs)):
        if r.node.outputs[slot]:
            shape = r.output(slot).shape
            assert shape is not None
            r.out([*(r.frozen(n, "time, batch and directions cannot leave") for n in shape[:-1]), hidden], slot)
    steps = r.shape(0)[0] * r.shape(0)[1] * r.shape(1)[0]
    r.macs(steps * gates, hidden, r.axis(1, 2))
    r.macs(steps * gates, hidden, hidden)


def _freeze_leading(r: Relate, slot: int) -> None:
    for a in (0, 1):
        r.freeze(slot, a, "batch and directions cannot leave")
