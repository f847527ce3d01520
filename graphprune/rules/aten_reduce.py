"""PyTorch's reductions: the reduced axes disappear."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.rules.aten import aten, axes_of
from graphprune.rules.context import Relate


def reduced(r: Relate, axes: Sequence[int], outputs: Sequence[int] = (0,)) -> None:
    """Output labels without (or, kept, with one position in) the reduced axes."""
    one = r.frozen(1, "an axis of one position")
    keep = bool(r.attr("keepdim"))
    for k in outputs:
        r.out([one if a in axes else x for a, x in enumerate(r.axes(0)) if keep or a not in axes], k)


def _reduce(r: Relate, mode: str) -> None:
    axes = axes_of(r.attr("dim"), r.rank(0))
    for a in axes:
        if not r.axis(0, a).frozen:
            r.contract(0, a, mode)
    reduced(r, axes, range(len(r.node.outputs)))


@aten("sum", "nansum", kind="REDUCE")
def reduce_sum(r: Relate) -> None:
    """Removed positions count as zeros."""
    _reduce(r, "zero")


@aten("mean", "amax", "amin", "prod", "std", "var", "var_mean", "std_mean", "logsumexp", "any", "all", "max", "min",
      "nanmean", "aminmax", kind="REDUCE", level="restricted")  # fmt: skip
def reduce_restricted(r: Relate) -> None:
    """Taken over the kept positions only."""
    _reduce(r, "restrict")


@aten("linalg_vector_norm", "norm", "frobenius_norm", kind="REDUCE", level="restricted")
def norm(r: Relate) -> None:
    """Norms: zeros add nothing to one of positive order, others are taken over the kept positions."""
    order = r.attr("ord", r.attr("p", 2))
    zero = order is None or (not isinstance(order, str) and order > 0)
    _reduce(r, "zero" if zero else "restrict")


@aten("max.dim", "min.dim", "argmax", "argmin", "median", "mode", "kthvalue", kind="DYNINDEX")
def arg_reduce(r: Relate) -> None:
    """The result counts positions, so the axis must stay."""
    axes = axes_of(r.attr("dim"), r.rank(0))
    for a in axes:
        r.freeze(0, a, "positions along it are returned")
    reduced(r, axes, range(len(r.node.outputs)))


@aten("topk", "sort", "argsort", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "msort", kind="DYNINDEX")
def ordered(r: Relate) -> None:
    """The order of positions along the axis matters, so it stays."""
    axes = r.axes(0)
    axis = axes_of(r.attr("dim", 0 if r.node.op.startswith("msort") else -1), len(axes))[0]
    r.freeze(0, axis, "the order of its positions matters")
    for k in range(len(r.node.outputs)):
        axes[axis] = r.frozen((r.output(k).shape or (1,) * len(axes))[axis], "the order of its positions matters")
        r.out(axes, k)
