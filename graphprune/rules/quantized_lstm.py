"""The LSTM whose weights are stored as integers and whose inputs are quantised as they come."""

from __future__ import annotations

from graphprune.algebra import Axis
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit
from graphprune.rules.kinds import statistics
from graphprune.rules.registry import rule

_GATES = 4
_WHY = "time, batch and directions cannot leave"


def hidden_size(e: Edit) -> None:
    """The attribute follows the recurrent weight's middle axis."""
    if e.kept(2, 1) is not None:
        e.change.attrs["hidden_size"] = e.in_size(2, 1)


@rule("com.microsoft.DynamicQuantizeLSTM", kind="RECURRENT", edit=hidden_size, level="restricted")
def dynamic_quantize_lstm(r: Relate) -> None:
    """W (D, I, 4H), R (D, H, 4H), B (D, 8H), P (D, 3H), scales and zero points (D) or (D, 4H).

    Input and hidden state are quantised by their range, that of what is kept.
    """
    hidden = r.axis(2, 1)
    rows = r.merge(r.frozen(_GATES, "gates cannot leave"), hidden)
    r.tie(2, 2, rows)
    r.tie(1, 2, rows)
    r.tie(1, 1, r.axis(0, 2))
    for slot, gates in ((3, 2 * _GATES), (7, 3)):
        if r.has(slot):
            r.tie(slot, 1, r.merge(r.frozen(gates, "gates cannot leave"), hidden))
    for slot in (8, 9, 10, 11):
        if r.rank(slot) == 2:
            r.tie(slot, 1, rows)
    _stay(r, hidden)
    for slot in range(len(r.node.inputs)):
        statistics(r, slot)
    for slot in range(len(r.node.outputs)):
        if r.node.outputs[slot]:
            shape = r.output(slot).shape
            assert shape is not None
            r.out([*(r.frozen(n, _WHY) for n in shape[:-1]), hidden], slot)
    steps = r.shape(0)[0] * r.shape(0)[1] * r.shape(1)[0] * _GATES
    r.macs(steps, hidden, r.axis(1, 1))
    r.macs(steps, hidden, hidden)


def _stay(r: Relate, hidden: Axis) -> None:
    """Directions, time and batch are frozen wherever they lie."""
    for slot in (1, 2, 3, 7, 8, 9, 10, 11):
        if r.has(slot):
            r.freeze(slot, 0, _WHY)
    for a in (0, 1):
        r.freeze(0, a, _WHY)
    for slot in (5, 6):
        if r.has(slot):
            r.freeze(slot, 0, _WHY)
            r.freeze(slot, 1, _WHY)
            r.tie(slot, 2, hidden)
