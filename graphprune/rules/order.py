"""Operators for which the order of positions along an axis matters."""

from __future__ import annotations

from graphprune.rules.context import Relate
from graphprune.rules.registry import rule


@rule("ArgMax", "ArgMin", kind="DYNINDEX")
def arg_reduce(r: Relate) -> None:
    """The result counts positions, so the axis must stay."""
    axis = int(r.attr("axis", 0)) % r.rank(0)
    r.freeze(0, axis, "positions along it are returned")
    one = r.frozen(1, "an axis of one position")
    axes = [one if a == axis else x for a, x in enumerate(r.axes(0))]
    r.out(axes if r.attr("keepdims", 1) else [x for a, x in enumerate(axes) if a != axis])


@rule("TopK", kind="DYNINDEX")
def top_k(r: Relate) -> None:
    """Values are picked by rank along the axis."""
    axis = int(r.attr("axis", -1)) % r.rank(0)
    r.freeze(0, axis, "positions along it are chosen by value")
    for slot in range(len(r.node.outputs)):
        if not r.node.outputs[slot]:
            continue
        size = r.output(slot).shape
        assert size is not None
        axes = r.axes(0)
        axes[axis] = r.frozen(size[axis], "positions along it are chosen by value")
        r.out(axes, slot)


def _running(r: Relate, mode: str) -> None:
    """Position p sees the kept positions before (or after) it, in their order."""
    axes = r.axes(0)
    axis = r.ints(1)
    if axis is None:
        for a in range(len(axes)):
            r.freeze(0, a, "the axis along which it runs is computed")
    elif not axes[axis[0] % len(axes)].frozen:
        r.contract(0, axis[0] % len(axes), mode)
    r.out(axes)


@rule("CumSum", kind="REDUCE")
def running_sum(r: Relate) -> None:
    """Removed positions count as zeros in the sums of the others."""
    _running(r, "zero")


@rule("CumProd", kind="REDUCE", level="restricted")
def running_product(r: Relate) -> None:
    """Taken over the kept positions only."""
    _running(r, "restrict")


@rule("ReverseSequence", kind="REINDEX")
def reverse_sequence(r: Relate) -> None:
    """The time axis stays: the lengths to reverse count its positions; one length for each batch position."""
    batch, time = int(r.attr("batch_axis", 1)) % r.rank(0), int(r.attr("time_axis", 0)) % r.rank(0)
    r.freeze(0, time, "as many of its positions as the lengths say are reversed")
    r.tie(1, 0, r.axis(0, batch))
    r.out(r.axes(0))


@rule("Trilu", kind="REINDEX")
def trilu(r: Relate) -> None:
    """Rows and columns are tied where a triangle at the diagonal stays one, else they stay; leading axes pass."""
    axes = r.axes(0)
    upper = bool(r.attr("upper", 1))
    shift = r.ints(1) if r.has(1) else [0]
    # j >= i and j > i hold for kept positions as for all, j >= i + 2 does not.
    at_diagonal = shift is not None and shift[0] in ((0, 1) if upper else (0, -1))
    if at_diagonal and axes[-1].n == axes[-2].n and r.value(0).dynamic[-1] == r.value(0).dynamic[-2]:
        r.eq(axes[-2], axes[-1])
    else:
        for a in (-2, -1):
            r.freeze(0, a, "its rows and columns make a triangle")
    r.out(axes)


@rule("Det", kind="REDUCE")
def det(r: Relate) -> None:
    """Leading axes pass; a determinant is one number of the whole matrix."""
    for a in (-2, -1):
        r.freeze(0, a, "it belongs to a matrix whose determinant is taken")
    r.out(r.axes(0)[:-2])
