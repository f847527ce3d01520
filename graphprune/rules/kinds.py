"""Relations that many operators share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphprune.algebra import Axis
from graphprune.rules.context import Relate, Unsupported

FIXED = "export with fixed input sizes, or give them: --input-shape"


def broadcast(r: Relate, slots: Sequence[int]) -> list[Axis]:
    """Labels of the broadcast of some inputs, numpy-style: every operand that is not stretched is tied.

    Stored tensors come last, so that an unlabelled weight takes over the labels of the data.
    """
    slots = sorted((s for s in slots if r.has(s)), key=r.unlabelled)
    behind = _behind(r)
    rank = max(r.rank(s) for s in slots)
    axes: list[Axis] = []
    for a in range(-rank, 0):
        at = {s: a + behind.get(s, 0) for s in slots}  # where the output axis lies in each operand
        here = [s for s in slots if -r.rank(s) <= at[s] < 0]
        wide = [s for s in here if r.shape(s)[at[s]] != 1 or r.value(s).dynamic[at[s]]]
        if not wide:
            axes.append(r.axis(here[0], at[here[0]]))
            continue
        sizes = {r.shape(s)[at[s]] for s in wide}
        if len(sizes) > 1:
            for s in wide:
                r.freeze(s, at[s], "operands of different sizes are broadcast", FIXED)
            axes.append(r.frozen(max(sizes), "operands of different sizes are broadcast", FIXED))
            continue
        first = r.axis(wide[0], at[wide[0]])
        for s in wide[1:]:
            r.tie(s, at[s], first)
        axes.append(first)
    return axes


def _behind(r: Relate) -> dict[int, int]:
    """How many output axes follow the last one of the second operand: before opset 7 an attribute may place it."""
    place = r.attr("axis")
    if r.node.version >= 7 or r.node.domain or not r.attr("broadcast", 0) or place is None:
        return {}
    behind = r.rank(0) - int(place) - r.rank(1)
    if int(place) < 0 or behind < 0:
        raise Unsupported("its operands are laid on each other in an old way that is not clear")
    return {1: behind}


def pointwise(r: Relate) -> None:
    """Every output element depends on the operands' elements at its own (broadcast) position."""
    axes = broadcast(r, range(len(r.node.inputs)))
    for slot in range(len(r.node.outputs)):
        r.out(axes, slot)


def first_input_pointwise(r: Relate) -> None:
    """Pointwise in input 0; the other inputs are scalars or settings."""
    axes = r.axes(0)
    for slot in range(len(r.node.outputs)):
        r.out(axes, slot)


def parameters(r: Relate, slots: Sequence[int], axis: Axis) -> None:
    """Tie 1-D parameters to an axis."""
    for slot in slots:
        if r.has(slot) and r.shape(slot) not in ((), (1,)):
            r.tie(slot, 0, axis)


def statistics(r: Relate, slot: int, axes: Iterable[int] | None = None) -> None:
    """Note that the node takes statistics over some axes of an input (all by default), if it is given."""
    if not r.has(slot):
        return
    for a in range(r.rank(slot)) if axes is None else axes:
        if not r.axis(slot, a).frozen:
            r.contract(slot, a, "restrict")


def opaque(r: Relate, why: str, mend: str = "") -> None:
    """Freeze everything a node touches."""
    for slot, name in enumerate(r.node.inputs):
        if name:
            r.freeze_all(slot, why, mend)
    for name in r.node.captures:
        r.freeze_value(name, why, mend)
    for slot in range(len(r.node.outputs)):
        r.out_frozen(slot, why)


def no_labels(r: Relate) -> None:
    """The outputs are made of sizes or settings: frozen, and the inputs are left alone."""
    for slot in range(len(r.node.outputs)):
        r.out_frozen(slot, "computed from sizes or settings")
