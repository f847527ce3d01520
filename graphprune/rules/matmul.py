"""Matrix products: the contracted axes are tied, the others pass."""

from __future__ import annotations

from graphprune.algebra import Axis
from graphprune.rules.context import Relate
from graphprune.rules.registry import rule


@rule("MatMul", kind="CONTRACT")
def matmul(r: Relate) -> None:
    """numpy.matmul: 1-D operands gain an axis, batch axes broadcast."""
    axes = matrix_product(r, 0, 1)
    r.contract(0, -1)
    r.contract(1, inner_axis(r, 1))
    r.out(axes)
    r.macs(1, *axes, r.axis(0, -1))


def inner_axis(r: Relate, right: int) -> int:
    """The summed axis of the right operand."""
    return -2 if r.rank(right) > 1 else -1


def matrix_product(r: Relate, left: int, right: int) -> list[Axis]:
    """Tie the summed axes of two inputs; the labels of their product."""
    inner = inner_axis(r, right)
    if r.unlabelled(left):
        r.tie(left, -1, r.axis(right, inner))
    else:
        r.tie(right, inner, r.axis(left, -1))
    axes = _batch_axes(r, left, right)
    if r.rank(left) > 1:
        axes.append(r.axis(left, -2))
    if r.rank(right) > 1:
        axes.append(r.axis(right, -1))
    return axes


def _batch_axes(r: Relate, left: int, right: int) -> list[Axis]:
    axes: list[Axis] = []
    ranks = (left, r.rank(left)), (right, r.rank(right))
    for a in range(-max(rank for _, rank in ranks), -2):
        have = [s for s, rank in ranks if rank >= -a]
        wide = [s for s in have if r.shape(s)[a] != 1 or r.value(s).dynamic[a]] or have[:1]
        wide.sort(key=r.unlabelled)
        first = r.axis(wide[0], a)
        for s in wide[1:]:
            r.tie(s, a, first)
        axes.append(first)
    return axes


@rule("Gemm", kind="CONTRACT")
def gemm(r: Relate) -> None:
    """alpha·A'·B' + beta·C with optional transposes; C broadcasts to the result."""
    m, k = (1, 0) if r.attr("transA", 0) else (0, 1)
    n, k2 = (0, 1) if r.attr("transB", 0) else (1, 0)
    if r.unlabelled(0):
        r.tie(0, k, r.axis(1, k2))
    else:
        r.tie(1, k2, r.axis(0, k))
    r.contract(0, k)
    r.contract(1, k2)
    axes = [r.axis(0, m), r.axis(1, n)]
    if r.has(2):
        for a in range(-r.rank(2), 0):
            if r.shape(2)[a] != 1:
                r.tie(2, a, axes[a])
    r.out(axes)
    r.macs(1, *axes, r.axis(0, k))
