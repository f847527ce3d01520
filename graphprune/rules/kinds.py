"""Relations that many operators share."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.algebra import Axis
from graphprune.rules.context import Relate


def broadcast(r: Relate, slots: Sequence[int]) -> list[Axis]:
    """Labels of the broadcast of some inputs, numpy-style: every operand that is not stretched is tied.

    Stored tensors come last, so that an unlabelled weight takes over the labels of the data.
    """
    slots = sorted((s for s in slots if r.has(s)), key=r.unlabelled)
    rank = max(r.rank(s) for s in slots)
    axes: list[Axis] = []
    for a in range(-rank, 0):
        here = [s for s in slots if r.rank(s) >= -a]
        wide = [s for s in here if r.shape(s)[a] != 1 or r.value(s).dynamic[a]]
        if not wide:
            axes.append(r.axis(here[0], a))
            continue
        sizes = {r.shape(s)[a] for s in wide}
        if len(sizes) > 1:
            for s in wide:
                r.freeze(s, a, "operands of different sizes are broadcast")
            axes.append(r.frozen(max(sizes), "operands of different sizes are broadcast"))
            continue
        first = r.axis(wide[0], a)
        for s in wide[1:]:
            r.tie(s, a, first)
        axes.append(first)
    return axes


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


def opaque(r: Relate, why: str) -> None:
    """Freeze everything a node touches."""
    for slot, name in enumerate(r.node.inputs):
        if name:
            r.freeze_all(slot, why)
    for name in r.node.captures:
        r.freeze_value(name, why)
    for slot in range(len(r.node.outputs)):
        r.out_frozen(slot, why)


def no_labels(r: Relate) -> None:
    """The outputs are made of sizes or settings: frozen, and the inputs are left alone."""
    for slot in range(len(r.node.outputs)):
        r.out_frozen(slot, "computed from sizes or settings")
