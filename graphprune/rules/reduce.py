"""Reductions: the reduced axes disappear, their labels decide what the operator sees."""

from __future__ import annotations

from graphprune.rules.context import Relate
from graphprune.rules.registry import rule

_ZERO = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
_RESTRICT = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")


def _axes(r: Relate) -> list[int] | None:
    """Reduced axes; None when they are not fixed."""
    rank = r.rank(0)
    if r.has(1):
        axes = r.ints(1)
        if axes is None:
            return None
    else:
        axes = [int(a) for a in r.attr("axes") or []]
    if not axes:
        return [] if r.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [a % rank for a in axes]


def _reduce(r: Relate, mode: str) -> None:
    axes = _axes(r)
    if axes is None:
        r.freeze_all(0, "the reduced axes are computed from data")
        r.out_frozen(0, "the reduced axes are computed from data")
        return
    for a in axes:
        if not r.axis(0, a).frozen:
            r.contract(0, a, mode)
    one = r.frozen(1, "an axis of one position")
    if r.attr("keepdims", 1):
        r.out([one if a in axes else x for a, x in enumerate(r.axes(0))])
    else:
        r.out([x for a, x in enumerate(r.axes(0)) if a not in axes])


@rule(*_ZERO, kind="REDUCE")
def reduce_sum(r: Relate) -> None:
    """Removed positions count as zeros."""
    _reduce(r, "zero")


@rule(*_RESTRICT, kind="REDUCE", level="restricted")
def reduce_restricted(r: Relate) -> None:
    """Taken over the kept positions only."""
    _reduce(r, "restrict")


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", kind="REDUCE")
def global_pool(r: Relate) -> None:
    """All axes from 2 on are reduced to one position."""
    one = r.frozen(1, "an axis of one position")
    for a in range(2, r.rank(0)):
        r.freeze(0, a, "a global pool averages over it")
    r.out([r.axis(0, 0), r.axis(0, 1), *(one for _ in range(2, r.rank(0)))])
