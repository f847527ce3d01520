"""Sequences and optional values: every element of a sequence is cut alike.

The labels of a sequence are those of its elements; an axis along which elements differ in size stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.algebra import Axis
from graphprune.rules.context import Relate
from graphprune.rules.kinds import first_input_pointwise, opaque
from graphprune.rules.registry import rule

_LENGTHS = "elements of a sequence differ in size along it"


def _alike(r: Relate, slots: Sequence[int]) -> list[Axis]:
    """Tie what goes into one sequence."""
    out = r.output()
    assert out.shape is not None
    lead = min(slots, key=r.unlabelled)
    axes = r.axes(lead)
    for a, (size, dynamic) in enumerate(zip(out.shape, out.dynamic, strict=True)):
        for slot in slots:
            if size < 0 or dynamic:
                r.freeze(slot, a, _LENGTHS)
            elif slot != lead:
                r.tie(slot, a, axes[a])
    return axes


@rule("SequenceConstruct", kind="POINTWISE")
def construct(r: Relate) -> None:
    """Elements are tied."""
    r.out(_alike(r, range(len(r.node.inputs))))


@rule("SequenceInsert", kind="POINTWISE")
def insert(r: Relate) -> None:
    """The new element is tied to the others."""
    r.out(_alike(r, (0, 1)))


rule("SequenceAt", "SequenceErase", kind="POINTWISE", note="Elements are tied.")(first_input_pointwise)


@rule("Optional", "OptionalGetElement", kind="POINTWISE")
def optional(r: Relate) -> None:
    """The element passes; an empty optional has no axes."""
    if r.has(0):
        first_input_pointwise(r)
    else:
        opaque(r, "an empty optional")


@rule("SplitToSequence", kind="REINDEX")
def split_to_sequence(r: Relate) -> None:
    """The axis that is cut into elements stays; the others pass."""
    axes, axis = r.axes(0), int(r.attr("axis", 0)) % r.rank(0)
    r.freeze(0, axis, "it is cut into the elements of a sequence")
    out = r.output().shape
    assert out is not None
    if len(out) < len(axes):
        del axes[axis]
    else:
        axes[axis] = r.frozen(out[axis], "it is cut into the elements of a sequence")
    r.out(axes)


@rule("ConcatFromSequence", kind="REINDEX")
def concat_from_sequence(r: Relate) -> None:
    """The axis along which elements are put together stays; the others pass."""
    axes = r.axes(0)
    out = r.output().shape
    assert out is not None
    axis = int(r.attr("axis")) % len(out)
    joined = r.frozen(out[axis], "elements of a sequence are put together along it")
    if r.attr("new_axis", 0):
        axes.insert(axis, joined)
    else:
        r.freeze(0, axis, "elements of a sequence are put together along it")
        axes[axis] = joined
    r.out(axes)
